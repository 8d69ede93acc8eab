// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"

	"golang.org/x/sys/unix"
)

// listSome lists the next few folders, or ends the scan.
func (v *volume) listSome() error {
	var todo []dirRow
	err := v.x.update(func(t tx) error {
		err := t.rows("SELECT id, ino, handle FROM dir WHERE fs=? AND seen=? AND listed<? LIMIT 64", []any{v.fs, v.gen, v.gen}, scanDirs(&todo))
		if err != nil || len(todo) == 0 {
			return err
		}
		mount, err := v.open()
		if err != nil {
			return err
		}
		defer closeFD(mount)
		for _, d := range todo {
			if err := v.list(t, mount, d); err != nil {
				return err
			}
		}
		return v.sweep(t, mount)
	})
	if err != nil || len(todo) > 0 {
		return err
	}
	return v.finish()
}

// list looks at every name in a folder.
func (v *volume) list(t tx, mount int, d dirRow) error {
	var ok bool
	var err error
	if ok, err = t.one("SELECT parent, seen FROM dir WHERE id=?", []any{d.id}, &d.parent, &d.seen); err != nil || !ok {
		return err // removed since, with its parent
	}
	fd, err := v.openDir(t, mount, d)
	switch {
	case gone(err) || errors.Is(err, unix.ESTALE):
		return t.removeTree(d.id)
	case err != nil:
		return v.unlisted(t, d.id, err)
	}
	defer closeFD(fd)
	present := names{seed: v.x.seed}
	buf := make([]byte, direntBuf)
	for {
		entries, _, err := readEntries(fd, buf)
		if err != nil {
			return v.unlisted(t, d.id, err)
		}
		if len(entries) == 0 {
			break
		}
		byInode(entries)
		for _, e := range entries {
			present.add(e.name)
			if e.typ != unix.DT_REG && e.typ != unix.DT_DIR && e.typ != unix.DT_UNKNOWN {
				continue
			}
			if _, err := v.settle(t, fd, d.id, e.name); err != nil {
				return err
			}
		}
	}
	if err := v.forget(t, mount, fd, d, &present); err != nil {
		return err
	}
	_, err = t.exec("UPDATE dir SET listed=?, err=NULL WHERE id=?", v.gen, d.id)
	return err
}

// unlisted notes why a folder cannot be read; it is tried again by the next scan.
func (v *volume) unlisted(t tx, dir int64, why error) error {
	_, err := t.exec("UPDATE dir SET listed=?, err=? WHERE id=?", v.gen, fmt.Sprintf("cannot read the folder: %v", why), dir)
	return err
}

// forget looks again at names the rows have and the listing had not. A folder
// not met in this scan may yet be met elsewhere: finish decides.
func (v *volume) forget(t tx, mount, fd int, d dirRow, present *names) error {
	var absent []string
	collect := func(scan func(...any) error) error {
		var name []byte
		err := scan(&name)
		if !present.has(name) {
			absent = append(absent, string(bytes.Clone(name)))
		}
		return err
	}
	err := t.rows("SELECT name FROM name WHERE dir=?", []any{d.id}, collect)
	if err == nil {
		err = t.rows("SELECT name FROM dir WHERE parent=? AND seen=?", []any{d.id, v.gen}, collect)
	}
	for _, name := range absent {
		if err != nil {
			return err
		}
		var s truth
		if s, err = v.settle(t, fd, d.id, name); err == nil {
			err = v.clean(t, mount, s)
		}
	}
	return err
}

// names is a set of names that costs eight bytes each. Two names that fall
// together make a stale row stay, which Verify sees.
type names struct {
	seed   maphash.Seed
	sums   []uint64
	sorted bool
}

func (n *names) add(name string) {
	n.sums = append(n.sums, maphash.String(n.seed, name))
}

func (n *names) has(name []byte) bool {
	if !n.sorted {
		slices.Sort(n.sums)
		n.sorted = true
	}
	_, ok := slices.BinarySearch(n.sums, maphash.Bytes(n.seed, name))
	return ok
}
