// SPDX-License-Identifier: Apache-2.0

package index

import (
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// dirs keeps the descriptors of folders. A tree can be deeper, with something
// left to do on every level, than a process may have files open: beyond max the
// one unused longest is closed, and found again from the nearest open ancestor,
// its identity checked on every step.
type dirs struct {
	max int // descriptors

	mu   sync.Mutex // guards the open fields of nodes and what is below
	open int
	list node // ring of open nodes, the most recently used first
}

func newDirs(workers int) *dirs {
	d := &dirs{max: 1024}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil {
		d.max = int(min(1024, limit.Cur/4))
	}
	d.max = max(d.max, 16, 4*workers) // each worker pins two
	d.list.prev, d.list.next = &d.list, &d.list
	return d
}

// hold announces work on the nodes of jobs.
func (d *dirs) hold(jobs []work) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, j := range jobs {
		d.grab(j.n)
	}
}

// grab holds a node and all that lead to it, so that it can be found again.
func (d *dirs) grab(n *node) {
	n.holds++
	if n.parent != nil && n.holds == 1 {
		d.grab(n.parent)
	}
}

// drop ends a piece of work; the last one closes the folder.
func (d *dirs) drop(n *node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; n != nil; n = n.parent {
		if n.holds--; n.holds > 0 {
			return
		}
		if n.users == 0 {
			d.close(n)
		}
	}
}

// use returns the descriptor of n, open until unuse. What leads to n is opened
// hand over hand, without the lock, so that a slow disk delays only who waits for it.
func (d *dirs) use(n *node) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var way []*node
	at := n
	for ; at != nil && at.fd < 0; at = at.parent {
		way = append(way, at)
	}
	d.pin(at)
	for _, next := range slices.Backward(way) {
		err := d.reach(at, next)
		if err == nil {
			d.pin(next)
		}
		d.unpin(at)
		if err != nil {
			return -1, err
		}
		at = next
	}
	d.front(n)
	return n.fd, nil
}

func (d *dirs) unuse(n *node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unpin(n)
}

func (d *dirs) pin(n *node) {
	if n != nil {
		n.users++
	}
}

func (d *dirs) unpin(n *node) {
	if n == nil {
		return
	}
	if n.users--; n.users == 0 && n.holds == 0 {
		d.close(n)
	}
}

// reach opens n in the pinned folder at, or by its own path when at is nil.
func (d *dirs) reach(at, n *node) error {
	if n.fd >= 0 {
		return nil // another worker was faster
	}
	dir := unix.AT_FDCWD
	if at != nil {
		dir = at.fd
	}
	d.mu.Unlock()
	fd, err := openAt(dir, n.name, openDirFlags)
	var f facts
	if err == nil {
		f, err = look(fd, "")
	}
	d.mu.Lock()
	switch {
	case err != nil:
		err = fmt.Errorf("cannot open the folder: %w", err)
	case f.id != n.id:
		err = errReplaced
	case n.fd < 0:
		d.adopt(n, fd)
		return nil
	}
	if fd >= 0 {
		closeFD(fd)
	}
	return err
}

// adopt notes an open descriptor and closes another when there are too many.
func (d *dirs) adopt(n *node, fd int) {
	n.fd = fd
	d.open++
	d.front(n)
	for m := d.list.prev; d.open > d.max && m != &d.list; {
		victim := m
		m = m.prev
		if victim.users == 0 && victim != n {
			d.close(victim)
		}
	}
}

func (d *dirs) front(n *node) {
	d.unlink(n)
	n.prev, n.next = &d.list, d.list.next
	n.prev.next, n.next.prev = n, n
}

func (d *dirs) unlink(n *node) {
	if n.next != nil {
		n.prev.next, n.next.prev = n.next, n.prev
		n.prev, n.next = nil, nil
	}
}

func (d *dirs) close(n *node) {
	if n.fd < 0 {
		return
	}
	closeFD(n.fd)
	n.fd = -1
	d.open--
	d.unlink(n)
}
