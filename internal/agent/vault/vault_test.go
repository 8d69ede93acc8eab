// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

func TestTakeAndRestore(t *testing.T) {
	for _, size := range []int{0, 1, 4096, blockSize, blockSize + 1, 5<<20 + 7} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			v, place := newVault(t)
			path := filepath.Join(place, "tool")
			data := random(size)
			write(t, path, data)
			before := lookAt(t, path)
			it := take(t, v, path)
			if exists(path) {
				t.Error("the file is still there")
			}
			want := order.Item{
				ID: it.ID, Order: why.Order, SHA1: before.Sum.SHA1, SHA256: before.Sum.SHA256, Size: int64(size), Paths: []order.Text{order.TextOf(path)},
				UID: before.UID, GID: before.GID, Mode: before.Mode, Sealed: it.Sealed, State: "sealed", Comment: why.Comment,
			}
			if diff := cmp.Diff(want, it); diff != "" || time.Since(it.Sealed) > time.Hour {
				t.Error(diff)
			}
			if !bytes.Equal(contentOf(t, v, it.ID), data) {
				t.Error("the content differs")
			}
			sealed, err := os.ReadFile(v.contentPath(it.ID))
			if err != nil || size > 16 && bytes.Contains(sealed, data[:16]) {
				t.Errorf("the content is not encrypted: %v", err)
			}
			sound(t, v, 1)
			res := restore(t, v, it.ID, RestoreOptions{})
			if diff := cmp.Diff(order.Restored{Item: it.ID, Paths: it.Paths}, res); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
				t.Error(diff)
			}
			sound(t, v, 1)
			if m, err := v.Get(it.ID); err != nil || m.State != Restored || len(m.History) != 1 {
				t.Errorf("after the restore: %+v, %v", m, err)
			}
		})
	}
}

// TestMetadata: everything chattr, setfattr, setfacl, setcap and touch can do.
func TestMetadata(t *testing.T) {
	needRoot(t, "owners, capabilities, trusted attributes")
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(10000))
	if err := errors.Join(os.Chown(path, 1234, 4321), os.Chmod(path, 0o6751|os.ModeSetuid|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	acl := []byte{2, 0, 0, 0, // user::rwx, user:99:r-x, group::r--, mask::r-x, other::--x
		1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 99, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
		16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 1, 0, 255, 255, 255, 255}
	capNetRaw := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for name, value := range map[string][]byte{
		"user.note": []byte("x\x00y"), "user.\xff\n": {}, "trusted.origin": []byte("there"), "security.selinux": []byte("system_u:object_r:bin_t:s0\x00"),
		aclAccess: acl, capability: capNetRaw, "user.large": random(2000),
	} {
		if err := unix.Setxattr(path, name, value, 0); err != nil {
			t.Fatalf("%q: %v", name, err)
		}
	}
	at, mt := unix.Timespec{Sec: 981173106, Nsec: 789456123}, unix.Timespec{Sec: -5, Nsec: 1}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, mt}, 0); err != nil {
		t.Fatal(err)
	}
	chattr(t, path, 0x10|0x40|0x80|0x08) // immutable, nodump, noatime, sync
	if err := unix.Setxattr(place, "system.posix_acl_default", acl, 0); err != nil {
		t.Fatal(err) // new files here get an ACL that the old ones do not have
	}
	plain := filepath.Join(place, "plain")
	write(t, plain, []byte("plain"))
	if err := unix.Removexattr(plain, aclAccess); err != nil {
		t.Fatal(err)
	}
	chattr(t, plain, 0x20) // append-only

	for _, p := range []string{path, plain} {
		before := lookAt(t, p)
		if p == path && (before.Mtime != Stamp{-5, 1} || len(before.Xattrs) != 7) {
			t.Fatalf("the file was not made as meant: %+v", before)
		}
		it := take(t, v, p)
		res := restore(t, v, it.ID, RestoreOptions{})
		if len(res.Lost) > 0 || res.Side {
			t.Errorf("restored with losses: %+v", res)
		}
		if diff := cmp.Diff(before, lookAt(t, p)); diff != "" {
			t.Errorf("%s: %s", p, diff)
		}
	}
	sound(t, v, 2)
}

