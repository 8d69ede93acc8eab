// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"staunch/internal/server/auth"
)

func key(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(nil, name)
	if err != nil {
		t.Fatal(err)
	}
	signer, err1 := note.NewSigner(skey)
	verifier, err2 := note.NewVerifier(vkey)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

var example = Entry{
	Index: 1, Time: time.Date(2026, 11, 23, 11, 0, 0, 120456789, time.FixedZone("CET", 3600)),
	Kind: auth.App, ActorID: "6d0f8a6e-2f0c-4a52-9a53-1f0e1b1b2c3d", Actor: "SOAR <prod>", Operation: StopAndQuarantineFile,
	Target: "c3f1d0a98b7e6f5d4c3b2a190817263544536271", Outcome: "accepted", Detail: json.RawMessage(`{ "sha1": "3395856ce81f2b7382dee72602f798b642f14140", "n": 1.50 }`),
}

const exampleLeaf = `{"index":1,"time":"2026-11-23T10:00:00.120456Z","kind":"app","actorId":"6d0f8a6e-2f0c-4a52-9a53-1f0e1b1b2c3d","actor":"SOAR <prod>",` +
	`"operation":"StopAndQuarantineFile","target":"c3f1d0a98b7e6f5d4c3b2a190817263544536271","outcome":"accepted","detail":{"n":1.50,"sha1":"3395856ce81f2b7382dee72602f798b642f14140"}}`

// The format of a leaf can never change: old checkpoints are signed over it.
func TestLeaf(t *testing.T) {
	leaf, err := Leaf(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(exampleLeaf, string(leaf)); diff != "" {
		t.Errorf("leaf (-want +got):\n%s", diff)
	}
	doc, err := os.ReadFile("../../../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	// As sha256sum sees it: a zero byte, then the leaf.
	sum := sha256.Sum256(append([]byte{0}, leaf...))
	for _, want := range []string{exampleLeaf, fmt.Sprintf("%x", sum)} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("docs/audit.md does not show %s", want)
		}
	}
	if got := tlog.RecordHash(leaf); got != tlog.Hash(sum) {
		t.Errorf("the hash that the log uses is %x", got)
	}
}

func TestLeafRefuses(t *testing.T) {
	for detail, want := range map[string]string{
		`{"a":`:  "unexpected EOF",
		`1 2`:    "more than one JSON value",
		`{"a":]`: "invalid character",
		`"` + strings.Repeat("x", MaxDetail) + `"`: "are more than the 65536 allowed",
	} {
		e := example
		e.Detail = json.RawMessage(detail)
		if _, err := Leaf(e); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20s: error %v, want one that says %q", detail, err, want)
		}
	}
}

// What the log has is read without loss, and nothing unreadable stops the reader.
func FuzzParseLeaf(f *testing.F) {
	f.Add([]byte(exampleLeaf))
	f.Add([]byte(`{"index":0}`))
	f.Add([]byte(`{"index":-1,"time":"0000-01-01T00:00:00Z","detail":null,"new":1}`))
	f.Add([]byte("{\"index\":0,\"detail\":{\"\u2028\":1e400,\"a\":{\"b\":[1,2]}}}"))
	f.Add([]byte(`[]`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseLeaf(b)
		if err != nil {
			return
		}
		first, err := Leaf(e)
		if err != nil {
			return // e.g. a time that JSON cannot write
		}
		again, err := ParseLeaf(first)
		if err != nil {
			t.Fatalf("cannot read what was written: %v\n%s", err, first)
		}
		second, err := Leaf(again)
		if err != nil || string(first) != string(second) {
			t.Fatalf("one entry has two leaves: %v\n%s\n%s", err, first, second)
		}
	})
}

// memory keeps stored hashes as tlog numbers them.
type memory []tlog.Hash

func (m memory) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var hashes []tlog.Hash
	for _, i := range indexes {
		if i >= int64(len(m)) {
			return nil, fmt.Errorf("no hash %d", i)
		}
		hashes = append(hashes, m[i])
	}
	return hashes, nil
}

