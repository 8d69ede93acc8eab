// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/runnable"
)

var why = Why{Order: "6d2b4d3c-0000-4000-8000-000000000000", Comment: "beacon", Requestor: "soc@example.org"}

func openVault(t testing.TB, cfg Config) *Vault {
	t.Helper()
	v, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	if _, err := v.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// newVault makes a vault beside an empty folder on the same file system.
func newVault(t testing.TB) (v *Vault, place string) {
	t.Helper()
	base := tempDir(t)
	place = filepath.Join(base, "place")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	return openVault(t, Config{Dir: filepath.Join(base, "vault")}), place
}

// tempDir is t.TempDir that also goes away with immutable and very deep files in it.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "staunch-vault-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := exec.Command("rm", "-rf", dir).Run(); err != nil {
			_ = exec.Command("chattr", "-R", "-ia", dir).Run()
			if out, err := exec.Command("rm", "-rf", dir).CombinedOutput(); err != nil {
				t.Errorf("cannot clean up: %v: %s", err, out)
			}
		}
	})
	return dir
}

func needRoot(t testing.TB, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED, NOT PROVEN: %s: needs root", what)
	}
}

// tmpfs mounts a small tmpfs.
func tmpfs(t testing.TB, opts string) string {
	t.Helper()
	dir := tempDir(t)
	if err := unix.Mount("none", dir, "tmpfs", 0, opts); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: another file system: cannot mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// loopfs mounts a fresh file system of a kind in a loop device.
func loopfs(t testing.TB, kind string, mkfs ...string) string {
	t.Helper()
	return loopfsOf(t, 64<<20, kind, mkfs...)
}

// loopfsOf is loopfs of a size in bytes.
func loopfsOf(t testing.TB, size int64, kind string, mkfs ...string) string {
	t.Helper()
	needRoot(t, kind)
	dir := tempDir(t)
	image := filepath.Join(tempDir(t), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{append(mkfs, image), {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED, NOT PROVEN: %s: %s: %v: %s", kind, cmd[0], err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func write(t testing.TB, path string, content []byte) {
	t.Helper()
	if err := runnable.Write(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func mustOpen(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func anything(filehash.Sum) bool { return true }

func is(content []byte) func(filehash.Sum) bool {
	want, _ := filehash.Compute(strings.NewReader(string(content)))
	return func(s filehash.Sum) bool { return s == want }
}

// take does all of it.
func take(t testing.TB, v *Vault, names ...string) order.Item {
	t.Helper()
	g, err := v.Grab(t.Context(), mustOpen(t, names[0]), names, anything)
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
	return it
}

func restore(t testing.TB, v *Vault, id string, opts RestoreOptions) order.Restored {
	t.Helper()
	res, err := v.Restore(t.Context(), id, opts)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// look is all of a file that can be compared; never its ctime or number.
type look struct {
	Sum          filehash.Sum
	Mode         uint32
	UID, GID     uint32
	Nlink        uint64
	Atime, Mtime Stamp
	Flags        uint32
	Xattrs       []Xattr
	Layout       Layout
}

func lookAt(t testing.TB, path string) look {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME|unix.O_NOFOLLOW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := readMeta(f)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := filehash.Compute(f)
	if err != nil {
		t.Fatal(err)
	}
	// The order in which a file system lists them is its own affair.
	slices.SortFunc(m.Xattrs, func(a, b Xattr) int { return strings.Compare(string(a.Name), string(b.Name)) })
	if m.Layout == nil {
		m.Layout = &Layout{}
	}
	return look{Layout: *m.Layout, Sum: sum, Mode: m.Mode, UID: m.UID, GID: m.GID, Nlink: m.Nlink, Atime: m.Atime, Mtime: m.Mtime, Flags: m.Flags & settable, Xattrs: m.Xattrs}
}

func flagsOf(t testing.TB, path string) uint32 {
	t.Helper()
	f := mustOpen(t, path)
	flags, _, err := getFlags(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

func chattr(t testing.TB, path string, set uint32) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	have, ok, err := getFlags(int(f.Fd()))
	if err == nil && ok {
		err = setFlags(int(f.Fd()), have&^settable|set)
	}
	if err != nil || !ok {
		t.Skipf("SKIPPED, NOT PROVEN: inode flags: %v", err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// sound checks that the vault has these items, whole, and nothing else.
func sound(t testing.TB, v *Vault, items int) {
	t.Helper()
	rep, err := v.Fsck(context.Background(), false)
	if err != nil || !rep.OK() || rep.Items != items {
		t.Errorf("fsck: want %d items and nothing else, got %+v, %v", items, rep, err)
	}
	if in, _ := v.intents(); len(in) > 0 {
		t.Errorf("intents left: %v", in)
	}
}

func contentOf(t testing.TB, v *Vault, id string) []byte {
	t.Helper()
	r, err := v.OpenContent(id)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	return b
}

func idOf(t testing.TB, path string) inode.ID {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return inode.ID{Dev: st.Dev, Ino: st.Ino}
}

func wantErr(t testing.TB, what string, err, is error, texts ...string) {
	t.Helper()
	if err == nil || is != nil && !errors.Is(err, is) {
		t.Errorf("%s: got %v, want %v", what, err, is)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %q, want …%s…", what, err, text)
		}
	}
}
