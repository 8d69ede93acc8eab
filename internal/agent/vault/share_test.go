// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

// many takes copies of one content at once.
func many(t *testing.T, v *Vault, place string, data []byte, n int, why Why) []order.Item {
	t.Helper()
	items := make([]order.Item, n)
	var wg sync.WaitGroup
	for i := range n {
		path := filepath.Join(place, fmt.Sprint("copy", i))
		write(t, path, data)
		if err := os.Chmod(path, os.FileMode(0o700+i)); err != nil {
			t.Fatal(err)
		}
		f := mustOpen(t, path)
		wg.Go(func() {
			g, err := v.Grab(t.Context(), f, []string{path}, is(data))
			if err == nil {
				items[i], err = v.Seal(t.Context(), g, why)
			}
			if err == nil {
				err = g.Remove(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return items
}

func nlink(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return uint64(st.Nlink)
}

// TestAlike: the copies of one order have one sealed content, and each is an
// item by itself: purged, restored and checked without the others.
func TestAlike(t *testing.T) {
	v, place := newVault(t)
	data := random(300 << 10)
	items := many(t, v, place, data, 8, why)
	if n := nlink(t, v.contentPath(items[0].ID)); n != 8 {
		t.Errorf("the content has %d names, want 8", n)
	}
	one, err := v.Get(items[0].ID)
	if err != nil || v.used != one.Stored {
		t.Errorf("%d bytes are counted, %d are there, %v", v.used, one.Stored, err)
	}
	sound(t, v, 8)
	for _, it := range items[:7] {
		if err := v.Purge(t.Context(), it.ID); err != nil {
			t.Fatal(err)
		}
	}
	if v.used != one.Stored {
		t.Errorf("%d bytes are counted, %d are there", v.used, one.Stored)
	}
	restore(t, v, items[7].ID, RestoreOptions{})
	if got, _ := os.ReadFile(filepath.Join(place, "copy7")); string(got) != string(data) {
		t.Error("the last copy is not what it was")
	}
	if fi, err := os.Stat(filepath.Join(place, "copy7")); err != nil || fi.Mode().Perm() != 0o707 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if err := v.Purge(t.Context(), items[7].ID); err != nil || v.used != 0 {
		t.Errorf("%d bytes are counted, none is there, %v", v.used, err)
	}
	sound(t, v, 8)
}

// TestAlikeNot: another order, a content that was written to or dropped since,
// and another content are sealed by themselves.
func TestAlikeNot(t *testing.T) {
	v, place := newVault(t)
	data := random(3000)
	first := many(t, v, place, data, 1, why)[0]
	if it := many(t, v, place, data, 1, Why{Order: "another"})[0]; nlink(t, v.contentPath(it.ID)) != 1 {
		t.Error("another order's item has the same content")
	}
	if it := many(t, v, place, random(3000), 1, why)[0]; nlink(t, v.contentPath(it.ID)) != 1 {
		t.Error("another content's item has the same content")
	}
	if err := flip(v.contentPath(first.ID), -3); err != nil {
		t.Fatal(err)
	}
	it := many(t, v, place, data, 1, why)[0]
	if string(contentOf(t, v, it.ID)) != string(data) {
		t.Error("it was linked to a damaged content")
	}
	data = random(3000)
	gone := many(t, v, place, data, 1, why)[0]
	if err := v.Purge(t.Context(), gone.ID); err != nil {
		t.Fatal(err)
	}
	it = many(t, v, place, data, 1, why)[0]
	if string(contentOf(t, v, it.ID)) != string(data) {
		t.Error("it was linked to a content that is gone")
	}
	dir, used := v.dir, v.used
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if v = openVault(t, Config{Dir: dir}); v.used != used {
		t.Errorf("%d bytes were counted, %d are found", used, v.used)
	}
}

// TestAlikeFirstFails: the others do not depend on the first.
func TestAlikeFirstFails(t *testing.T) {
	v, place := newVault(t)
	data := random(3000)
	sum, err := filehash.Compute(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{Order: why.Order, SHA1: sum.SHA1, SHA256: sum.SHA256, Size: sum.Size}
	s, mine := v.sharing(m)
	if !mine {
		t.Fatal("somebody was first")
	}
	close(s.ready) // without an item
	for _, it := range many(t, v, place, data, 2, why) {
		if string(contentOf(t, v, it.ID)) != string(data) {
			t.Error("not what it was")
		}
	}
	sound(t, v, 2)
}

// TestKillAlike kills the process behind every step of taking two copies, and
// then finds each whole in one place.
func TestKillAlike(t *testing.T) {
	base := tempDir(t)
	place := filepath.Join(base, "place")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	data := random(3000)
	killed := 0
	for at := 1; ; at++ {
		for _, n := range []string{"one", "two"} {
			write(t, filepath.Join(place, n), data)
		}
		dir := filepath.Join(base, fmt.Sprint("vault", at))
		out, err := command("alike", dir, place, at).CombinedOutput()
		v := openVault(t, Config{Dir: dir})
		items, listErr := v.List()
		if listErr != nil {
			t.Fatal(listErr)
		}
		sealed := map[string]bool{}
		for _, it := range items {
			sealed[filepath.Base(string(it.Paths[0]))] = true
			if string(contentOf(t, v, it.ID)) != string(data) {
				t.Errorf("step %d: item %s is not the file", at, it.ID)
			}
		}
		for _, n := range []string{"one", "two"} {
			if sealed[n] == exists(filepath.Join(place, n)) {
				t.Errorf("step %d: file %s: sealed %v, there %v", at, n, sealed[n], exists(filepath.Join(place, n)))
			}
		}
		if len(items) == 2 && nlink(t, v.contentPath(items[0].ID)) != 2 {
			t.Errorf("step %d: the content is not shared", at)
		}
		sound(t, v, len(items))
		if err == nil {
			break
		}
		if len(out) > 0 {
			t.Fatalf("step %d: %v: %s", at, err, out)
		}
		killed++
	}
	if killed < 15 {
		t.Errorf("killed at %d steps only", killed)
	}
}
