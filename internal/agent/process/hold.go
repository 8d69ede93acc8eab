// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// Hold stands for one target, from Arm until Release.
type Hold struct {
	h     *Holder
	t     Target
	judge *judge

	stopping sync.Mutex // one Stop at a time
	runners  runners

	mu      sync.Mutex
	pins    map[uint64]*pin      // guarded by mu; by kernel address of the inode
	met     map[identity]*caught // guarded by mu
	order   []*caught            // guarded by mu; as they were met
	count   int                  // guarded by mu; all that were met
	doomed  map[int]Match        // guarded by mu; those whose offspring the hooks kill, by number
	sealed  map[inode.ID]bool    // guarded by mu; nameless files already handed out
	quiet   bool                 // guarded by mu; Stop is at work and takes the matches itself
	running bool                 // guarded by mu; between Arm and Release
}

// identity tells one process from another that later has its number.
type identity struct {
	pid   int
	start uint64
}

// caught is a match and the descriptor by which its end is awaited.
type caught struct {
	Match
	pidfd int // -1 = none
}

// pin is a file whose inode the kernel hooks know by its address; the
// descriptor keeps the inode, and so the address, alive.
type pin struct {
	file *os.File
	stat inode.Stat
	name string
}

// maxMet bounds the matches that are remembered one by one.
const maxMet = 10_000

// ErrOther says that a file given as a copy has another content by now. Should
// it change back, it is recognised by content like those nobody knew.
var ErrOther = errors.New("its content is not the target's any more")

// Arm begins to hold a target: from its return on, with the bpf rung, whatever
// executes a known copy is killed before its first instruction, other copies
// are recognised by content as they are executed, and no match can fork.
// On the other rungs nothing happens before Stop.
func (h *Holder) Arm(t Target) (*Hold, error) {
	if t.Match == nil {
		return nil, errors.New("cannot hold a target without a way to recognise its content")
	}
	if t.Size < 0 {
		return nil, fmt.Errorf("cannot hold a target of %d bytes", t.Size)
	}
	d := &Hold{
		h: h, t: t, judge: newJudge(t, h.table), running: true,
		pins: make(map[uint64]*pin), met: make(map[identity]*caught), sealed: make(map[inode.ID]bool), doomed: make(map[int]Match),
	}
	for _, c := range t.Copies {
		if err := d.Add(c); err != nil {
			d.Release()
			return nil, err
		}
	}
	h.mu.Lock()
	h.holds[d] = struct{}{}
	h.mu.Unlock()
	if h.hooks != nil {
		if err := h.hooks.watch(d); err != nil {
			d.Release()
			return nil, err
		}
	}
	return d, nil
}

// Add tells the hold of one more copy.
func (d *Hold) Add(c Copy) error {
	now, err := inode.Of(c.File)
	if err != nil {
		return err
	}
	if !now.Regular() {
		return fmt.Errorf("cannot hold %s: it is not a regular file", c.File.Name())
	}
	if now.Same(c.Stat) {
		d.judge.remember(now, true)
		d.judge.learn(c.File, now)
	}
	return d.deny(c.File)
}

// deny has the kernel kill what executes the file, whose content is checked
// once more unless it was just read.
func (d *Hold) deny(f *os.File) error {
	yes, st, err := d.judge.file(f)
	if err != nil {
		return err
	}
	if !yes {
		return fmt.Errorf("cannot hold %s: %w", f.Name(), ErrOther)
	}
	if pid := d.sparedRunner(st.ID); pid != 0 {
		return fmt.Errorf("cannot hold %s: process %d runs it, which is init or the agent's own", f.Name(), pid)
	}
	if d.h.hooks == nil {
		return nil
	}
	file, err := refer(f)
	if err != nil {
		return fmt.Errorf("cannot hold file: %w", err)
	}
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		name = f.Name()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.running {
		return errors.Join(errors.New("cannot hold file: the hold was released"), file.Close())
	}
	addr, err := d.h.hooks.deny(file, func(addr uint64) bool { return d.pins[addr] == nil })
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if p := d.pins[addr]; p != nil {
		p.stat = st
		return file.Close()
	}
	d.pins[addr] = &pin{file: file, stat: st, name: name}
	return nil
}

// denies reports whether the kernel holds the file already, as it is now.
func (d *Hold) denies(st inode.Stat) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pins {
		if p.stat.ID == st.ID && p.stat.Size == st.Size && p.stat.Mtime.Equal(st.Mtime) {
			return true
		}
	}
	return false
}

// sparedRunner returns a process that runs the file and must not be killed; 0
// means none.
func (d *Hold) sparedRunner(id inode.ID) int { return d.runners.of(d.h, id) }

// runners are the files that spared processes execute. To list them takes
// longer than all else that arming one copy does, and a thousand are armed one
// after the other, so a list serves for a moment.
type runners struct {
	mu    sync.Mutex
	until time.Time        // guarded by mu
	all   map[inode.ID]int // guarded by mu
}

// runnersFor is how long a list serves.
const runnersFor = 50 * time.Millisecond

func (r *runners) of(h *Holder, id inode.ID) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if now.Before(r.until) {
		return r.all[id]
	}
	pids, err := h.proc.pids()
	if err != nil {
		return 0
	}
	r.until, r.all = now.Add(runnersFor), map[inode.ID]int{}
	for _, pid := range pids {
		if !h.spared(pid) {
			continue
		}
		if st, err := h.proc.stat(pid, "exe"); err == nil {
			r.all[st.ID] = pid
		}
	}
	return r.all[id]
}

// Program reports whether the content is known to be no script.
func (d *Hold) Program() bool { return d.judge.program() }

// Release ends the hold. It may be called more than once.
func (d *Hold) Release() {
	d.stopping.Lock()
	defer d.stopping.Unlock()
	d.h.mu.Lock()
	delete(d.h.holds, d)
	d.h.mu.Unlock()
	if d.h.hooks != nil {
		d.h.hooks.unwatch(d)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running = false
	for addr, p := range d.pins {
		if d.h.hooks != nil {
			d.h.hooks.allow(addr)
		}
		closeFile(p.file)
	}
	clear(d.pins)
	for _, c := range d.order {
		c.drop()
	}
	d.order = nil
	clear(d.met)
}

// closePidfd lets go of a process that is dead or given up.
func (c *caught) closePidfd() {
	if c.pidfd >= 0 {
		unix.Close(c.pidfd) //nolint:errcheck // a handle: nothing can be lost
		c.pidfd = -1
	}
}

// monotonic returns the clock the kernel stamps its events with.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return time.Now().UnixNano() // cannot happen; late is on the safe side
	}
	return ts.Nano()
}
