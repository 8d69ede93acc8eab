// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// locks are the inode flags under which nothing can be renamed or removed.
const locks = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL (linux/fs.h)

// settable are the inode flags that chattr(1) can set on a regular file:
// secrm, unrm, compr, sync, immutable, append, nodump, noatime, nocomp,
// journal-data, notail, nocow, dax, projinherit (linux/fs.h).
const settable = 0x000000ff | 0x400 | 0x4000 | 0x8000 | 0x00800000 | 0x02000000 | 0x20000000

// getFlags reads the inode flags; ok is false where the file system has none.
func getFlags(fd int) (flags uint32, ok bool, err error) {
	flags, err = unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	switch {
	case err == nil:
		return flags, true, nil
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return 0, false, nil
	}
	return 0, false, err
}

func setFlags(fd int, flags uint32) error {
	return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(int32(flags)))
}

// unlockInode takes the immutable and append-only flags off. It does nothing
// where none is set.
func unlockInode(fd int, flags uint32) error {
	if flags&locks == 0 {
		return nil
	}
	return setFlags(fd, flags&^locks)
}

// lockInode puts those of the locks on that flags has.
func lockInode(fd int, flags uint32) error {
	if flags&locks == 0 {
		return nil
	}
	have, ok, err := getFlags(fd)
	if err != nil || !ok || have|flags&locks == have {
		return err
	}
	return setFlags(fd, have|flags&locks)
}

// early are the flags that say how bytes are stored: they have to be there
// before the bytes are (btrfs refuses to set nocow later, and does not compress
// what is there).
const early = 0x4 | 0x400 | 0x00800000

// storeAs gives an empty file those flags, and its layout. Flags that it does
// not take restoreFlags names in the end.
func storeAs(fd int, m *Meta) (lost []string) {
	if want := m.Flags & early; want != 0 {
		if have, ok, err := getFlags(fd); err == nil && ok {
			_ = setFlags(fd, have&^early|want) // see above
		}
	}
	return writeLayout(fd, m.Layout)
}

// made are flags that no ioctl sets: fs-verity and encryption (linux/fs.h).
const made = 0x00100000 | 0x800

// restoreFlags gives a file the flags it had. Those that the file system does
// not take are named in lost.
func restoreFlags(fd int, m *Meta) (lost []string) {
	if !m.HasFlags {
		return nil
	}
	have, ok, err := getFlags(fd)
	if gone := m.Flags & made &^ have; gone != 0 {
		lost = []string{fmt.Sprintf("inode flags %#x (fs-verity 0x100000, encrypted 0x800): they have to be made anew", gone)}
	}
	return append(lost, setLost(fd, m, have, ok, err)...)
}

func setLost(fd int, m *Meta, have uint32, ok bool, err error) (lost []string) {
	want := m.Flags & settable
	switch {
	case err != nil:
		return []string{fmt.Sprintf("inode flags %#x: %v", want, err)}
	case !ok && want != 0:
		return []string{fmt.Sprintf("inode flags %#x: this file system has none", want)}
	case !ok || have&settable == want:
		return nil
	}
	if setFlags(fd, have&^settable|want) != nil {
		setOneByOne(fd, have, want)
	}
	have, _, err = getFlags(fd)
	if missing := have&settable ^ want; err != nil || missing != 0 {
		return []string{fmt.Sprintf("inode flags: %#x wanted, %#x could be set", want, have&settable)}
	}
	return nil
}

// setOneByOne sets what can be set: one flag that is refused takes the others
// down with it. The locks come last, since nothing can be set behind them.
func setOneByOne(fd int, have, want uint32) {
	order := []uint32{}
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if bit&settable&^locks != 0 {
			order = append(order, bit)
		}
	}
	for _, bit := range append(order, locks) {
		if next := have&^bit | want&bit; next != have && setFlags(fd, next) == nil {
			have = next
		}
	}
}

// setTimes is futimens(3).
func setTimes(fd int, atime, mtime Stamp) error {
	ts := [2]unix.Timespec{{Sec: atime.Sec, Nsec: atime.Nsec}, {Sec: mtime.Sec, Nsec: mtime.Nsec}}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
