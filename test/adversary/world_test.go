// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/runnable"
)

// A world is the scene of one run: two file systems in memory, a third for the
// agent's folder, a control group, and processes that carry the world's mark in
// their environment, so that no others are ever touched.
type world struct {
	t     *testing.T
	seed  int
	rung  string
	dir   string // on the disk of this machine: what the agent never sees
	disk  string // searched and gated
	other string // searched and gated
	state string // the agent's folder
	mark  string
	pad   int      // bytes that this world's programs are longer by
	group *os.File // of all processes of the scene; nil where there is no cgroup v2
	pids  string   // the group that bounds their number; "" where there is none

	content []byte // that the order names
	agent   *agent // that runs; nil: one for each command
	walked  []string
	ghosts  []string // folders to be walked in the mount namespaces of the scene's processes

	ended     map[*exec.Cmd]chan struct{} // closed once it has
	innocents []neighbour
	unharmed  map[string]look // innocent files, by path
	originals map[string]look // files with the content that stay where they are until they are taken
	beatsAre  bool            // signs of life are given by the content alone
}

// neighbour is an innocent process.
type neighbour struct {
	cmd  *exec.Cmd
	name string
}

// lifetime is how long a scene's processes live at most by themselves.
func (o options) lifetime() time.Duration { return time.Duration(o.slow) * 4 * time.Minute }

func newWorld(t *testing.T, seed int) *world {
	t.Helper()
	if kit.off != "" {
		t.Skip("SKIPPED, NOT PROVEN: " + kit.off)
	}
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	w := &world{
		t: t, seed: seed, dir: t.TempDir(), mark: "STAUNCH_TEST=" + hex.EncodeToString(b[:]),
		ended:    map[*exec.Cmd]chan struct{}{},
		unharmed: map[string]look{}, originals: map[string]look{}, beatsAre: true,
	}
	w.pad = int(binary.NativeEndian.Uint16(b[:]))
	w.disk = w.mount("disk", "size=192m")
	w.other = w.mount("other", "size=64m")
	w.state = filepath.Join(w.mount("agent", "size=192m"), "state")
	w.walked = []string{w.disk, w.other}
	w.makeGroups()
	w.check(os.WriteFile(w.beat(), make([]byte, 4096), 0o600))
	w.check(os.WriteFile(w.beat()+".txt", nil, 0o600))
	w.content = w.foe("A")
	t.Cleanup(w.end)
	w.neighbours()
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// foe is the hostile program with a tail that no other world has, and that
// tells twins apart. All of one world have one size, which no other world has:
// worlds must not see, read or refuse each other's files.
func (w *world) foe(kind string) []byte { return w.padded(kit.foe, kind) }

func (w *world) padded(program []byte, kind string) []byte {
	b := append(bytes.Clone(program), make([]byte, w.pad)...)
	sum := sha256.Sum256([]byte(w.mark + kind))
	return append(append(b, w.mark...), sum[:]...)
}

// mount makes a file system that only this world uses.
func (w *world) mount(name, options string) string {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	w.check(os.MkdirAll(dir, 0o755))
	if err := unix.Mount("staunch-test", dir, "tmpfs", 0, options); err != nil {
		w.t.Skipf("SKIPPED, NOT PROVEN: cannot mount a scratch file system: %v", err)
	}
	w.unmountLater(dir)
	return dir
}

func (w *world) unmountLater(dir string) {
	w.t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			w.t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
}

// maxPIDs caps what a fork bomb can do, beside its own counter.
const maxPIDs = 260

func (w *world) makeGroups() {
	name := "staunch-" + strings.TrimPrefix(w.mark, "STAUNCH_TEST=")
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(root, name)
		if os.Mkdir(dir, 0o755) == nil {
			w.group, _ = os.Open(dir) // nil where it cannot be opened
			break
		}
	}
	dir := filepath.Join("/sys/fs/cgroup/pids", name)
	if os.Mkdir(dir, 0o755) == nil {
		w.pids = dir
		w.check(os.WriteFile(filepath.Join(dir, "pids.max"), []byte(strconv.Itoa(maxPIDs)), 0))
	}
}

