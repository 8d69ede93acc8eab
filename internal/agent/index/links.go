// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// linkNames makes sure of the names of every match: those found still lead to
// it, and those that a root left out, or that moved, are looked for by inode
// number over the whole file system, which needs no reading.
func (s *search) linkNames(ctx context.Context) error {
	w := &worker{sum: newSummer()}
	short := map[uint64][]*match{} // by mount
	for _, m := range s.matches() {
		if err := s.recheck(ctx, w, m); err != nil {
			return err
		}
		if !m.gone && int(m.facts.nlink) > len(m.names) {
			short[m.facts.mountID] = append(short[m.facts.mountID], m)
		}
	}
	for mountID, matches := range short {
		if err := s.findNames(ctx, mountID, matches); err != nil {
			return err
		}
	}
	return nil
}

// recheck hashes a match again if it changed since, and drops names that do not
// lead to it any more.
func (s *search) recheck(ctx context.Context, w *worker, m *match) error {
	now, err := look(m.fd, "")
	if err == nil && !now.same(&m.facts) { // a new name or a chmod changes ctime as well as a write
		var found bool
		m.sum, found, err = w.sum.match(ctx, m.fd, &now, s.cfg.Hash)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.gone = !found
	}
	m.facts = now
	if err != nil {
		m.gone = true
		s.problem(m.path(), err)
	}
	if now.nlink == 0 {
		m.gone = true // deleted; what still runs from it is found by its processes
	}
	if m.gone {
		return nil
	}
	names := m.names
	m.names = nil
	for _, n := range names {
		s.addName(m, n)
	}
	return nil
}

// addName keeps a name that leads to m now and was not known.
func (s *search) addName(m *match, n foundName) {
	dir, err := s.walk.dirs.use(n.n)
	if err != nil {
		return
	}
	defer s.walk.dirs.unuse(n.n)
	f, err := look(dir, n.name)
	if err != nil || f.id != m.facts.id {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.mountRoot { // docker mounts single files: this is no name of the inode
		m.mounted = append(m.mounted, n.path())
		return
	}
	same := func(o foundName) bool { return o.n.id == n.n.id && o.name == n.name }
	if !slices.ContainsFunc(m.names, same) {
		m.names = append(m.names, n)
	}
}

// findNames walks the file system behind one mount, everywhere it is mounted.
func (s *search) findNames(ctx context.Context, mountID uint64, matches []*match) error {
	i := slices.IndexFunc(s.mounts, func(m mount) bool { return m.ID == mountID })
	if i < 0 {
		return nil // not known: copyOf notes the missing names
	}
	dev, exact := s.mounts[i].Dev, s.mounts[i].Kind() == local
	byIno := map[uint64][]*match{}
	for _, m := range matches {
		byIno[m.facts.id.Ino] = append(byIno[m.facts.id.Ino], m)
	}
	names := &walker{workers: s.cfg.Workers, dirs: s.walk.dirs, problem: s.problem}
	names.enter = func(_ *node, _ string, f *facts) bool { return !f.mountRoot && !s.skip[f.id] }
	names.file = func(_ context.Context, _ *worker, n *node, dir int, e entry) {
		ino := e.ino
		if !exact { // overlay: a folder tells other numbers than stat
			if f, err := look(dir, e.name); err == nil {
				ino = f.id.Ino
			}
		}
		for _, m := range byIno[ino] {
			s.addName(m, foundName{n, e.name})
		}
	}
	var roots []work
	same := slices.DeleteFunc(slices.Clone(s.mounts), func(m mount) bool { return m.Dev != dev })
	for _, m := range tops(same) {
		if f, err := look(unix.AT_FDCWD, m.Point); err == nil && f.folder() && f.mountID == m.ID {
			roots = append(roots, work{n: &node{name: m.Point, id: f.id, fd: -1}})
		}
	}
	if err := names.run(ctx, roots...); err != nil {
		return fmt.Errorf("cannot look for more names: %w", err)
	}
	return nil
}

// path is any name of the match, for people.
func (m *match) path() string {
	if len(m.names) == 0 {
		return fdPath(m.fd)
	}
	return m.names[0].path()
}

func (n foundName) path() string { return n.n.join(n.name) }
