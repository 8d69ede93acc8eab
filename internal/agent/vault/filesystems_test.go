// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// sh runs a command of a file system's own tools.
func sh(t *testing.T, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(args[0]); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: no %s here", args[0])
	}
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %q: %v: %s", args, err, out)
	}
}

// btrfs and xfs are made no smaller than these.
func btrfs(t *testing.T) string {
	return loopfsOf(t, 128<<20, "btrfs", "mkfs.btrfs", "-q", "-m", "single")
}
func xfs(t *testing.T) string { return loopfsOf(t, 320<<20, "xfs", "mkfs.xfs", "-q") }

// backAgain checks that a file is taken and comes back as it was.
func backAgain(t *testing.T, v *Vault, names ...string) {
	t.Helper()
	before := lookAt(t, names[0])
	blocks := blocksOf(t, names[0])
	it := take(t, v, names...)
	for _, n := range names {
		if exists(n) {
			t.Errorf("%q is still there", n)
		}
		for _, dir := range []string{filepath.Dir(n), filepath.Dir(filepath.Dir(n))} {
			if left, _ := filepath.Glob(filepath.Join(dir, ".staunch*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		}
	}
	res := restore(t, v, it.ID, RestoreOptions{})
	if res.Side || len(res.Lost) > 0 || len(res.Paths) != len(names) {
		t.Errorf("%+v", res)
	}
	if diff := cmp.Diff(before, lookAt(t, names[0])); diff != "" {
		t.Error(diff)
	}
	if now := blocksOf(t, names[0]); now > 2*blocks+64 {
		t.Errorf("it takes %d blocks, it took %d", now, blocks)
	}
	rep, err := v.Fsck(t.Context(), false)
	if err != nil || !rep.OK() {
		t.Errorf("fsck: %+v, %v", rep, err)
	}
}

func blocksOf(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks
}

// dress gives a file all the metadata a file can have.
func dress(t *testing.T, path string) {
	t.Helper()
	if err := os.Chown(path, 1234, 4294967294); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"user.note": "x", "trusted.note": "y", "security.note": "z",
		"security.capability":     "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"system.posix_acl_access": "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe1\x10\x00\x00\x04\x00\x05\x00\xff\xff\xff\xff\x10\x00\x05\x00\xff\xff\xff\xff\x20\x00\x00\x00\xff\xff\xff\xff",
	} {
		if err := unix.Setxattr(path, name, []byte(value), 0); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	// The owner and the attributes may have changed the mode.
	if err := os.Chmod(path, 0o750|os.ModeSetuid|os.ModeSetgid|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0); err != nil {
		t.Fatal(err)
	}
}

// sparse writes a few bytes with large holes between them.
func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Truncate(size)
	for _, off := range []int64{0, size / 2, size - 5} {
		_, e := f.WriteAt([]byte("bytes"), off)
		err = errors.Join(err, e)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// TestBtrfs: subvolumes and their device numbers, snapshots, no copy on write,
// compression, and files that share their blocks.
func TestBtrfs(t *testing.T) {
	dir := btrfs(t)
	sh(t, "btrfs", "subvolume", "create", filepath.Join(dir, "one"))
	sh(t, "btrfs", "subvolume", "create", filepath.Join(dir, "two"))
	for where, base := range map[string]string{"other file system": tempDir(t), "same subvolume": filepath.Join(dir, "one"), "other subvolume": filepath.Join(dir, "two")} {
		t.Run(where, func(t *testing.T) {
			v := openVault(t, Config{Dir: filepath.Join(base, "vault")})
			place := filepath.Join(dir, "one", "place")
			if err := os.MkdirAll(place, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(place, "tool")
			for what, set := range map[string]func(){
				"plain":            func() { write(t, path, random(100000)) },
				"small":            func() { write(t, path, random(100)) },
				"sparse":           func() { sparse(t, path, 24<<20) },
				"no copy on write": func() { write(t, path, nil); chattr(t, path, 0x00800000); write(t, path, random(100000)) },
				"compressed":       func() { write(t, path, nil); chattr(t, path, 0x4); write(t, path, bytes.Repeat([]byte("so "), 1<<18)) },
				"compressed by a property": func() {
					write(t, path, nil)
					sh(t, "btrfs", "property", "set", path, "compression", "zstd")
					write(t, path, bytes.Repeat([]byte("so "), 1<<18))
				},
				"not compressed": func() { write(t, path, nil); chattr(t, path, 0x400); write(t, path, random(10000)) },
				"immutable":      func() { write(t, path, random(10000)); chattr(t, path, 0x10) },
				"append only":    func() { write(t, path, random(10000)); chattr(t, path, 0x20) },
				"reflink": func() {
					write(t, path+".of", random(1<<20))
					sh(t, "cp", "--reflink=always", path+".of", path)
				},
			} {
				t.Run(what, func(t *testing.T) {
					set()
					if !strings.Contains("immutable append only", what) {
						dress(t, path)
					}
					backAgain(t, v, path)
					chattr(t, path, 0)
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				})
			}
		})
	}
}

// TestBtrfsNames: hard links of one subvolume, and a file of a snapshot, which
// has the number of another.
func TestBtrfsNames(t *testing.T) {
	dir := btrfs(t)
	one := filepath.Join(dir, "one")
	sh(t, "btrfs", "subvolume", "create", one)
	a, b := filepath.Join(one, "a"), filepath.Join(one, "d", "b")
	if err := os.Mkdir(filepath.Dir(b), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, a, random(5000))
	if err := os.Link(a, b); err != nil {
		t.Fatal(err)
	}
	sh(t, "btrfs", "subvolume", "snapshot", one, filepath.Join(dir, "snap"))
	sh(t, "btrfs", "subvolume", "snapshot", "-r", one, filepath.Join(dir, "ro"))
	v, _ := newVault(t)
	// A name in a snapshot has the same inode number and is another file.
	snap := filepath.Join(dir, "snap", "a")
	g, err := v.Grab(t.Context(), mustOpen(t, a), []string{a, snap, b}, anything)
	if err != nil || len(g.Names()) != 2 {
		t.Fatalf("%v, %v", g.Names(), err)
	}
	if err := g.PutBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	backAgain(t, v, a, b)
	backAgain(t, v, snap, filepath.Join(dir, "snap", "d", "b"))
	ro := filepath.Join(dir, "ro", "a")
	_, err = v.Grab(t.Context(), mustOpen(t, ro), []string{ro}, anything)
	wantErr(t, "a read-only snapshot", err, unix.EROFS)
	if !exists(ro) {
		t.Error("it is gone")
	}
}

// TestXFS: project, extent size hint, shared blocks and years that 32 bits do not have.
func TestXFS(t *testing.T) {
	dir := xfs(t)
	for where, base := range map[string]string{"other file system": tempDir(t), "same": dir} {
		t.Run(where, func(t *testing.T) {
			v := openVault(t, Config{Dir: filepath.Join(base, "vault")})
			place := filepath.Join(dir, "place")
			if err := os.MkdirAll(place, 0o755); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(place, "tool")
			for what, set := range map[string]func(){
				"plain":       func() { write(t, path, random(100000)) },
				"sparse":      func() { sparse(t, path, 40<<20) },
				"immutable":   func() { write(t, path, random(10000)); chattr(t, path, 0x10) },
				"append only": func() { write(t, path, random(10000)); chattr(t, path, 0x20) },
				"no dump":     func() { write(t, path, random(10000)); chattr(t, path, 0x40|0x80|0x8) },
				"project": func() {
					write(t, path, random(10000))
					sh(t, "xfs_io", "-c", "chproj 77", path)
				},
				"extent size": func() {
					write(t, path, nil)
					sh(t, "xfs_io", "-c", "extsize 65536", path)
					write(t, path, random(10000))
				},
				"reflink": func() {
					write(t, path+".of", random(1<<20))
					sh(t, "cp", "--reflink=always", path+".of", path)
				},
				"far times": func() {
					write(t, path, random(10))
					if err := setTimesAt(path, Stamp{Sec: 16e9, Nsec: 999999999}, Stamp{Sec: -2e9, Nsec: 1}); err != nil {
						t.Fatal(err)
					}
				},
			} {
				t.Run(what, func(t *testing.T) {
					set()
					if !strings.Contains("immutable append only far times", what) {
						dress(t, path)
					}
					backAgain(t, v, path)
					chattr(t, path, 0)
					if err := os.Remove(path); err != nil {
						t.Fatal(err)
					}
				})
			}
		})
	}
}

func setTimesAt(path string, atime, mtime Stamp) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: atime.Sec, Nsec: atime.Nsec}, {Sec: mtime.Sec, Nsec: mtime.Nsec}}, 0)
}

// TestOverlay: a file on the upper layer, one that is there by its metadata
// alone, and one that is only below: it is taken through the overlay, stays
// where it lies, and is covered; restored, it comes back. And all of that on
// an overlay that lies on an overlay.
func TestOverlay(t *testing.T) {
	needRoot(t, "overlay")
	for _, opts := range []string{"", ",redirect_dir=on,metacopy=on", ",redirect_dir=on,index=on,xino=off"} {
		for _, nested := range []bool{false, true} {
			name := strings.TrimPrefix(opts, ",")
			if nested {
				name += " nested"
			}
			t.Run(name, func(t *testing.T) {
				merged := overlay(t, tmpfs(t, ""), opts)
				if nested { // the overlay is the lower layer of another
					merged = overlayOn(t, tmpfs(t, ""), merged, opts)
				}
				v, _ := newVault(t)
				up := filepath.Join(merged, "up")
				write(t, up, random(5000))
				dress(t, up)
				backAgain(t, v, up)
				low := filepath.Join(merged, "d", "low")
				backAgain(t, v, low)
				meta := filepath.Join(merged, "d", "meta")
				if err := os.Chmod(meta, 0o700); err != nil { // copied up, with metacopy without its bytes
					t.Fatal(err)
				}
				backAgain(t, v, meta)
				if err := os.Rename(filepath.Join(merged, "d"), filepath.Join(merged, "e")); err == nil {
					backAgain(t, v, filepath.Join(merged, "e", "low"))
				}
			})
		}
	}
}

// overlay mounts one over a lower layer with files.
func overlay(t *testing.T, base, opts string) string {
	t.Helper()
	lower := filepath.Join(base, "lower")
	if err := os.MkdirAll(filepath.Join(lower, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(lower, "d", "low"), random(5000))
	write(t, filepath.Join(lower, "d", "meta"), random(5000))
	return overlayOn(t, base, lower, opts)
}

func overlayOn(t *testing.T, base, lower, opts string) string {
	t.Helper()
	at := map[string]string{}
	for _, d := range []string{"upper", "work", "merged"} {
		at[d] = filepath.Join(base, d)
		if err := os.Mkdir(at[d], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("none", at["merged"], "overlay", 0, "lowerdir="+lower+",upperdir="+at["upper"]+",workdir="+at["work"]+opts); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: overlay with %q: %v", opts, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at["merged"], unix.MNT_DETACH) })
	return at["merged"]
}
