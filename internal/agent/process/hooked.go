// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// watcher judges, off the reader's back, what is executed while holds stand.
type watcher struct {
	h        *Holder
	queue    chan hookEvent
	pending  atomic.Int64 // queued or being dealt with
	overflow atomic.Bool  // events were dropped: everything must be looked at
	workers  sync.WaitGroup
	stop     context.CancelFunc
}

// prepareHooks loads the hooks and proves with a harmless program of its own
// that they kill.
func (h *Holder) prepareHooks() error {
	if !h.proc.host {
		return errors.New("the agent does not see the machine's own process numbers: run it outside of containers")
	}
	w := &watcher{h: h, queue: make(chan hookEvent, 4096)}
	hooks, err := loadHooks(w.push, h.cfg.oldKernel)
	if err != nil {
		return err
	}
	h.hooks, h.watcher = hooks, w
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	for range 2 {
		w.workers.Go(func() { w.work(ctx) })
	}
	if err := h.tryHooks(); err != nil {
		return errors.Join(err, h.dropHooks())
	}
	return nil
}

// push takes an event from the reader.
func (w *watcher) push(e hookEvent) {
	w.pending.Add(1)
	select {
	case w.queue <- e:
	default:
		w.pending.Add(-1)
		w.overflow.Store(true)
	}
}

// settle waits until what has happened so far is dealt with, so that a result
// lists what the hooks have killed. On a machine that never rests it gives up:
// the list is for people, the proof does not depend on it.
func (w *watcher) settle(ctx context.Context) error {
	if err := w.h.hooks.flush(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for w.pending.Load() > 0 && ctx.Err() == nil {
		time.Sleep(50 * time.Microsecond)
	}
	return nil
}

// dropHooks takes the hooks out of the kernel and ends what serves them.
func (h *Holder) dropHooks() error {
	if h.hooks == nil {
		return nil
	}
	err := h.hooks.close()
	h.watcher.close()
	h.hooks, h.watcher = nil, nil
	return err
}

func (w *watcher) close() {
	w.stop()
	w.workers.Wait()
}

func (w *watcher) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-w.queue:
			w.h.working.Add(1)
			for _, d := range w.h.armed() {
				d.event(ctx, e)
			}
			w.h.working.Add(-1)
			w.pending.Add(-1)
		}
		if w.overflow.Swap(false) {
			w.sweep(ctx)
		}
	}
}

// sweep looks at everything after events were lost.
func (w *watcher) sweep(ctx context.Context) {
	pids, err := w.h.proc.pids()
	if err != nil {
		w.h.cfg.Log.Error("cannot look again after lost events", "error", err)
		return
	}
	for _, d := range w.h.armed() {
		l := w.h.newLook(d.judge)
		_ = w.h.each(ctx, pids, func(pid int) { d.take(l, pid, true, unix.SIGKILL) }) // an end of ctx is our own
	}
}

// event deals with one exec, or with what a hook has killed.
func (d *Hold) event(ctx context.Context, e hookEvent) {
	if e.Killed == 0 {
		l := d.h.newLook(d.judge)
		got := d.take(l, int(e.PID), !d.judge.program(), unix.SIGKILL)
		err := l.trouble()
		if (got == news || d.vanished(int(e.PID))) && !d.stops() {
			err = errors.Join(err, d.mop(ctx))
		}
		if err != nil {
			d.h.cfg.Log.Warn("cannot judge an execution", "pid", e.PID, "error", err)
		}
		return
	}
	m, ok := d.struck(e)
	if !ok {
		return // another hold's
	}
	c := &caught{pidfd: -1, Match: m}
	fd, err := unix.PidfdOpen(c.PID, 0)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL): // dead, or being taken down
		c.Gone, c.Done = true, time.Now()
	case err == nil:
		// The number may have passed on: then what it meant is dead.
		if v, err := d.h.proc.vital(c.PID); err == nil && v.start == c.Start {
			c.pidfd = fd
			c.UID = d.h.proc.owner(c.PID)
		} else {
			closeFile(os.NewFile(uintptr(fd), "pidfd"))
			c.Gone, c.Done = true, time.Now()
		}
	}
	d.note(c)
}

