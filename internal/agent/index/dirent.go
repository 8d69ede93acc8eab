// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// entry is one name in a folder, as getdents64(2) tells it.
type entry struct {
	name string
	ino  uint64
	typ  byte // DT_REG, DT_DIR, …; DT_UNKNOWN where the file system does not say
}

// direntBuf is how much of a folder is read at a time: some 1,500 names.
const direntBuf = 64 << 10

// readEntries reads the next names of an open folder, without . and .., and
// where to go on from (d_off). No names and no error: the folder is done.
func readEntries(fd int, buf []byte) (list []entry, next int64, err error) {
	for len(list) == 0 {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, buf) })
		if n <= 0 || err != nil {
			return nil, 0, err
		}
		list, next = parseEntries(buf[:n])
	}
	return list, next, nil
}

// parseEntries cuts a buffer of struct linux_dirent64:
//
//	u64 d_ino | s64 d_off | u16 d_reclen | u8 d_type | d_name NUL
func parseEntries(buf []byte) (list []entry, next int64) {
	const head = 19
	for len(buf) > head {
		size := int(binary.NativeEndian.Uint16(buf[16:]))
		if size <= head || size > len(buf) {
			return list, next
		}
		name, _, _ := bytes.Cut(buf[head:size], []byte{0})
		next = int64(binary.NativeEndian.Uint64(buf[8:]))
		if s := string(name); s != "" && s != "." && s != ".." {
			list = append(list, entry{name: s, ino: binary.NativeEndian.Uint64(buf), typ: buf[18]})
		}
		buf = buf[size:]
	}
	return list, next
}

// byInode puts names in the order in which a disk holds their inodes.
func byInode(list []entry) {
	slices.SortFunc(list, func(a, b entry) int {
		switch {
		case a.ino < b.ino:
			return -1
		case a.ino > b.ino:
			return 1
		}
		return 0
	})
}

// retry repeats a system call that a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if err != unix.EINTR { //nolint:errorlint // a bare errno from x/sys
			return v, err
		}
	}
}

// facts is what statx(2) says of a name without following it.
type facts struct {
	stamp
	id        inode.ID
	mode      uint16
	nlink     uint32
	blocks    uint64 // of 512 bytes
	mountRoot bool   // something is mounted on this name
	mountID   uint64
	born      int64 // nanoseconds; 0: the file system does not say
}

// stamp changes whenever a file's content does, save by a shared mapping. The
// times are nanoseconds since 1970 modulo 2^64: compared, never shown.
type stamp struct{ ino, size, mtime, ctime int64 }

func (f *facts) regular() bool { return f.mode&unix.S_IFMT == unix.S_IFREG }
func (f *facts) folder() bool  { return f.mode&unix.S_IFMT == unix.S_IFDIR }

// look asks about a name in a folder, or with name "" about fd itself. It
// follows no link and triggers no automount.
func look(fd int, name string) (f facts, err error) {
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	switch {
	case name == "":
		flags |= unix.AT_EMPTY_PATH
	case isRoot(name):
		flags &^= unix.AT_SYMLINK_NOFOLLOW
	}
	var st unix.Statx_t
	if _, err = retry(func() (int, error) {
		return 0, unix.Statx(fd, name, flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME|unix.STATX_MNT_ID, &st)
	}); err != nil {
		return f, err
	}
	f = facts{
		stamp: stamp{int64(st.Ino), int64(st.Size), nanos(st.Mtime), nanos(st.Ctime)},
		id:    inode.ID{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino},
		mode:  st.Mode, nlink: st.Nlink, blocks: st.Blocks, mountID: st.Mnt_id,
		mountRoot: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		f.born = nanos(st.Btime)
	}
	return f, nil
}

func nanos(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// same reports whether nothing changed between two looks at one inode.
func (f *facts) same(g *facts) bool { return f.id == g.id && f.stamp == g.stamp }

const (
	openDirFlags  = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOATIME
	openFileFlags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC | unix.O_NOATIME
)

// openAt opens without a trace in the access time where that is allowed: only
// owner and root may.
func openAt(dir int, name string, flags int) (int, error) {
	if isRoot(name) {
		flags &^= unix.O_NOFOLLOW
	}
	fd, err := retry(func() (int, error) { return unix.Openat(dir, name, flags, 0) })
	if err == unix.EPERM { //nolint:errorlint // a bare errno from x/sys
		return retry(func() (int, error) { return unix.Openat(dir, name, flags&^unix.O_NOATIME, 0) })
	}
	return fd, err
}

func closeFD(fd int) { _ = unix.Close(fd) } // read only: nothing can be lost
