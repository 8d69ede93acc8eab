// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMountStorm mounts and unmounts hundreds of file systems, one of which
// stays and is moved away: a denied content is refused on it all the same, and
// nobody waits.
func TestMountStorm(t *testing.T) {
	dir := scratch(t)
	c := startLocal(t, dir, patient)
	denyAll(t, c, program(t, dir+"/prog"))
	text, err := os.ReadFile(dir + "/prog")
	if err != nil {
		t.Fatal(err)
	}
	stays, moved := filepath.Join(dir, "stays"), filepath.Join(dir, "moved")
	mount := func(at string) {
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("staunch-test", at, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
	}
	mount(stays)
	t.Cleanup(func() {
		_ = unix.Unmount(stays, unix.MNT_DETACH) // where it is not any more, if all went well
		_ = unix.Unmount(moved, unix.MNT_DETACH)
	})
	// A parent that is private: mounts below a shared one cannot be moved.
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(moved, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		at := filepath.Join(dir, fmt.Sprintf("storm%d", i%7))
		mount(at)
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount(stays, moved, "", unix.MS_MOVE, ""); err != nil {
		t.Fatal(err)
	}
	evil := write(t, moved+"/evil", string(text), 0o755)
	eventually(t, func() bool {
		err := exec.Command(evil).Run()
		if errors.Is(err, unix.ETXTBSY) {
			time.Sleep(10 * time.Millisecond)
			return false
		}
		return errors.Is(err, fs.ErrPermission)
	})
	innocent := write(t, moved+"/innocent", "#!/bin/true\n# innocent\n", 0o755)
	mustRun(t, innocent)
	if s := mustStatus(t, c); s.FailOpens != 0 || s.Restarts != 0 || s.Overflows != 0 {
		t.Errorf("status: %+v", s)
	}
}

// TestSparseGiant: a file of 100 GiB, which nobody can read in time, is answered
// at once by the setting, whichever that is.
func TestSparseGiant(t *testing.T) {
	for _, closed := range []bool{false, true} {
		dir := scratch(t)
		c := startLocal(t, dir, Settings{FailClosed: closed})
		denyAll(t, c, program(t, dir+"/prog"))
		giant := write(t, dir+"/giant", "#!/bin/true\n", 0o755)
		if err := os.Truncate(giant, 100<<30); err != nil {
			t.Fatal(err)
		}
		err := exec.Command(giant).Run()
		if closed != errors.Is(err, fs.ErrPermission) {
			t.Errorf("fail closed %v: %v", closed, err)
		}
		if s := mustStatus(t, c); s.HashedExecs != 0 || s.FailOpens != 1 {
			t.Errorf("fail closed %v: status %+v", closed, s)
		}
	}
}
