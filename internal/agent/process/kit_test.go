// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/agent/mountinfo"
	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// lifetime is how long a test's processes live at most, should everything fail.
const lifetime = 4 * time.Minute

// kit is one scene: a folder, a control group, and processes that carry the
// scene's mark in their environment, so that no others are ever touched.
type kit struct {
	t       testing.TB
	dir     string
	mark    string
	nursery string   // the program below which hostile ones are started
	group   *os.File // nil where there is no cgroup v2
}

// built compiles the test programs once; the binaries live in the folder of
// the test that asked first, so every test builds its own copies from them.
func built(t testing.TB, source string, flags ...string) []byte {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("SKIPPED, NOT PROVEN: gcc is missing, with which the hostile programs are built")
	}
	out := filepath.Join(t.TempDir(), "built")
	args := append([]string{"-O1", "-Wall", "-o", out, filepath.Join("testdata", source)}, flags...)
	if b, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func runner(t testing.TB) []byte { return built(t, "runner.c", "-static", "-pthread") }

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: other users' processes and the kernel's hooks need root")
	}
}

func newKit(t testing.TB, bin []byte) *kit {
	t.Helper()
	needRoot(t)
	var b [8]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	k := &kit{t: t, dir: t.TempDir(), mark: "STAUNCH_TEST=" + hex.EncodeToString(b[:])}
	k.makeGroup()
	k.nursery = k.program("nursery", bin, k.mark)
	t.Cleanup(k.clean)
	return k
}

// makeGroup makes a control group for the scene's processes.
func (k *kit) makeGroup() {
	mounts, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		k.t.Fatal(err)
	}
	for _, fz := range freezers(mounts) {
		if fz.file != "cgroup.freeze" {
			continue
		}
		dir := filepath.Join(fz.root, "staunch-test-"+strings.TrimPrefix(k.mark, "STAUNCH_TEST="))
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		g, err := os.Open(dir)
		if err != nil {
			k.t.Fatal(err)
		}
		k.group = g
		return
	}
}

// clean kills what the scene started and is still there, thaws and removes its
// group. Processes are known by the mark or the group, not by name.
func (k *kit) clean() {
	for range 200 {
		left := k.mine()
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL) //nolint:errcheck // it may be gone
		}
		if len(left) == 0 {
			break
		}
		time.Sleep(2 * time.Millisecond)
	}
	if k.group == nil {
		return
	}
	for range 100 {
		if err := os.Remove(k.group.Name()); err == nil || errors.Is(err, fs.ErrNotExist) {
			break
		}
		os.WriteFile(filepath.Join(k.group.Name(), "cgroup.kill"), []byte("1"), 0) //nolint:errcheck // our own group
		time.Sleep(5 * time.Millisecond)
	}
	k.group.Close() //nolint:errcheck // a folder
}

// mine lists the living processes of the scene.
func (k *kit) mine() []int {
	var all []int
	for _, pid := range allPIDs(k.t) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(b, []byte(k.mark)) {
			all = append(all, pid)
		}
	}
	return all
}

func allPIDs(t testing.TB) []int {
	t.Helper()
	names, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, e := range names {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// program writes an executable with the content and a tail of its own, so that
// no two scenes share one.
func (k *kit) program(name string, content []byte, tail string) string {
	k.t.Helper()
	path := filepath.Join(k.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		k.t.Fatal(err)
	}
	body := append(append([]byte{}, content...), tail...)
	if err := runnable.Write(path, body, 0o755); err != nil {
		k.t.Fatal(err)
	}
	return path
}

// overlay mounts the folder "lower" below an empty one, on a tmpfs, and returns
// where.
func (k *kit) overlay() string {
	k.t.Helper()
	scratch := filepath.Join(k.dir, "scratch")
	merged := filepath.Join(k.dir, "merged")
	upper, work := filepath.Join(scratch, "upper"), filepath.Join(scratch, "work")
	for _, dir := range []string{scratch, merged} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			k.t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, ""); err != nil {
		k.t.Skipf("SKIPPED, NOT PROVEN: cannot mount: %v", err)
	}
	k.t.Cleanup(func() { unix.Unmount(scratch, unix.MNT_DETACH) }) //nolint:errcheck // ours
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			k.t.Fatal(err)
		}
	}
	options := fmt.Sprintf("lowerdir=%s/lower,upperdir=%s,workdir=%s", k.dir, upper, work)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		k.t.Skipf("SKIPPED, NOT PROVEN: cannot mount an overlay: %v", err)
	}
	k.t.Cleanup(func() { unix.Unmount(merged, unix.MNT_DETACH) }) //nolint:errcheck // ours
	return merged
}

// start runs a program in the scene. It gives signs of life in the file
// "beat", if it knows how to.
func (k *kit) start(path string, args ...string) *exec.Cmd {
	k.t.Helper()
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), k.mark, "STAUNCH_BEAT="+k.beat())
	cmd.Dir = k.dir
	k.run(cmd)
	return cmd
}

func (k *kit) beat() string {
	k.t.Helper()
	name := filepath.Join(k.dir, "beat")
	if _, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(name, make([]byte, 4096), 0o600); err != nil {
			k.t.Fatal(err)
		}
	}
	return name
}

// beats counts the signs of life so far.
func (k *kit) beats() uint64 {
	k.t.Helper()
	b, err := os.ReadFile(k.beat())
	if err != nil {
		k.t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b)
}

