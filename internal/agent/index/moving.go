// SPDX-License-Identifier: Apache-2.0

package index

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// missing decides about a folder that is not where its row says. It is either
// gone, or was moved: then its row, and all below, goes where it is now. If it
// moves faster than it can be found, everything is looked at again.
func (v *volume) missing(t tx, mount int, d dirRow) error {
	if !v.handles || d.handle == "" {
		return t.removeTree(d.id)
	}
	for range tries {
		fd, err := d.handle.open(mount, openDirFlags)
		if err != nil {
			return t.removeTree(d.id)
		}
		parent, name, err := v.locate(t, fd, uint64(d.ino))
		closeFD(fd)
		switch {
		case errors.Is(err, errMoving):
			continue
		case err != nil:
			return err
		case parent == 0: // outside the root
			return t.removeTree(d.id)
		}
		_, err = t.exec("UPDATE dir SET parent=?, name=? WHERE id=?", parent, []byte(name), d.id)
		return err
	}
	v.failed = errScanDue
	return nil
}

var errMoving = errors.New("it moves")

// locate finds the row of the parent of an open folder, and its name there.
func (v *volume) locate(t tx, fd int, ino uint64) (parent int64, name string, err error) {
	up, err := openAt(fd, "..", openDirFlags)
	if err != nil {
		return 0, "", errMoving
	}
	defer closeFD(up)
	f, err := look(up, "")
	if err != nil {
		return 0, "", errMoving
	}
	p, ok, err := t.dirByIno(v.fs, f.ino)
	if err != nil || !ok || f.id.Dev != v.root.Dev {
		return 0, "", err
	}
	buf := make([]byte, direntBuf)
	for {
		list, _, err := readEntries(up, buf)
		if err != nil || len(list) == 0 {
			return 0, "", errMoving
		}
		for _, e := range list {
			if e.ino != ino {
				continue
			}
			if f, err := look(up, e.name); err == nil && f.id.Ino == ino {
				return p.id, e.name, nil
			}
		}
	}
}

// refresh looks at an inode itself: it may have been written through a name it
// has no more, and it may be alive without one of the names we know.
func (v *volume) refresh(t tx, mount int, h handle) error {
	fd, err := h.open(mount, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return nil // gone
	}
	defer closeFD(fd)
	f, err := look(fd, "")
	if err != nil || !f.regular() || f.nlink == 0 || v.x.own(f.id) || f.id.Dev != v.root.Dev {
		return nil
	}
	old, ok, err := t.fileByIno(v.fs, f.ino)
	if err != nil {
		return err
	}
	var named int
	if ok {
		if _, err := t.putFile(v, &f, false); err != nil {
			return err
		}
		if ok, err = t.one("SELECT 1 FROM name WHERE file=? LIMIT 1", []any{old.id}, &named); err != nil || ok {
			return err
		}
	}
	return v.rename(t, fd, &f, h)
}

// rename gives a file that moves faster than we look the name it had a moment
// ago, and keeps its handle, by which it is found wherever it goes.
func (v *volume) rename(t tx, fd int, f *facts, h handle) error {
	path, err := os.Readlink(fdPath(fd))
	if err != nil {
		return nil // too deep to be told; a later event names its folder
	}
	var d facts
	if d, err = look(unix.AT_FDCWD, filepath.Dir(path)); err != nil || d.id.Dev != v.root.Dev {
		return nil
	}
	dir, ok, err := t.dirByIno(v.fs, d.ino)
	if err != nil || !ok {
		return err
	}
	id, err := t.putFile(v, f, false)
	if err == nil {
		err = t.putName(dir.id, filepath.Base(path), id)
	}
	if err == nil {
		_, err = t.exec("UPDATE file SET handle=? WHERE id=?", []byte(h), id)
	}
	return err
}
