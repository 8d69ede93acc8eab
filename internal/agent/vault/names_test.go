// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

func TestHostileNames(t *testing.T) {
	v, place := newVault(t)
	for i, name := range []string{
		"new\nline", "inv\xffalid\xfe", strings.Repeat("n", 255), "\x01\x1b[2J", "-rf", " ", `back\slash`, `\x41`, "\u202eexe.txt", ".staunch-x", "ünï",
	} {
		path := filepath.Join(place, name)
		write(t, path, []byte(fmt.Sprint("content ", i)))
		before := lookAt(t, path)
		it := take(t, v, path)
		if raw, err := it.Paths[0].Bytes(); err != nil || raw != path || exists(path) {
			t.Errorf("%q: noted as %q, %v", path, raw, err)
		}
		if res := restore(t, v, it.ID, RestoreOptions{}); res.Side || len(res.Lost) > 0 {
			t.Errorf("%q: %+v", path, res)
		}
		if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
			t.Errorf("%q: %s", path, diff)
		}
		// Its place taken: a side folder, with the longest name too.
		res := restore(t, v, it.ID, RestoreOptions{})
		raw, err := res.Paths[0].Bytes()
		if err != nil || !res.Side || filepath.Base(raw) != name || lookAt(t, raw).Sum != before.Sum {
			t.Errorf("%q: %+v, %v", path, res, err)
		}
		if res = restore(t, v, it.ID, RestoreOptions{}); !res.Side {
			t.Errorf("%q: %+v", path, res)
		}
		if second, _ := res.Paths[0].Bytes(); second == raw || len(filepath.Base(second)) > 255 {
			t.Errorf("second side name %q", second)
		}
	}
	sound(t, v, 11)
}

// deep makes folders until the path is longer than the kernel takes at once.
func deep(t *testing.T, place string, length int) (path string, dir int) {
	t.Helper()
	fd, err := unix.Open(place, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("d", 200)
	for path = place; len(path) < length; path += "/" + name {
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		_ = unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return path, fd
}

func TestDeeperThanPathMax(t *testing.T) {
	for _, fs := range []string{"vault", "mount"} {
		v, place := newVault(t)
		if fs == "mount" {
			place = tmpfs(t, "")
		}
		path, dir := deep(t, place, 9000)
		fd, err := unix.Openat(dir, "tool", unix.O_RDWR|unix.O_CREAT, 0o755)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "tool")
		defer f.Close()
		data := random(1000)
		if _, err := f.Write(data); err != nil {
			t.Fatal(err)
		}
		g, err := v.Grab(t.Context(), f, []string{path + "/tool"}, is(data))
		if err != nil {
			t.Fatal(err)
		}
		it, err := v.Seal(t.Context(), g, why)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, "tool", &st, 0); !errors.Is(err, unix.ENOENT) {
			t.Errorf("%s: still there: %v", fs, err)
		}
		if res := restore(t, v, it.ID, RestoreOptions{}); res.Side || len(res.Lost) > 0 {
			t.Errorf("%s: restored with side %v, lost %v", fs, res.Side, res.Lost)
		}
		if err := unix.Fstatat(dir, "tool", &st, 0); err != nil || st.Size != 1000 {
			t.Errorf("%s: not restored: %v", fs, err)
		}
		sound(t, v, 1)
	}
}

func TestHardLinks(t *testing.T) {
	for _, fs := range []string{"vault", "mount"} {
		v, place := newVault(t)
		if fs == "mount" {
			place = tmpfs(t, "")
		}
		other := filepath.Join(place, "other")
		if err := os.Mkdir(other, 0o755); err != nil {
			t.Fatal(err)
		}
		names := []string{filepath.Join(place, "a"), filepath.Join(place, "b"), filepath.Join(other, "c\n")}
		write(t, names[0], random(1000))
		for _, n := range names[1:] {
			if err := os.Link(names[0], n); err != nil {
				t.Fatal(err)
			}
		}
		before := lookAt(t, names[0])
		it := take(t, v, names...)
		for _, n := range names {
			if exists(n) {
				t.Errorf("%s: %q is still there", fs, n)
			}
		}
		if left, err := filepath.Glob(filepath.Join(place, ".staunch*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v", fs, left)
		}
		res := restore(t, v, it.ID, RestoreOptions{})
		if len(res.Paths) != 3 || len(res.Lost) > 0 {
			t.Errorf("%s: %+v", fs, res)
		}
		for _, n := range names {
			if diff := cmp.Diff(before, lookAt(t, n)); diff != "" || idOf(t, n) != idOf(t, names[0]) {
				t.Errorf("%s: %q: %s", fs, n, diff)
			}
		}
		sound(t, v, 1)
	}
}

