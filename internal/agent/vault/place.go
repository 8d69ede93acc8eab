// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

const (
	oNoFollow = unix.O_NOFOLLOW
	// chunk bounds how much of a path one system call is given, in bytes: the
	// kernel takes less than 4096, paths may be longer.
	chunk = 3000
)

// checkPath accepts absolute paths of the kernel's own form: no empty, "." or
// ".." element.
func checkPath(p string) error {
	if !strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) || p != path.Clean(p) || p == "/" {
		return fmt.Errorf("%q is not a clean absolute path of a file", order.TextOf(p))
	}
	for elem := range strings.SplitSeq(p, "/") {
		if len(elem) > unix.NAME_MAX {
			return fmt.Errorf("a name in %.40q… is longer than %d bytes", order.TextOf(p), unix.NAME_MAX)
		}
	}
	return nil
}

// openDir opens a folder, following no link on the way, however long its path,
// but for the root of a process at its beginning: see beyond.
func openDir(p string) (*os.File, error) {
	root, rest := "/", strings.Trim(p, "/")
	if pid, below, ok := beyond(p); ok {
		root, rest = "/proc/"+pid+"/root", below
	}
	fd, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open folder %q: %w", order.TextOf(p), err)
	}
	for rest != "" {
		var step string
		step, rest = cutPath(rest)
		next, err := openat2(fd, step, unix.O_PATH|unix.O_DIRECTORY)
		_ = unix.Close(fd) // a path descriptor
		if err != nil {
			return nil, fmt.Errorf("cannot open folder %q: %w", order.TextOf(p), err)
		}
		fd = next
	}
	// One that can be synced, and asked for its flags.
	dir, err := openat2(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	_ = unix.Close(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot open folder %q: %w", order.TextOf(p), err)
	}
	return os.NewFile(uintptr(dir), p), nil
}

// beyond splits a path that leads into another mount namespace, through the
// root of a process in it: "/proc/PID/root/below". Such a path is good while it
// is used and must not be trusted later, when the number may be another
// process's.
func beyond(p string) (pid, below string, ok bool) {
	after, ok := strings.CutPrefix(p, "/proc/")
	if !ok {
		return "", "", false
	}
	pid, after, _ = strings.Cut(after, "/")
	if _, err := strconv.ParseUint(pid, 10, 31); err != nil {
		return "", "", false
	}
	if after != "root" && !strings.HasPrefix(after, "root/") {
		return "", "", false
	}
	return pid, strings.Trim(strings.TrimPrefix(after, "root"), "/"), true
}

// cutPath takes as many whole elements off the path as one call may have.
func cutPath(p string) (first, rest string) {
	if len(p) <= chunk {
		return p, ""
	}
	i := strings.LastIndexByte(p[:chunk], '/')
	if i < 0 {
		return p, "" // too long for a name: the kernel says so
	}
	return p[:i], strings.TrimLeft(p[i:], "/")
}

// openat2 opens without following any link, magic ones (/proc/PID/fd) included.
func openat2(dir int, name string, flags uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	for {
		fd, err := unix.Openat2(dir, name, &how)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// openFile opens name in dir to be read if it is a regular file that is the
// inode want; nothing else is ever opened, only looked at.
func openFile(dir *os.File, name string, want func(inode.ID) bool) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // a path descriptor
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || !want(inode.ID{Dev: st.Dev, Ino: st.Ino}) {
		return nil, ErrChanged
	}
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	const flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK
	// Without O_NOATIME where the file is another's and we are not privileged.
	file, err := unix.Open(self, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		file, err = unix.Open(self, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(file), name), nil
}

// reread opens an open file once more, for reading that leaves no trace in its
// access time. It fails without the right to that.
func reread(f *os.File) (*os.File, error) {
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOATIME, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// idAt returns the identity of a name, without following a link.
func idAt(dir *os.File, name string) (inode.ID, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return inode.ID{Dev: st.Dev, Ino: st.Ino}, err
}

// parentOf describes an open folder.
func parentOf(dir *os.File) (Parent, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return Parent{}, err
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil {
		return Parent{}, err
	}
	flags, _, err := getFlags(int(dir.Fd()))
	return Parent{Dev: st.Dev, Ino: st.Ino, FSID: fs.Fsid.Val, Flags: flags}, err
}

// parent is parentOf at an instant when nobody has the folder's flags lifted.
func (v *Vault) parent(dir *os.File) (Parent, error) {
	v.lift.RLock()
	defer v.lift.RUnlock()
	return parentOf(dir)
}
