// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
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
	if errors.Is(err, unix.EINVAL) {
		return news // it is being taken down: on older kernels its number leads no group then
	}
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
	if file == nil || f.stat.Nlink > 0 || d.sealed[f.stat.ID] {
		closeFile(file)
		return
	}
	d.sealed[f.stat.ID] = true
	c.File = file
}

// signal sends the signal if the process still is what it was found to be.
func (d *Hold) signal(l *look, c *caught, f *finding, sig unix.Signal) bool {
	d.mu.Lock()
	running := d.running
	d.mu.Unlock()
	if !running || !l.still(f) {
		return false // released while this was held up, or another program by now
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
