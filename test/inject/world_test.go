// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// world is a scratch disk with a file that is to be contained, and a state
// folder on another file system.
//
//	disk/evil, disk/d/evil2   one file with two names; it runs
//	disk/e/copy               the same content with another owner and mode, an ACL, immutable
//	disk/innocent             as large, another content; it runs
//	disk/d/plain              a file of no interest
type world struct {
	t              testing.TB
	dir            string // a tmpfs
	state, disk    string
	hash           string // SHA-1 of the evil content
	before         map[string]entry
	evil, innocent *exec.Cmd
	group          string // control group of both, "" for none

	lost  []string // what a restore said that it could not give back
	split bool     // a containment said that it left names
}

// entry is all of a file that must come back.
type entry struct {
	Mode, UID, GID, Flags uint32
	Size                  int64
	Mtime                 time.Time
	SHA1                  string
	Xattrs                string
	Links                 string // all names of the inode
}

// evilNames are the names of each of the two evil files.
var evilNames = [][]string{{"d/evil2", "evil"}, {"e/copy"}}

func newWorld(t testing.TB, freezable bool) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "staunch-inject-")
	must(t, err)
	must(t, os.Chmod(dir, 0o755)) // others look at it too
	t.Cleanup(func() { _ = os.Remove(dir) })
	w := &world{t: t, dir: dir}
	must(t, unix.Mount("none", w.dir, "tmpfs", 0, "size=64m,mode=755"))
	t.Cleanup(func() { _ = unix.Unmount(w.dir, unix.MNT_DETACH) })
	w.state, w.disk = filepath.Join(w.dir, "state"), filepath.Join(w.dir, "disk")
	for _, d := range []string{w.state, w.disk} {
		must(t, os.Mkdir(d, 0o700))
	}
	w.mount(16 << 20)
	if freezable {
		w.makeGroup()
	}
	w.populate()
	return w
}

// mount makes the disk: ext4 in a loop device.
func (w *world) mount(size int64) {
	w.t.Helper()
	image := filepath.Join(w.dir, "image")
	must(w.t, os.WriteFile(image, nil, 0o600))
	must(w.t, os.Truncate(image, size))
	for _, cmd := range [][]string{{"mkfs.ext4", "-q", "-m", "0", image}, {"mount", "-o", "loop", image, w.disk}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			w.t.Skipf("SKIPPED, NOT PROVEN: faults on ext4: %s: %v: %s", cmd[0], err, out)
		}
	}
	w.t.Cleanup(func() {
		if err := unix.Unmount(w.disk, unix.MNT_DETACH); err != nil {
			w.t.Errorf("cannot unmount the scratch disk: %v", err)
		}
	})
}

func (w *world) makeGroup() {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(root, "staunch-inject-"+hex.EncodeToString(random(4)))
		if os.Mkdir(dir, 0o755) == nil {
			w.group = dir
			w.t.Cleanup(func() { _ = os.Remove(dir) })
			return
		}
	}
}

