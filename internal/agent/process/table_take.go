// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"hash/fnv"
	"io"
	"os"
	"time"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// executed takes in that a process executes what it does now. listed says that
// it may have done so for long, and its script be gone: then what is known of it
// stays, unless its arguments are others.
func (t *table) executed(pid int, listed bool) {
	st, err := t.h.proc.stat(pid, "exe")
	t.mu.Lock()
	known := t.programs[st.ID].stat.Same(st)
	fam, seen := t.families[st.ID]
	before, had := t.scripts[pid]
	t.mu.Unlock()
	if err != nil || !st.Regular() {
		t.forget(pid, had)
		return // a kernel thread, or gone
	}
	if !seen {
		if fam, err = t.h.familyOf(pid, st); err != nil {
			return
		}
	}
	t.mu.Lock()
	if len(t.families) >= maxPrograms {
		clear(t.families)
	}
	t.families[st.ID] = fam
	if !known && !t.queued[st.ID] && len(t.waiting) < maxWaiting && st.Size <= maxReadAhead {
		t.queued[st.ID] = true
		t.waiting = append(t.waiting, waiting{pid, st, time.Now()})
	}
	t.mu.Unlock()
	if fam == nil {
		t.forget(pid, had)
		return
	}
	s, ok := t.given(pid, fam)
	s.exe = st.ID
	switch {
	case ok:
		t.keep(pid, s)
	case listed && had && before.start == s.start && before.exe == st.ID && before.args == s.args:
	default:
		t.forget(pid, had)
	}
}

func (t *table) forget(pid int, had bool) {
	if !had {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.scripts, pid)
}

func (t *table) keep(pid int, s script) {
	t.mu.Lock()
	full := len(t.scripts) >= maxScripts
	t.mu.Unlock()
	if full {
		t.sweep()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.scripts) < maxScripts {
		t.scripts[pid] = s
	}
}

// forked takes in that a process was born: it runs what its parent does.
// parent is 0 where it was not told.
func (t *table) forked(pid, parent int) {
	t.mu.Lock()
	n := len(t.scripts)
	t.mu.Unlock()
	if n == 0 {
		return
	}
	v, err := t.h.proc.vital(pid)
	if err != nil {
		return // gone
	}
	if parent == 0 {
		parent = v.ppid
	}
	t.mu.Lock()
	s, ok := t.scripts[parent]
	t.mu.Unlock()
	if ok && s.start <= v.start {
		s.start = v.start
		t.keep(pid, s)
	}
}

// given reads the script that an interpreter was started with.
func (t *table) given(pid int, fam *family) (s script, ok bool) {
	v, err := t.h.proc.vital(pid)
	if err != nil {
		return s, false
	}
	s.start = v.start
	b, err := t.h.proc.read(pid, "cmdline", 1<<20)
	if err != nil {
		return s, false
	}
	sum := fnv.New64a()
	sum.Write(b) //nolint:errcheck // never fails
	s.args = sum.Sum64()
	fam, args := fam.applet(arguments(b))
	if fam == nil {
		return s, false
	}
	names, stdin := fam.given(args)
	for _, name := range names {
		if f, err := t.h.openAs(pid, name); err == nil {
			s.content, ok = t.digest(f, maxScriptSize)
			s.name = name
			return s, ok
		}
	}
	if !stdin {
		return s, false
	}
	st, err := t.h.proc.stat(pid, "fd/0")
	if err != nil || !st.Regular() {
		return s, false
	}
	if f, err := t.h.proc.open(pid, "fd/0"); err == nil {
		s.content, ok = t.digest(f, maxScriptSize)
	}
	return s, ok
}

// digest returns the digests of an open file, and closes it. What it has read
// it remembers, unless it may change without its times telling.
func (t *table) digest(f *os.File, limit int64) (c content, ok bool) {
	defer closeFile(f)
	st, err := inode.Of(f)
	if err != nil || !st.Regular() || st.Size > limit {
		return c, false
	}
	t.mu.Lock()
	c, ok = t.programs[st.ID]
	t.mu.Unlock()
	if ok && c.stat.Same(st) {
		return c, true
	}
	began := time.Now()
	sum, err := filehash.Compute(io.NewSectionReader(f, 0, limit+1))
	if err != nil || sum.Size != st.Size {
		return c, false
	}
	c = content{st, sum}
	after, err := inode.Of(f)
	if err != nil || !after.Same(st) {
		return c, false
	}
	if began.Sub(st.Ctime) > settled {
		t.mu.Lock()
		defer t.mu.Unlock()
		if len(t.programs) < maxPrograms {
			t.programs[st.ID] = c
		}
	}
	return c, true
}

// readAhead reads one program that waits, if it runs still, and rests for as
// long as that took: the table takes no more than half a processor.
func (t *table) readAhead(ctx context.Context) {
	t.mu.Lock()
	if len(t.waiting) == 0 || time.Since(t.waiting[0].from) < lingers {
		t.mu.Unlock()
		return
	}
	w := t.waiting[0]
	t.waiting = t.waiting[1:]
	delete(t.queued, w.stat.ID)
	known := t.programs[w.stat.ID].stat.Same(w.stat)
	full := len(t.programs) >= maxPrograms
	t.mu.Unlock()
	if full {
		t.sweep()
	}
	if st, err := t.h.proc.stat(w.pid, "exe"); known || err != nil || !st.Same(w.stat) {
		return
	}
	f, err := t.h.proc.open(w.pid, "exe")
	if err != nil {
		return
	}
	began := time.Now()
	t.digest(f, maxReadAhead)
	pause(ctx, time.Since(began))
}

// sum returns the digests of a version of a file, where they are known.
func (t *table) sum(st inode.Stat) (filehash.Sum, bool) {
	if t == nil {
		return filehash.Sum{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.programs[st.ID]
	return c.sum, ok && c.stat.Same(st)
}

// script returns what the process was started with, where that is known.
func (t *table) script(pid int) (script, bool) {
	if t == nil {
		return script{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.scripts[pid]
	return s, ok
}
