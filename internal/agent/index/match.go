// SPDX-License-Identifier: Apache-2.0

package index

import (
	"fmt"
	"slices"
	"strings"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// verdict is what is known of an inode that has, or may have, several names.
type verdict struct {
	facts facts
	busy  bool   // somebody hashes it now
	found *match // nil: another content
	names []foundName
}

// match is an inode with the content.
type match struct {
	fd    int
	facts facts
	sum   filehash.Sum
	names []foundName

	mounted []string // single-file mounts of it, which are no names
	gone    bool     // it changed after it was found, or was deleted
}

type foundName struct {
	n    *node
	name string
}

// claim gives an inode to the caller to hash, or returns nil because it is, or
// was, hashed under another name. Only inodes with several names need a record.
func (s *search) claim(f *facts, name foundName) *verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.seen[f.id]
	switch {
	case v == nil:
		v = &verdict{}
		if f.nlink > 1 {
			s.seen[f.id] = v
		}
	case v.busy:
		v.names = append(v.names, name)
		return nil
	case v.found != nil:
		v.found.names = append(v.found.names, name)
		return nil
	case v.facts.same(f):
		return nil
	}
	v.busy, v.names = true, []foundName{name}
	return v
}

// settle records what became of a claimed inode and reports whether fd is kept.
func (s *search) settle(v *verdict, fd int, f facts, sum filehash.Sum, found bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.busy, v.facts = false, f
	names := v.names
	v.names = nil
	if !found {
		return false
	}
	if old := s.seen[f.id]; old != nil && old.found != nil { // seen through a bind mount as well
		old.found.names = append(old.found.names, names...)
		return false
	}
	if s.found++; s.found > copyLimit {
		if s.found == copyLimit+1 {
			s.gaps = append(s.gaps, fmt.Sprintf("more than %d files have this content: the rest was left out", copyLimit))
		}
		return false
	}
	v.found = &match{fd: fd, facts: f, sum: sum, names: names}
	s.seen[f.id] = v
	return true
}

// result turns the matches into copies.
func (s *search) result() Result {
	res := s.res
	res.Files, res.Bytes = s.files.Load(), s.bytes.Load()
	for _, m := range s.matches() {
		if c, ok := s.copyOf(m); ok {
			res.Copies = append(res.Copies, c)
		}
	}
	slices.SortFunc(res.Copies, func(a, b Copy) int { return strings.Compare(a.File.Name(), b.File.Name()) })
	res.NotCovered = slices.Sorted(slices.Values(s.gaps))
	if s.lost > 0 {
		res.NotCovered = append(res.NotCovered, fmt.Sprintf("and %d more", s.lost))
	}
	return res
}

func (s *search) matches() (all []*match) {
	for _, v := range s.seen {
		if v.found != nil {
			all = append(all, v.found)
		}
	}
	return all
}

func (s *search) copyOf(m *match) (Copy, bool) {
	c := Copy{Sum: m.sum}
	for _, n := range m.names {
		c.Paths = append(c.Paths, n.path())
		if part := s.layerOf(n.n); part.layer != "" && c.Layer != LayerLower {
			c.Layer = part.layer
			c.note("it lies on the %s layer of the overlay at %s", part.layer, order.TextOf(part.point))
		}
	}
	for _, p := range m.mounted {
		c.note("it is also mounted at %s", order.TextOf(p))
	}
	slices.Sort(c.Paths)
	if m.gone {
		closeFD(m.fd)
		return c, false
	}
	var err error
	if c.File, err = keep(m.fd, m.path()); err != nil {
		closeFD(m.fd)
		return c, false
	}
	if c.Stat, err = inode.Of(c.File); err != nil {
		_ = c.File.Close() // read only
		return c, false
	}
	if have := uint64(len(c.Paths)); c.Stat.Nlink > have {
		c.Missing = c.Stat.Nlink - have
		c.note("%d of its %d names were not found", c.Missing, c.Stat.Nlink)
	}
	return c, true
}

func (s *search) layerOf(n *node) layer {
	for ; n != nil; n = n.parent {
		if part, ok := s.layers[n.id]; ok {
			return part
		}
	}
	return layer{}
}
