// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Layout is what FS_IOC_FSGETXATTR tells of a file beside its flags (xfs, ext4,
// f2fs and others).
type Layout struct {
	Project       uint32 `json:"project,omitzero"`       // that its blocks are counted for
	ExtentSize    uint32 `json:"extentSize,omitzero"`    // bytes; a hint
	CowExtentSize uint32 `json:"cowExtentSize,omitzero"` // bytes; a hint
}

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	Xflags, Extsize, Nextents, Projid, Cowextsize uint32
	_                                             [8]byte
}

const (
	fsGetXattr   = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXattr   = 0x401c5820 // FS_IOC_FSSETXATTR
	xflagExtsize = 0x800      // FS_XFLAG_EXTSIZE
	xflagCow     = 0x10000    // FS_XFLAG_COWEXTSIZE
)

func (x *fsxattr) ioctl(fd int, request uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(x))); errno != 0 {
		return errno
	}
	return nil
}

func (x *fsxattr) layout() Layout {
	l := Layout{Project: x.Projid}
	if x.Xflags&xflagExtsize != 0 {
		l.ExtentSize = x.Extsize
	}
	if x.Xflags&xflagCow != 0 {
		l.CowExtentSize = x.Cowextsize
	}
	return l
}

// readLayout returns nil where the file system has none.
func readLayout(fd int) (*Layout, error) {
	var x fsxattr
	err := x.ioctl(fd, fsGetXattr)
	switch {
	case err == nil:
		l := x.layout()
		return &l, nil
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return nil, nil
	}
	return nil, err
}

// writeLayout gives an empty file the layout; what could not be set is named.
func writeLayout(fd int, want *Layout) (lost []string) {
	if want == nil {
		return nil // sealed where there was none, or by an older agent
	}
	var x fsxattr
	if err := x.ioctl(fd, fsGetXattr); err != nil {
		if *want == (Layout{}) {
			return nil
		}
		return []string{fmt.Sprintf("project %d, extent size %d: %v", want.Project, want.ExtentSize, err)}
	}
	if x.layout() == *want {
		return nil
	}
	// One by one: what a file system refuses takes the others down with it.
	for _, set := range []func(*fsxattr){
		func(x *fsxattr) { x.Projid = want.Project },
		func(x *fsxattr) {
			x.Extsize, x.Xflags = want.ExtentSize, flag(x.Xflags, xflagExtsize, want.ExtentSize > 0)
		},
		func(x *fsxattr) {
			x.Cowextsize, x.Xflags = want.CowExtentSize, flag(x.Xflags, xflagCow, want.CowExtentSize > 0)
		},
	} {
		was := x
		if set(&x); x != was && x.ioctl(fd, fsSetXattr) != nil {
			x = was
		}
	}
	if have := x.layout(); have != *want {
		return []string{fmt.Sprintf("project and extent sizes: %+v wanted, %+v could be set", *want, have)}
	}
	return nil
}

func flag(all, one uint32, on bool) uint32 {
	if on {
		return all | one
	}
	return all &^ one
}