// TestLost: what another file system cannot hold is named, not silent, and a
// set-id bit never goes to another owner.
func TestLost(t *testing.T) {
	needRoot(t, "owners")
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, []byte("x"))
	if err := unix.Setxattr(path, "user.note", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	chattr(t, path, 0x08) // sync; ramfs has no flags and no user attributes
	it := take(t, v, path)
	dir := tempDir(t)
	if err := unix.Mount("none", dir, "ramfs", 0, ""); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: a file system without attributes: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	dest := filepath.Join(dir, "tool")
	res := restore(t, v, it.ID, RestoreOptions{Destination: dest})
	if got := strings.Join(res.Lost, "; "); !strings.Contains(got, "attribute user.note: ") || !strings.Contains(got, "inode flags 0x8: this file system has none") {
		t.Errorf("lost: %q", got)
	}
	if !exists(dest) {
		t.Error("not restored")
	}
}

func TestSparse(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	const size = 1 << 30
	for _, off := range []int64{0, 300 << 20, size - 5000} {
		if _, err := f.WriteAt(random(5000), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Truncate(size), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	blocks := func() int64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks
	}
	before, had := lookAt(t, path), blocks()
	it := take(t, v, path)
	if m, _ := v.Get(it.ID); !m.Sparse || m.Stored > 64<<10 || len(m.Extents) != 3 {
		t.Errorf("stored %d bytes in %v", m.Stored, m.Extents)
	}
	restore(t, v, it.ID, RestoreOptions{})
	if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
		t.Error(diff)
	}
	if has := blocks(); has > had {
		t.Errorf("%d blocks after the restore, %d before", has, had)
	}
	// Left unread, it stops all the same.
	r, err := v.OpenContent(it.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	onlyHole := filepath.Join(place, "hole")
	write(t, onlyHole, nil)
	if err := os.Truncate(onlyHole, 1<<20); err != nil {
		t.Fatal(err)
	}
	before = lookAt(t, onlyHole)
	it = take(t, v, onlyHole)
	if !bytes.Equal(contentOf(t, v, it.ID), make([]byte, 1<<20)) {
		t.Error("the hole is not zeros")
	}
	restore(t, v, it.ID, RestoreOptions{})
	if diff := cmp.Diff(before, lookAt(t, onlyHole)); diff != "" {
		t.Error(diff)
	}
	sound(t, v, 2)
}

func TestMerge(t *testing.T) {
	ext := []Extent{{0, 10}, {20, 10}, {1000, 5}, {1010, 5}}
	if diff := cmp.Diff([]Extent{{0, 30}, {1000, 15}}, merge(ext, 50)); diff != "" {
		t.Error(diff)
	}
}

// TestNameless: a deleted executable and one in memory.
func TestNameless(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	data := random(100000)
	write(t, path, data)
	f := mustOpen(t, path)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.MemfdCreate("evil", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	memory := os.NewFile(uintptr(fd), "memfd:evil")
	defer memory.Close()
	if _, err := memory.Write(data); err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{f, memory} {
		it, err := v.SealOpen(t.Context(), f, why)
		if err != nil {
			t.Fatal(err)
		}
		if len(it.Paths) != 0 || !bytes.Equal(contentOf(t, v, it.ID), data) {
			t.Errorf("item %+v", it)
		}
		res := restore(t, v, it.ID, RestoreOptions{})
		if !res.Side || !strings.HasSuffix(string(res.Paths[0]), "/restored/"+it.ID+"/item-"+it.ID[:8]) {
			t.Errorf("restored to %+v", res)
		}
	}
	sound(t, v, 2)
	if _, err := v.Grab(t.Context(), f, []string{path}, anything); !errors.Is(err, ErrVanished) {
		t.Errorf("Grab of a deleted file: got %v", err)
	}
	dir := mustOpen(t, place)
	_, err = v.SealOpen(t.Context(), dir, why)
	wantErr(t, "folder", err, nil, "cannot seal open file", "it is not a regular file")
}

// Who has a file open cannot execute it by that once it is sealed.
func TestDisarm(t *testing.T) {
	needRoot(t, "only root may execute whatever has any right to be executed")
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	program, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, program)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, path)
	kept := func() error {
		return exec.Command("/bin/sh", "-c", `exec "/proc/$PPID/fd/$0"`, strconv.Itoa(int(f.Fd()))).Run()
	}
	if err := kept(); err != nil {
		t.Fatalf("it does not run beforehand: %v", err)
	}
	it := take(t, v, path)
	if err := kept(); err == nil {
		t.Error("it still runs by a descriptor that was kept")
	}
	restore(t, v, it.ID, RestoreOptions{})
	if err := exec.Command(path).Run(); err != nil {
		t.Errorf("restored, it does not run: %v", err)
	}
}

