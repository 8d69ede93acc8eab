// SPDX-License-Identifier: Apache-2.0

// Package process finds, holds and kills every process that runs a file, so
// that none can escape by forking, and never harms another.
//
// Arm it with a Target, Stop it, Look again, Release it. It promises:
//
//   - No process is killed that does not run a file whose content is the
//     target's: what it runs is read through /proc right before the kill, and
//     what the kernel kills by itself is a file the holder has verified and
//     keeps open. Names decide nothing.
//   - Result.Proven is true only if the method used excludes that a match
//     escaped by forking, every process was examined, and every match is dead.
//   - Nobody is left frozen: what is frozen is recorded on the disk before, a
//     timer thaws in bounded time, and New thaws what a dead agent left.
//
// docs/holding.md says how each rung works and what it does not cover.
package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// The rungs, from the strongest to the weakest.
const (
	RungBPF        = "bpf"        // hooks in the kernel on exec and fork
	RungFreeze     = "freeze"     // control groups frozen, then looked at while at rest
	RungConnector  = "connector"  // following the fork and exec events of the process connector
	RungBestEffort = "besteffort" // stop signals until nothing new appears; never proven
)

// Config says how a Holder works.
type Config struct {
	Rung     string             // "" = the strongest this machine has; else a rung, and New fails where it is not to be had
	Spare    func(pid int) bool // processes never killed or frozen besides pid 1 and this one: the agent's own; nil = none
	Table    bool               // keep a standing table of what runs: for an agent that stays
	StateDir string             // where a freeze is recorded; "" = the freeze rung is not used
	Keeper   []string           // arguments with which this program, given StateDir and a duration besides, calls Keep; nil = after this process's death the next start thaws
	Log      *slog.Logger       // nil = silent

	Patience time.Duration // how long Stop goes on while new matches keep appearing, and waits for a file that does not open; 0 = 5 s
	Death    time.Duration // how long Stop waits for the killed to be gone; 0 = 5 s
	Freeze   time.Duration // longest time anybody stays frozen; 0 = 1 s

	oldKernel bool // do without what kernels before 6.13 lack; false = use what is there
}

// Holder holds what one machine needs to find and kill. Its methods may be
// called from several goroutines.
type Holder struct {
	cfg     Config
	proc    *procfs
	hooks   *hooks   // nil where BPF is not to be had or not wanted
	watcher *watcher // serves hooks; nil with them
	table   *table   // nil where none is kept
	why     string   // why the rung is the one it is
	rung    string

	working      atomic.Int64 // goroutines that examine processes
	freezing     sync.Mutex   // one freeze at a time on this machine's groups
	interpreters interpreters
	connects     sync.Once // sets unheard
	unheard      error     // why the process connector cannot be used

	mu    sync.Mutex
	holds map[*Hold]struct{} // armed and not released
}

// New prepares the strongest rung the machine has, or the one asked for. It
// loads the kernel hooks, which takes about 100 ms, and thaws what a dead
// agent left frozen.
func New(cfg Config) (*Holder, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	if cfg.Death == 0 {
		cfg.Death = 5 * time.Second
	}
	if cfg.Freeze == 0 {
		cfg.Freeze = time.Second
	}
	if cfg.StateDir != "" {
		if err := ThawLeftover(cfg.StateDir); err != nil {
			return nil, err
		}
	}
	proc, err := openProc()
	if err != nil {
		return nil, err
	}
	h := &Holder{cfg: cfg, proc: proc, holds: make(map[*Hold]struct{})}
	if err := h.choose(); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	if cfg.Table {
		if err := h.startTable(); err != nil {
			return nil, errors.Join(err, h.Close())
		}
	}
	cfg.Log.Info("ready to hold processes", "rung", h.rung, "why", h.why)
	return h, nil
}

// Rung returns the rung in use and the reason for it.
func (h *Holder) Rung() (rung, why string) { return h.rung, h.why }

// Close releases every hold and takes the hooks out of the kernel. If one of
// its goroutines is held up in opening a file that nobody lets it open, Close
// says so and leaves it what it uses.
func (h *Holder) Close() error {
	for _, d := range h.armed() {
		d.Release()
	}
	var err error
	if h.table != nil {
		err = h.table.stop()
	}
	if h.watcher != nil {
		h.watcher.stop()
	}
	if !h.idle() {
		return errors.New("cannot close the holder of processes: opening a process's file is being held up by another program")
	}
	return errors.Join(err, h.dropHooks(), h.proc.close())
}

// armed returns the holds that stand.
func (h *Holder) armed() []*Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*Hold, 0, len(h.holds))
	for d := range h.holds {
		all = append(all, d)
	}
	return all
}

// spared reports whether pid must never be killed or frozen.
func (h *Holder) spared(pid int) bool {
	return pid <= 1 || pid == os.Getpid() || h.cfg.Spare != nil && h.cfg.Spare(pid)
}

// choose takes the strongest rung there is, or the one asked for.
func (h *Holder) choose() error {
	want := h.cfg.Rung
	var missing []string
	for _, r := range rungs() {
		if want != "" && want != r.name {
			continue
		}
		err := r.prepare(h)
		if err == nil {
			h.rung = r.name
			h.why = "the strongest rung this machine has"
			if want != "" {
				h.why = "asked for by the configuration"
			}
			for _, m := range missing {
				h.why += "; " + m
			}
			return nil
		}
		if want != "" {
			return fmt.Errorf("cannot use rung %q: %w", want, err)
		}
		missing = append(missing, fmt.Sprintf("not %s: %v", r.name, err))
	}
	return fmt.Errorf("cannot use rung %q: there are bpf, freeze, connector and besteffort; leave it empty for the strongest", want)
}

// rung is one way to hold processes.
type rung struct {
	name    string
	detail  string // what it is worth, for people
	prepare func(*Holder) error
	stop    func(*Hold, context.Context, *Result) error
}

// rungs lists the ladder from its top.
func rungs() []rung {
	return []rung{
		{RungBPF, "a file can be held in the kernel: seen to kill on exec and on fork", (*Holder).prepareHooks, (*Hold).stopHooked},
		{RungFreeze, "there are control groups that can be frozen; processes in the root group cannot", (*Holder).prepareFreeze, (*Hold).stopFrozen},
		{RungConnector, "forks and execs can be followed: seen to be told of both", (*Holder).prepareConnector, (*Hold).stopFollowed},
		{RungBestEffort, "stop signals: never proven", (*Holder).prepareBestEffort, (*Hold).stopBestEffort},
	}
}

// prepareBestEffort checks what every rung needs.
func (h *Holder) prepareBestEffort() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("this kernel has no pidfd_open (Linux 5.3): %w", err)
	}
	return unix.Close(fd)
}
