// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// event is a fork or an exec.
type event struct {
	ns     int64 // CLOCK_MONOTONIC
	pid    int   // who was born, or who executes another program
	parent int   // who forked; 0 = not known
	exec   bool
}

// stream tells of forks and execs. What drain returns is complete: it holds
// everything that had happened by the time of the call, unless lost.
type stream interface {
	drain() (events []event, lost bool, err error)
	await(most time.Duration) error // until something has happened, or not for as long
	close() error
}

// outrun is what a chase that did not end says.
const outrun = "new processes kept appearing faster than they could be examined, or a killed one does not die"

// chase examines every process until none is left that could be a match, and
// kills those that are. It returns true if that came to an end: then every
// process alive was found innocent, or descends from one that had been.
//
// A killed process may have been forking: its last child shows once it is dead.
func (d *Hold) chase(ctx context.Context, l *look, s stream) (bool, error) {
	c := newPursuit(l, func(pid int) outcome { return d.take(l, pid, true, unix.SIGKILL) })
	c.rest = d.bury
	return c.run(ctx, s)
}

// pursuit examines processes until none is left that could be a match.
//
// The listing alone cannot know: a process may fork and leave between two
// looks. Therefore whoever is born of a process not yet found innocent at that
// moment is examined too, the youngest first, and so is whoever executes
// another program.
type pursuit struct {
	look  *look
	deal  func(pid int) outcome      // with one process
	rest  func(context.Context) bool // when all are dealt with: whether that is so for good
	ended func() bool                // whether those that are still to come may go unseen; nil = never

	listed bool          // everybody has been put to work once
	work   []int         // to be examined, the next one last
	clean  map[int]int64 // pid → CLOCK_MONOTONIC when it had been found innocent
	rested bool          // nothing was found since rest
}

// maxClean bounds what is remembered of innocent processes; beyond it
// everybody is looked at anew.
const maxClean = 1 << 20

func newPursuit(l *look, deal func(int) outcome) *pursuit {
	return &pursuit{
		look: l, deal: deal, clean: make(map[int]int64),
		rest: func(context.Context) bool { return true },
	}
}

// run goes on until everybody was dealt with, and returns whether it came to
// that. The stream was opened before. Called again, it takes up what has
// happened since.
func (c *pursuit) run(ctx context.Context, s stream) (bool, error) {
	c.rested = false
	if !c.listed {
		if err := c.list(); err != nil {
			return false, err
		}
		c.listed = true
	}
	for {
		if ctx.Err() != nil {
			return false, nil //nolint:nilerr // running out of patience is a result, not an error
		}
		if err := c.hear(s); err != nil {
			return false, err
		}
		switch {
		case len(c.work) > 0:
			c.rested = false
			if err := c.examine(ctx); err != nil {
				c.look.problem(err)
				return false, nil
			}
		case c.rested || c.ended != nil && c.ended():
			return true, nil
		default:
			if !c.rest(ctx) {
				return false, nil
			}
			c.rested = true
		}
	}
}

// hear takes in what has happened since.
func (c *pursuit) hear(s stream) error {
	events, lost, err := s.drain()
	if err != nil || c.ended != nil && c.ended() {
		return err
	}
	if lost || len(c.clean) > maxClean {
		clear(c.clean)
		if err := c.list(); err != nil {
			return err
		}
	}
	c.follow(events)
	return nil
}

// list puts every process to work.
func (c *pursuit) list() error {
	pids, err := c.look.h.proc.pids()
	if err != nil {
		return err
	}
	c.work = append(c.work[:0], pids...)
	return nil
}

// follow takes events in.
func (c *pursuit) follow(events []event) {
	for _, e := range events {
		if !e.exec && e.parent != 0 {
			if since, ok := c.clean[e.parent]; ok && since < e.ns {
				c.clean[e.pid] = e.ns
				continue
			}
		}
		delete(c.clean, e.pid)
		c.work = append(c.work, e.pid)
	}
}

// examine deals with the next few processes. Only those that do not match are
// taken for innocent: a killed one may still be in the middle of a fork. What
// was met is looked at again, in case the kill came to nothing.
func (c *pursuit) examine(ctx context.Context) error {
	const batch = 32
	from := max(0, len(c.work)-batch)
	pids := slices.Clone(c.work[from:])
	slices.Sort(pids)
	pids = slices.Compact(pids)
	var mu sync.Mutex
	var again []int
	err := c.look.h.each(ctx, pids, func(pid int) {
		got := c.deal(pid)
		now := monotonic()
		mu.Lock()
		defer mu.Unlock()
		switch got {
		case harmless:
			c.clean[pid] = now
		case news:
			again = append(again, pid)
		case known:
		}
	})
	if err != nil {
		return err
	}
	c.work = append(c.work[:from], again...)
	return nil
}
