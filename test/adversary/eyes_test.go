// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// These eyes share nothing with the agent: they read every process and every
// file and compare bytes.

// stare is how long the processes are watched.
const stare = 600 * time.Millisecond

// survivors looks for processes that run the content, again and again, and for
// signs of life, which no hopper can hide.
func (w *world) survivors() (left []string) {
	before := w.beats()
	for end := time.Now().Add(stare); len(left) == 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for _, pid := range allPIDs() {
			if how := w.runsContent(pid); how != "" {
				left = append(left, fmt.Sprintf("process %d %s", pid, how))
			}
		}
	}
	if n := w.beats() - before; n > 0 && w.beatsAre {
		left = append(left, fmt.Sprintf("%d signs of life", n))
	}
	return left
}

// runsContent says how a process runs the content; "" = not.
func (w *world) runsContent(pid int) string {
	if w.same(fmt.Sprintf("/proc/%d/exe", pid)) {
		return "executes it"
	}
	if tids, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)); err == nil && len(tids) > 1 {
		for _, tid := range tids {
			if w.same(fmt.Sprintf("/proc/%d/task/%s/exe", pid, tid.Name())) {
				return "executes it in a thread"
			}
		}
	}
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.Contains(f[1], "x") || f[4] == "0" {
			continue
		}
		if w.same(fmt.Sprintf("/proc/%d/map_files/%s", pid, f[0])) {
			return "maps it"
		}
	}
	return ""
}

// same compares a file with the content.
func (w *world) same(path string) bool {
	fi, err := os.Stat(path)
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != int64(len(w.content)) {
		return false
	}
	// Not through the name alone: it may lead elsewhere by now.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return w.denied(path, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(len(w.content))+1))
	return err == nil && bytes.Equal(b, w.content)
}

// denied counts what may not be opened and has the right size as the content:
// only the gate refuses root.
func (w *world) denied(_ string, err error) bool { return os.IsPermission(err) }

// copies walks the disks, and the private file systems of the scene's
// processes, and lists the files with the content.
func (w *world) copies() (found []string) {
	for _, root := range w.walked {
		found = append(found, w.walk(root)...)
	}
	if len(w.ghosts) == 0 {
		return found
	}
	own, _ := os.Readlink("/proc/self/ns/mnt") // "" = all are walked
	seen := map[string]bool{own: true}
	for _, pid := range w.mine() {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || seen[ns] {
			continue
		}
		seen[ns] = true
		for _, dir := range w.ghosts {
			found = append(found, w.walk(fmt.Sprintf("/proc/%d/root%s", pid, dir))...)
		}
	}
	return found
}

// walk goes down relative to open folders, so that no name is too long.
func (w *world) walk(root string) []string {
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return w.walkFD(fd, root)
}

func (w *world) walkFD(fd int, at string) (found []string) {
	dir := os.NewFile(uintptr(fd), at)
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // what comes and goes is looked at again
	for _, n := range names {
		var st unix.Stat_t
		if unix.Fstatat(fd, n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			if sub, err := unix.Openat(fd, n, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
				found = append(found, w.walkFD(sub, at+"/"+n)...)
			}
		case unix.S_IFREG:
			if st.Size == int64(len(w.content)) && w.same(fmt.Sprintf("/proc/self/fd/%d/%s", fd, n)) {
				found = append(found, at+"/"+n)
			}
		}
	}
	return found
}

// look is all that a file is, for comparing before and after.
type look struct {
	sum      [32]byte
	ino      uint64
	mode     uint32
	uid, gid uint32
	size     int64
	mtime    unix.Timespec
	nlink    uint64
	flags    uint32
	xattrs   string
}

// lookAt reads a file without following a link in its last element.
func lookAt(path string) (look, error) {
	f, err := openDeep(path)
	if err != nil {
		return look{}, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return look{}, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return look{}, err
	}
	l := look{
		ino: st.Ino, mode: st.Mode, uid: st.Uid, gid: st.Gid, size: st.Size,
		mtime: st.Mtim, nlink: uint64(st.Nlink), xattrs: xattrs(int(f.Fd())),
	}
	copy(l.sum[:], h.Sum(nil))
	if fl, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		l.flags = fl & (unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND | unix.STATX_ATTR_NODUMP)
	}
	return l, nil
}

