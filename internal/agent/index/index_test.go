// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

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

func TestIndexTakesAnyName(t *testing.T) {
	root := scratchExt4(t)
	want := zoo(t, root)
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	a := lookup(t, x, sha1Of("evil"))
	if diff := cmp.Diff(want, verified(t, x, a, sha1Of("evil"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	var renamed []string
	for _, p := range want {
		to := p + "2"
		if len(filepath.Base(p)) == 255 {
			to = p[:len(p)-1] + "2"
		}
		must(t, os.Rename(p, to))
		renamed = append(renamed, to)
	}
	slices.Sort(renamed)
	a = lookup(t, x, sha1Of("evil"))
	if diff := cmp.Diff(renamed, verified(t, x, a, sha1Of("evil"))); diff != "" {
		t.Errorf("renamed: -want +got:\n%s", diff)
	}
}

func TestIndexBelowPathMax(t *testing.T) {
	root := scratch(t)
	deep(t, root, 400)
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	a := lookup(t, x, sha1Of("evil"))
	if got := verified(t, x, a, sha1Of("evil")); len(got) != 1 || len(got[0]) < 400*20 || !a.Complete {
		t.Errorf("found %d, complete %v", len(got), a.Complete)
	}
}

func TestWrittenWithoutAName(t *testing.T) {
	root := scratch(t)
	x := startIndex(t, Config{Roots: []string{root}})
	write(t, root+"/a", "good")
	must(t, os.Link(root+"/a", root+"/b"))
	settled(t, x)
	f, err := os.OpenFile(root+"/a", os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, os.Remove(root+"/a"))
	if a := lookup(t, x, sha1Of("good")); !slices.Equal(pathsOf(a), []string{root + "/b"}) {
		t.Fatalf("%+v", a)
	}
	_, err = f.WriteAt([]byte("evil"), 0) // through a name that is gone, and never closed
	must(t, err)
	if a := lookup(t, x, sha1Of("evil")); !slices.Equal(pathsOf(a), []string{root + "/b"}) || !a.Complete {
		t.Errorf("written through a lost name: %+v", a)
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer func() { _ = unix.Munmap(m) }()
	copy(m, "mmap")
	if a := lookup(t, x, sha1Of("mmap")); !slices.Equal(pathsOf(a), []string{root + "/b"}) || !a.Complete {
		t.Errorf("written through a mapping: %+v", a)
	}
}

func TestMountsComeAndGo(t *testing.T) {
	root := scratch(t)
	mkdirs(t, root, "m")
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	must(t, unix.Mount("staunch-test", root+"/m", "tmpfs", 0, ""))
	write(t, root+"/m/evil", "evil")
	if err := x.Barrier(t.Context()); err == nil {
		if a, _ := x.Lookup(t.Context(), sha1Of("evil")); a.Complete && len(a.Copies) == 0 {
			t.Error("vouched for a file system it has not seen")
		}
	}
	settled(t, x)
	if a := lookup(t, x, sha1Of("evil")); !slices.Equal(pathsOf(a), []string{root + "/m/evil"}) {
		t.Errorf("on the new mount: %+v", a)
	}
	must(t, unix.Mount("staunch-test", root+"/m", "tmpfs", 0, "")) // one over it, and nobody asks
	until(t, "the change is noticed", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return slices.ContainsFunc(x.volumes, func(v *volume) bool { return v.point == root+"/m" && v.mount == mountIDOf(t, root+"/m") })
	})
	must(t, unix.Unmount(root+"/m", 0))
	settled(t, x)
	must(t, unix.Unmount(root+"/m", 0)) // not busy: the index holds nothing
	if a := lookup(t, x, sha1Of("evil")); len(a.Copies) != 0 || !a.Complete {
		t.Errorf("after it left: %+v", a)
	}
}

func TestFileSystemsLongAwayAreForgotten(t *testing.T) {
	one, two := scratch(t), scratch(t)
	path := filepath.Join(t.TempDir(), "i.db")
	write(t, one+"/d/evil", "evil")
	now := time.Now()
	x := startIndex(t, Config{Path: path, Roots: []string{one}})
	settled(t, x)
	must(t, x.Stop())
	for _, c := range []struct {
		later time.Duration
		rows  int
	}{{29 * 24 * time.Hour, 1}, {31 * 24 * time.Hour, 0}} {
		x := startIndex(t, Config{Path: path, Roots: []string{two}, Now: func() time.Time { return now.Add(c.later) }})
		settled(t, x)
		var n int
		_, err := x.db.Load().one(t.Context(), "SELECT (SELECT COUNT(*) FROM file) + (SELECT COUNT(*) FROM name) + (SELECT COUNT(*) FROM dir) - 1", nil, &n)
		must(t, err)
		if (n > 0) != (c.rows > 0) {
			t.Errorf("after %s %d rows of what is away are left", c.later, n)
		}
		if a := lookup(t, x, sha1Of("evil")); len(a.Copies) != 0 {
			t.Errorf("offered what is away: %+v", a)
		}
		must(t, x.Stop())
	}
}

func TestSubvolumesAreNoSilentGap(t *testing.T) {
	root := scratch(t)
	write(t, root+"/d/f", "x")
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	name := "sub\nvolume" // as settle notes a folder of another device that is no mount
	x.volumes[0].foreign.Store(&name)
	want := root + ": holds a subvolume that is not mounted on its own: sub\\x0avolume"
	a := lookup(t, x, sha1Of("evil"))
	if s := x.Status(); a.Complete || a.Why != "not covered: "+want || s.Complete || !slices.Equal(s.NotCovered, []string{want}) {
		t.Errorf("answer %+v, status %+v", a, s)
	}
}

func TestUnusableIndexIsBuiltAnew(t *testing.T) {
	root := scratch(t)
	write(t, root+"/evil", "evil")
	for name, spoil := range map[string]func(path string) error{
		"garbage": func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("no database ", 1000)), 0o600) },
		"cut":     func(p string) error { return os.Truncate(p, 5000) },
		"overwritten": func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte(strings.Repeat("x", 8192)), 4096)
			return errors.Join(err, f.Close())
		},
		"version": func(p string) error {
			d, err := openDB(p, 1<<30, 1<<20)
			if err != nil {
				return err
			}
			_, err = d.conn.ExecContext(context.Background(), "PRAGMA user_version=99")
			return errors.Join(err, d.close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "with space?&%41.db")
			x := startIndex(t, Config{Path: path, Roots: []string{root}})
			settled(t, x)
			must(t, x.Stop())
			must(t, spoil(path))
			x = startIndex(t, Config{Path: path, Roots: []string{root}})
			settled(t, x)
			if a := lookup(t, x, sha1Of("evil")); len(a.Copies) != 1 {
				t.Errorf("%+v", a)
			}
		})
	}
}

