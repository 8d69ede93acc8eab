// SPDX-License-Identifier: Apache-2.0

package index

import (
	"errors"
	"maps"
	"slices"

	"golang.org/x/sys/unix"
)

// truth is what was seen at a name: the row of the file or of the folder there, or neither.
type truth struct {
	dir  int64
	name string
	file int64
	sub  int64
}

// apply looks at every place and inode that events told of. First what is there
// gets its rows, then what is not loses them: so a tree that was moved is
// recognised at its new place before it is missed at its old one.
func (v *volume) apply(p pending) error {
	mount, err := v.open()
	if err != nil {
		return err
	}
	defer closeFD(mount)
	byDir := map[handle][]string{}
	for at := range p.places {
		byDir[at.dir] = append(byDir[at.dir], at.name)
	}
	targets := slices.Collect(maps.Keys(p.targets))
	var seen []truth
	for dirs := range slices.Chunk(slices.Collect(maps.Keys(byDir)), 200) {
		if err := v.x.update(func(t tx) error {
			for _, h := range dirs {
				got, err := v.settleDir(t, mount, h, byDir[h])
				if err != nil {
					return err
				}
				seen = append(seen, got...)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	// In one transaction, or a file that was moved might be forgotten between two.
	return v.x.update(func(t tx) error {
		for _, s := range seen {
			if err := v.clean(t, mount, s); err != nil {
				return err
			}
		}
		for _, h := range targets {
			if err := v.refresh(t, mount, h); err != nil {
				return err
			}
		}
		return v.sweep(t, mount)
	})
}

// sweep forgets the files that lost their last name. One that moves too fast for
// its name to be true has its handle to tell that it is alive.
func (v *volume) sweep(t tx, mount int) error {
	var moving []handle
	err := t.rows("SELECT file.handle FROM loose CROSS JOIN file ON file.id=loose.file WHERE file.handle IS NOT NULL AND NOT EXISTS (SELECT 1 FROM name WHERE name.file=file.id)",
		nil, func(scan func(...any) error) error {
			var h []byte
			err := scan(&h)
			moving = append(moving, handle(h))
			return err
		})
	for _, h := range moving {
		if err == nil {
			err = v.refresh(t, mount, h)
		}
	}
	if err != nil {
		return err
	}
	return t.sweep()
}

// settleDir looks at names in the folder a handle names. A folder without a row
// is none of ours, or will be listed when its parent's event is taken in.
func (v *volume) settleDir(t tx, mount int, h handle, names []string) (seen []truth, err error) {
	d, ok, err := t.dirByHandle(v.fs, h)
	if err != nil || !ok {
		return nil, err
	}
	fd, err := v.openDir(t, mount, d)
	if err != nil {
		if gone(err) || errors.Is(err, unix.ESTALE) {
			return nil, nil // its own removal is another event
		}
		return nil, v.listLater(t, d.id)
	}
	defer closeFD(fd)
	for _, name := range names {
		s, err := v.settle(t, fd, d.id, name)
		if err != nil {
			return seen, err
		}
		seen = append(seen, s)
	}
	return seen, nil
}

func (v *volume) listLater(t tx, dir int64) error {
	v.listing = true
	v.ready.Store(false)
	_, err := t.exec("UPDATE dir SET listed=-1 WHERE id=?", dir)
	return err
}

// settle looks at one name and makes the rows of what is there.
func (v *volume) settle(t tx, fd int, dir int64, name string) (s truth, err error) {
	s = truth{dir: dir, name: name}
	f, err := look(fd, name)
	if err != nil || f.mountRoot {
		return s, nil // gone, or of another file system, which has its own volume
	}
	if f.id.Dev != v.root.Dev {
		v.foreign.Store(&name)
		return s, nil
	}
	switch {
	case f.regular() && !v.x.own(f.id):
		var known bool
		if s.file, known, err = t.knownAs(dir, name, &f); err != nil || known {
			return s, err
		}
		if s.file, err = t.putFile(v, &f, false); err == nil {
			err = t.putName(dir, name, s.file)
		}
	case f.folder() && !v.x.own(f.id):
		if s.sub, err = t.putDir(v.fs, dir, name, f.ino, v.handleAt(fd, name), v.gen); err == nil {
			err = v.noteNew(t, s.sub)
		}
	}
	return s, err
}

// noteNew has a folder listed that was not in this scan.
func (v *volume) noteNew(t tx, dir int64) error {
	var listed int64
	ok, err := t.one("SELECT listed FROM dir WHERE id=?", []any{dir}, &listed)
	if ok && listed < v.gen && !v.listing {
		v.listing = true
		v.ready.Store(false)
	}
	return err
}

// clean removes what the rows say of a name and is not so.
func (v *volume) clean(t tx, mount int, s truth) error {
	if err := t.dropName(s.dir, s.name, s.file); err != nil {
		return err
	}
	var old []dirRow
	err := t.rows("SELECT id, ino, handle FROM dir WHERE parent=? AND name=? AND id<>?", []any{s.dir, []byte(s.name), s.sub}, scanDirs(&old))
	for _, d := range old {
		if err == nil {
			err = v.missing(t, mount, d)
		}
	}
	return err
}

func scanDirs(into *[]dirRow) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		var d dirRow
		var h []byte
		err := scan(&d.id, &d.ino, &h)
		d.handle = handle(h)
		*into = append(*into, d)
		return err
	}
}

// openDir opens a folder by its handle, else from the root name by name.
func (v *volume) openDir(t tx, mount int, d dirRow) (int, error) {
	if v.handles && d.handle != "" {
		return d.handle.open(mount, openDirFlags)
	}
	var names []string
	for at := d; at.parent != 0; {
		var name []byte
		if ok, err := t.one("SELECT name FROM dir WHERE id=?", []any{at.id}, &name); err != nil || !ok {
			return -1, errors.Join(errReplaced, err)
		}
		names = append(names, string(name))
		id := at.parent
		at = dirRow{id: id}
		if ok, err := t.one("SELECT ino, parent FROM dir WHERE id=?", []any{id}, &at.ino, &at.parent); err != nil || !ok || len(names) > depthLimit {
			return -1, errors.Join(errReplaced, err)
		}
	}
	slices.Reverse(names)
	return descend(mount, names, uint64(d.ino))
}

// depthLimit bounds how deep a folder may lie below its root.
const depthLimit = 1 << 16

// descend opens the folder that names lead to without following a link, and
// checks that it is the one meant.
func descend(root int, names []string, ino uint64) (int, error) {
	fd, err := openAt(root, ".", openDirFlags)
	for _, name := range names {
		if err != nil {
			break
		}
		var next int
		next, err = openAt(fd, name, openDirFlags)
		closeFD(fd)
		fd = next
	}
	if err != nil {
		return -1, err
	}
	if f, err := look(fd, ""); err != nil || f.id.Ino != ino {
		closeFD(fd)
		return -1, errReplaced
	}
	return fd, nil
}
