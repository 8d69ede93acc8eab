// SPDX-License-Identifier: Apache-2.0

package inode

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// counted are file systems whose inodes count all who have a file open. On an
// overlay, or where another machine has a say, each inode knows only its own.
var counted = []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.F2FS_SUPER_MAGIC}

// Alone reports whether f is the one open file of its inode on the whole
// machine: nobody else has it open, maps it, executes it, or is in the middle
// of opening or executing it. False may also mean that this cannot be told.
//
// The kernel grants a write lease only then (fcntl(2), F_SETLEASE). The lease
// is given back at once. Descriptors that open nothing (O_PATH) do not count.
func Alone(f *os.File) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return false, fmt.Errorf("cannot ask who has %q open: %w", f.Name(), err)
	}
	if !slices.Contains(counted, int64(fs.Type)) { //nolint:unconvert // its type differs between architectures
		return false, nil
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EBUSY) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot ask who has %q open: %w", f.Name(), err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return false, fmt.Errorf("cannot give the lease on %q back: %w", f.Name(), err)
	}
	return true, nil
}