func TestDamageFoundAtWork(t *testing.T) {
	root := scratch(t)
	write(t, root+"/evil", "evil")
	x := startIndex(t, Config{Roots: []string{root}})
	settled(t, x)
	must(t, x.update(func(t tx) error { _, err := t.exec("DROP TABLE file"); return err }))
	write(t, root+"/more", "evil")
	until(t, "it is built anew", func() bool {
		if x.Barrier(t.Context()) != nil {
			return false
		}
		a, err := x.Lookup(t.Context(), sha1Of("evil"))
		return err == nil && len(a.Copies) == 2 && a.Complete
	})
}

func TestCeiling(t *testing.T) {
	root := scratch(t)
	for i := range 3000 {
		write(t, fmt.Sprintf("%s/a-name-that-needs-room-in-the-index-%d", root, i), "x")
	}
	x := startIndex(t, Config{Roots: []string{root}, Disk: 256 << 10})
	until(t, "it is full", func() bool { return x.Status().Full })
	a, err := x.Lookup(t.Context(), sha1Of("evil"))
	must(t, err)
	if s := x.Status(); a.Complete || s.Complete || s.Progress == 1 || a.Why != "the index has reached its ceiling of 0 MiB" {
		t.Errorf("why %q, status %+v", a.Why, s)
	}
	if err := x.Barrier(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot vouch") {
		t.Errorf("barrier: %v", err)
	}
}