// TestHardLinksLeft: names that are not known, or are another file's by now,
// are reported and not touched.
func TestHardLinksLeft(t *testing.T) {
	v, place := newVault(t)
	a, b, c, d := filepath.Join(place, "a"), filepath.Join(place, "b"), filepath.Join(place, "c"), filepath.Join(place, "d")
	write(t, a, []byte("evil"))
	for _, n := range []string{b, c, d} {
		if err := os.Link(a, n); err != nil {
			t.Fatal(err)
		}
	}
	g, err := v.Grab(t.Context(), mustOpen(t, a), []string{filepath.Join(place, "none"), a, b, c}, anything)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]order.Text{order.TextOf(a), order.TextOf(b), order.TextOf(c)}, g.Names()); diff != "" {
		t.Error(diff)
	}
	if _, err := v.Seal(t.Context(), g, why); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	write(t, b, []byte("innocent"))
	err = g.Remove(t.Context())
	var left *LeftError
	if !errors.As(err, &left) || left.Unknown != 1 || !strings.Contains(err.Error(), "1 more that were not known: search for hard links") {
		t.Errorf("got %v", err)
	}
	if got, _ := os.ReadFile(b); string(got) != "innocent" || exists(a) || exists(c) || !exists(d) {
		t.Errorf("b holds %q; a %v, c %v, d %v", got, exists(a), exists(c), exists(d))
	}
	sound(t, v, 1)
}

func TestLinksAreNotFollowed(t *testing.T) {
	v, place := newVault(t)
	real, link := filepath.Join(place, "real"), filepath.Join(place, "link")
	if err := errors.Join(os.Mkdir(real, 0o755), os.Symlink(real, link)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(real, "tool")
	write(t, path, []byte("evil"))
	f := mustOpen(t, path)
	for name, c := range map[string]struct{ path, want string }{
		"linked folder": {filepath.Join(link, "tool"), "too many levels of symbolic links"},
		"magic link":    {fmt.Sprintf("/proc/self/cwd%s", path), "too many levels of symbolic links"},
		"dots":          {real + "/../real/tool", "is not a clean absolute path"},
		"relative":      {"tool", "is not a clean absolute path"},
		"zero":          {path + "\x00", "is not a clean absolute path"},
		"long":          {"/" + strings.Repeat("x", 256), "is longer than 255 bytes"},
		"other":         {filepath.Join(place, "link"), "another file has this name now"},
		"none":          {filepath.Join(real, "none"), "no such file"},
	} {
		_, err := v.Grab(t.Context(), f, []string{c.path}, anything)
		wantErr(t, name, err, ErrMoved, "cannot take file", c.want)
	}
	_, err := v.Grab(t.Context(), f, nil, anything)
	wantErr(t, "no names", err, nil, "a file without one is sealed from its descriptor")
	_, err = v.Grab(t.Context(), mustOpen(t, real), []string{real}, anything)
	wantErr(t, "folder", err, nil, "it is not a regular file")
	if !exists(path) {
		t.Error("the file is gone")
	}
	it := take(t, v, path)
	// Its folder becomes a link to another: not followed.
	if err := errors.Join(os.Rename(real, real+"2"), os.Symlink(real+"2", real)); err != nil {
		t.Fatal(err)
	}
	if res := restore(t, v, it.ID, RestoreOptions{}); !res.Side || exists(path) {
		t.Errorf("restored through a link: %+v", res)
	}
	_, err = v.Restore(t.Context(), it.ID, RestoreOptions{Destination: "tool"})
	wantErr(t, "relative", err, nil, "cannot restore", "is not a clean absolute path")
	sound(t, v, 1)
}

func TestRestorePlaces(t *testing.T) {
	v, place := newVault(t)
	dir := filepath.Join(place, "dir")
	make := func() order.Item {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "tool"), []byte("evil"))
		return take(t, v, filepath.Join(dir, "tool"))
	}
	it := make()
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if res := restore(t, v, it.ID, RestoreOptions{}); !res.Side {
		t.Errorf("missing folder: %+v", res)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	side := filepath.Join(place, "side", "deep")
	if res := restore(t, v, it.ID, RestoreOptions{SideDir: side}); !res.Side || string(res.Paths[0]) != side+"/tool" {
		t.Errorf("replaced folder: %+v", res)
	}
	dest := filepath.Join(dir, "elsewhere")
	if res := restore(t, v, it.ID, RestoreOptions{Destination: dest}); res.Side || string(res.Paths[0]) != dest || !exists(dest) {
		t.Errorf("destination: %+v", res)
	}
	if res := restore(t, v, it.ID, RestoreOptions{Destination: dest}); !res.Side {
		t.Errorf("destination taken: %+v", res)
	}
	if m, err := v.Get(it.ID); err != nil || len(m.History) != 4 {
		t.Errorf("history: %+v, %v", m, err)
	}
	_, err := v.Restore(t.Context(), strings.Repeat("0", 32), RestoreOptions{})
	wantErr(t, "unknown", err, ErrNotFound, "no such item in the vault")
	write(t, filepath.Join(place, "file"), nil)
	if res := restore(t, v, it.ID, RestoreOptions{Destination: filepath.Join(place, "file", "x")}); !res.Side {
		t.Errorf("file as folder: %+v", res)
	}
	_, err = v.Restore(t.Context(), it.ID, RestoreOptions{Destination: dest, SideDir: filepath.Join(place, "file")})
	wantErr(t, "no side folder", err, nil, "its place is taken, and the side folder cannot be used")
	sound(t, v, 1)
}

