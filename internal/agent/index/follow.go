// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// A walk sees each folder once. A file that is moved from where the walker has
// not been to where it was already would be missed, and an attacker can see to
// that. So the file systems are watched while the walk runs, and afterwards
// every inode about which something happened is looked at again: by its handle,
// which no renaming outruns.

// rounds bounds how often a search looks after what happened during its last look.
const rounds = 20

// followLimit bounds the inodes remembered, and so the memory.
const followLimit = 1 << 18

// moved are the events after which an inode may have a content or a name that the walk did not see.
const moved = unix.FAN_CREATE | unix.FAN_MOVED_TO | unix.FAN_RENAME | unix.FAN_CLOSE_WRITE | unix.FAN_MODIFY

var errOutrun = errors.New("more happened than could be followed: a file that moved meanwhile may have been missed")

// watchPoints lists one folder per file system to be searched.
func (s *search) watchPoints() (points []string) {
	devs := map[uint64]bool{}
	add := func(path string) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil && !devs[st.Dev] {
			devs[st.Dev] = true
			points = append(points, path)
		}
	}
	for _, r := range s.roots {
		add(r.n.name)
	}
	for i := range s.mounts {
		m := &s.mounts[i]
		if k := m.Kind(); s.across && s.below(m.Point) && (k == local || k == layers) {
			add(m.Point)
		}
	}
	return points
}

func (s *search) below(path string) bool {
	return slices.ContainsFunc(s.res.Covered, func(root string) bool { return within(path, root) })
}

// follower gathers what events tell while a search walks, and looks at it after.
type follower struct {
	*search
	worker *worker
	done   map[place]bool // what was told of: an inode by its handle alone
	todo   [][]place      // what was not looked at yet, by watched file system
	lost   error          // more happened than could be remembered
	asOf   int64          // when the walk ended
	later  bool           // not the first round: what was made since asOf is not the search's business
}

// walkAndFollow walks, and looks again at what something happened to meanwhile,
// until nothing is left that existed when the walk ended.
func (s *search) walkAndFollow(ctx context.Context) error {
	f := &follower{
		search: s, worker: &worker{sum: newSummer()}, done: map[place]bool{}, todo: make([][]place, len(s.watches.groups)),
	}
	err := f.gatherWhile(func() error { return s.walk.run(ctx, s.roots...) })
	if err != nil {
		return err
	}
	f.asOf = time.Now().UnixNano()
	for round := 0; round < rounds; round++ {
		f.gather()
		f.later = round > 0
		n, err := f.look(ctx)
		switch {
		case err != nil:
			return err
		case f.lost != nil:
			round = rounds // what could be remembered was looked at
		case n == 0:
			return nil
		}
	}
	if f.lost == nil {
		f.lost = errOutrun
	}
	s.res.Watched = false
	s.problem("file system events", f.lost)
	return nil
}

// gatherWhile keeps the kernel's queues short until do returns.
func (f *follower) gatherWhile(do func() error) error {
	quit, ended := make(chan struct{}), make(chan struct{})
	tick := time.NewTicker(coalesce)
	go func() {
		defer close(ended)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				f.gather()
			}
		}
	}()
	err := do()
	close(quit)
	<-ended
	return err
}

// gather drains the events of all watched file systems.
func (f *follower) gather() {
	for i := range f.watches.groups {
		err := f.watches.groups[i].drain(func(e event) {
			switch {
			case e.overflow() || len(f.done) > followLimit:
				f.lost = errOutrun
				return
			case e.mask&moved == 0:
				return
			}
			where := place{dir: e.target}
			if e.target == "" && len(e.places) > 0 {
				where = e.places[0] // before 5.17 only the name is told
			}
			if !f.done[where] {
				f.done[where] = true
				f.todo[i] = append(f.todo[i], where)
			}
		})
		if err != nil {
			f.lost = err
		}
	}
}

