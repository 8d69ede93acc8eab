// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"staunch/internal/agent/inode"
)

// Look examines every process and returns those that run the target. It kills
// nobody and arms nothing. Each file that matched is handed out once, open, in
// the File of the first match that runs it; the caller closes it. An error says
// that not every process could be examined; what was found is returned with it.
func (h *Holder) Look(ctx context.Context, t Target) ([]Match, error) {
	if t.Match == nil {
		return nil, errors.New("cannot look for a target without a way to recognise its content")
	}
	handed := make(map[inode.ID]bool)
	return h.newLook(newJudge(t)).all(ctx, func(m *Match, f *finding) {
		if handed[m.Ident] {
			closeFile(f.file)
			return
		}
		handed[m.Ident] = true
		m.File = f.file
	})
}

// Look examines every process anew and returns those that match, killing
// none. Their File is nil. An error says that not every process could be
// examined.
func (d *Hold) Look(ctx context.Context) ([]Match, error) {
	return d.h.newLook(d.judge).all(ctx, func(_ *Match, f *finding) { closeFile(f.file) })
}

// all examines every process; keep is called for each match, one at a time,
// and takes the open file over.
func (l *look) all(ctx context.Context, keep func(*Match, *finding)) ([]Match, error) {
	pids, err := l.h.proc.pids()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var all []Match
	err = l.h.each(ctx, pids, func(pid int) {
		f := l.examine(pid, true)
		if f == nil {
			return
		}
		m := l.h.describe(pid, f)
		mu.Lock()
		defer mu.Unlock()
		keep(&m, f)
		all = append(all, m)
	})
	mu.Lock()
	defer mu.Unlock()
	return slices.Clone(all), errors.Join(err, l.trouble())
}

// trouble joins what a look could not judge.
func (l *look) trouble() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := errors.Join(l.problems...)
	if l.denied > 0 {
		err = errors.Join(err, fmt.Errorf("%d processes of other users could not be looked at: run as root", l.denied))
	}
	return err
}

// describe tells what is known of a matching process while it lives.
func (h *Holder) describe(pid int, f *finding) Match {
	m := Match{PID: pid, How: f.how, Ident: f.stat.ID, UID: h.proc.owner(pid)}
	if v, err := h.proc.vital(pid); err == nil {
		m.Start, m.PPID = v.start, v.ppid
	}
	m.Exe, _ = h.proc.link(f.pid, "exe")              // empty when it has just gone
	b, _ := h.proc.read(f.pid, "cmdline", maxCommand) // the same
	m.Command = string(b)
	return m
}
