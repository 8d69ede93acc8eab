// SPDX-License-Identifier: Apache-2.0

package filehash

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// The digests of "abc" are the examples of FIPS 180-4.
const (
	abc1   = "a9993e364706816aba3e25717850c26c9cd0d89d"
	abc256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
)

func TestCompute(t *testing.T) {
	s, err := Compute(strings.NewReader("abc"))
	if err != nil || s.SHA1.String() != abc1 || s.SHA256.String() != abc256 || s.Size != 3 {
		t.Errorf("got %+v %v", s, err)
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		abc1: abc1, strings.ToUpper(abc1): abc1, abc256: abc256,
	} {
		if h, err := Parse(in); err != nil || h.String() != want {
			t.Errorf("%s: got %s %v", in, h, err)
		}
	}
	for in, text := range map[string]string{
		"":                             "want 40 hex digits (SHA-1) or 64 (SHA-256), have 0 characters",
		abc1[:39]:                      "have 39 characters",
		abc1 + "0":                     "have 41 characters",
		strings.Repeat("0", 40):        "all zeros name no content",
		strings.Repeat("g", 40):        "cannot read SHA-1",
		strings.Repeat("z", 64):        "cannot read SHA-256",
		"d41d8cd98f00b204e9800998ecf8": "cannot read hash",
	} {
		if h, err := Parse(in); err == nil || !strings.Contains(err.Error(), text) || !h.IsZero() {
			t.Errorf("%q: got %v %v, want %q", in, h, err, text)
		}
	}
}

func TestMatches(t *testing.T) {
	s, err := Compute(strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	one, both := Hash{SHA1: s.SHA1}, s.Hash()
	crossed := both
	crossed.SHA256[0]++
	for name, c := range map[string]struct {
		h    Hash
		want bool
	}{"sha1": {one, true}, "sha256": {Hash{SHA256: s.SHA256}, true}, "both": {both, true}, "one of both": {crossed, false}, "none": {Hash{}, false}} {
		if c.h.Matches(s) != c.want {
			t.Errorf("%s: got %v", name, !c.want)
		}
	}
	if empty, err := Compute(bytes.NewReader(nil)); err != nil || !empty.Hash().Empty() || one.Empty() {
		t.Errorf("empty content is not told apart: %v", err)
	}
}

func TestJSON(t *testing.T) {
	var h Hash
	if err := json.Unmarshal([]byte(`{"sha1":"`+abc1+`"}`), &h); err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(h); err != nil || string(b) != `{"sha1":"`+abc1+`"}` {
		t.Errorf("got %s %v", b, err)
	}
	if err := json.Unmarshal([]byte(`{"sha1":"abc"}`), &h); err == nil {
		t.Error("a short digest was taken")
	}
}

// FuzzParse: what parses is written back in lower case.
func FuzzParse(f *testing.F) {
	for _, s := range []string{abc1, abc256, "", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := Parse(s); err == nil && h.String() != strings.ToLower(s) {
			t.Errorf("%q became %q", s, h)
		}
	})
}

func BenchmarkCompute(b *testing.B) {
	content := make([]byte, 16<<20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, err := Compute(bytes.NewReader(content)); err != nil {
			b.Fatal(err)
		}
	}
}
