// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestChangedBefore(t *testing.T) {
	for _, kind := range []StageKind{inVault, inMount, inParent} {
		v, place := newVault(t)
		if kind != inVault {
			place = tmpfs(t, "")
		}
		if kind == inParent {
			write(t, filepath.Join(place, v.mountStageName()), nil)
		}
		path := filepath.Join(place, "tool")
		write(t, path, []byte("evil"))
		f := mustOpen(t, path)
		write(t, path, []byte("something else"))
		before := lookAt(t, path)
		_, err := v.Grab(t.Context(), f, []string{path}, is([]byte("evil")))
		wantErr(t, string(kind), err, ErrChanged, "cannot take file", "it has sha256")
		if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		sound(t, v, 0)
	}
}

// TestWriterBetween: a write, at each step, through a descriptor or a mapping
// that was there before is seen and kept; one that only wants to open the file
// then, by another name, waits, and cannot keep the file from being taken.
func TestWriterBetween(t *testing.T) {
	for _, step := range []string{"grab:checked", "seal:written", "seal:committed"} {
		for _, writer := range []string{"descriptor", "mapping", "name"} {
			t.Run(step+"/"+writer, func(t *testing.T) {
				base := tempDir(t)
				path, other := filepath.Join(base, "tool"), filepath.Join(base, "other")
				write(t, path, bytes.Repeat([]byte("evil"), 10000))
				if err := os.Link(path, other); err != nil {
					t.Fatal(err)
				}
				var w *os.File
				var mem []byte
				var err error
				if writer != "name" {
					if w, err = os.OpenFile(path, os.O_RDWR, 0); err != nil {
						t.Fatal(err)
					}
					defer w.Close()
				}
				if writer == "mapping" {
					if mem, err = unix.Mmap(int(w.Fd()), 0, 40000, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
						t.Fatal(err)
					}
					defer unix.Munmap(mem)
					mem[0] = 'e' // dirty: later writes leave no trace in the times
				}
				var opening sync.WaitGroup
				v := openVault(t, Config{Dir: filepath.Join(base, "vault"), Step: func(s string) {
					if s != step {
						return
					}
					switch writer {
					case "descriptor":
						_, _ = w.WriteAt([]byte("X"), 12345)
					case "mapping":
						mem[12345] = 'X'
					case "name": // waits in open(2) until the lease is given up
						started := make(chan bool)
						opening.Go(func() {
							close(started)
							f, err := os.OpenFile(other, os.O_RDWR, 0)
							if err == nil {
								_, _ = f.WriteAt([]byte("X"), 12345)
								_ = f.Close()
							}
						})
						<-started
						for leaseHeld(t, path, base) {
						}
					}
				}})
				names := []string{path, other}
				g, err := v.Grab(t.Context(), mustOpen(t, path), names, anything)
				if err != nil {
					t.Fatal(err)
				}
				it, err := v.Seal(t.Context(), g, why)
				if writer == "name" {
					// It was only opened; the opener waits until the file is gone.
					if err := errors.Join(err, g.Remove(t.Context())); err != nil {
						t.Fatal(err)
					}
					opening.Wait()
					if exists(path) || exists(other) || !bytes.Equal(contentOf(t, v, it.ID), bytes.Repeat([]byte("evil"), 10000)) {
						t.Error("not taken as it was")
					}
					sound(t, v, 1)
					return
				}
				if err == nil && step == "seal:committed" {
					err = g.Remove(t.Context())
				}
				wantErr(t, "taking", err, ErrChanged, "cannot")
				if err := g.PutBack(t.Context()); err != nil {
					t.Fatal(err)
				}
				for _, n := range names {
					if b, err := os.ReadFile(n); err != nil || b[12345] != 'X' || len(b) != 40000 {
						t.Errorf("the write to %s is lost: %v", n, err)
					}
				}
				sound(t, v, 0)
			})
		}
	}
}

// leaseHeld reports whether the lease on the staged file still stands
// unbroken, as /proc/locks shows it.
func leaseHeld(t *testing.T, path, base string) bool {
	b, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Skip("SKIPPED, NOT PROVEN: a breaking lease: ", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(base, "other"), &st); err != nil {
		t.Error(err)
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // 1: LEASE ACTIVE|BREAKING READ pid dev:ino …
		if len(f) > 5 && f[1] == "LEASE" && strings.HasSuffix(f[5], ":"+itoa(st.Ino)) {
			return f[2] == "ACTIVE"
		}
	}
	return false
}