// TestDiskFull: while its disk is full the index vouches for nothing and says so;
// once there is room it catches up by itself.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("staunch-test", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot mount a scratch disk: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	root := scratch(t)
	write(t, root+"/first", "evil")
	x := startIndex(t, Config{Path: dir + "/index.db", Roots: []string{root}, again: 100 * time.Millisecond})
	vouched := func() bool {
		a, err := x.Lookup(t.Context(), sha1Of("evil"))
		return err == nil && a.Complete
	}
	until(t, "it vouches", vouched)
	ballast := dir + "/ballast"
	f, err := os.Create(ballast)
	must(t, err)
	for size := 64 << 10; size > 0; {
		if n, err := f.Write(make([]byte, size)); err != nil && n == 0 {
			size /= 2
		}
	}
	must(t, f.Close())
	for i := range 1000 { // what SQLite has at hand takes some of them
		write(t, fmt.Sprintf("%s/a-name-that-needs-room-in-the-index-%d", root, i), "x")
	}
	until(t, "it is full", func() bool { return x.Status().Full })
	if a, err := x.Lookup(t.Context(), sha1Of("evil")); err != nil || a.Complete || a.Why != "the disk of the index is full" {
		t.Errorf("complete %v, why %q, %v", a.Complete, a.Why, err)
	}
	write(t, root+"/second", "evil")
	must(t, os.Remove(ballast))
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=64m"))
	until(t, "it vouches again", vouched)
	if a, err := x.Lookup(t.Context(), sha1Of("evil")); err != nil || len(a.Copies) != 2 {
		t.Errorf("copies %v, %v", a.Copies, err)
	}
}

func TestIndexLeavesTheAgentsOwnOut(t *testing.T) {
	root := scratch(t)
	write(t, root+"/state/vault/evil", "evil")
	write(t, root+"/evil", "evil")
	x := startIndex(t, Config{Path: root + "/index.db", Roots: []string{root}, Skip: []string{root + "/state"}})
	settled(t, x)
	must(t, os.Rename(root+"/evil", root+"/state/evil"))
	if a := lookup(t, x, sha1Of("evil")); len(a.Copies) != 0 || !a.Complete {
		t.Errorf("%+v", a)
	}
	must(t, os.Rename(root+"/state/evil", root+"/back"))
	if a := lookup(t, x, sha1Of("evil")); !slices.Equal(pathsOf(a), []string{root + "/back"}) {
		t.Errorf("%+v", a)
	}
}

func TestExecutedFilesComeFirst(t *testing.T) {
	root := scratch(t)
	for i := range 50 {
		write(t, fmt.Sprintf("%s/%d/f", root, i), "x")
	}
	write(t, root+"/40/bin/run", "evil")
	x, err := Open(Config{Path: filepath.Join(t.TempDir(), "i.db"), Roots: []string{root}, Log: logger(t), Debounce: time.Millisecond})
	must(t, err)
	defer func() { must(t, x.Stop()) }()
	x.working = t.Context()
	x.mu.Lock()
	v, err := newVolume(x, root, mountIDOf(t, root))
	must(t, err)
	must(t, x.update(func(t tx) error { _, err := t.exec("INSERT INTO fs VALUES (1, ?, 0, 0)", v.key); return err }))
	v.fs, v.failed, v.cancel = 1, errScanDue, func() {}
	x.volumes = []*volume{v}
	x.mu.Unlock()
	for _, p := range []string{"/elsewhere", root, root + "/../x", root + "/40/none"} {
		if err := x.ahead(p); err == nil {
			t.Errorf("%s was taken for an executable", p)
		}
	}
	must(t, x.ahead(root+"/40/bin/run"))
	jobs, err := x.hash.due(t.Context())
	must(t, err)
	if len(jobs) != 1 || jobs[0].size != 4 {
		t.Fatalf("jobs %+v", jobs)
	}
	a, err := x.Lookup(t.Context(), sha1Of("evil"))
	must(t, err)
	if len(a.Unsure) != 1 || !slices.Equal(a.Unsure[0].Paths, []string{root + "/40/bin/run"}) {
		t.Errorf("%+v", a)
	}
}

func mountIDOf(t *testing.T, path string) uint64 {
	f, err := look(unix.AT_FDCWD, path)
	must(t, err)
	return f.mountID
}