func (w *world) populate() {
	t := w.t
	program, err := os.ReadFile("/bin/sleep")
	must(t, err)
	content := append(program, random(20<<10)...)
	sum, err := filehash.Compute(bytes.NewReader(content))
	must(t, err)
	w.hash = sum.SHA1.String()
	for _, d := range []string{"d", "e"} {
		must(t, os.Mkdir(w.on(d), 0o755))
	}
	write := func(name string, b []byte) {
		must(t, runnable.Write(w.on(name), b, 0o755))
		must(t, os.Chtimes(w.on(name), time.Unix(1e9, 7), time.Unix(1.1e9, 123456789)))
	}
	must(t, runnable.Write(w.on("evil"), content, 0o755))
	must(t, os.Link(w.on("evil"), w.on("d/evil2")))
	must(t, unix.Setxattr(w.on("evil"), "user.note", []byte("kept"), 0))
	must(t, os.Chtimes(w.on("evil"), time.Unix(1e9, 7), time.Unix(1.1e9, 123456789)))

	write("e/copy", content)
	must(t, os.Chown(w.on("e/copy"), 1234, 2345))
	must(t, unix.Chmod(w.on("e/copy"), 0o2750))
	must(t, unix.Setxattr(w.on("e/copy"), "system.posix_acl_access", acl(), 0))
	must(t, unix.Setxattr(w.on("e/copy"), "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	must(t, unix.Setxattr(w.on("e/copy"), "trusted.mark", []byte{0, 1, 2}, 0))

	other := slices.Clone(content)
	other[len(other)-1] ^= 1
	write("innocent", other)
	write("d/plain", []byte("nothing of interest\n"))
	setFlags(t, w.on("e/copy"), immutable)
	t.Cleanup(func() { clearFlags(w.disk) })
	w.evil, w.innocent = w.start("evil"), w.start("innocent")
	w.before = w.look()
}

// acl lets one user read: the kernel's form of u::rwx,u:4321:r,g::r-x,m::r-x.
func acl() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 7, ^uint32(0)}, {2, 4, 4321}, {4, 5, ^uint32(0)}, {0x10, 5, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// start runs a program of the disk until the test ends.
func (w *world) start(name string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(w.on(name), "1000")
	must(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill() // dead already: as it should be
		_ = cmd.Wait()
	})
	if w.group != "" {
		must(w.t, os.WriteFile(filepath.Join(w.group, "cgroup.procs"), fmt.Append(nil, cmd.Process.Pid), 0))
	}
	// Until it has become the program, its descriptor on the file is ours.
	for range 60_000 {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid)); err == nil && exe == w.on(name) {
			return cmd
		}
		time.Sleep(time.Millisecond)
	}
	w.t.Fatalf("%s does not start", name)
	return nil
}

func (w *world) on(name string) string { return filepath.Join(w.disk, name) }

// look reads all that is on the disk, folders left out.
func (w *world) look() map[string]entry {
	w.t.Helper()
	seen, links := map[string]entry{}, map[uint64][]string{}
	inos := map[string]uint64{}
	must(w.t, filepath.WalkDir(w.disk, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(w.disk, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum, err := filehash.Compute(bytes.NewReader(b))
		seen[name] = entry{
			Mode: st.Mode, UID: st.Uid, GID: st.Gid, Flags: flags(path), Size: st.Size,
			Mtime: time.Unix(st.Mtim.Unix()), SHA1: sum.SHA1.String(), Xattrs: xattrs(path),
		}
		inos[name] = st.Ino
		links[st.Ino] = append(links[st.Ino], name)
		return err
	}))
	for name, e := range seen {
		e.Links = strings.Join(links[inos[name]], " ")
		seen[name] = e
	}
	return seen
}

func xattrs(path string) string {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return err.Error()
	}
	var all []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		val := make([]byte, 4096)
		if n, err := unix.Lgetxattr(path, name, val); err == nil {
			all = append(all, fmt.Sprintf("%s=%x", name, val[:n]))
		}
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// The inode flags of FS_IOC_GETFLAGS that keep a file from being changed.
const (
	immutable = 0x10
	locks     = immutable | 0x20 // or append-only
)

func flags(path string) uint32 {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close() //nolint:errcheck // read only
	n, _ := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	return n & locks
}

func setFlags(t testing.TB, path string, set uint32) {
	f, err := os.Open(path)
	must(t, err)
	defer f.Close() //nolint:errcheck // read only
	now, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	must(t, err)
	must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(now|set)))
}

// clearFlags lets everything be removed.
func clearFlags(dir string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if f, err := os.Open(path); err == nil {
			if n, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil && n&locks != 0 {
				_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(n&^locks))
			}
			_ = f.Close() // read only
		}
		return nil
	})
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// alive reports whether the process runs, and is neither dead nor stopped.
func alive(cmd *exec.Cmd) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		return false
	}
	_, rest, _ := bytes.Cut(b, []byte(") "))
	return len(rest) > 0 && !bytes.ContainsAny(rest[:1], "ZXTt")
}

// frozen reports whether the processes' group is, and stays so: another agent
// on this machine may hold it for a moment.
func (w *world) frozen() bool {
	if w.group == "" {
		return false
	}
	for range 1500 {
		b, err := os.ReadFile(filepath.Join(w.group, "cgroup.freeze"))
		if err != nil || strings.TrimSpace(string(b)) == "0" {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}
