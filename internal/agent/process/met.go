// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// recorded returns the match already recorded for the process.
func (d *Hold) recorded(m Match) *caught {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.met[identity{m.PID, m.Start}]
}

// note records a match and says whether it is news.
func (d *Hold) note(c *caught) outcome {
	d.mu.Lock()
	key := identity{c.PID, c.Start}
	if old := d.met[key]; old != nil {
		fresh := old.merge(c)
		d.mu.Unlock()
		if fresh {
			return news
		}
		return known
	}
	seen := d.t.Seen
	if d.quiet || seen == nil {
		seen = nil
		d.count++
		if len(d.order) < maxMet {
			d.met[key] = c
			d.order = append(d.order, c)
		} else {
			c.drop()
		}
	}
	d.mu.Unlock()
	if seen != nil {
		c.closePidfd()
		seen(c.Match)
	}
	return news
}

// merge takes over what a second meeting with the same process brought.
func (c *caught) merge(n *caught) (fresh bool) {
	fresh = n.Killed && !c.Killed
	if fresh || n.Gone && !c.Gone {
		c.Killed, c.Gone, c.Done, c.Err = c.Killed || n.Killed, n.Gone, n.Done, n.Err
	}
	if c.pidfd < 0 {
		c.pidfd, n.pidfd = n.pidfd, -1
	}
	if c.File == nil {
		c.File, n.File = n.File, nil
	}
	n.drop()
	return fresh
}

// open reports that it is not known what became of a match.
func (c *caught) open() bool { return !c.Gone && c.Err == nil }

// drop lets go of what a match holds open.
func (c *caught) drop() {
	c.closePidfd()
	if c.File != nil {
		closeFile(c.File)
		c.File = nil
	}
}

// Why a match is not dead.
var (
	errNotDead   = errors.New("it is not dead yet: the kernel has the signal, but something holds the process in an uninterruptible call")
	errNotKilled = errors.New("it was met and not killed")
)

// bury waits until what was killed is dead, and records it, with whoever died
// by himself. It reports whether all are dead; of every other one there is then
// an error.
func (d *Hold) bury(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, d.h.cfg.Death)
	defer cancel()
	all := true
	for _, c := range d.caught() {
		d.mu.Lock()
		isGone, killed, pidfd := c.Gone, c.Killed, c.pidfd
		d.mu.Unlock()
		if isGone {
			continue
		}
		patient := ctx
		if !killed {
			patient = over() // it may have died all the same, but need not
		}
		dead := pidfd >= 0 && waitDead(patient, pidfd)
		d.mu.Lock()
		switch {
		case dead:
			c.Gone, c.Done, c.Err = true, time.Now(), nil
			c.closePidfd()
		case c.Err != nil:
		case killed:
			c.Err = errNotDead
		default:
			c.Err = errNotKilled
		}
		d.mu.Unlock()
		all = all && dead
	}
	return all
}

// caught returns the matches met so far.
func (d *Hold) caught() []*caught {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]*caught(nil), d.order...)
}

// waitDead waits until the process behind a pidfd has ended. The descriptor
// becomes readable when its last thread is gone and its memory given back.
func waitDead(ctx context.Context, pidfd int) bool {
	const slice = 20 // milliseconds: how often the context is looked at
	for {
		wait := slice
		if ctx.Err() != nil {
			wait = 0
		}
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
		n, err := unix.Poll(fds, wait)
		if n > 0 && err == nil {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) || ctx.Err() != nil {
			return false
		}
	}
}

// over is a context that has ended, for waits that must not wait.
func over() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// forget takes back that a match was met.
func (d *Hold) forget(c *caught) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.order = slices.DeleteFunc(d.order, func(o *caught) bool { return o == c })
	d.count--
	delete(d.met, identity{c.PID, c.Start})
	if c.File != nil {
		delete(d.sealed, c.Ident) // the next to run it hands it out
	}
	c.drop()
}

// harvest turns what was met into the result's list. The files go to the
// caller with it. The hooks go on killing while it is made: what they add is
// awaited too, a few times, and what is added still is left for the next list.
func (d *Hold) harvest(ctx context.Context, r *Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for range 10 {
		if !slices.ContainsFunc(d.order, (*caught).open) {
			break
		}
		d.mu.Unlock()
		d.bury(ctx)
		d.mu.Lock()
	}
	if extra := d.count - len(d.order); extra > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d more matches were met and killed than are listed", extra))
	}
	clear(d.met)
	clear(d.doomed)
	var left []*caught
	for _, c := range d.order {
		if c.open() {
			left = append(left, c)
			d.met[identity{c.PID, c.Start}] = c
			continue
		}
		r.Matches = append(r.Matches, c.Match)
		c.File = nil
		c.closePidfd()
	}
	r.Met = d.count - len(left)
	d.order, d.count = left, len(left)
}

// closeFile closes a file that was only read, or a handle: nothing can be lost.
func closeFile(f *os.File) {
	f.Close() //nolint:errcheck // read only: nothing can be lost
}