func (k *kit) run(cmd *exec.Cmd) {
	k.t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if k.group != nil {
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(k.group.Fd())
	}
	if err := cmd.Start(); err != nil {
		k.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		cmd.Wait() //nolint:errcheck // it is killed
	}()
	k.t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it may be gone
		<-done
	})
}

// innocent starts a quiet neighbour.
func (k *kit) innocent(path string) *exec.Cmd {
	k.t.Helper()
	cmd := exec.Command(path, "sleep", deadline(), "0")
	cmd.Env = append(os.Environ(), k.mark)
	k.run(cmd)
	return cmd
}

// mode runs the hostile program below a nursery, itself an innocent, which
// must outlive it. It returns once the program has been executed: what starts
// after a Stop has not escaped from it.
func (k *kit) mode(path, mode string, arg int) *exec.Cmd {
	k.t.Helper()
	cmd := k.start(k.nursery, "nursery", path, mode, deadline(), fmt.Sprint(arg))
	waitFor(k.t, path+" to be executed", func() bool {
		_, err := os.Stat(filepath.Join(k.dir, fmt.Sprintf("ready.%d", cmd.Process.Pid)))
		return err == nil
	})
	return cmd
}

func deadline() string { return fmt.Sprint(time.Now().Add(lifetime).Unix()) }

// target makes a Target of a file, known or only by its content.
func (k *kit) target(path string, known bool) Target {
	k.t.Helper()
	sum := sumOf(k.t, path)
	t := Target{Match: func(f *os.File) (bool, error) {
		if _, err := f.Seek(0, 0); err != nil {
			return false, err
		}
		s, err := filehash.Compute(f)
		return err == nil && s.SHA256 == sum.SHA256, err
	}}
	if known {
		f, err := os.Open(path)
		if err != nil {
			k.t.Fatal(err)
		}
		k.t.Cleanup(func() { closeFile(f) })
		st, err := inode.Of(f)
		if err != nil {
			k.t.Fatal(err)
		}
		t.Copies = []Copy{{File: f, Stat: st}}
	}
	return t
}

func sumOf(t testing.TB, path string) filehash.Sum {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(f)
	s, err := filehash.Compute(f)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// survivors looks for living processes that execute or map the content, by
// means that share nothing with the code under test: it reads and hashes, for
// a while, and sees whether signs of life go on, which no pid hopper can hide.
func (k *kit) survivors(sum filehash.Sum, size int64, lasting time.Duration) []string {
	k.t.Helper()
	var all []string
	before := k.beats()
	for end := time.Now().Add(lasting); len(all) == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for _, pid := range allPIDs(k.t) {
			if runsContent(pid, sum, size) {
				all = append(all, fmt.Sprint(pid))
			}
		}
	}
	if n := k.beats() - before; n > 0 {
		all = append(all, fmt.Sprintf("%d signs of life", n))
	}
	return all
}

func runsContent(pid int, sum filehash.Sum, size int64) bool {
	same := func(name string) bool {
		fi, err := os.Stat(name)
		if err != nil || !fi.Mode().IsRegular() || fi.Size() != size {
			return false
		}
		f, err := os.Open(name)
		if err != nil {
			return false
		}
		defer closeFile(f)
		s, err := filehash.Compute(f)
		return err == nil && s == sum
	}
	if same(fmt.Sprintf("/proc/%d/exe", pid)) {
		return true
	}
	tids, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err == nil && len(tids) > 1 {
		for _, tid := range tids {
			if same(fmt.Sprintf("/proc/%d/task/%s/exe", pid, tid.Name())) {
				return true
			}
		}
	}
	maps, err := os.ReadDir(fmt.Sprintf("/proc/%d/map_files", pid))
	if err != nil {
		return false
	}
	for _, m := range maps {
		if same(fmt.Sprintf("/proc/%d/map_files/%s", pid, m.Name())) {
			return true
		}
	}
	return false
}

// alive reports whether a process that the test started still runs and is
// neither stopped nor frozen.
func alive(cmd *exec.Cmd) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		return err
	}
	v, err := parseVital(b)
	if err != nil {
		return err
	}
	if v.state != 'S' && v.state != 'R' && v.state != 'D' {
		return fmt.Errorf("state %c", v.state)
	}
	return nil
}

// frozen reports whether the scene's group is frozen now.
func (k *kit) frozen() bool {
	if k.group == nil {
		return false
	}
	b, err := os.ReadFile(filepath.Join(k.group.Name(), "cgroup.freeze"))
	return err != nil || string(bytes.TrimSpace(b)) != "0"
}

// thawed fails if the scene stays frozen. For a moment it may be: another test
// on this machine freezes every group there is, and thaws it again.
func (k *kit) thawed() {
	k.t.Helper()
	waitFor(k.t, "the scene not to be frozen", func() bool { return !k.frozen() })
}

// newHolder makes a holder of a rung, or skips where the machine lacks it.
func newHolder(t testing.TB, rung string) *Holder {
	t.Helper()
	// A busy machine may take its time: what is tested is the outcome.
	h, err := New(Config{Rung: rung, StateDir: t.TempDir(), Patience: time.Minute, Death: time.Minute, Freeze: 10 * time.Second})
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// waitFor waits for a scene to be set: the condition comes true or the test
// fails after the lifetime of its processes.
func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(lifetime / 3); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func stop(t testing.TB, d *Hold) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lifetime)
	defer cancel()
	r, err := d.Stop(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Matches {
		if m.File != nil {
			closeFile(m.File)
		}
	}
	return r
}