func itoa(n uint64) string {
	var b []byte
	for ; n > 0 || len(b) == 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// TestWriterRace: somebody writes all the time. Whatever is sealed is whole,
// and no write is lost unless the file was sealed as it then was.
func TestWriterRace(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(1<<20))
	w, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := byte(0); !stop.Load(); i++ {
			_, _ = w.WriteAt([]byte{i}, int64(i)*4000)
		}
	})
	for range 20 {
		g, err := v.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
		if err != nil {
			t.Fatal(err)
		}
		if it, err := v.Seal(t.Context(), g, why); err == nil {
			if len(contentOf(t, v, it.ID)) != 1<<20 {
				t.Error("what was sealed is not whole")
			}
		} else if !errors.Is(err, ErrChanged) {
			t.Error(err)
		}
		if err := g.PutBack(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop.Store(true)
	wg.Wait()
	if fi, err := os.Stat(path); err != nil || fi.Size() != 1<<20 {
		t.Error(err)
	}
	sound(t, v, 0)
}

func TestCeiling(t *testing.T) {
	base := tempDir(t)
	v := openVault(t, Config{Dir: filepath.Join(base, "vault"), Ceiling: 1 << 20})
	path := filepath.Join(base, "tool")
	write(t, path, random(600<<10))
	it := take(t, v, path)
	write(t, path, random(600<<10))
	wantErr(t, "Room", v.Room(600<<10), ErrNoSpace, "purge items or raise the vault's ceiling")
	_, err := v.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
	wantErr(t, "Grab", err, ErrNoSpace, "no room in the vault")
	_, err = v.SealOpen(t.Context(), mustOpen(t, path), why)
	wantErr(t, "SealOpen", err, ErrNoSpace)
	if !exists(path) {
		t.Error("the file was moved")
	}
	if err := v.Purge(t.Context(), it.ID); err != nil {
		t.Fatal(err)
	}
	take(t, v, path)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	v = openVault(t, Config{Dir: v.dir, Ceiling: 1 << 20})
	wantErr(t, "Room after a restart", v.Room(600<<10), ErrNoSpace)
	sound(t, v, 2)
}

// TestFullDisk: the vault's disk fills at each step; the file stays or comes back.
func TestFullDisk(t *testing.T) {
	needRoot(t, "a full disk")
	for _, step := range []string{"", "grab:intent", "grab:checked"} {
		dir := tmpfs(t, "size=4m")
		place := tempDir(t)
		path := filepath.Join(place, "tool")
		write(t, path, random(1<<20))
		before := lookAt(t, path)
		fill := func(s string) {
			if s != step {
				return
			}
			f, err := os.Create(filepath.Join(dir, "filler"))
			if err != nil {
				t.Error(err)
				return
			}
			for chunk := make([]byte, 4096); err == nil; {
				_, err = f.Write(chunk)
			}
			_ = f.Close()
		}
		v := openVault(t, Config{Dir: filepath.Join(dir, "vault"), Step: fill})
		fill("")
		g, err := v.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
		if step == "" {
			wantErr(t, "Grab", err, ErrNoSpace, "the disk of")
		} else if err != nil {
			t.Fatal(err)
		} else {
			_, err = v.Seal(t.Context(), g, why)
			wantErr(t, "Seal", err, ErrNoSpace, "cannot seal file")
			if err := g.PutBack(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
			t.Errorf("%q: %s", step, diff)
		}
		sound(t, v, 0)
	}
}

// TestDiskFillsWhileSealing: the room that was there at first is gone, so that
// write(2) itself fails; and a purge works on a full disk.
func TestDiskFillsWhileSealing(t *testing.T) {
	needRoot(t, "a full disk")
	dir := tmpfs(t, "size=4m")
	place := tempDir(t)
	old, path := filepath.Join(place, "old"), filepath.Join(place, "tool")
	write(t, old, random(500<<10))
	write(t, path, random(2<<20))
	v := openVault(t, Config{Dir: filepath.Join(dir, "vault")})
	it := take(t, v, old)
	g, err := v.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
	if err != nil {
		t.Fatal(err)
	}
	m := v.manifest(g.in.ID, g.sum, g.meta, why)
	tmp, err := os.Create(v.tmpPath(m.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer tmp.Close()
	write(t, filepath.Join(dir, "filler"), make([]byte, 2500<<10))
	err = full(v.encrypt(t.Context(), tmp, g.file, m))
	wantErr(t, "encrypt", err, ErrNoSpace)
	if err := g.PutBack(t.Context()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4096); err == nil; {
		_, err = f.Write(chunk)
	}
	_ = f.Close()
	if err := v.Purge(t.Context(), it.ID); err != nil {
		t.Errorf("Purge on a full disk: %v", err)
	}
	sound(t, v, 1)
}

func TestRestoreWithoutRoom(t *testing.T) {
	needRoot(t, "a full disk")
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(1<<20))
	it := take(t, v, path)
	small := tmpfs(t, "size=512k")
	_, err := v.Restore(t.Context(), it.ID, RestoreOptions{Destination: filepath.Join(small, "tool")})
	wantErr(t, "small disk", err, ErrNoSpace, "no room for 1048576 bytes", "choose another destination")
	ro := tmpfs(t, "")
	if err := unix.Mount("none", ro, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err = v.Restore(t.Context(), it.ID, RestoreOptions{Destination: filepath.Join(ro, "tool")})
	wantErr(t, "read-only", err, unix.EROFS, "cannot make a file in")
	for _, d := range []string{small, ro} {
		if left, err := os.ReadDir(d); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", d, left, err)
		}
	}
	restore(t, v, it.ID, RestoreOptions{})
	sound(t, v, 1)
}

func TestReadOnlyPlace(t *testing.T) {
	needRoot(t, "a read-only file system")
	v, _ := newVault(t)
	ro := tmpfs(t, "")
	path := filepath.Join(ro, "tool")
	write(t, path, []byte("evil"))
	if err := unix.Mount("none", ro, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := v.Grab(t.Context(), mustOpen(t, path), []string{path}, anything)
	wantErr(t, "Grab", err, unix.EROFS, "cannot take file")
	sound(t, v, 0)
}

func TestCancelled(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(2<<20))
	before := lookAt(t, path)
	ctx, cancel := context.WithCancel(t.Context())
	g, err := v.Grab(ctx, mustOpen(t, path), []string{path}, anything)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = v.Seal(ctx, g, why)
	wantErr(t, "Seal", err, context.Canceled)
	wantErr(t, "Remove", g.Remove(ctx), nil, "it is not sealed")
	if err := g.PutBack(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = v.Grab(ctx, mustOpen(t, path), []string{path}, anything)
	wantErr(t, "Grab", err, context.Canceled)
	_, err = v.Seal(t.Context(), g, why)
	wantErr(t, "Seal after PutBack", err, nil, "it is not one that waits for it")
	if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
		t.Error(diff)
	}
	it := take(t, v, path)
	_, err = v.Restore(ctx, it.ID, RestoreOptions{})
	wantErr(t, "Restore", err, context.Canceled)
	sound(t, v, 1)
	if exists(path) {
		t.Error("half restored")
	}
}

func TestBusy(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, []byte("evil"))
	it := take(t, v, path)
	if err := v.claim(it.ID); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "Purge", v.Purge(t.Context(), it.ID), ErrBusy, "try again in a moment")
	_, err := v.Restore(t.Context(), it.ID, RestoreOptions{})
	wantErr(t, "Restore", err, ErrBusy)
}

// TestOtherFileSystems: the metadata of each, taken to the vault's and back.
func TestOtherFileSystems(t *testing.T) {
	for kind, mkfs := range map[string][]string{"ext4": {"mkfs.ext4", "-q", "-F"}, "tmpfs": nil, "xfs": {"mkfs.xfs", "-q"}, "btrfs": {"mkfs.btrfs", "-q"}} {
		t.Run(kind, func(t *testing.T) {
			v, _ := newVault(t)
			var dir string
			if mkfs == nil {
				dir = tmpfs(t, "")
			} else {
				if _, err := exec.LookPath(mkfs[0]); err != nil {
					t.Skipf("SKIPPED, NOT PROVEN: %s: no %s here", kind, mkfs[0])
				}
				dir = loopfs(t, kind, mkfs...)
			}
			path := filepath.Join(dir, "tool")
			write(t, path, random(100000))
			if err := unix.Setxattr(path, "trusted.note", []byte("x"), 0); err != nil {
				t.Fatal(err)
			}
			before := lookAt(t, path)
			it := take(t, v, path)
			if left, _ := filepath.Glob(filepath.Join(dir, ".staunch*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if res := restore(t, v, it.ID, RestoreOptions{}); res.Side || len(res.Lost) > 0 {
				t.Errorf("%+v", res)
			}
			if diff := cmp.Diff(before, lookAt(t, path)); diff != "" {
				t.Error(diff)
			}
			sound(t, v, 1)
		})
	}
}
