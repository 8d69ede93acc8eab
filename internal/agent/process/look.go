// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"staunch/internal/agent/inode"
)

// Look examines every process and returns those that run the target. It kills
// nobody and arms nothing. Each file that matched is handed out once, open, in
// the File of the first match that runs it; the caller closes it. An error says
// that not every process could be examined; what was found is returned with it.
//
// That nothing was found is more than that a list had nothing in it: where
// forks and executions can be followed (see Follows), whoever was born or
// executed meanwhile was examined too.
func (h *Holder) Look(ctx context.Context, t Target) ([]Match, error) {
	if t.Match == nil {
		return nil, errors.New("cannot look for a target without a way to recognise its content")
	}
	return h.newLook(newJudge(t, h.table)).all(ctx, true)
}

// Look examines every process anew and returns those that match, killing
// none. Their File is nil. An error says that not every process could be
// examined.
func (d *Hold) Look(ctx context.Context) ([]Match, error) {
	return d.h.newLook(d.judge).all(ctx, false)
}

// all examines every process.
func (l *look) all(ctx context.Context, files bool) ([]Match, error) {
	got := &gathered{look: l, files: files, seen: make(map[identity]bool), handed: make(map[inode.ID]bool)}
	s, err := l.h.follow()
	if err == nil && s == nil {
		return got.glances(ctx)
	}
	if err == nil {
		err = got.follow(ctx, s)
		err = errors.Join(err, s.close())
	}
	return got.take(), errors.Join(err, l.trouble())
}

// ErrOutrun says that not everybody was seen.
var ErrOutrun = errors.New(outrun)

// follow goes on until nobody is left whom nobody has looked at, or a match is
// met and everybody who was there at the beginning has been looked at.
func (g *gathered) follow(ctx context.Context, s stream) error {
	if _, sized := g.look.judge.bytes(); !sized {
		// All that runs has to be read, which takes as long as it takes.
		if err := g.glance(ctx); err != nil || g.any() {
			return err
		}
	}
	patient, cancel := context.WithTimeout(ctx, g.look.h.cfg.Patience)
	defer cancel()
	c := newPursuit(g.look, g.deal)
	c.ended = g.any
	complete, err := c.run(patient, s)
	switch {
	case err != nil || complete:
		return err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return ErrOutrun
}

// glances is what can be done where nobody tells of forks and executions.
func (g *gathered) glances(ctx context.Context) ([]Match, error) {
	const looks = 3
	var err error
	for i := 0; i < looks && err == nil && !g.any(); i++ {
		err = g.glance(ctx)
	}
	return g.take(), errors.Join(err, g.look.trouble())
}

// glance looks at everybody once.
func (g *gathered) glance(ctx context.Context) error {
	pids, err := g.look.h.proc.pids()
	if err != nil {
		return err
	}
	return g.look.h.each(ctx, pids, func(pid int) { g.deal(pid) })
}

// gathered are the matches of one look.
type gathered struct {
	look  *look
	files bool // hand out the files

	mu     sync.Mutex
	seen   map[identity]bool // guarded by mu
	handed map[inode.ID]bool // guarded by mu; files that were handed out
	over   bool              // guarded by mu; taken: whoever is late is not listed
	all    []Match           // guarded by mu
}

// deal examines a process and keeps it if it matches.
func (g *gathered) deal(pid int) outcome {
	f := g.look.examine(pid, true)
	if f == nil {
		return harmless
	}
	m := g.look.h.describe(pid, f)
	g.mu.Lock()
	defer g.mu.Unlock()
	if f.file != nil && g.files && !g.over && !g.handed[m.Ident] {
		g.handed[m.Ident] = true
		m.File = f.file
	} else {
		closeFile(f.file)
	}
	if who := (identity{m.PID, m.Start}); !g.over && (m.File != nil || !g.seen[who]) {
		g.seen[who] = true
		g.all = append(g.all, m)
	}
	return known
}

func (g *gathered) any() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.all) > 0
}

// take returns what was met, and ends it.
func (g *gathered) take() []Match {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	return g.all
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
	m := Match{PID: pid, How: f.how, Ident: f.stat.ID, Size: f.stat.Size, UID: h.proc.owner(pid)}
	if v, err := h.proc.vital(pid); err == nil {
		m.Start, m.PPID = v.start, v.ppid
	}
	m.Exe, _ = h.proc.link(f.pid, "exe")              // empty when it has just gone
	b, _ := h.proc.read(f.pid, "cmdline", maxCommand) // the same
	m.Command = string(b)
	return m
}
