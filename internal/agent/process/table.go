// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// table is what is known of what runs before anybody asks: the digests of each
// program that runs, and which script each interpreter was started with, taken
// as it was started, before it could delete the script or rewrite its
// arguments. It follows forks and executions; where they cannot be followed it
// lists all processes now and then. What it knows is a help and never a proof:
// whoever looks looks himself, and asks the table for what is not there to be
// seen any more.
type table struct {
	h      *Holder
	stream stream // nil = list now and then
	source string
	cancel context.CancelFunc
	done   chan struct{}
	turn   chan struct{} // one takes events in at a time
	deaf   atomic.Bool   // the stream has failed

	mu       sync.Mutex
	programs map[inode.ID]content // guarded by mu; at most maxPrograms
	scripts  map[int]script       // guarded by mu; by process, at most maxScripts
	families map[inode.ID]*family // guarded by mu; nil where it is no interpreter
	waiting  []waiting            // guarded by mu; programs to be read
	queued   map[inode.ID]bool    // guarded by mu; those in waiting
	heard    uint64               // guarded by mu
	lost     uint64               // guarded by mu
}

// content is a version of a file and its digests.
type content struct {
	stat inode.Stat
	sum  filehash.Sum
}

// script is what an interpreter was given.
type script struct {
	content
	start uint64   // of the process
	exe   inode.ID // the interpreter
	args  uint64   // a digest of its arguments
	name  string   // by which it was given; "" = on standard input
}

// waiting is a program that is to be read while a process runs it.
type waiting struct {
	pid  int
	stat inode.Stat
	from time.Time // when it was seen: what ends soon is not read
}

// The bounds of the table. What does not fit is not known, and looked at when
// somebody asks.
const (
	maxPrograms   = 8192
	maxScripts    = 8192
	maxWaiting    = 4096
	maxScriptSize = 16 << 20  // bytes; a longer script is not read
	maxReadAhead  = 256 << 20 // bytes; a larger program is not

	lingers   = time.Second      // how long a program must have run before it is read
	listEvery = 10 * time.Second // where nobody tells of executions
	idleWait  = 100 * time.Millisecond
)

// TableStatus is how the standing table is, for people.
type TableStatus struct {
	Source   string `json:"source"`   // bpf, connector or list
	Programs int    `json:"programs"` // whose digests are known
	Scripts  int    `json:"scripts"`  // processes of which it is known which script they were started with
	Waiting  int    `json:"waiting"`  // programs to be read
	Heard    uint64 `json:"heard"`    // forks and executions
	Lost     uint64 `json:"lost"`     // how often some were lost, and everything was listed anew
}

func newTable(h *Holder) *table {
	return &table{
		h: h, source: "list", done: make(chan struct{}), turn: make(chan struct{}, 1),
		programs: make(map[inode.ID]content), scripts: make(map[int]script), families: make(map[inode.ID]*family),
		queued: make(map[inode.ID]bool),
	}
}

// startTable begins to keep the table.
func (h *Holder) startTable() error {
	t := newTable(h)
	s, err := h.follow()
	if err != nil {
		return err
	}
	if t.stream = s; s != nil {
		t.source = RungConnector
		if h.hooks != nil {
			t.source = RungBPF
		}
	}
	var ctx context.Context
	ctx, t.cancel = context.WithCancel(context.Background())
	h.table = t
	first := make(chan struct{})
	h.working.Add(1) // Close leaves it behind if a file system that does not answer holds it up
	go func() {
		defer h.working.Add(-1)
		defer close(t.done)
		t.list()
		close(first)
		t.run(ctx)
	}()
	// Who runs already is known before anybody is told that the agent is there.
	select {
	case <-first:
	case <-time.After(listEvery): // a file system that does not answer
	}
	return nil
}

// stop ends the table.
func (t *table) stop() error {
	t.cancel()
	select {
	case <-t.done:
	case <-time.After(2 * time.Second):
		return errors.New("cannot end the table of processes: opening a process's file is being held up by another program")
	}
	if t.stream == nil {
		return nil
	}
	return t.stream.close()
}

// Table returns how the standing table is; false where none is kept.
func (h *Holder) Table() (TableStatus, bool) {
	t := h.table
	if t == nil {
		return TableStatus{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return TableStatus{
		Source: t.source, Programs: len(t.programs), Scripts: len(t.scripts), Waiting: len(t.waiting), Heard: t.heard, Lost: t.lost,
	}, true
}

// run keeps the table until ctx ends.
func (t *table) run(ctx context.Context) {
	listed := time.Now()
	for ctx.Err() == nil {
		switch {
		case t.hears():
			if err := t.stream.await(idleWait); err != nil {
				t.fail(err)
			}
			t.catchUp()
		case time.Since(listed) > listEvery:
			t.list()
			listed = time.Now()
		default:
			pause(ctx, idleWait)
		}
		t.readAhead(ctx)
	}
}

// hears reports whether forks and executions are told.
func (t *table) hears() bool { return t.stream != nil && !t.deaf.Load() }

// fail goes on without a stream.
func (t *table) fail(err error) {
	t.h.cfg.Log.Error("executions cannot be followed any more: what runs is listed now and then", "error", err)
	t.deaf.Store(true)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.source = "list"
	t.lost++
}

// catchUp takes in what has happened so far. If somebody is at it and held up,
// it does not wait for long.
func (t *table) catchUp() {
	if t == nil || !t.hears() {
		return
	}
	select {
	case t.turn <- struct{}{}:
	case <-time.After(idleWait):
		return
	}
	defer func() { <-t.turn }()
	events, lost, err := t.stream.drain()
	if err != nil {
		t.fail(err)
		return
	}
	t.mu.Lock()
	t.heard += uint64(len(events))
	t.mu.Unlock()
	if lost {
		t.mu.Lock()
		t.lost++
		t.mu.Unlock()
		t.list()
	}
	for _, e := range events {
		if e.exec {
			t.executed(e.pid, false)
		} else {
			t.forked(e.pid, e.parent)
		}
	}
}

// list takes in everybody who is there.
func (t *table) list() {
	pids, err := t.h.proc.pids()
	if err != nil {
		t.h.cfg.Log.Warn("cannot list processes", "error", err)
		return
	}
	t.sweep()
	for _, pid := range pids {
		t.executed(pid, true)
	}
}

// sweep forgets processes that are gone, and programs nobody has run since.
func (t *table) sweep() {
	t.mu.Lock()
	old := make(map[int]uint64, len(t.scripts))
	for pid, s := range t.scripts {
		old[pid] = s.start
	}
	t.mu.Unlock()
	for pid, start := range old {
		if v, err := t.h.proc.vital(pid); err == nil && v.start == start {
			delete(old, pid)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for pid, start := range old {
		if t.scripts[pid].start == start {
			delete(t.scripts, pid)
		}
	}
	if len(t.programs) >= maxPrograms {
		clear(t.programs) // those that run are read again
	}
}
