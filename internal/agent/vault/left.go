// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"staunch/internal/order"
)

// A file that kept a name when it was sealed is met again. It is the same file
// and stays one item: what is left of it is removed, and not sealed once more.

// left reports whether the item's file had names that could not be removed.
func (m *Manifest) left() bool {
	for _, h := range slices.Backward(m.History) {
		if h.State == Sealed {
			return m.State == Sealed && len(h.Lost) > 0
		}
	}
	return false
}

// same reports whether the item was made of this file: the inode it was, with
// all it had. A name that was removed changes ctime and the number of links,
// and anybody's reading the time of access.
func (m *Manifest) same(g *Grabbed) bool {
	a, b := m.Meta, g.meta
	device := a.Dev == b.Dev || len(m.Names) > 0 && m.Names[0].Parent.FSID == g.in.Names[0].Parent.FSID && m.Names[0].Parent.FSID != [2]int32{}
	value := func(x Xattr) string { return string(x.Name) + "=" + string(x.Value) }
	attributes := func(all []Xattr) map[string]bool {
		set := map[string]bool{}
		for _, x := range all {
			set[value(x)] = true
		}
		return set
	}
	return device && m.sum() == g.sum && a.Ino == b.Ino && a.Btime == b.Btime && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID &&
		a.Mtime == b.Mtime && a.Flags == b.Flags && maps.Equal(attributes(a.Xattrs), attributes(b.Xattrs))
}

// watchLeft remembers the item if names of its file were left, by the file's
// inode number.
func (v *Vault) watchLeft(m *Manifest) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if m.left() {
		v.partial[m.ID] = m.Meta.Ino
		return
	}
	delete(v.partial, m.ID)
}

// findLeft does so for all items.
func (v *Vault) findLeft() error {
	ids, err := v.ids("items", ".json")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if m, err := v.load(id); err == nil { // else it is in fsck's report, and a second item does no harm
			v.watchLeft(m)
		}
	}
	return nil
}

// prior claims and returns the item that is made of the grabbed file already,
// and is whole; nil if there is none.
func (v *Vault) prior(ctx context.Context, g *Grabbed) *Manifest {
	v.mu.Lock()
	ids := slices.DeleteFunc(slices.Collect(maps.Keys(v.partial)), func(id string) bool { return v.partial[id] != g.stat.Ino })
	v.mu.Unlock()
	for _, id := range ids {
		if v.claim(id) != nil {
			continue
		}
		m, err := v.load(id)
		if err == nil && m.left() && m.same(g) && v.verifyItem(ctx, m) == nil {
			return m
		}
		v.release(id)
	}
	return nil
}

// noteLeft writes down which names of an item's file were removed later, and
// which could not be.
func (v *Vault) noteLeft(m *Manifest, later []Name, left *LeftError) error {
	h := Change{Time: v.cfg.Now().UTC(), State: Sealed}
	for _, n := range later {
		h.Paths = append(h.Paths, n.Path)
		if !slices.ContainsFunc(m.Names, func(have Name) bool { return have.Path == n.Path }) {
			m.Names = append(m.Names, n)
		}
	}
	if left != nil {
		h.Lost = left.texts()
	}
	m.History = append(m.History, h)
	if err := v.save(m); err != nil {
		return fmt.Errorf("cannot write down which names are left: %w", err)
	}
	v.watchLeft(m)
	return nil
}

func (e *LeftError) texts() (s []string) {
	for _, l := range e.Names {
		s = append(s, fmt.Sprintf("%q (%v)", l.Path, l.Err))
	}
	if e.Unknown > 0 {
		s = append(s, fmt.Sprintf("%d more that were not known: search for hard links", e.Unknown))
	}
	return s
}

func (e *LeftError) Error() string {
	return "the file still has names: " + strings.Join(e.texts(), ", ")
}

// Left is a name that could not be removed.
type Left struct {
	Path order.Text
	Err  error
}

// LeftError says that a file is sealed and gone from its place, but still has
// other names.
type LeftError struct {
	Names   []Left // known ones that could not be removed
	Unknown uint64 // how many more there are that were not known
}

// leftOver is nil if nothing is left; nlink counts the names that there are.
func leftOver(left []Left, nlink uint64) *LeftError {
	if len(left) == 0 && nlink == 0 {
		return nil
	}
	return &LeftError{Names: left, Unknown: nlink - min(nlink, uint64(len(left)))}
}
