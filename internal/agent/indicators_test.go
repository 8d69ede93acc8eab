// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"staunch/internal/agent/gate"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// ruled is an enrolled agent without a link, and what it would have sent.
type ruled struct {
	*Agent
	t      testing.TB
	state  State
	device string
	key    ed25519.PrivateKey // of orders

	mu   sync.Mutex
	sent []order.Message
	now  time.Time
}

func (r *ruled) Send(m order.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = append(r.sent, m)
	return nil
}

func newRuled(t testing.TB) *ruled {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenState(t.TempDir() + "/state")
	if err != nil {
		t.Fatal(err)
	}
	r := &ruled{t: t, state: s, key: private, device: strings.Repeat("ab", 20), now: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)}
	if _, err := s.DeviceKey(); err != nil {
		t.Fatal(err)
	}
	if err := s.Enroll(Enrollment{URL: "https://127.0.0.1:1", DeviceID: r.device, TenantID: "t", OrderKeys: []string{order.FormatKey(public)}}); err != nil {
		t.Fatal(err)
	}
	r.open()
	return r
}

// open starts an agent in the folder, as after a restart.
func (r *ruled) open() {
	r.t.Helper()
	a, err := New(Config{State: r.state, NoIndex: true, GateOff: "a test", Log: slog.New(slog.NewTextHandler(r.t.Output(), nil)), Now: func() time.Time {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.now
	}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.Agent = a
	if err := a.policy.restore(); err != nil {
		r.t.Fatal(err)
	}
	a.mu.Lock()
	a.uplink = r
	a.mu.Unlock()
	r.t.Cleanup(func() { _ = a.Stop() })
}

// list signs a list of rules in parts of the given size.
func (r *ruled) list(version int64, size int, rules ...order.Rule) (order.Indicators, map[string][]byte) {
	r.t.Helper()
	parts := map[string][]byte{}
	set := order.RuleSet{Device: r.device, Version: version, Issued: r.now.Add(time.Duration(len(rules)) * time.Second), Rules: len(rules)}
	for chunk := range slices.Chunk(rules, size) {
		digest, data, err := order.EncodePart(chunk)
		if err != nil {
			r.t.Fatal(err)
		}
		parts[digest] = data
		set.Parts = append(set.Parts, digest)
	}
	e, err := order.SignRules(set, r.key)
	if err != nil {
		r.t.Fatal(err)
	}
	return order.Indicators{Version: version, Envelope: e}, parts
}

// offer plays the server until the list is in force or refused, and returns how
// many parts went over.
func (r *ruled) offer(in order.Indicators, parts map[string][]byte) (sent int, refused string) {
	r.t.Helper()
	want := r.Rules(in)
	for want != nil {
		if want.Refused != "" || len(want.Parts) == 0 {
			return sent, want.Refused
		}
		if len(want.Parts) > order.MaxWant {
			r.t.Fatalf("%d parts are asked for at once", len(want.Parts))
		}
		var next *order.RulesWanted
		for _, d := range want.Parts {
			sent++
			if w := r.Part(order.RulesPart{Digest: d, Data: parts[d]}); w != nil {
				next = w
			}
		}
		want = next
	}
	r.work.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	last := r.sent[len(r.sent)-1].BlockWant
	if last == nil || last.Version != in.Version || len(last.Parts) > 0 {
		r.t.Errorf("the server is told %+v", last)
	}
	return sent, last.Refused
}

func (r *ruled) says(h filehash.Hash) string {
	id, do, ok := r.policy.decide(h)
	if !ok {
		return ""
	}
	return fmt.Sprint(id, []string{"audit", "allow", "block", "remediate"}[do])
}

func by1(n byte) filehash.Hash   { return filehash.Hash{SHA1: filehash.SHA1{n}} }
func by256(n byte) filehash.Hash { return filehash.Hash{SHA256: filehash.SHA256{n}} }
func both(n byte) filehash.Hash {
	return filehash.Hash{SHA1: filehash.SHA1{n}, SHA256: filehash.SHA256{n}}
}

func rule(id string, h filehash.Hash, do order.RuleAction) order.Rule {
	return order.Rule{ID: id, SHA1: h.SHA1, SHA256: h.SHA256, Do: do}
}

// Rules are taken, kept over restarts and the server's absence, and replaced.
func TestRulesKept(t *testing.T) {
	r := newRuled(t)
	var rules []order.Rule
	for i := range 50 {
		rules = append(rules, rule(fmt.Sprint(100+i), by1(byte(50+i)), order.RuleAudit))
	}
	rules = append(rules, rule("1", by1(1), order.RuleBlock), rule("2", by256(1), order.RuleAllow), rule("3", by1(2), order.RuleAllow), rule("4", by256(2), order.RuleRemediate))
	in, parts := r.list(5, 1, rules...)
	if sent, refused := r.offer(in, parts); sent != 54 || refused != "" {
		t.Fatalf("%d parts, %q", sent, refused)
	}
	check := func() {
		t.Helper()
		for want, h := range map[string]filehash.Hash{"1block": by1(1), "2allow": both(1), "3allow": by1(2), "4remediate": both(2), "100audit": both(50), "": both(9)} {
			if got := strings.ReplaceAll(r.says(h), " ", ""); got != want {
				t.Errorf("%v: %q, want %q", h, got, want)
			}
		}
	}
	check()
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	r.open()
	check()
	// What is in force is confirmed; a changed rule costs one part.
	if sent, refused := r.offer(in, parts); sent != 0 || refused != "" {
		t.Errorf("%d parts, %q", sent, refused)
	}
	rules[0].Do = order.RuleBlock
	in, parts = r.list(6, 1, rules...)
	if sent, _ := r.offer(in, parts); sent != 1 || r.says(by1(50)) != "100block" {
		t.Errorf("%d parts, %q", sent, r.says(by1(50)))
	}
	files, err := os.ReadDir(r.policy.dir)
	if err != nil || len(files) != 55 {
		t.Errorf("%d files are kept, %v", len(files), err)
	}
	in, parts = r.list(7, 1)
	r.offer(in, parts)
	if r.says(by1(1)) != "" {
		t.Error("an empty list leaves rules")
	}
}

func TestRulesRefused(t *testing.T) {
	r := newRuled(t)
	in, parts := r.list(5, 1, rule("1", by1(1), order.RuleBlock))
	r.offer(in, parts)
	for want, change := range map[string]func(*ruled) order.Indicators{
		"is older than the 5 in force": func(r *ruled) order.Indicators { in, _ := r.list(4, 1, rule("1", by1(1), order.RuleAllow)); return in },
		"is older than the 5 in force ": func(r *ruled) order.Indicators {
			in, _ := r.list(5, 1) // of the same version, and issued before
			return in
		},
		"for another device": func(r *ruled) order.Indicators {
			other := &ruled{t: t, key: r.key, now: r.now, device: strings.Repeat("cd", 20)}
			in, _ := other.list(9, 1)
			return in
		},
		"no valid signature": func(r *ruled) order.Indicators {
			_, stranger, _ := ed25519.GenerateKey(nil)
			other := &ruled{t: t, key: stranger, now: r.now, device: r.device}
			in, _ := other.list(9, 1)
			return in
		},
	} {
		got := r.Rules(change(r))
		if got == nil || !strings.Contains(got.Refused, strings.TrimSpace(want)) {
			t.Errorf("%+v, want %q", got, want)
		}
	}
	if r.says(by1(1)) != "1block" {
		t.Error("what was refused is in force")
	}
	// A part that is not what it is called.
	in, _ = r.list(6, 1, rule("2", by1(2), order.RuleBlock))
	want := r.Rules(in)
	if got := r.Part(order.RulesPart{Digest: want.Parts[0], Data: []byte(`{"rules":[]}`)}); got == nil || !strings.Contains(got.Refused, "not the one that was named") {
		t.Errorf("%+v", got)
	}
	if got := r.Part(order.RulesPart{Digest: want.Parts[0], Data: nil}); got != nil {
		t.Errorf("%+v for a part that nobody asked for", got)
	}
	// Damage on disk: the rules come again, and are not guessed.
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	for digest := range parts {
		if err := os.WriteFile(r.policy.path(digest), []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
	if r.says(by1(1)) != "" {
		t.Error("a damaged part is followed")
	}
	in, parts = r.list(5, 1, rule("1", by1(1), order.RuleBlock))
	if sent, refused := r.offer(in, parts); sent != 1 || refused != "" || r.says(by1(1)) != "1block" {
		t.Errorf("%d parts, %q", sent, refused)
	}
}

func TestRulesExpire(t *testing.T) {
	r := newRuled(t)
	short := rule("1", by1(1), order.RuleBlock)
	short.Expires = r.now.Add(time.Hour)
	in, parts := r.list(5, 10, short, rule("2", by1(2), order.RuleBlock))
	r.offer(in, parts)
	if r.says(by1(1)) != "1block" {
		t.Error("not in force")
	}
	r.mu.Lock()
	r.now = r.now.Add(time.Hour)
	r.mu.Unlock()
	r.policy.renew() // what the timer does
	if r.says(by1(1)) != "" || r.says(by1(2)) != "2block" {
		t.Errorf("%q, %q", r.says(by1(1)), r.says(by1(2)))
	}
}

// What the gate tells becomes sightings with the rule's id, each once.
func TestSightingsTold(t *testing.T) {
	r := newRuled(t)
	in, parts := r.list(5, 10, rule("31", by256(1), order.RuleBlock))
	r.offer(in, parts)
	for range 3 {
		r.policy.met(gate.Refusal{ID: "i/31", File: both(1), Path: "/tmp/x", When: r.now})
	}
	r.policy.met(gate.Refusal{ID: "i/32", File: both(2), Audit: true, When: r.now})
	r.policy.met(gate.Refusal{ID: "0a1b-order", File: both(3), When: r.now})
	r.policy.met(gate.Refusal{ID: "0a1b-order", When: r.now}) // an open
	r.flushSightings()
	r.mu.Lock()
	got := r.sent[len(r.sent)-1].Sightings
	r.mu.Unlock()
	var told []string
	for _, f := range got.Files {
		told = append(told, fmt.Sprint(f.SHA256[0], f.What, f.Blocked, " ", f.Times))
	}
	if strings.Join(told, ", ") != "1blocked31 3, 2executed32 1, 3blocked 1" {
		t.Errorf("%q", told)
	}
	r.SightingsKept(order.SightingsKept{Seq: got.Seq})
	if left := len(r.sightings.queue); left != 0 {
		t.Errorf("%d wait though they were kept", left)
	}
}

// A hundred thousand rules cost a device a few megabytes.
func TestRulesMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, NOT PROVEN: long")
	}
	r := newRuled(t)
	const n = 100_000
	rules := make([]order.Rule, n)
	for i := range rules {
		rules[i] = order.Rule{ID: fmt.Sprint(i + 1), SHA256: filehash.SHA256{byte(i), byte(i >> 8), byte(i >> 16), 1}, Do: order.RuleBlock}
	}
	in, parts := r.list(5, 256, rules...)
	before := heap()
	r.offer(in, parts)
	grown := heap() - before
	t.Logf("%d rules: %d bytes each", n, grown/n)
	if grown > 8<<20 {
		t.Errorf("%d rules take %d MiB", n, grown>>20)
	}
	runtime.KeepAlive(rules)
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A rule whose containment failed is tried again soon, then less and less often.
func TestSetback(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for times, want := range map[int]time.Duration{0: 0, 1: 5 * time.Second, 2: 10 * time.Second, 10: 2560 * time.Second, 11: time.Hour, 1 << 40: time.Hour} {
		if got := (setback{times, at}).until().Sub(at); got != want {
			t.Errorf("after %d failures: %v, want %v", times, got, want)
		}
	}
}