func TestPurge(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(100000))
	it := take(t, v, path)
	for range 2 {
		if err := v.Purge(t.Context(), it.ID); err != nil {
			t.Fatal(err)
		}
	}
	if v.used != 0 || exists(v.contentPath(it.ID)) {
		t.Errorf("%d bytes used, content there: %v", v.used, exists(v.contentPath(it.ID)))
	}
	_, err := v.Restore(t.Context(), it.ID, RestoreOptions{})
	wantErr(t, "Restore", err, ErrPurged, "cannot restore: item "+it.ID)
	_, err = v.OpenContent(it.ID)
	wantErr(t, "OpenContent", err, ErrPurged)
	if items, err := v.List(); err != nil || len(items) != 1 || items[0].State != "purged" {
		t.Errorf("List: %+v, %v", items, err)
	}
	if items, err := v.Find(filehash.Hash{SHA1: it.SHA1}); err != nil || len(items) != 0 {
		t.Errorf("Find: %+v, %v", items, err)
	}
	sound(t, v, 1)
	wantErr(t, "unknown", v.Purge(t.Context(), strings.Repeat("0", 32)), ErrNotFound, "cannot purge: item 0000")
	wantErr(t, "no id", v.Purge(t.Context(), "../../etc/passwd"), nil, "is not the id of an item")
}

func TestFind(t *testing.T) {
	v, place := newVault(t)
	var last order.Item
	for i := range 3 {
		path := filepath.Join(place, fmt.Sprint("tool", i))
		write(t, path, []byte("same"))
		last = take(t, v, path)
	}
	if items, err := v.Find(filehash.Hash{SHA256: last.SHA256}); err != nil || len(items) != 3 {
		t.Errorf("Find: %d items, %v", len(items), err)
	}
}

func TestEscrow(t *testing.T) {
	escrow, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	base := tempDir(t)
	v := openVault(t, Config{Dir: filepath.Join(base, "vault"), Escrow: []age.Recipient{escrow.Recipient()}})
	path := filepath.Join(base, "tool")
	write(t, path, []byte("evil"))
	it := take(t, v, path)
	f := mustOpen(t, v.contentPath(it.ID))
	r, err := age.Decrypt(f, escrow)
	if err != nil {
		t.Fatal(err)
	}
	if sum, err := filehash.Compute(r); err != nil || sum.SHA256 != it.SHA256 {
		t.Errorf("the escrow key reads %v, %v", sum, err)
	}
	classic, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	_, err = Open(Config{Dir: filepath.Join(base, "other"), Escrow: []age.Recipient{classic.Recipient()}})
	wantErr(t, "classic key", err, nil, "an escrow key cannot be used", "give one that begins with age1pq")
}

