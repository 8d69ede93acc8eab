// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Stop kills every process that runs the target and waits until they are dead.
// It goes on while new ones appear, for as long as the configuration's
// Patience. The result is of use with an error too: it holds what was met, and
// is not proven.
func (d *Hold) Stop(ctx context.Context) (Result, error) {
	d.stopping.Lock()
	defer d.stopping.Unlock()
	r := Result{Rung: d.h.rung}
	if !d.begin() {
		return r, errors.New("cannot stop processes: the hold was released")
	}
	defer d.end()
	err := d.read(ctx)
	patient, cancel := context.WithTimeout(ctx, d.h.cfg.Patience)
	defer cancel()
	var stop func(*Hold, context.Context, *Result) error
	for _, rung := range rungs() {
		if rung.name == d.h.rung {
			stop = rung.stop
		}
	}
	err = errors.Join(err, stop(d, patient, &r))
	if w := d.h.watcher; w != nil {
		err = errors.Join(err, w.settle(ctx))
	}
	if !d.bury(ctx) {
		r.Proven = false
		r.Notes = append(r.Notes, "not every match is dead")
	}
	if err == nil && r.Proven {
		if left, lookErr := d.alive(ctx); left > 0 || lookErr != nil {
			r.Proven = false
			r.Notes = append(r.Notes, fmt.Sprintf("the last look met %d matches", left))
			err = lookErr
		}
	}
	if err != nil {
		r.Proven = false
		r.Notes = append(r.Notes, err.Error())
	}
	if !d.h.proc.root {
		r.Proven = false
		r.Notes = append(r.Notes, "without root only this user's processes can be looked at and killed")
	}
	r.Notes = append(r.Notes, "rung: "+d.h.why)
	d.harvest(ctx, &r)
	for _, m := range r.Matches {
		if m.Err != nil {
			r.Proven = false
		}
	}
	if d.h.hooks != nil { // its size is known now: no need to be told of every exec
		if err := d.h.hooks.watch(d); err != nil {
			r.Notes = append(r.Notes, err.Error())
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return r, fmt.Errorf("cannot finish killing: %w", cause)
	}
	return r, nil
}

// read judges every file that runs, and kills what it meets, where the size of
// the content is not known and all of them have to be read: that takes as long
// as it takes, and is done before patience counts.
func (d *Hold) read(ctx context.Context) error {
	if _, ok := d.judge.bytes(); ok {
		return nil
	}
	pids, err := d.h.proc.pids()
	if err != nil {
		return err
	}
	_, err = d.sweep(ctx, d.h.newLook(d.judge), pids, unix.SIGKILL)
	return err
}

// begin has matches gathered for the result.
func (d *Hold) begin() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = true
	return d.running
}

func (d *Hold) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quiet = false
}

// alive counts the processes that execute the target now.
func (d *Hold) alive(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, d.h.cfg.Patience)
	defer cancel()
	l := d.h.newLook(d.judge)
	pids, err := d.candidates()
	if err != nil {
		return 0, err
	}
	found := make(chan int, len(pids))
	err = d.h.each(ctx, pids, func(pid int) {
		if f := l.examine(pid, false); f != nil {
			closeFile(f.file)
			found <- pid
		}
	})
	return len(found), errors.Join(err, l.trouble())
}

// candidates lists the processes that could execute the target.
func (d *Hold) candidates() ([]int, error) {
	if d.h.hooks == nil {
		return d.h.proc.pids()
	}
	all, err := d.suspects()
	return numbers(all), err
}

// sweep examines every process once and kills what matches; it returns how
// many had not met the signal before.
func (d *Hold) sweep(ctx context.Context, l *look, pids []int, sig unix.Signal) (int, error) {
	found := make(chan int, len(pids))
	err := d.h.each(ctx, pids, func(pid int) {
		if d.take(l, pid, true, sig) == news {
			found <- pid
		}
	})
	return len(found), err
}

// stopBestEffort stops the matches until three looks find no new one, and then
// kills them. A process that forks and leaves between two looks escapes: this
// is never proven.
func (d *Hold) stopBestEffort(ctx context.Context, r *Result) error {
	r.Notes = append(r.Notes, "stop signals are best effort: a process that forks and leaves between two looks is not met")
	l := d.h.newLook(d.judge)
	err := d.settle(ctx, l, unix.SIGSTOP)
	// Whatever came of it, nothing of the target stays merely stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.h.cfg.Patience)
	defer cancel()
	err = errors.Join(err, d.settle(ctx, l, unix.SIGKILL))
	d.letGo(l)
	return errors.Join(err, l.trouble())
}

// letGo deals with those that were stopped and not killed, so that nobody stays
// stopped. Most have died since. But a stop signal that meets a process on its
// way to another program takes effect when it has got there: such a one is no
// match any more, and is forgotten.
func (d *Hold) letGo(l *look) {
	for _, c := range d.caught() {
		d.mu.Lock()
		pidfd, stopped := c.pidfd, c.pidfd >= 0 && !c.Gone && !c.Killed && c.Err == nil
		d.mu.Unlock()
		if !stopped {
			continue
		}
		f, err := l.verdict(c.PID, true)
		sig := unix.SIGCONT
		if f != nil {
			closeFile(f.file)
			sig = unix.SIGKILL
		}
		if waitDead(over(), pidfd) {
			continue // and what was judged may have been another with its number
		}
		err = errors.Join(err, unix.PidfdSendSignal(pidfd, sig, nil, 0))
		d.mu.Lock()
		c.Killed, c.Err = f != nil && err == nil, err
		d.mu.Unlock()
		if f == nil && err == nil {
			d.forget(c)
		}
	}
}

// settle sends the signal to all matches until three looks in a row find none
// that has not had it. Killing gives up after a hundred looks.
func (d *Hold) settle(ctx context.Context, l *look, sig unix.Signal) error {
	const looks, most = 3, 100
	clean := 0
	for range most {
		pids, err := d.h.proc.pids()
		if err != nil {
			return err
		}
		fresh, err := d.sweep(ctx, l, pids, sig)
		if err != nil {
			return err
		}
		if clean++; fresh > 0 {
			clean = 0
		}
		if clean == looks {
			return nil
		}
	}
	return fmt.Errorf("new matches were met at each of %d looks", most)
}
