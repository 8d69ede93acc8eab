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

// outcome is what came of looking at one process.
type outcome int

const (
	harmless outcome = iota // it does not match
	news                    // a match was met, or what looked like one: look again
	known                   // a match that has had the signal before
)

// take examines one process and, if it matches, kills it.
//
//	pidfd_open  stat/open exe  (describe)  stat exe again  pidfd_send_signal
//
// The pidfd comes first: the number may pass to another process afterwards,
// the descriptor does not. The program is looked at once more immediately
// before the signal, so that a process which has moved on to another program
// is let go; between that look and the signal lie some microseconds.
func (d *Hold) take(l *look, pid int, deep bool, sig unix.Signal) outcome {
	f := l.examine(pid, deep)
	if f == nil {
		return harmless
	}
	closeFile(f.file)
	return d.seize(l, pid, deep, sig)
}

// seize is take for a process that is likely to match.
func (d *Hold) seize(l *look, pid int, deep bool, sig unix.Signal) outcome {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		if !errors.Is(err, unix.ESRCH) {
			l.problem(fmt.Errorf("cannot get hold of process %d: %w", pid, err))
		}
		return known // gone, or not to be had however often one looks
	}
	f := l.examine(pid, deep)
	if f == nil {
		unix.Close(pidfd) //nolint:errcheck // a handle: nothing can be lost
		return news       // it has moved on or died
	}
	c := &caught{Match: d.h.describe(pid, f), pidfd: pidfd}
	old := d.recorded(c.Match)
	if c.Start == 0 || old != nil && (old.Killed || sig != unix.SIGKILL || d.h.spared(pid)) {
		closeFile(f.file)
		c.closePidfd()
		if c.Start == 0 {
			return news // it died while it was described
		}
		return known
	}
	if d.h.spared(pid) {
		closeFile(f.file)
		c.Err = fmt.Errorf("process %d must not be killed: it is init or the agent's own", pid)
		return d.note(c)
	}
	d.secure(l, c, f)
	if !d.signal(l, c, f, sig) {
		if d.h.hooks != nil {
			d.h.hooks.pardon(c.PID)
		}
		c.drop()
		return news
	}
	return d.note(c)
}

// secure has the kernel hold the process's offspring, and keeps a nameless
// program open.
func (d *Hold) secure(l *look, c *caught, f *finding) {
	file := f.file
	if d.h.hooks != nil {
		var err error
		switch {
		case f.how != Executes:
			d.mu.Lock()
			if len(d.doomed) >= maxMet {
				clear(d.doomed) // they are only for telling whose child a hook has killed
			}
			d.doomed[c.PID] = c.Match
			d.mu.Unlock()
			err = d.h.hooks.doom(c.PID, c.Start)
		case !d.denies(f.stat):
			err = d.deny(file)
		}
		if err != nil {
			l.problem(err)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if f.stat.Nlink > 0 || d.sealed[f.stat.ID] {
		closeFile(file)
		return
	}
	d.sealed[f.stat.ID] = true
	c.File = file
}

// signal sends the signal if the process still is what it was found to be.
func (d *Hold) signal(l *look, c *caught, f *finding, sig unix.Signal) bool {
	if !l.still(f) {
		return false
	}
	err := unix.PidfdSendSignal(c.pidfd, sig, nil, 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		c.Gone, c.Done = true, time.Now()
	case err != nil:
		c.Err = fmt.Errorf("cannot kill process %d: %w", c.PID, err)
	case sig == unix.SIGKILL:
		c.Killed = true
	}
	return true
}

// still reports whether the process runs what it was found to run.
func (l *look) still(f *finding) bool {
	if f.how == Executes {
		st, err := l.h.proc.stat(f.pid, "exe")
		return err == nil && st.ID == f.stat.ID
	}
	again := l.examine(f.pid, true)
	if again == nil {
		return false
	}
	closeFile(again.file)
	return true
}

// problem records what could not be done.
func (l *look) problem(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.problems) < maxProblems {
		l.problems = append(l.problems, err)
	}
}

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