// TestLocked: immutable and append-only files in immutable folders are taken
// and come back so, and neither ever stays open.
func TestLocked(t *testing.T) {
	needRoot(t, "immutable files")
	for fsName, mount := range map[string]func() string{
		"vault": func() string { return "" },
		"mount": func() string { return loopfs(t, "ext4", "mkfs.ext4", "-q", "-F") },
	} {
		t.Run(fsName, func(t *testing.T) {
			v, place := newVault(t)
			if m := mount(); m != "" {
				place = filepath.Join(m, "place")
				if err := os.Mkdir(place, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			dirs := []string{filepath.Join(place, "i"), filepath.Join(place, "a")}
			flags := []uint32{0x10, 0x20}
			names := []string{filepath.Join(dirs[0], "tool"), filepath.Join(dirs[1], "link")}
			if err := errors.Join(os.Mkdir(dirs[0], 0o755), os.Mkdir(dirs[1], 0o755)); err != nil {
				t.Fatal(err)
			}
			write(t, names[0], random(100))
			if err := os.Link(names[0], names[1]); err != nil {
				t.Fatal(err)
			}
			chattr(t, names[0], 0x30|0x40)
			for i := range dirs {
				chattr(t, dirs[i], flags[i])
			}
			check := func(what string) {
				t.Helper()
				for i := range dirs {
					if flagsOf(t, dirs[i])&0x30 != flags[i] {
						t.Errorf("%s: %s has flags %#x", what, dirs[i], flagsOf(t, dirs[i]))
					}
				}
			}
			before := lookAt(t, names[0])
			g, err := v.Grab(t.Context(), mustOpen(t, names[0]), names, anything)
			if err != nil {
				t.Fatal(err)
			}
			check("grabbed")
			if exists(names[0]) || !exists(names[1]) {
				t.Error("not grabbed")
			}
			if err := g.PutBack(t.Context()); err != nil {
				t.Fatal(err)
			}
			check("put back")
			if diff := cmp.Diff(before, lookAt(t, names[0])); diff != "" {
				t.Error(diff)
			}
			it := take(t, v, names...)
			check("taken")
			if exists(names[0]) || exists(names[1]) {
				t.Error("still there")
			}
			if res := restore(t, v, it.ID, RestoreOptions{}); res.Side || len(res.Lost) > 0 {
				t.Errorf("%+v", res)
			}
			check("restored")
			for _, n := range names {
				if diff := cmp.Diff(before, lookAt(t, n)); diff != "" {
					t.Error(diff)
				}
			}
			sound(t, v, 1)
			for _, p := range append(slices.Clone(dirs), names[0]) {
				chattr(t, p, 0)
			}
		})
	}
}

// TestLockedTogether: many files of one immutable folder at the same time.
func TestLockedTogether(t *testing.T) {
	needRoot(t, "immutable files")
	v, place := newVault(t)
	const n = 12
	for i := range n {
		write(t, filepath.Join(place, fmt.Sprint(i)), random(10))
	}
	chattr(t, place, 0x10)
	var wg sync.WaitGroup
	for i := range n {
		f := mustOpen(t, filepath.Join(place, fmt.Sprint(i)))
		wg.Go(func() {
			g, err := v.Grab(context.Background(), f, []string{f.Name()}, anything)
			if err == nil && i%2 == 0 {
				err = g.PutBack(context.Background())
			} else if err == nil {
				_, err = v.Seal(context.Background(), g, why)
				err = errors.Join(err, g.Remove(context.Background()))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if flagsOf(t, place)&0x10 == 0 {
		t.Error("the folder is open")
	}
	chattr(t, place, 0)
	sound(t, v, n/2)
}

// TestExchangeRace exchanges the folder on the way, and the file itself, for
// others in a tight loop, while the vault takes. Only the file with the
// content may ever be gone.
func TestExchangeRace(t *testing.T) {
	v, place := newVault(t)
	evil, innocent := []byte("evil content"), []byte("innocent content")
	p := func(elem ...string) string { return filepath.Join(append([]string{place}, elem...)...) }
	if err := errors.Join(os.Mkdir(p("d"), 0o755), os.Mkdir(p("good"), 0o755), os.Symlink("good", p("l"))); err != nil {
		t.Fatal(err)
	}
	write(t, p("good", "tool"), innocent)
	write(t, p("good", "other"), innocent)
	var stop atomic.Bool
	var wg sync.WaitGroup
	top, err := openDir(place)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	real, err := openDir(p("d"))
	if err != nil {
		t.Fatal(err)
	}
	defer real.Close()
	plant(t, real, "odd", innocent)
	swap := func(dir *os.File, a, b string) {
		wg.Go(func() {
			for !stop.Load() {
				_ = unix.Renameat2(int(dir.Fd()), a, int(dir.Fd()), b, unix.RENAME_EXCHANGE)
			}
		})
	}
	swap(top, "d", "l")       // the folder for a link to an innocent one
	swap(real, "tool", "odd") // and the file for an innocent one
	got := map[string]int{}
	for i := range 300 {
		// What was taken comes again; the innocent one never goes.
		plant(t, real, "tool", evil)
		plant(t, real, "odd", evil)
		fd, err := unix.Openat(int(real.Fd()), "tool", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), p("d", "tool"))
		g, err := v.Grab(t.Context(), f, []string{p("d", "tool")}, is(evil))
		_ = f.Close()
		if err != nil {
			got["refused"]++
			if !errors.Is(err, ErrMoved) && !errors.Is(err, ErrChanged) && !errors.Is(err, ErrVanished) {
				t.Fatalf("round %d: %v", i, err)
			}
			continue
		}
		got["grabbed"]++
		if _, err := v.Seal(t.Context(), g, why); err != nil {
			t.Fatal(err)
		}
		if err := g.Remove(t.Context()); err != nil {
			var left *LeftError
			if !errors.As(err, &left) {
				t.Fatal(err)
			}
		}
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%v", got)
	for _, name := range []string{"tool", "other"} {
		if b, err := os.ReadFile(p("good", name)); err != nil || string(b) != string(innocent) {
			t.Errorf("the innocent %s: %q, %v", name, b, err)
		}
	}
	left := map[string]int{}
	for _, name := range []string{"tool", "odd"} {
		b, err := os.ReadFile(filepath.Join(realPath(p("d"), p("l")), name))
		if err == nil {
			left[string(b)]++
		}
	}
	if left[string(innocent)] != 1 {
		t.Errorf("left in the folder: %v", left)
	}
	items, err := v.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if string(contentOf(t, v, it.ID)) != string(evil) {
			t.Errorf("an innocent file was sealed: %+v", it)
		}
	}
	if got["refused"] == 0 || got["grabbed"] == 0 {
		t.Logf("the race went one way only: %v", got)
	}
	sound(t, v, got["grabbed"])
}

// realPath returns which of two names is the folder now, and not the link.
func realPath(a, b string) string {
	if fi, err := os.Lstat(a); err == nil && fi.IsDir() {
		return a
	}
	return b
}

// plant makes a file in a folder if there is none.
func plant(t *testing.T, dir *os.File, name string, content []byte) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o755)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, content); err != nil {
		t.Fatal(err)
	}
}

// TestGrabPutsBackTheWrongFile forces what the race above meets by chance: the
// name leads to another file at the very instant of the move.
func TestGrabPutsBackTheWrongFile(t *testing.T) {
	base := tempDir(t)
	path, other := filepath.Join(base, "tool"), filepath.Join(base, "other")
	write(t, path, []byte("evil"))
	write(t, other, []byte("innocent"))
	before := lookAt(t, other)
	v := openVault(t, Config{Dir: filepath.Join(base, "vault"), Step: func(step string) {
		if step == "grab:lifted" {
			if err := unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
			}
		}
	}})
	_, err := v.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
	wantErr(t, "Grab", err, ErrChanged, "its name led to another file")
	if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
		t.Error(diff)
	}
	sound(t, v, 0)
}

