// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// Meta is what a file is beside its content and its names.
type Meta struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Nlink uint64 `json:"nlink"`
	Mode  uint32 `json:"mode"` // st_mode, type included
	UID   uint32 `json:"uid"`
	GID   uint32 `json:"gid"`
	Atime Stamp  `json:"atime"`
	Mtime Stamp  `json:"mtime"`
	Ctime Stamp  `json:"ctime"` // cannot be restored
	// Btime is when the inode was made; it cannot be restored. Zero: not known.
	Btime Stamp `json:"btime,omitzero"`

	// Flags are what FS_IOC_GETFLAGS says; HasFlags: the file system has such.
	Flags    uint32 `json:"flags,omitzero"`
	HasFlags bool   `json:"hasFlags,omitzero"`

	// Layout is nil where the file system has none.
	Layout *Layout `json:"layout,omitzero"`

	// Xattrs are all extended attributes: POSIX ACLs, capabilities, labels and
	// the users' own.
	Xattrs []Xattr `json:"xattrs,omitzero"`
}

// Stamp is a time of a file: unlike time.Time's text, it holds every value a
// file system can have.
type Stamp struct {
	Sec  int64 `json:"s"`
	Nsec int64 `json:"ns"`
}

func stampOf(t unix.Timespec) Stamp { return Stamp{Sec: t.Sec, Nsec: t.Nsec} }

// Xattr is one extended attribute.
type Xattr struct {
	Name  order.Text `json:"name"`
	Value []byte     `json:"value"` // base64
}

const (
	aclAccess  = "system.posix_acl_access"
	capability = "security.capability"
)

// readMeta reads everything through the descriptor.
func readMeta(f *os.File) (Meta, error) {
	var st unix.Stat_t
	fd := int(f.Fd())
	if err := unix.Fstat(fd, &st); err != nil {
		return Meta{}, fmt.Errorf("cannot read metadata: %w", err)
	}
	m := Meta{
		Dev: st.Dev, Ino: st.Ino, Nlink: uint64(st.Nlink), Mode: st.Mode, UID: st.Uid, GID: st.Gid,
		Atime: stampOf(st.Atim), Mtime: stampOf(st.Mtim), Ctime: stampOf(st.Ctim),
	}
	var err error
	if m.Flags, m.HasFlags, err = getFlags(fd); err != nil {
		return Meta{}, fmt.Errorf("cannot read inode flags: %w", err)
	}
	if m.Layout, err = readLayout(fd); err != nil {
		return Meta{}, fmt.Errorf("cannot read project and extent sizes: %w", err)
	}
	var more unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &more); err == nil && more.Mask&unix.STATX_BTIME != 0 {
		m.Btime = Stamp{Sec: more.Btime.Sec, Nsec: int64(more.Btime.Nsec)}
	}
	if m.Xattrs, err = readXattrs(fd); err != nil {
		return Meta{}, fmt.Errorf("cannot read extended attributes: %w", err)
	}
	return m, nil
}

func readXattrs(fd int) ([]Xattr, error) {
	list, err := grow(func(b []byte) (int, error) { return unix.Flistxattr(fd, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("%q: %w", name, err)
		}
		all = append(all, Xattr{Name: order.TextOf(name), Value: value})
	}
	return all, nil
}

// grow calls get with a buffer that is large enough; the kernel bounds both
// lists and values to 64 KiB, so it ends.
func grow(get func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size *= 4 {
		b := make([]byte, size)
		n, err := get(b)
		if errors.Is(err, unix.ERANGE) && size < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n:n], nil
	}
}

// writeMeta gives the file what m says, except the flags. The order matters:
// a change of owner drops capabilities and set-id bits, a change of mode
// rewrites the ACL's mask, everything touches the times. What cannot be set
// is named in lost, with the reason.
func writeMeta(f *os.File, m *Meta) (lost []string) {
	fd := int(f.Fd())
	lose := func(what string, err error) {
		if err != nil {
			lost = append(lost, fmt.Sprintf("%s: %v", what, err))
		}
	}
	mode := m.Mode & 0o7777
	// The folder's default ACL may have given the file one of its own.
	if err := unix.Fremovexattr(fd, aclAccess); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
		lose("inherited ACL", err)
	}
	if err := unix.Fchown(fd, int(m.UID), int(m.GID)); err != nil && !owns(fd, m) {
		lose(fmt.Sprintf("owner %d:%d", m.UID, m.GID), err)
		if mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			// Set-id for another than the owner was meant to be would be a gift to them.
			lose("set-id bits", errors.New("not set, because the owner could not be"))
			mode &^= unix.S_ISUID | unix.S_ISGID
		}
	}
	// Before the mode: without privileges a read-only file takes none any more.
	set := func(want func(string) bool) {
		for _, x := range m.Xattrs {
			if name, err := x.Name.Bytes(); err != nil {
				lose("attribute "+string(x.Name), err)
			} else if want(name) && !hasXattr(fd, name, x.Value) {
				lose("attribute "+string(x.Name), unix.Fsetxattr(fd, name, x.Value, 0))
			}
		}
	}
	set(func(name string) bool { return name != aclAccess && name != capability })
	lose(fmt.Sprintf("mode %04o", mode), unix.Fchmod(fd, mode))
	set(func(name string) bool { return name == aclAccess })
	set(func(name string) bool { return name == capability })
	lose("times", setTimes(fd, m.Atime, m.Mtime))
	return lost
}

// hasXattr reports whether the attribute is as wanted already: labels that the
// system gives by itself cannot always be set, and need not.
func hasXattr(fd int, name string, value []byte) bool {
	have, err := grow(func(b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
	return err == nil && string(have) == string(value)
}

func owns(fd int, m *Meta) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Uid == m.UID && st.Gid == m.GID
}