// openDeep opens a path of any length.
func openDeep(path string) (*os.File, error) {
	dir := unix.AT_FDCWD
	rest := path
	for len(rest) > 1000 {
		cut := strings.LastIndexByte(rest[:1000], '/')
		next, err := unix.Openat(dir, rest[:cut], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if dir != unix.AT_FDCWD {
			_ = unix.Close(dir) // a handle
		}
		if err != nil {
			return nil, fmt.Errorf("open %.40q…: %w", path, err)
		}
		dir, rest = next, rest[cut+1:]
	}
	fd, err := unix.Openat(dir, rest, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if dir != unix.AT_FDCWD {
		_ = unix.Close(dir) // a handle
	}
	if err != nil {
		return nil, fmt.Errorf("open %.80q: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func xattrs(fd int) string {
	names := make([]byte, 4096)
	n, err := unix.Flistxattr(fd, names)
	if err != nil || n == 0 {
		return ""
	}
	all := strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00")
	slices.Sort(all)
	var s strings.Builder
	for _, name := range all {
		value := make([]byte, 4096)
		n, err := unix.Fgetxattr(fd, name, value)
		if err != nil {
			n = 0
		}
		fmt.Fprintf(&s, "%s=%x;", name, value[:n])
	}
	return s.String()
}

// diff names what differs between two looks; the inode's number is not asked
// of what was restored.
func (l look) diff(o look, number bool) string {
	var s []string
	say := func(what string, a, b any) {
		if a != b {
			s = append(s, fmt.Sprintf("%s %v, was %v", what, b, a))
		}
	}
	say("content", fmt.Sprintf("%x", l.sum[:4]), fmt.Sprintf("%x", o.sum[:4]))
	say("mode", fmt.Sprintf("%o", l.mode), fmt.Sprintf("%o", o.mode))
	say("uid", l.uid, o.uid)
	say("gid", l.gid, o.gid)
	say("size", l.size, o.size)
	say("mtime", l.mtime, o.mtime)
	say("links", l.nlink, o.nlink)
	say("flags", l.flags, o.flags)
	say("xattrs", l.xattrs, o.xattrs)
	if number {
		say("inode", l.ino, o.ino)
	}
	return strings.Join(s, ", ")
}

// harm lists what happened to innocents: processes that are gone or at rest,
// files that are not what they were, groups that are frozen.
func (w *world) harm() (all []string) {
	for _, n := range w.innocents {
		f := statFields(n.cmd.Process.Pid)
		if len(f) == 0 || !strings.Contains("SRD", f[0]) {
			all = append(all, fmt.Sprintf("%s (process %d) is not alive and well: %s", n.name, n.cmd.Process.Pid, w.fate(n.cmd, f)))
		}
	}
	for path, before := range w.unharmed {
		after, err := lookAt(path)
		if err != nil {
			all = append(all, fmt.Sprintf("innocent file: %v", err))
		} else if d := before.diff(after, true); d != "" {
			all = append(all, fmt.Sprintf("innocent file %s: %s", path, d))
		}
	}
	return append(all, w.frozen()...)
}

// fate tells how a process ended, or the state it is in.
func (w *world) fate(cmd *exec.Cmd, stat []string) string {
	select {
	case <-w.ended[cmd]:
		last := ""
		if f, ok := cmd.Stderr.(*os.File); ok {
			b, _ := os.ReadFile(f.Name()) // nothing, then
			last = ": " + string(b)
		}
		return cmd.ProcessState.String() + last
	case <-time.After(time.Second):
	}
	if len(stat) == 0 {
		return "gone"
	}
	return "state " + stat[0]
}

// frozen lists the world's groups that are frozen and stay so. Others on this
// machine may freeze everybody for a moment, as may the worlds beside this one.
func (w *world) frozen() (all []string) {
	if w.group == nil {
		return nil
	}
	for range 30 {
		all = nil
		_ = filepath.WalkDir(w.group.Name(), func(p string, d fs.DirEntry, err error) error { // what is gone is thawed
			if err == nil && d.Name() == "cgroup.freeze" && filepath.Base(filepath.Dir(p)) != "meant" {
				if b, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(b)) != "0" {
					all = append(all, p+" is frozen")
				}
			}
			return nil
		})
		if len(all) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return all
}

// starts tries to start a program and reports whether it ran.
func (w *world) starts(path string, args ...string) bool {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), w.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if cmd.Start() != nil {
		return false
	}
	timer := time.AfterFunc(kit.lifetime()/2, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait() == nil
}
