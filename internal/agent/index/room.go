// SPDX-License-Identifier: Apache-2.0

package index

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// noRoom takes note that a row could not be written. At its ceiling the index
// stays as it is; where only its disk is full, it begins anew once there is room.
func (x *Index) noRoom(err error) {
	ceiling := free(filepath.Dir(x.cfg.Path)) >= 1<<20 // its disk has room, so that is not what is missing
	if x.full.Swap(true) {
		return
	}
	if ceiling {
		x.log.Error("the index has reached its ceiling; raise it, or cover fewer roots", "ceiling_bytes", x.cfg.Disk, "error", err)
		return
	}
	x.log.Error("the disk of the index is full; it goes on once there is room", "path", x.cfg.Path, "error", err)
	x.retry.Store(x.now().Add(x.cfg.again).UnixNano())
}

// roomy ends a pause for want of room, when it is time to.
func (x *Index) roomy() {
	at := x.retry.Load()
	if at != 0 && x.now().UnixNano() >= at && x.retry.CompareAndSwap(at, 0) {
		x.full.Store(false)
	}
}

// wantsRoom says what kind of room is missing.
func (x *Index) wantsRoom() string {
	if x.retry.Load() != 0 {
		return "the disk of the index is full"
	}
	return fmt.Sprintf("the index has reached its ceiling of %d MiB", x.cfg.Disk>>20)
}

// free is the room on the disk of a folder, in bytes; 0 where that is not known.
func free(dir string) int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize //nolint:gosec // far below
}
