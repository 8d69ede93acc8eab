// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// mountID tells mounts apart: names can be moved within one only.
func mountID(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, err
	}
	return st.Mnt_id, nil
}

// mountRoot climbs from an open folder to the root of its mount, or of the
// subvolume in it: names cannot be moved out of one either.
func mountRoot(dir *os.File) (*os.File, error) {
	mount, err := mountID(int(dir.Fd()))
	if err != nil {
		return nil, err
	}
	p, cur := dir.Name(), dir
	for {
		fd, err := openat2(int(cur.Fd()), "..", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			closeUnless(cur, dir)
			return nil, err
		}
		up := os.NewFile(uintptr(fd), path.Dir(p))
		id, err := mountID(fd)
		here, err1 := idAt(cur, ".")
		above, err2 := idAt(up, ".")
		if err = errors.Join(err, err1, err2); err != nil {
			closeUnless(cur, dir)
			closeUnless(up, nil)
			return nil, err
		}
		if id != mount || here == above || here.Dev != above.Dev {
			closeUnless(up, nil)
			if cur == dir {
				return reopen(dir)
			}
			return cur, nil
		}
		closeUnless(cur, dir)
		p, cur = path.Dir(p), up
	}
}

// closeUnless closes a folder's descriptor that is not the caller's.
func closeUnless(f, keep *os.File) {
	if f != keep {
		_ = f.Close() // read only
	}
}

func reopen(dir *os.File) (*os.File, error) {
	fd, err := openat2(int(dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), dir.Name()), nil
}