// look looks at what was gathered, and returns how many inodes that were.
func (f *follower) look(ctx context.Context) (n int, err error) {
	for i, todo := range f.todo {
		f.todo[i] = nil
		n += len(todo)
		mount, err := openAt(unix.AT_FDCWD, f.watches.groups[i].point, openDirFlags&^unix.O_NOFOLLOW)
		if err != nil {
			continue // unmounted: what was there is not here any more
		}
		for _, where := range todo {
			if err == nil {
				err = f.again(ctx, mount, where)
			}
		}
		closeFD(mount)
		if err != nil {
			return n, err
		}
	}
	return n, ctx.Err()
}

// again looks at one inode.
func (f *follower) again(ctx context.Context, mount int, where place) error {
	fd, err := where.dir.open(mount, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return nil // gone, with all that was in it
	}
	if where.name != "" {
		dir := fd
		fd, err = openAt(dir, where.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		closeFD(dir)
		if err != nil {
			return nil // gone; where to is another event
		}
	}
	defer closeFD(fd)
	is, err := look(fd, "")
	if err != nil || (f.later && is.born > f.asOf) {
		return nil
	}
	switch {
	case is.folder():
		return f.folder(ctx, fd, &is)
	case is.regular() && (f.cfg.Size < 0 || f.cfg.Size == is.size):
		f.regular(ctx, fd, &is)
	}
	return ctx.Err()
}

// folder walks a folder that came to its place, with what is in it.
func (f *follower) folder(ctx context.Context, fd int, is *facts) error {
	path, ok := f.pathOf(fd)
	if !ok || f.inOwn(fd, is.id) {
		return nil
	}
	open, err := reopen(fd, openDirFlags&^unix.O_NOFOLLOW)
	if err != nil {
		return nil // removed
	}
	n := &node{name: path, id: is.id, fd: -1}
	f.walk.dirs.mu.Lock()
	f.walk.dirs.adopt(n, open)
	f.walk.dirs.pin(n) // its path may be another one already
	f.walk.dirs.mu.Unlock()
	defer f.walk.dirs.unuse(n)
	return f.walk.run(ctx, work{n: n})
}

// regular hashes a file through its handle; the name comes after.
func (f *follower) regular(ctx context.Context, fd int, is *facts) {
	path, ok := f.pathOf(fd)
	if !ok || is.nlink == 0 {
		return
	}
	dir := &node{name: filepath.Dir(path), fd: -1}
	up, err := openAt(unix.AT_FDCWD, dir.name, openDirFlags|unix.O_PATH)
	if err == nil {
		at, lerr := look(up, "")
		if lerr == nil && f.inOwn(up, at.id) {
			closeFD(up)
			return
		}
		dir.id = at.id
		closeFD(up)
	}
	open, err := reopen(fd, openFileFlags&^unix.O_NOFOLLOW)
	if err != nil {
		f.problem(path, err)
		return
	}
	f.examine(ctx, f.worker, open, foundName{dir, filepath.Base(path)})
}

// pathOf returns where a descriptor's file is now, and whether that is below a
// root. What is too deep for a path is taken to be.
func (f *follower) pathOf(fd int) (string, bool) {
	path, err := os.Readlink(fdPath(fd))
	if errors.Is(err, unix.ENAMETOOLONG) {
		return fdPath(fd), true
	}
	return path, err == nil && f.below(path)
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// reopen turns an O_PATH descriptor into one that reads.
func reopen(fd, flags int) (int, error) { return openAt(unix.AT_FDCWD, fdPath(fd), flags) }

// inOwn reports whether a folder is, or lies in, one that is left out.
func (s *search) inOwn(fd int, id inode.ID) bool {
	up := fd
	for !s.skip[id] && len(s.skip) > 0 {
		next, err := openAt(up, "..", openDirFlags|unix.O_PATH)
		if up != fd {
			closeFD(up)
		}
		if err != nil {
			return false
		}
		up = next
		f, err := look(up, "")
		if err != nil || f.id == id {
			closeFD(up)
			return false // the top
		}
		id = f.id
	}
	if up != fd {
		closeFD(up)
	}
	return s.skip[id]
}