// mop finds what a program has forked between its execution and the look at
// it, as Stop does. From then on the hooks let it fork no more.
func (d *Hold) mop(ctx context.Context) error {
	d.stopping.Lock()
	defer d.stopping.Unlock()
	if !d.begin() {
		return nil // released
	}
	ctx, cancel := context.WithTimeout(ctx, d.h.cfg.Patience)
	defer cancel()
	l := d.h.newLook(d.judge)
	s, err := d.h.hooks.stream()
	complete := true
	if err == nil {
		complete, err = d.chase(ctx, l, s)
		err = errors.Join(err, s.close(), l.trouble())
	}
	d.end()
	var r Result
	d.harvest(ctx, &r)
	for _, m := range r.Matches {
		if d.t.Seen != nil {
			d.t.Seen(m)
		} else if m.File != nil {
			closeFile(m.File)
		}
	}
	if err == nil && !complete {
		err = ErrOutrun
	}
	return err
}

// vanished reports whether a process that was told to execute a file of the
// target's size is gone already: it may have left children.
func (d *Hold) vanished(pid int) bool {
	if !d.judge.program() {
		return false // then every execution is told of
	}
	_, err := d.h.proc.stat(pid, "exe")
	return gone(err)
}

// stops reports whether Stop is at work, which finds everybody.
func (d *Hold) stops() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.quiet
}

// struck describes what a hook has killed for this hold.
func (d *Hold) struck(e hookEvent) (Match, bool) {
	const tick = uint64(time.Second / 100) // USER_HZ is 100 wherever Linux runs Go
	m := Match{PID: int(e.PID), PPID: int(e.Parent), Start: e.Start / tick, How: Executes, Killed: true}
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.pins[e.Inode]; p != nil {
		m.Exe, m.Ident = p.name, p.stat.ID
		return m, true
	}
	if p, ok := d.doomed[m.PPID]; ok && e.Kind == kindFork {
		m.Exe, m.Ident, m.How, m.Command = p.Exe, p.Ident, p.How, p.Command
		return m, true
	}
	return m, false
}

// stopHooked is the rung bpf. The hooks have been armed: nothing is born of a
// match any more, so what two passes of the task iterator do not find, is not
// there. Mappings and scripts are then followed by the same events.
func (d *Hold) stopHooked(ctx context.Context, r *Result) error {
	l := d.h.newLook(d.judge)
	for clean := 0; clean < 2; {
		fresh, err := d.pass(ctx, l)
		if err != nil {
			return err
		}
		if clean++; fresh > 0 {
			clean = 0
		}
	}
	d.bury(ctx)
	s, err := d.h.hooks.stream()
	if err != nil {
		return err
	}
	complete, err := d.chase(ctx, l, s)
	err = errors.Join(err, s.close())
	r.Proven = complete && err == nil
	if err == nil && !complete {
		r.Notes = append(r.Notes, outrun)
	}
	return errors.Join(err, l.trouble())
}

// pass runs the task iterator once, kills what matches and returns how many
// had not been killed before.
func (d *Hold) pass(ctx context.Context, l *look) (int, error) {
	pids, err := d.suspects()
	if err != nil {
		return 0, err
	}
	sure := make(map[int]bool, len(pids))
	for _, p := range pids {
		sure[p.pid] = p.denied
	}
	var fresh atomic.Int64
	err = d.h.each(ctx, numbers(pids), func(pid int) {
		take := d.take
		if sure[pid] {
			take = d.seize
		}
		if take(l, pid, false, unix.SIGKILL) == news {
			fresh.Add(1)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("cannot finish killing: %w", err)
	}
	return int(fresh.Load()), nil
}

// suspect is a process that may execute the target; denied: by what the kernel
// says, it does.
type suspect struct {
	pid    int
	denied bool
}

func numbers(all []suspect) []int {
	pids := make([]int, len(all))
	for i, s := range all {
		pids[i] = s.pid
	}
	return pids
}

// suspects lists, through the task iterator, all processes but those whose
// program the kernel knows to have another size than the target.
func (d *Hold) suspects() ([]suspect, error) {
	records, err := d.h.hooks.list()
	if err != nil {
		return nil, err
	}
	size, sized := d.judge.bytes()
	all := make([]suspect, 0, 16)
	for _, r := range records {
		const vague = ^uint64(0)
		if r.Denied != 0 || !sized || r.Size == vague || r.Size == uint64(size) { //nolint:gosec // not negative when known
			all = append(all, suspect{pid: int(r.PID), denied: r.Denied != 0})
		}
	}
	return all, nil
}
