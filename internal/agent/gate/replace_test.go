// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"staunch/internal/filehash"
)

func policy(n byte, by256 bool, do byte, id string) entry {
	e := entry{kind: slotContent, size: -1, id: id, do: do}
	if by256 {
		e.hash.SHA256 = filehash.SHA256{n}
	} else {
		e.hash.SHA1 = filehash.SHA1{n}
	}
	return e
}

func TestRulePrecedence(t *testing.T) {
	alone := content(1, -1, "order")
	for _, c := range []struct {
		name  string
		rules []entry
		want  string // id; "": nothing
	}{
		{"none", nil, ""},
		{"an order's", []entry{alone}, "order"},
		{"a set's deny", []entry{policy(1, false, doDeny, "s")}, "s"},
		{"a set's allow lifts an order's", []entry{alone, policy(1, false, doAllow, "s")}, ""},
		{"SHA-256 allow over SHA-1 deny", []entry{policy(1, false, doDeny, "one"), policy(1, true, doAllow, "two")}, ""},
		{"SHA-256 deny over SHA-1 allow", []entry{policy(1, false, doAllow, "one"), policy(1, true, doDeny, "two")}, "two"},
		{"SHA-256 audit over SHA-1 deny", []entry{policy(1, false, doDeny, "one"), policy(1, true, doAudit, "two")}, "two"},
		{"audit does not lift an order's", []entry{alone, policy(1, false, doAudit, "s")}, "order"},
		{"deny before allow of the same hash", []entry{policy(1, false, doAllow, "a"), policy(1, false, doDeny, "b")}, "b"},
		{"allow alone", []entry{policy(1, false, doAllow, "a")}, ""},
	} {
		b := testBook(t)
		for _, e := range c.rules {
			if err := b.add(e); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // a successor finds the same
			e, ok := b.rule(sumOf(1, 10))
			if e.id != c.want || ok != (c.want != "") {
				t.Errorf("%s: %q, %v, want %q", c.name, e.id, ok, c.want)
			}
			b = reopen(t, b.f)
		}
	}
	b := testBook(t)
	if err := b.add(policy(1, false, doAllow, "a")); err != nil {
		t.Fatal(err)
	}
	if _, hashes := b.counts(); hashes != 0 || b.sizeCounts(10) {
		t.Error("a rule that allows costs executions")
	}
}

func TestReplaceRefuses(t *testing.T) {
	b, r := testBook(t), &replacing{}
	rule := Rule{File: filehash.Hash{SHA1: filehash.SHA1{1}}, Size: -1, ID: "i/1", Do: DoDeny}
	for want, err := range map[string]error{
		"begin again":         r.add(b, "t", []Rule{rule}),
		"token or the prefix": r.begin("", "i/"),
		"begin again ":        r.end(b, "t"),
		"is nothing to do": func() error {
			_, err := decodeSlot(append([]byte{slotContent, 0, 9}, make([]byte, slotSize-3)...))
			return err
		}(),
		"want deny, audit or allo": func() error { _, err := Rule{File: rule.File, Do: "eat"}.entry(); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := r.begin("t", "i/"); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*Rule){
		"is not of the set": func(r *Rule) { r.ID = "order" }, "says not what to do": func(r *Rule) { r.Do = "" }, "the empty content": func(r *Rule) {
			r.File, _ = filehash.Parse("da39a3ee5e6b4b0d3255bfef95601890afd80709")
		},
	} {
		bad := rule
		change(&bad)
		if err := r.add(b, "t", []Rule{bad}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// A set takes the place of the one before it, and of nothing else; it refuses,
// reports and allows, and outlasts the gate.
func TestReplace(t *testing.T) {
	dir := scratch(t)
	paths := map[string]string{}
	for _, name := range []string{"order", "deny", "audit", "allow", "free"} {
		paths[name] = program(t, dir+"/"+name)
		f, err := os.OpenFile(paths[name], os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(f, name) // contents of their own
		_ = f.Close()
	}
	c := startLocal(t, dir, Settings{})
	sum := func(name string) filehash.Sum { return mustSum(t, paths[name]) }
	for _, name := range []string{"order", "allow"} {
		if err := c.DenyHash(Rule{File: sum(name).Hash(), Size: sum(name).Size, ID: "order-1"}); err != nil {
			t.Fatal(err)
		}
	}
	set := []Rule{
		{File: filehash.Hash{SHA1: sum("deny").SHA1}, Size: -1, ID: "i/1", Do: DoDeny},
		{File: filehash.Hash{SHA256: sum("audit").SHA256}, Size: -1, ID: "i/2", Do: DoAudit},
		{File: filehash.Hash{SHA1: sum("allow").SHA1}, Size: -1, ID: "i/3", Do: DoAllow},
	}
	for range 2 {
		if err := c.Replace("i/", slices.Values(set)); err != nil {
			t.Fatal(err)
		}
	}
	mustRefuse(t, paths["order"])
	mustRefuse(t, paths["deny"])
	runs := func(name string) {
		t.Helper()
		if out, err := exec.Command(paths[name]).CombinedOutput(); err != nil {
			t.Errorf("%s does not run: %v %s", name, err, out)
		}
	}
	for _, name := range []string{"audit", "allow", "free"} {
		runs(name)
	}
	told := map[string]bool{} // id → audit
	for len(told) < 3 {
		select {
		case r := <-c.Refusals():
			told[r.ID] = r.Audit
			if r.ID == "i/2" && (!r.Audit || r.Late || r.File != sum("audit").Hash()) {
				t.Errorf("%+v", r)
			}
		case <-time.After(time.Minute):
			t.Fatalf("told of %v only", told)
		}
	}
	if s := mustStatus(t, c); s.Hashes != 4 {
		t.Errorf("%d contents, want 4", s.Hashes)
	}
	if err := c.Replace("i/", slices.Values(set[1:2])); err != nil {
		t.Fatal(err)
	}
	runs("deny")
	mustRefuse(t, paths["order"])
	mustRefuse(t, paths["allow"])
	if err := c.Replace("i/", slices.Values([]Rule(nil))); err != nil {
		t.Fatal(err)
	}
	if s := mustStatus(t, c); s.Hashes != 2 {
		t.Errorf("%d contents, want the two of the order", s.Hashes)
	}
	if err := c.Replace("", slices.Values(set)); err == nil || !strings.Contains(err.Error(), "prefix of their ids is missing") {
		t.Errorf("error %v", err)
	}
}

// BenchmarkReplace sets 100,000 rules, and then one more.
func BenchmarkReplace(b *testing.B) {
	book, r := testBook(b), &replacing{}
	rules := make([]Rule, 100_000)
	for i := range rules {
		rules[i] = Rule{File: filehash.Hash{SHA256: filehash.SHA256{byte(i), byte(i >> 8), byte(i >> 16), 1}}, Size: -1, ID: fmt.Sprintf("i/%d", i), Do: DoDeny}
	}
	for i := range b.N {
		token := fmt.Sprint(i)
		if err := r.begin(token, "i/"); err != nil {
			b.Fatal(err)
		}
		for batch := range slices.Chunk(rules, bulk) {
			if err := r.add(book, token, batch); err != nil {
				b.Fatal(err)
			}
		}
		if err := r.end(book, token); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("lookup", func(b *testing.B) {
		for range b.N {
			book.rule(sumOf(7, 7))
		}
	})
}