func TestTreeIsTlogs(t *testing.T) {
	var tree Tree
	var stored memory
	for n := range int64(300) {
		want, err := tlog.TreeHash(n, stored)
		if err != nil {
			t.Fatal(err)
		}
		if tree.Size() != n || tree.Root() != want {
			t.Fatalf("root of %d lines is %v, tlog says %v", n, tree.Root(), want)
		}
		loaded, err := LoadTree(n, stored)
		if err != nil || loaded.Root() != want {
			t.Fatalf("loaded root of %d lines is %v (%v), tlog says %v", n, loaded.Root(), err, want)
		}
		leaf := fmt.Appendf(nil, "line %d", n)
		hashes, err := tlog.StoredHashes(n, leaf, stored)
		if err != nil {
			t.Fatal(err)
		}
		for place := range hashes {
			if line, p := HashIndex(int64(len(stored) + place)); line != n || p != place {
				t.Fatalf("stored hash %d lies at line %d, place %d; want %d, %d", len(stored)+place, line, p, n, place)
			}
		}
		before := tree
		if diff := cmp.Diff(hashes, tree.Append(leaf)); diff != "" {
			t.Fatalf("hashes of line %d (-tlog +ours):\n%s", n, diff)
		}
		// Taking a line back: append another to the tree from before.
		undone := before
		undone.Append([]byte("another"))
		if loaded.Append(leaf); tree.Root() != loaded.Root() || undone.Root() == tree.Root() {
			t.Fatalf("appending to a copy of the tree of %d lines changed the tree", n)
		}
		stored = append(stored, hashes...)
	}
	if _, err := LoadTree(1000, stored); err == nil || !strings.Contains(err.Error(), "cannot load the audit log's tree of 1000 lines") {
		t.Errorf("loading more than there is: %v", err)
	}
}

func TestCheckpoint(t *testing.T) {
	signer, verifier := key(t, "log.example")
	other, otherVerifier := key(t, "other.example")
	impostor, _ := key(t, "log.example")
	var tree Tree
	tree.Append([]byte("a"))
	signed, err := Sign(tree, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := OpenCheckpoint(signed, otherVerifier, verifier)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Checkpoint{"log.example", 1, tree.Root()}, c); diff != "" {
		t.Errorf("checkpoint (-want +got):\n%s", diff)
	}
	by := func(s note.Signer, text string) []byte {
		b, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	root := tree.Root().String()
	for _, test := range []struct {
		name   string
		signed []byte
		want   string
	}{
		{"empty", nil, "cannot trust"},
		{"another key", by(other, c.text()), "cannot trust"},
		{"another key of that name", by(impostor, c.text()), "cannot trust"},
		{"changed", slices.Replace(slices.Clone(signed), 12, 13, '2'), "cannot trust"},
		{"another log's", by(signer, "other.example\n1\n"+root+"\n"), `it is of the log "other.example", signed by "log.example"`},
		{"too short", by(signer, "log.example\n1\n"), "want three lines"},
		{"no number", by(signer, "log.example\nx\n"+root+"\n"), `size "x" is not a number`},
		{"leading zero", by(signer, "log.example\n01\n"+root+"\n"), `size "01" is not a number`},
		{"negative", by(signer, "log.example\n-1\n"+root+"\n"), `size "-1" is not a number`},
		{"no hash", by(signer, "log.example\n1\nx\n"), "is not base64 of 32 bytes"},
		{"huge", make([]byte, 1<<20), "are more than the 16384 allowed"},
	} {
		if _, err := OpenCheckpoint(test.signed, verifier); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one that says %q", test.name, err, test.want)
		}
	}
	// Further lines and signatures are for others, C2SP says.
	if _, err := OpenCheckpoint(by(signer, c.text()+"more\n"), verifier); err != nil {
		t.Errorf("with an extension line: %v", err)
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add("log.example\n1\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n")
	f.Add("\n\n\n")
	f.Add("a\n9223372036854775808\nx\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCheckpoint(text)
		if err != nil {
			return
		}
		if !strings.HasPrefix(text, c.text()) {
			t.Fatalf("%q was read as %q", text, c.text())
		}
	})
}

