// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"time"

	"golang.org/x/sys/unix"
)

// identity is a file. The time of birth tells apart two files that had the
// same inode number one after the other; zero where the file system keeps none.
type identity struct {
	dev, ino uint64
	birth    int64 // ns since 1970
}

// version is a file with a content: whoever changes the content changes one of
// these, except within the grain of the clock or through a shared mapping. The
// lease and the age rule of the cache close these two holes.
type version struct {
	identity
	size         int64
	mtime, ctime int64 // ns since 1970
}

// look reads the version of an open file. It asks no server of a network or
// user-space file system, so it cannot be made to wait.
func look(fd int, st *unix.Statx_t) (v version, regular bool, err error) {
	const flags = unix.AT_EMPTY_PATH | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(fd, "", flags, unix.STATX_BASIC_STATS|unix.STATX_BTIME, st); err != nil {
		return version{}, false, err
	}
	v = version{
		identity: identity{dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino},
		size:     int64(st.Size),
		mtime:    nanoseconds(st.Mtime),
		ctime:    nanoseconds(st.Ctime),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		v.birth = nanoseconds(st.Btime)
	}
	return v, st.Mode&unix.S_IFMT == unix.S_IFREG, nil
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }

// settled reports whether the file's last change is older than the coarsest
// clock of a file system: only then will another change show in its version.
func (v version) settled(now time.Time) bool {
	return now.UnixNano()-v.ctime > int64(2*time.Second)
}

// lease is what the kernel said when asked to keep writers away from a file.
type lease int

const (
	leaseNone   lease = iota // this file system grants none
	leaseHeld                // nobody writes, and whoever wants to waits for us
	leaseWriter              // somebody has the file open or mapped for writing
)

// takeLease asks for a read lease on fd; closing fd gives it back.
func takeLease(fd int) lease {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	switch err {
	case nil:
		return leaseHeld
	case unix.EAGAIN:
		return leaseWriter
	}
	return leaseNone
}