// end kills what the world started and removes its groups.
func (w *world) end() {
	if w.agent != nil {
		w.agent.kill()
	}
	w.killAll()
	for range 200 {
		var err error
		if w.pids != "" {
			err = os.Remove(w.pids)
		}
		if w.group != nil {
			err = errors.Join(err, w.removeGroup())
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		w.killAll()
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Errorf("the world's control groups cannot be removed")
}

func (w *world) removeGroup() error {
	root := w.group.Name()
	var dirs []string
	_ = filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error { // what is gone is as well
		if err == nil && d.IsDir() {
			dirs = append(dirs, p)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		_ = os.WriteFile(filepath.Join(dirs[i], "cgroup.freeze"), []byte("0"), 0) // it may be gone
		if err := os.Remove(dirs[i]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (w *world) killAll() {
	for range 400 {
		left := w.mine()
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // it may be gone
		}
		if len(left) == 0 {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
	w.t.Errorf("processes of the world cannot be killed: %v", w.mine())
}

// mine lists the living processes of the world, known by their mark.
func (w *world) mine() (all []int) {
	for _, pid := range allPIDs() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil && bytes.Contains(b, []byte(w.mark)) {
			all = append(all, pid)
		}
	}
	return all
}

func allPIDs() (all []int) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1) // as many as there are
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// write makes a file. Its folder is made if need be.
func (w *world) write(path string, content []byte, mode os.FileMode) string {
	w.t.Helper()
	w.check(os.MkdirAll(filepath.Dir(path), 0o755))
	w.check(runnable.Write(path, content, mode))
	return path
}

// evil makes a copy of the content at a path below the first disk, or at an
// absolute one.
func (w *world) evil(name string) string {
	w.t.Helper()
	return w.write(w.at(name), w.content, 0o755)
}

func (w *world) at(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(w.disk, name)
}

// innocent makes a file that must come out as it was.
func (w *world) innocent(path string, content []byte) string {
	w.t.Helper()
	w.write(path, content, 0o755)
	w.watch(path)
	return path
}

func (w *world) watch(path string) {
	w.t.Helper()
	l, err := lookAt(path)
	w.check(err)
	w.unharmed[path] = l
}

// neighbours are in every world: files that differ in one byte, have the same
// name elsewhere or the same number on another file system, and processes that
// run a twin or a shell.
func (w *world) neighbours() {
	w.t.Helper()
	twin := w.innocent(w.at("bin/twin"), w.foe("B"))
	w.innocent(filepath.Join(w.other, "evil"), w.foe("C"))
	w.innocent(w.at("elsewhere/evil"), []byte("a name is not a crime\n"))
	w.check(os.Symlink(w.at("evil"), w.at("bin/link")))
	w.beside("a twin", twin, "sleep", until(), "0")
	script := w.innocent(w.at("bin/innocent.sh"), []byte("while :; do sleep 0.2; done\n"))
	w.beside("a shell", "/bin/sh", script)
	w.beside("a bash", "/bin/bash", script)
}

// sameNumber makes files on the other disk until one has the number of path.
func (w *world) sameNumber(path string) {
	want, err := lookAt(path)
	w.check(err)
	for i := range 200 {
		p := w.write(filepath.Join(w.other, "numbers", strconv.Itoa(i)), w.foe("D"), 0o755)
		got, err := lookAt(p)
		w.check(err)
		if got.ino == want.ino {
			w.watch(p)
			return
		}
		w.check(os.Remove(p))
	}
}

func until() string { return strconv.FormatInt(time.Now().Add(kit.lifetime()).Unix(), 10) }

// command prepares a process of the world: in its groups, with its mark.
func (w *world) command(args ...string) *exec.Cmd {
	if w.pids != "" {
		args = append([]string{"/bin/sh", "-c", `echo $$ >"$0/cgroup.procs"; exec "$@"`, w.pids}, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = w.disk
	cmd.Env = append(os.Environ(), w.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if w.group != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(w.group.Fd())
	}
	return cmd
}

func (w *world) begin(cmd *exec.Cmd) *exec.Cmd {
	w.t.Helper()
	w.check(cmd.Start())
	kit.fuse.on(cmd.Process.Pid)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is killed
	}()
	w.ended[cmd] = done
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may be gone
		<-done
	})
	return cmd
}

// beside starts an innocent neighbour.
func (w *world) beside(name string, args ...string) *exec.Cmd {
	w.t.Helper()
	cmd := w.command(args...)
	says, err := os.Create(filepath.Join(w.dir, fmt.Sprintf("says-%d", len(w.innocents))))
	w.check(err)
	w.t.Cleanup(func() { _ = says.Close() }) // for people, should it come to that
	cmd.Stderr = says
	w.innocents = append(w.innocents, neighbour{w.begin(cmd), name})
	return cmd
}

// below starts a process whose signs of life are watched, below an innocent
// that takes in its orphans.
func (w *world) below(args ...string) {
	w.t.Helper()
	nursery := w.helper("nursery")
	cmd := w.command(append([]string{nursery, "nursery"}, args...)...)
	cmd.Env = append(cmd.Env, "STAUNCH_BEAT="+w.beat())
	w.begin(cmd)
	w.innocents = append(w.innocents, neighbour{cmd, "the nursery"})
}

// helper is an innocent program of the world outside of its disks.
func (w *world) helper(name string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if _, err := os.Stat(path); err != nil { // it may run already
		w.write(path, w.foe(name), 0o755)
	}
	return path
}

// run starts the hostile program at a path in a mode.
func (w *world) run(path, mode string, arg int, rest ...string) {
	w.t.Helper()
	w.below(append([]string{path, mode, until(), strconv.Itoa(arg)}, rest...)...)
}

// accomplice starts an innocent that helps the foe; it must survive. What it
// starts of the content gives signs of life.
func (w *world) accomplice(mode string, arg int, rest ...string) {
	w.t.Helper()
	path := w.helper("accomplice")
	cmd := w.command(append([]string{path, mode, until(), strconv.Itoa(arg)}, rest...)...)
	if mode == "keep" || mode == "keepmemory" || mode == "respawn" {
		cmd.Env = append(cmd.Env, "STAUNCH_BEAT="+w.beat())
	}
	w.begin(cmd)
	w.innocents = append(w.innocents, neighbour{cmd, "the accomplice (" + mode + ")"})
}

// opened waits until the process that was started last holds a file open.
func (w *world) opened(path string) {
	w.t.Helper()
	pid := w.innocents[len(w.innocents)-1].cmd.Process.Pid
	w.wait("the accomplice to open its file", func() bool {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid)) // the pattern is valid
		return slices.ContainsFunc(links, func(l string) bool {
			to, err := os.Readlink(l)
			return err == nil && to == path
		})
	})
}

func (w *world) beat() string { return filepath.Join(w.dir, "beat") }

// beats counts the signs of life that the content gave so far.
func (w *world) beats() uint64 {
	b, err := os.ReadFile(w.beat())
	if err != nil || len(b) < 8 {
		return 0
	}
	fi, err := os.Stat(w.beat() + ".txt")
	if err != nil {
		return 0
	}
	return binary.NativeEndian.Uint64(b) + uint64(fi.Size())
}

// lives waits until the foe gives signs of life.
func (w *world) lives() {
	w.t.Helper()
	n := w.beats() + uint64(2+3*w.seed)
	w.wait("signs of life", func() bool { return w.beats() >= n })
}

func (w *world) wait(what string, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(kit.lifetime() / 2); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func (w *world) hash() string {
	sum := sha256.Sum256(w.content)
	return hex.EncodeToString(sum[:])
}