// written makes a log of n lines and its checkpoints of every size.
func written(t testing.TB, n int) (lines []Line, at []Checkpoint) {
	t.Helper()
	var tree Tree
	at = append(at, Checkpoint{"log", 0, tree.Root()})
	for i := range n {
		e := example
		e.Index = int64(i)
		e.Target = fmt.Sprint("target ", i)
		leaf, err := Leaf(e)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, Line{int64(i), leaf, tree.Append(leaf)})
		at = append(at, Checkpoint{"log", int64(i) + 1, tree.Root()})
	}
	return lines, at
}

func feed(lines []Line) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		for _, l := range lines {
			if !yield(l, nil) {
				return
			}
		}
	}
}

func TestVerify(t *testing.T) {
	lines, at := written(t, 30)
	r, err := Verify(feed(lines), at)
	want := Report{Lines: 30, Signed: 30, Root: at[30].Root, Notes: 31, FirstTime: "2026-11-23T10:00:00.120456Z", LastTime: "2026-11-23T10:00:00.120456Z"}
	if diff := cmp.Diff(want, r); err != nil || diff != "" {
		t.Errorf("%v; report (-want +got):\n%s", err, diff)
	}
	if r, err := Verify(feed(nil), at[:1]); err != nil || r.Lines != 0 || r.Notes != 1 {
		t.Errorf("an empty log: %+v, %v", r, err)
	}
	if r, err := Verify(feed(lines), []Checkpoint{at[20], at[3]}); err != nil || r.Signed != 20 || r.Lines != 30 {
		t.Errorf("with two checkpoints: %+v, %v", r, err)
	}
	broken := errors.New("disk")
	if _, err := Verify(func(yield func(Line, error) bool) { yield(Line{}, broken) }, nil); !errors.Is(err, broken) {
		t.Errorf("a reader's error came back as %v", err)
	}
}

// Whatever single line is changed, dropped or doubled, and with or without the
// hashes after it recomputed, verification fails.
func TestVerifyFindsEveryChange(t *testing.T) {
	const n = 21
	lines, at := written(t, n)
	change := func(l Line) Line {
		l.Leaf = []byte(strings.Replace(string(l.Leaf), "accepted", "Accepted", 1))
		return l
	}
	recomputed := func(lines []Line) []Line {
		var tree Tree
		out := slices.Clone(lines)
		for i := range out {
			out[i].Hashes = tree.Append(out[i].Leaf)
		}
		return out
	}
	for i := range lines {
		changed := slices.Clone(lines)
		changed[i] = change(lines[i])
		dropped := slices.Delete(slices.Clone(lines), i, i+1)
		doubled := slices.Insert(slices.Clone(lines), i, lines[i])
		for name, bad := range map[string][]Line{"changed": changed, "dropped": dropped, "doubled": doubled} {
			wantFault(t, fmt.Sprint(name, " ", i), bad, at[n:], int64(i), name == "doubled")
		}
		// A line together with its own hash: found where the next hash over both is.
		own := slices.Clone(changed)
		own[i].Hashes = slices.Clone(own[i].Hashes)
		own[i].Hashes[0] = tlog.RecordHash(own[i].Leaf)
		if _, err := Verify(feed(own), at[n:]); err == nil {
			t.Errorf("line %d changed with its hash was not found", i)
		}
		// All hashes recomputed: the checkpoints around the line tell where.
		_, err := Verify(feed(recomputed(changed)), []Checkpoint{at[i], at[i+1], at[n]})
		if fault := (*Fault)(nil); !errors.As(err, &fault) || fault.Line != int64(i) {
			t.Errorf("line %d changed with all hashes: %v", i, err)
		}
	}
	if _, err := Verify(feed(lines), []Checkpoint{at[5], {"log", 5, tlog.Hash{1}}}); err == nil || !strings.Contains(err.Error(), "two different logs of 5 lines were signed") {
		t.Errorf("two checkpoints of one size: %v", err)
	}
}

func wantFault(t *testing.T, name string, lines []Line, checkpoints []Checkpoint, line int64, next bool) {
	t.Helper()
	_, err := Verify(feed(lines), checkpoints)
	fault := (*Fault)(nil)
	if !errors.As(err, &fault) {
		t.Errorf("%s: %v", name, err)
		return
	}
	if next {
		line++
	}
	if fault.Line != line {
		t.Errorf("%s: line %d is named, want %d: %v", name, fault.Line, line, err)
	}
}
