// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// frame puts a right first line before a body, so that the fuzzer gets past
// the digest.
func frame(kind string, body []byte) []byte {
	return append(fmt.Appendf(nil, "staunch %s v%d sha256:%x\n", kind, Version, sha256.Sum256(body)), body...)
}

func body(b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] }

// FuzzManifest: what is read can be written and read again, unchanged.
func FuzzManifest(f *testing.F) {
	samples, err := filepath.Glob("testdata/v*/items/*.json")
	if err != nil || len(samples) < 3 {
		f.Fatalf("%d samples, %v", len(samples), err)
	}
	for _, s := range samples {
		b, err := os.ReadFile(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body(b), true)
		f.Add(b, false)
	}
	f.Add([]byte(`{"version":1}`), true)
	f.Fuzz(func(t *testing.T, b []byte, framed bool) {
		if framed {
			b = frame("manifest", b)
		}
		m, err := decodeManifest(b)
		if err != nil {
			return
		}
		_ = m.Item()
		_ = m.plan().stored()
		for _, n := range m.Names {
			_, _ = n.base(), n.dir()
		}
		again, err := encodeManifest(m)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := decodeManifest(again)
		if err != nil {
			t.Fatal(err)
		}
		again2, err := encodeManifest(m2)
		if err != nil || !bytes.Equal(again, again2) {
			t.Fatal(err, cmp.Diff(again, again2))
		}
	})
}

// FuzzIntent: as FuzzManifest; and no intent names a staged file outside its folder.
func FuzzIntent(f *testing.F) {
	id := strings.Repeat("a", 32)
	good, err := encodeFrame("intent", &Intent{Version: Version, ID: id, Doing: taking, Names: []Name{{Path: `/a/\xff`}}, Staging: Staging{Kind: inMount, Dir: "/a", Name: id}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body(good), true)
	f.Add(good, false)
	f.Add([]byte(`{"version":1,"id":"x"}`), true)
	f.Fuzz(func(t *testing.T, b []byte, framed bool) {
		if framed {
			b = frame("intent", b)
		}
		in, err := decodeIntent(b)
		if err != nil {
			return
		}
		if strings.Contains(in.Staging.Name, "/") {
			t.Fatalf("staged as %q", in.Staging.Name)
		}
		again, err := encodeFrame("intent", in)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decodeIntent(again); err != nil {
			t.Fatal(err)
		}
	})
}
