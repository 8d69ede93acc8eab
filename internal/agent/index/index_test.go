// SPDX-License-Identifier: Apache-2.0

package index

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"staunch/internal/filehash"
)

func TestIndexAnswersByEitherHash(t *testing.T) {
	root := scratch(t)
	write(t, root+"/a/evil", "evil")
	write(t, root+"/b/copy", "evil")
	write(t, root+"/b/other", "good")
	must(t, os.Link(root+"/a/evil", root+"/b/link"))
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	want := []string{root + "/a/evil", root + "/b/copy", root + "/b/link"}
	sum := sumOf("evil")
	for _, h := range []filehash.Hash{{SHA1: sum.SHA1}, {SHA256: sum.SHA256}, sum.Hash()} {
		a := lookup(t, x, h)
		if diff := cmp.Diff(want, pathsOf(a)); diff != "" {
			t.Errorf("candidates of %s (-want +got):\n%s", h, diff)
		}
		if diff := cmp.Diff(want, verified(t, x, a, h)); diff != "" {
			t.Errorf("verified of %s (-want +got):\n%s", h, diff)
		}
		if !a.Complete || a.Why != "" {
			t.Errorf("Complete = %v, Why = %q", a.Complete, a.Why)
		}
	}
	mixed := filehash.Hash{SHA1: sum.SHA1, SHA256: sumOf("good").SHA256}
	if a := lookup(t, x, mixed); len(a.Copies) != 0 || !a.Complete {
		t.Errorf("a SHA-1 with another SHA-256: %+v", a)
	}
}

func TestBarrierProvesAbsence(t *testing.T) {
	root := scratch(t)
	mkdirs(t, root, "d")
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	h := sha1Of("evil")
	for i := range 20 {
		if a := lookup(t, x, h); len(a.Copies) != 0 || !a.Complete {
			t.Fatalf("round %d: nothing there, and the index says %+v", i, a)
		}
		write(t, root+"/d/new", "evil")
		if a := lookup(t, x, h); !cmp.Equal(pathsOf(a), []string{root + "/d/new"}) || !a.Complete {
			t.Fatalf("round %d: the file is there, and the index says %+v", i, a)
		}
		must(t, os.Rename(root+"/d/new", root+"/d/moved"))
		must(t, os.Rename(root+"/d", root+"/e"))
		if a := lookup(t, x, h); !cmp.Equal(pathsOf(a), []string{root + "/e/moved"}) {
			t.Fatalf("round %d: the file was moved, and the index says %+v", i, a)
		}
		must(t, os.RemoveAll(root+"/e"))
		mkdirs(t, root, "d")
	}
}

func TestRestartReadsOnlyWhatChanged(t *testing.T) {
	root := scratchExt4(t)
	path := filepath.Join(t.TempDir(), "index.db")
	for _, n := range []string{"a", "b", "c"} {
		write(t, root+"/"+n+"/file", strings.Repeat(n, 10000))
	}
	first := startIndex(t, Config{Path: path, Roots: []string{root}})
	settled(t, first)
	if got := first.Status().Read; got < 30000 {
		t.Fatalf("read %d bytes, want all 30000", got)
	}
	must(t, first.Stop())

	write(t, root+"/b/file", strings.Repeat("x", 10000))
	must(t, os.Rename(root+"/a", root+"/z"))
	must(t, os.Remove(root+"/c/file"))

	x := startIndex(t, Config{Path: path, Roots: []string{root}})
	settled(t, x)
	if got := x.Status().Read; got != 10000 {
		t.Errorf("read %d bytes after the restart, want the 10000 that changed", got)
	}
	for content, want := range map[string][]string{"a": {root + "/z/file"}, "x": {root + "/b/file"}, "b": nil, "c": nil} {
		if got := pathsOf(lookup(t, x, sha1Of(strings.Repeat(content, 10000)))); !cmp.Equal(want, got) {
			t.Errorf("content of %s is at %v, want %v", content, got, want)
		}
	}
}