// TestOtherNameIsSwapped: the same for a further name, on its way out.
func TestOtherNameIsSwapped(t *testing.T) {
	v, place := newVault(t)
	dir, err := openDir(place)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	write(t, filepath.Join(place, "b"), []byte("innocent"))
	s := &stage{kind: inVault, dir: v.staging}
	id := newID()
	if err := moveName(dir, "b", v.staging, s.name(id, 1)); err != nil {
		t.Fatal(err)
	}
	if err := settle(s, s.name(id, 1), dir, "b", id, idOf(t, place)); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(filepath.Join(place, "b")); string(b) != "innocent" {
		t.Errorf("b holds %q", b)
	}
	if err := moveName(dir, "b", v.staging, s.name(id, 1)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(place, "b"), []byte("third"))
	var elsewhere *ElsewhereError
	if err := settle(s, s.name(id, 1), dir, "b", id, idOf(t, place)); !errors.As(err, &elsewhere) {
		t.Fatalf("got %v", err)
	}
	if b, _ := os.ReadFile(string(elsewhere.Path)); string(b) != "innocent" {
		t.Errorf("%s holds %q", elsewhere.Path, b)
	}
}

func TestPutBackElsewhere(t *testing.T) {
	v, place := newVault(t)
	dir := filepath.Join(place, "dir")
	long := strings.Repeat("n", 255)
	for name, c := range map[string]struct {
		name  string
		spoil func(path string) error
		why   string
	}{
		"taken":     {"tool", func(p string) error { return os.WriteFile(p, []byte("new"), 0o600) }, "its name was taken meanwhile"},
		"long name": {long, func(p string) error { return os.WriteFile(p, []byte("new"), 0o600) }, "its name was taken meanwhile"},
		"no folder": {"tool", func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, "its folder is gone"},
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, c.name)
		write(t, path, []byte("evil"))
		before := lookAt(t, path)
		g, err := v.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(path); err != nil {
			t.Fatal(err)
		}
		err = g.PutBack(t.Context())
		var elsewhere *ElsewhereError
		if !errors.As(err, &elsewhere) || !strings.Contains(err.Error(), c.why) {
			t.Fatalf("%s: got %v", name, err)
		}
		if diff := cmp.Diff(before, lookAt(t, string(elsewhere.Path))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		wantErr(t, name, g.PutBack(t.Context()), nil, "it was put back or removed before")
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	rep, err := v.Fsck(t.Context(), false)
	if err != nil || len(rep.Findings) != 1 || !strings.Contains(rep.Findings[0].What, "could not be put back") {
		t.Errorf("fsck: %+v, %v", rep, err)
	}
}
