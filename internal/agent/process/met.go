// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
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

// drop lets go of what a match holds open.
func (c *caught) drop() {
	c.closePidfd()
	if c.File != nil {
		closeFile(c.File)
		c.File = nil
	}
}

// bury waits until what was killed is dead, and records it. It reports whether
// all are.
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
		dead := killed && pidfd >= 0 && waitDead(ctx, pidfd)
		d.mu.Lock()
		switch {
		case dead:
			c.Gone, c.Done, c.Err = true, time.Now(), nil
			c.closePidfd()
		case c.Err == nil:
			c.Err = errors.New("it is not dead yet: the kernel has the signal, but something holds the process in an uninterruptible call")
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
	const slice = 20 * time.Millisecond // how often the context is looked at
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
		n, err := unix.Poll(fds, int(slice/time.Millisecond))
		if n > 0 && err == nil {
			return true
		}
		if err != nil && !errors.Is(err, unix.EINTR) || ctx.Err() != nil {
			return false
		}
	}
}

// harvest turns what was met into the result's list. The files go to the
// caller with it.
func (d *Hold) harvest(r *Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r.Met = d.count
	for _, c := range d.order {
		r.Matches = append(r.Matches, c.Match)
		c.File = nil
		c.closePidfd()
	}
	if extra := d.count - len(d.order); extra > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("%d more matches were met and killed than are listed", extra))
	}
	d.order, d.count = nil, 0
	clear(d.met)
	clear(d.doomed)
}

// closeFile closes a file that was only read, or a handle: nothing can be lost.
func closeFile(f *os.File) {
	f.Close() //nolint:errcheck // read only: nothing can be lost
}