func TestVerifyRefusesWhatIsAnotherFile(t *testing.T) {
	root := scratch(t)
	write(t, root+"/d/evil", "evil")
	write(t, root+"/e/evil", "evil")
	x := startIndex(t, Config{Roots: []string{root}, noEvents: true})
	until(t, "it is read", func() bool { return x.Status().Unread == 0 && x.Status().Files == 2 })
	a, err := x.Lookup(t.Context(), sha1Of("evil"))
	must(t, err)
	must(t, os.Rename(root+"/d/evil", root+"/d/moved"))
	write(t, root+"/d/evil", "evil") // the same content, but another inode
	must(t, os.Remove(root+"/e/evil"))
	must(t, os.Symlink("../d/evil", root+"/e/evil"))
	for _, c := range a.Copies {
		got, err := x.Verify(t.Context(), c)
		if err == nil {
			t.Errorf("verified %q as %q", c.Paths, got.Paths)
			must(t, got.File.Close())
		} else if !strings.HasPrefix(err.Error(), "cannot verify "+c.Paths[0]+": ") {
			t.Errorf("error %q", err)
		}
	}
	if a.Complete || !strings.Contains(a.Why, "what changed is not known") {
		t.Errorf("without events: %+v", a)
	}
}

func TestHotFilesDoNotStopTheBarrier(t *testing.T) {
	root := scratch(t)
	x := startIndex(t, Config{Roots: []string{root}, Debounce: time.Hour})
	settled(t, x)
	f, err := os.Create(root + "/log")
	must(t, err)
	defer f.Close()
	for i := range 20 {
		_, err := fmt.Fprintf(f, "line %d\n", i)
		must(t, err)
		if a := lookup(t, x, sha1Of("evil")); !a.Complete {
			t.Fatalf("round %d: %s", i, a.Why)
		}
	}
	if got := x.Status(); got.Read == 0 {
		t.Error("nothing was read")
	}
}

func TestIndexRefusals(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(Config{}); err == nil || err.Error() != "cannot open the index: Config.Path is required" {
		t.Errorf("error %v", err)
	}
	if _, err := Open(Config{Path: dir + "/i", Share: 200}); err == nil || err.Error() != "cannot open the index: Config.Share is 200, want percent from 1 to 100" {
		t.Errorf("error %v", err)
	}
	if _, err := Open(Config{Path: dir + "/none/i"}); err == nil || !strings.HasPrefix(err.Error(), "cannot open the index: open ") {
		t.Errorf("error %v", err)
	}
	x, err := Open(Config{Path: dir + "/i", Roots: []string{dir + "/none"}})
	must(t, err)
	if err := x.Start(t.Context()); err == nil || !strings.HasSuffix(err.Error(), "no such file or directory; name folders that exist, or none for every local file system") {
		t.Errorf("error %v", err)
	}
	if _, err := x.Lookup(t.Context(), filehash.Hash{}); err == nil || err.Error() != "cannot look up: no hash given; name the content by SHA-1 or SHA-256" {
		t.Errorf("error %v", err)
	}
	if err := x.Barrier(t.Context()); err == nil || err.Error() != "the index cannot vouch: the index is closed or being built anew" {
		t.Errorf("error %v", err)
	}
	must(t, x.Stop())
	must(t, x.Stop())
	if a, err := x.Lookup(t.Context(), sha1Of("x")); err != nil || a.Complete || a.Why == "" {
		t.Errorf("after Stop: %+v, %v", a, err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	root := scratch(t)
	before := goleak.IgnoreCurrent()
	for i := range 200 {
		write(t, fmt.Sprintf("%s/%d", root, i), strings.Repeat("x", i*100))
	}
	for range 5 {
		x, err := Open(Config{Path: filepath.Join(t.TempDir(), "i.db"), Roots: []string{root}})
		must(t, err)
		must(t, x.Start(t.Context()))
		if err := x.Start(t.Context()); err == nil {
			t.Error("started twice")
		}
		must(t, x.Stop()) // in the middle of building
	}
	goleak.VerifyNone(t, before)
	must(t, unix.Unmount(root, 0)) // no descriptor is left on it
}
