// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDiskFillsWhileRestoring: the room that was there at first is gone. The
// item stays whole, nothing of the file is left, and it can be had elsewhere.
func TestDiskFillsWhileRestoring(t *testing.T) {
	for _, named := range []bool{false, true} {
		dir := loopfs(t, "ext4", "mkfs.ext4", "-q", "-F", "-m", "0")
		place := filepath.Join(dir, "place")
		if err := os.Mkdir(place, 0o755); err != nil {
			t.Fatal(err)
		}
		filler, filling := filepath.Join(dir, "filler"), false
		v := openVault(t, Config{Dir: filepath.Join(tempDir(t), "vault"), Step: func(step string) {
			if step != "restore:intent" || !filling {
				return
			}
			f, err := os.Create(filler)
			for chunk := make([]byte, 64<<10); err == nil; {
				_, err = f.Write(chunk)
			}
			if err := errors.Join(f.Sync(), f.Close()); err != nil {
				t.Error(err)
			}
		}})
		v.named = named
		path := filepath.Join(place, "tool")
		write(t, path, random(8<<20))
		before := lookAt(t, path)
		it := take(t, v, path)
		filling = true
		_, err := v.Restore(t.Context(), it.ID, RestoreOptions{})
		wantErr(t, "full disk", err, ErrNoSpace, "free some, or choose another destination")
		if left, err := os.ReadDir(place); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		sound(t, v, 1)
		filling = false
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		if res := restore(t, v, it.ID, RestoreOptions{}); res.Side {
			t.Errorf("%+v", res)
		}
		if got := lookAt(t, path); got.Sum != before.Sum || got.Mtime != before.Mtime {
			t.Errorf("got %+v, want %+v", got, before)
		}
		sound(t, v, 1)
	}
}

// TestRestoreRace: while a folder is exchanged for a link to another one in a
// tight loop, files are given back into the folder that they came from or into
// the side folder, never behind the link.
func TestRestoreRace(t *testing.T) {
	v, place := newVault(t)
	p := func(elem ...string) string { return filepath.Join(append([]string{place}, elem...)...) }
	if err := errors.Join(os.Mkdir(p("d"), 0o755), os.Mkdir(p("victim"), 0o755), os.Symlink("victim", p("l"))); err != nil {
		t.Fatal(err)
	}
	const files = 60
	var ids []string
	for i := range files {
		path := p("d", fmt.Sprint("tool", i))
		write(t, path, []byte(path))
		ids = append(ids, take(t, v, path).ID)
	}
	top, err := openDir(place)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			_ = unix.Renameat2(int(top.Fd()), "d", int(top.Fd()), "l", unix.RENAME_EXCHANGE)
		}
	})
	side := 0
	for _, id := range ids {
		res, err := v.Restore(t.Context(), id, RestoreOptions{})
		if err != nil {
			// The folder went away between two looks: the item is as it was.
			m, getErr := v.Get(id)
			if getErr != nil || m.State != Sealed {
				t.Errorf("%v; then %+v, %v", err, m, getErr)
			}
			continue
		}
		if res.Side {
			side++
		}
	}
	stop.Store(true)
	wg.Wait()
	if left, err := os.ReadDir(p("victim")); err != nil || len(left) > 0 {
		t.Errorf("behind the link: %v, %v", left, err)
	}
	back, err := os.ReadDir(realPath(p("d"), p("l")))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range back {
		b, err := os.ReadFile(filepath.Join(realPath(p("d"), p("l")), e.Name()))
		if err != nil || !strings.HasSuffix(string(b), "/"+e.Name()) {
			t.Errorf("%s is %q, %v", e.Name(), b, err)
		}
	}
	t.Logf("%d in place, %d aside, of %d", len(back), side, files)
	if _, err := v.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	sound(t, v, files)
}

// TestMadeFlags: what no call can set is named.
func TestMadeFlags(t *testing.T) {
	_, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, nil)
	lost := restoreFlags(int(mustOpen(t, path).Fd()), &Meta{HasFlags: true, Flags: flagsOf(t, path) | 0x00100000})
	if len(lost) != 1 || !strings.Contains(lost[0], "fs-verity") {
		t.Errorf("lost: %q", lost)
	}
}