func TestOpenRefuses(t *testing.T) {
	_, err := Open(Config{})
	wantErr(t, "no folder", err, nil, "no folder given")
	made := func(spoil func(dir string)) Config {
		dir := filepath.Join(tempDir(t), "vault")
		v, err := Open(Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		_ = v.Close()
		spoil(dir)
		return Config{Dir: dir}
	}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"open to others": {made(func(d string) { _ = os.Chmod(d, 0o755) }), "others may enter"},
		"a file":         {made(func(d string) { _ = os.RemoveAll(d); _ = os.WriteFile(d, nil, 0o600) }), "a file is in its place"},
		"no key":         {made(func(d string) { _ = os.Remove(filepath.Join(d, "key")) }), "bring the key back, or open the items with the escrow key"},
		"bad key":        {made(func(d string) { _ = os.WriteFile(filepath.Join(d, "key"), []byte("AGE-"), 0o600) }), "cannot read the vault's key"},
		"other key":      {otherKey(made(func(string) {})), "it was sealed with another key"},
		"damaged":        {made(func(d string) { _ = os.WriteFile(filepath.Join(d, "vault.json"), []byte("{}"), 0o600) }), "it is not a vault"},
		"version": {made(func(d string) {
			b, _ := encodeFrame("vault", about{Version: 3})
			_ = os.WriteFile(filepath.Join(d, "vault.json"), b, 0o600)
		}), "its format is version 3, this agent knows versions 1 to 2"},
		"nameless": {made(func(d string) {
			_ = os.Remove(filepath.Join(d, "vault.json"))
			_ = os.WriteFile(filepath.Join(d, "items", strings.Repeat("a", 32)+".age"), nil, 0o600)
		}), "there are items, but no"},
		"reading nothing": {Config{Dir: filepath.Join(tempDir(t), "none"), ReadOnly: true}, "no such file"},
	} {
		_, err := Open(c.cfg)
		wantErr(t, name, err, nil, "cannot open vault", c.want)
	}
	if os.Geteuid() == 0 {
		_, err := Open(made(func(d string) { _ = os.Chown(d, 1234, 0) }))
		wantErr(t, "another's", err, nil, "belongs to user 1234", "chown")
	}
}

func otherKey(c Config) Config {
	c.Identity, _ = age.GenerateHybridIdentity()
	return c
}

// TestReadOnly: a second process may look while the first works, not more.
func TestReadOnly(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, []byte("evil"))
	it := take(t, v, path)
	_, err := Open(Config{Dir: v.dir})
	wantErr(t, "second", err, nil, "another agent works with this vault")
	r, err := Open(Config{Dir: v.dir, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if string(contentOf(t, r, it.ID)) != "evil" {
		t.Error("the content differs")
	}
	sound(t, r, 1)
	_, err = r.Restore(t.Context(), it.ID, RestoreOptions{})
	wantErr(t, "Restore", err, ErrReadOnly)
	wantErr(t, "Purge", r.Purge(t.Context(), it.ID), ErrReadOnly)
	_, err = r.Fsck(t.Context(), true)
	wantErr(t, "Fsck", err, ErrReadOnly, "stop the agent first")
	_, err = r.Recover(t.Context())
	wantErr(t, "Recover", err, ErrReadOnly)
	write(t, path, nil)
	_, err = r.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
	wantErr(t, "Grab", err, ErrReadOnly)
}

// TestSample opens the vault of version 1 that is kept beside this test.
func TestSample(t *testing.T) {
	for version := 1; version <= Version; version++ {
		t.Run(fmt.Sprint("v", version), func(t *testing.T) { sample(t, fmt.Sprint("testdata/v", version)) })
	}
}

func sample(t *testing.T, from string) {
	dir := filepath.Join(tempDir(t), "vault")
	if out, err := exec.Command("cp", "-r", from, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := exec.Command("chmod", "-R", "u=rwX,go=", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out) // version control keeps no modes
	}
	v := openVault(t, Config{Dir: dir})
	items, err := v.List()
	if err != nil || len(items) != 3 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	sound(t, v, 3)
	for _, it := range items {
		m, err := v.Get(it.ID)
		if err != nil {
			t.Fatal(err)
		}
		switch m.State {
		case Sealed:
			res := restore(t, v, it.ID, RestoreOptions{SideDir: filepath.Join(dir, "out")})
			raw, err := res.Paths[0].Bytes()
			if err != nil || !res.Side {
				t.Fatalf("%+v, %v", res, err)
			}
			if lookAt(t, raw).Sum != m.sum() || !strings.HasSuffix(raw, "to\xffol\n") {
				t.Errorf("%q is not what was sealed", raw)
			}
		case Restored:
			if !m.Sparse || int64(len(contentOf(t, v, it.ID))) != m.Size {
				t.Errorf("the sparse sample: %+v", m)
			}
		case Purged:
			if exists(v.contentPath(it.ID)) {
				t.Error("the purged sample has content")
			}
		}
	}
}
