// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// The gate holds on file systems of disks: leases, births and device numbers
// are theirs to give.
func TestDisks(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			dir := disk(t, fstype)
			prog, innocent := program(t, dir+"/prog"), write(t, dir+"/innocent", "#!/bin/true\n", 0o755)
			c := startLocal(t, dir, Settings{})
			sum := mustSum(t, prog)
			if err := c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size}); err != nil {
				t.Fatal(err)
			}
			mustRefuse(t, prog)
			mustRun(t, innocent)
			if err := c.AllowHash(sum.Hash()); err != nil {
				t.Fatal(err)
			}
			if err := c.DenyFile(open(t, prog), "x"); err != nil {
				t.Fatal(err)
			}
			mustRefuse(t, prog)
			mustRefuse(t, "cat", prog)
			f, err := os.OpenFile(innocent, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size}); err != nil {
				t.Fatal(err)
			}
			mustRefuse(t, innocent)
			_ = f.Close()
			mustRun(t, innocent)
			if s := mustStatus(t, c); s.Unleased != 0 || s.Writers != 1 || s.FailOpens != 0 {
				t.Errorf("status: %+v", s)
			}
		})
	}
}

// disk mounts a file system of the type from an image.
func disk(t testing.TB, fstype string) string {
	t.Helper()
	needRoot(t)
	image, dir := t.TempDir()+"/image", t.TempDir()
	write(t, image, "", 0o600)
	if err := os.Truncate(image, 400<<20); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs."+fstype, "-q", image).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot make a %s file system: %v %s", fstype, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot mount a %s file system: %v %s", fstype, err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
	return dir
}
