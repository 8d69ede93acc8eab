// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// active returns the volumes at work by the id of their file system.
func (x *Index) active() map[int64]*volume {
	x.mu.Lock()
	defer x.mu.Unlock()
	m := make(map[int64]*volume, len(x.volumes))
	for _, v := range x.volumes {
		m[v.fs] = v
	}
	return m
}

// chain returns the names that lead from the root to a folder.
func (x *Index) chain(ctx context.Context, dir int64) (names []string, err error) {
	d := x.db.Load()
	if d == nil {
		return nil, errAnew
	}
	// Rows that are being moved may form a circle for a moment: the depth ends it.
	err = d.rows(ctx, `WITH RECURSIVE up(id, parent, name, depth) AS (
			SELECT id, parent, name, 0 FROM dir WHERE id=?
			UNION ALL SELECT dir.id, dir.parent, dir.name, depth+1 FROM dir JOIN up ON dir.id=up.parent WHERE depth<?)
		SELECT name FROM up WHERE parent<>0 ORDER BY depth DESC`, []any{dir, depthLimit}, func(scan func(...any) error) error {
		var name []byte
		err := scan(&name)
		names = append(names, string(name))
		return err
	})
	if err == nil && len(names) >= depthLimit {
		err = errMoving
	}
	return names, err
}

// openSpotDir opens the folder of a name.
func (x *Index) openSpotDir(ctx context.Context, v *volume, mount int, s spot) (int, error) {
	if v.handles && s.dir.handle != "" {
		return s.dir.handle.open(mount, openDirFlags)
	}
	names, err := x.chain(ctx, s.dir.id)
	if err != nil {
		return -1, err
	}
	return descend(mount, names, uint64(s.dir.ino))
}

// openFile opens an inode for reading: by its names, and where none leads to it
// any more, by its handle. It also returns the open folder of the name, or -1.
func (x *Index) openFile(ctx context.Context, v *volume, mount int, ino int64, spots []spot, own handle) (fd int, by *spot, err error) {
	err = unix.ENOENT
	for i := range spots {
		var dir int
		if dir, err = x.openSpotDir(ctx, v, mount, spots[i]); err != nil {
			continue
		}
		fd, err = openAt(dir, spots[i].name, openFileFlags)
		closeFD(dir)
		if err != nil {
			continue
		}
		if v.is(fd, ino) {
			return fd, &spots[i], nil
		}
		closeFD(fd)
		err = errReplaced
	}
	if own != "" && v.handles {
		if fd, err = own.open(mount, openFileFlags); err == nil {
			if v.is(fd, ino) {
				return fd, nil, nil
			}
			closeFD(fd)
			err = errReplaced
		}
	}
	return -1, nil, fmt.Errorf("cannot open: %w", err)
}

// is reports whether fd is the regular file with that number on the volume.
func (v *volume) is(fd int, ino int64) bool {
	f, err := look(fd, "")
	return err == nil && f.regular() && f.ino == ino && f.id.Dev == v.root.Dev
}

// path joins a volume's root and the names below it.
func (v *volume) path(names ...string) string {
	return strings.TrimSuffix(v.point, "/") + "/" + strings.Join(names, "/")
}

// ahead makes rows for a path and what leads to it, and puts its file at the
// head of the queue, before the scan gets there.
func (x *Index) ahead(path string) error {
	var v *volume
	for _, w := range x.active() {
		if filepath.IsAbs(path) && within(path, w.point) && (v == nil || len(w.point) > len(v.point)) {
			v = w
		}
	}
	if v == nil {
		return errors.New("no root covers it")
	}
	names := slices.DeleteFunc(strings.Split(strings.TrimPrefix(path, v.point), "/"), func(s string) bool { return s == "" || s == "." })
	if len(names) == 0 || slices.Contains(names, "..") {
		return errors.New("not a file's path")
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed != nil {
		if err := v.scan(); err != nil {
			return err
		}
	}
	mount, err := v.open()
	if err != nil {
		return err
	}
	fd := mount
	defer func() { closeFD(fd) }()
	return x.update(func(t tx) error {
		dir, ok, err := t.dirByIno(v.fs, int64(v.root.Ino))
		if err != nil || !ok {
			return errors.Join(errReplaced, err)
		}
		at := dir.id
		for _, name := range names[:len(names)-1] {
			s, err := v.settle(t, fd, at, name)
			if err != nil || s.sub == 0 {
				return errors.Join(errors.New("not in this file system, or left out"), err)
			}
			next, err := openAt(fd, name, openDirFlags)
			if err != nil {
				return err
			}
			closeFD(fd)
			fd, at = next, s.sub
		}
		return v.putFirst(t, fd, at, names[len(names)-1])
	})
}

func (v *volume) putFirst(t tx, fd int, dir int64, name string) error {
	f, err := look(fd, name)
	if err != nil {
		return err
	}
	if !f.regular() || f.mountRoot || f.id.Dev != v.root.Dev {
		return errors.New("not a regular file")
	}
	id, err := t.putFile(v, &f, true)
	if err == nil {
		err = t.putName(dir, name, id)
	}
	return err
}
