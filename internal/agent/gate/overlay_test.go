// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A lower layer that is denied cannot be executed through an overlay, in a
// mount namespace the gate does not see.
func TestOverlay(t *testing.T) {
	dir := scratch(t)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	prog, other := program(t, dir+"/lower/prog"), write(t, dir+"/lower/other", "#!/bin/true\n# other", 0o755)
	write(t, dir+"/lower/innocent", "#!/bin/true\n", 0o755)
	const opts = "lowerdir=lower,upperdir=upper,workdir=work"
	enter := func(run string) []string {
		return []string{"-m", "sh", "-c", "cd " + dir + " && mount -t overlay overlay -o " + opts + " merged && exec merged/" + run}
	}
	if err := run(t, "unshare", enter("prog")...); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot mount an overlay here: %v", err)
	}
	c := startLocal(t, dir, Settings{})
	sum := mustSum(t, prog)
	if err := c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size}); err != nil {
		t.Fatal(err)
	}
	if err := c.DenyFile(open(t, other), "x"); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, "unshare", enter("prog")...)
	mustRefuse(t, "unshare", enter("other")...)
	mustRun(t, "unshare", enter("innocent")...)
}

// A file in memory has no name; its mark denies it all the same.
func TestMemfd(t *testing.T) {
	dir := scratch(t)
	c := startLocal(t, dir, Settings{})
	fd, err := unix.MemfdCreate("evil", 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	defer f.Close()
	if _, err := f.Write(readFile(t, "/bin/true")); err != nil {
		t.Fatal(err)
	}
	ro, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	path := "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(int(ro.Fd()))
	_ = f.Close() // no writer may be left
	mustRun(t, path)
	if err := c.DenyFile(ro, "x"); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, path)
	mustRefuse(t, "cat", path)
}

// A file of an overlay and the file of its layer are both denied: to hand the
// gate the event of the one, the kernel opens the other in the gate's own
// thread, and asks again. The gate must not wait for itself.
func TestOverlayDeniedTwice(t *testing.T) {
	dir := scratch(t)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program(t, dir+"/lower/prog")
	opts := "lowerdir=" + dir + "/lower,upperdir=" + dir + "/upper,workdir=" + dir + "/work"
	if err := unix.Mount("overlay", dir+"/merged", "overlay", 0, opts); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot mount an overlay here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir+"/merged", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	mustRun(t, dir+"/merged/prog")
	sum := mustSum(t, dir+"/lower/prog")
	c := startLocal(t, dir, Settings{Bound: 20 * time.Second})
	both := []*os.File{open(t, dir+"/merged/prog"), open(t, dir+"/lower/prog")}
	for _, f := range both {
		if err := c.DenyFile(f, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 50 { // more at once than there are readers
		wg.Go(func() {
			if err := run(t, "cat", dir+"/merged/prog"); err == nil {
				t.Error("cat read it; want it refused")
			}
			if err := run(t, dir+"/merged/prog"); err == nil {
				t.Error("it ran; want it refused")
			}
		})
	}
	wg.Wait()
	s, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	if s.Restarts != 0 || s.FailOpens != 0 {
		t.Errorf("the gate was replaced %d times and let %d pass; want neither", s.Restarts, s.FailOpens)
	}
}
