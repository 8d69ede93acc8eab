// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"staunch/internal/agent/gate"
	"staunch/internal/agent/guard"
	"staunch/internal/agent/index"
	"staunch/internal/agent/journal"
	"staunch/internal/agent/process"
	"staunch/internal/agent/vault"
	"staunch/internal/order"
)

// Config says how an agent works. The zero value of a field not marked
// required is usable.
type Config struct {
	State     State         // required
	Roots     []string      // trees to index and search; empty: every local file system
	NoIndex   bool          // search at each order instead: a one-shot command has no time to build one
	Gate      *gate.Client  // closed by Stop; nil: no gate, and GateOff says why
	GateOff   string        //
	Rung      string        // force one way to hold processes: bpf, freeze, connector, besteffort; "": the best there is
	Keeper    []string      // arguments with which this program calls process.Keep; nil: what a dead agent had frozen is thawed by the next one
	Protected []string      // the operator's list of files that are never taken
	Ceiling   int64         // of the vault, in bytes; what does not fit is not taken, and the order fails; 0: only the disk's own
	Retention time.Duration // how long an item is kept; 0: until it is purged
	Log       *slog.Logger  // required
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// AfterAppend is called after the nth journal record is durable. Tests kill
	// the agent in it.
	AfterAppend func(n int)
	// VaultStep is called after each step of the vault that a crash could fall
	// behind, with its name. Tests kill the agent in it.
	VaultStep func(name string)
}

// Agent carries out orders on this device. Make one with New; it does nothing
// until Start, and Stop waits for all that Start began.
type Agent struct {
	state   State
	roots   []string
	log     *slog.Logger
	now     func() time.Time
	gateOff string

	privileged bool          // may look at every process
	retention  time.Duration // 0: items are kept until purged

	enrollment Enrollment // zero: not enrolled
	key        ed25519.PrivateKey
	orderKeys  []ed25519.PublicKey

	journal *journal.Journal
	vault   *vault.Vault
	index   *index.Index // nil: search instead
	holder  *process.Holder
	rules   *guard.Guard
	off     *disabled // what would have brought files back
	held    *standing // the holds that outlast their containments
	gates   *gates    // the standing refusals, also where there is no gate

	policy    *policy // the server's standing rules
	sightings *spool  // what the server has to be told of files

	uplink  uplink // nil: not connected to a server
	cleanup []func() error
	fatal   chan error // a state that is no longer known: stop and start again from the disk

	work     sync.WaitGroup // one per lane at work
	watching sync.WaitGroup // what ends when the gate is closed
	stop     context.CancelFunc
	ctx      context.Context // ends when Stop is called
	hashes   keyed           // one containment per content at a time

	mu    sync.Mutex
	lanes map[string]*lane // by order id; guarded by mu
}

// A lane is one order's way through the agent. Lanes do not wait for one another.
type lane struct {
	envelope  order.Envelope
	order     order.Order
	started   bool
	began     time.Time       // when an earlier run of the agent began it; zero: none did
	receipt   *order.Envelope // set once the order is over
	kept      bool            // the server has the receipt
	cancelled bool            // a cancel came before the order or during it
	cancel    context.CancelFunc
	done      chan struct{} // closed when the work of this run has ended
}

// over reports whether nothing is left to do but to have the receipt taken.
func (l *lane) over() bool { return l.receipt != nil || l.kept }

// uplink is what the agent needs of the link to the server.
type uplink interface {
	Send(order.Message) error
}

// New opens the state folder, which the caller has locked, and what lies in it.
// It starts nothing, and closes what it opened when it fails.
func New(cfg Config) (_ *Agent, err error) {
	a := &Agent{
		state: cfg.State, roots: cfg.Roots, log: cfg.Log, now: cfg.Now, gateOff: cfg.GateOff,
		lanes: map[string]*lane{}, fatal: make(chan error, 1),
	}
	if a.now == nil {
		a.now = time.Now
	}
	a.privileged = facts().Privileged
	a.ctx, a.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.enrollment, err = a.state.Enrollment(); err != nil && !errors.Is(err, ErrNotEnrolled) {
		return nil, err
	}
	if a.key, err = a.state.DeviceKey(); err != nil {
		return nil, err
	}
	if a.orderKeys, err = a.enrollment.orderKeys(); err != nil {
		return nil, err
	}
	own := []string{a.state.Dir, "/etc/systemd/system/staunch-agent.service", "/lib/systemd/system/staunch-agent.service"}
	if a.rules, err = guard.New(guard.Config{Own: own, Protected: cfg.Protected}); err != nil {
		return nil, err
	}
	a.retention = cfg.Retention
	if err = a.openVault(cfg.Ceiling, cfg.VaultStep); err != nil {
		return nil, err
	}
	if err = a.openJournal(cfg.AfterAppend); err != nil {
		return nil, err
	}
	if err = a.openHolder(cfg); err != nil {
		return nil, err
	}
	a.off = &disabled{path: a.state.path("disabled.json")}
	a.held = &standing{holder: a.holder, log: a.log}
	if a.gates, err = openGates(a.state, cfg.Gate, a.log); err != nil {
		return nil, err
	}
	a.cleanup = append(a.cleanup, a.gates.close)
	if err = a.gates.openPins(a.state); err != nil {
		return nil, err
	}
	if a.sightings, err = openSpool(a.spoolPath(), a.now, a.log); err != nil {
		return nil, err
	}
	if a.policy, err = openPolicy(a); err != nil {
		return nil, err
	}
	if !cfg.NoIndex {
		err = a.openIndex()
	}
	return a, err
}

func (a *Agent) openJournal(afterAppend func(int)) error {
	j, records, err := journal.Open(a.state.JournalDir(), journal.Config{Device: a.enrollment.DeviceID, Log: a.log, AfterAppend: afterAppend})
	if err != nil {
		return err
	}
	a.journal = j
	a.cleanup = append(a.cleanup, j.Close)
	return a.replay(records)
}

// replay rebuilds the lanes from the journal.
func (a *Agent) replay(records []journal.Record) error {
	for _, r := range records {
		l := a.lanes[r.Order]
		if l == nil {
			l = &lane{}
			a.lanes[r.Order] = l
		}
		var err error
		switch r.Kind {
		case journal.Accepted:
			if err = json.Unmarshal(r.Data, &l.envelope); err == nil {
				err = json.Unmarshal(l.envelope.Payload, &l.order)
			}
		case journal.Intent:
			if !l.started {
				l.started, l.began = true, r.Time
			}
		case journal.Receipt:
			l.receipt = new(order.Envelope)
			err = json.Unmarshal(r.Data, l.receipt)
		case journal.Kept:
			l.kept = true
		case journal.Cancelled:
			l.cancelled = true
		}
		if err != nil {
			return fmt.Errorf("cannot read the journal's record of order %s: %w; run staunch-agent fsck --repair", r.Order, err)
		}
	}
	return nil
}

// Start finishes or undoes what an earlier run left, then takes orders.
func (a *Agent) Start() error {
	if err := process.ThawLeftover(a.state.Dir); err != nil {
		return err
	}
	stuck, err := a.settle()
	if err != nil {
		return err
	}
	if stuck {
		a.work.Go(a.keepSettling)
	}
	if err := a.gates.liftRestored(a.vault); err != nil {
		return err
	}
	if a.gates.on() {
		if err := a.gates.restore(); err != nil {
			return err
		}
		a.watching.Go(func() { a.gates.watch(a.stopLate, a.policy.met) })
		for _, k := range a.gates.list() {
			a.held.keep(k.File, k.Size, false)
		}
	}
	// Before anything that takes time: until then what is ruled out may start.
	if err := a.policy.restore(); err != nil {
		return err
	}
	if a.index != nil {
		if err := a.index.Start(a.ctx); err != nil {
			return err
		}
		a.work.Go(a.policy.patrol)
		a.work.Go(func() { a.rules.Warm(a.ctx) })
	}
	if a.enrollment.DeviceID != "" {
		a.work.Go(a.reportSightings)
	}
	if a.retention > 0 {
		a.work.Go(func() { a.keepRetention(a.ctx, a.retention) })
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.compact(); err != nil {
		return err
	}
	for id, l := range a.lanes {
		if !l.over() && l.order.ID != "" {
			a.log.Info("taking an order up again", "order_id", id, "kind", l.order.Kind)
			a.begin(l)
		}
	}
	return nil
}

// Stop ends what can be given up, finishes what can not, and closes everything.
func (a *Agent) Stop() error {
	a.stop()
	a.work.Wait()
	err := a.close()
	a.watching.Wait()
	return err
}

// Fatal yields the error after which the agent no longer knows its state: the
// caller stops it and starts a new one, which reads the disk.
func (a *Agent) Fatal() <-chan error { return a.fatal }

func (a *Agent) close() error {
	var errs []error
	for i := len(a.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, a.cleanup[i]())
	}
	a.cleanup = nil
	return errors.Join(errs...)
}

func (a *Agent) openVault(ceiling int64, step func(string)) (err error) {
	if a.vault, err = vault.Open(vault.Config{Dir: a.state.path("vault"), Ceiling: ceiling, Log: a.log, Now: a.now, Step: step}); err != nil {
		return err
	}
	a.cleanup = append(a.cleanup, a.vault.Close)
	return nil
}

func (a *Agent) openHolder(cfg Config) (err error) {
	if a.holder, err = process.New(process.Config{
		Rung: cfg.Rung, StateDir: a.state.Dir, Keeper: cfg.Keeper, Table: !cfg.NoIndex, Log: a.log,
		Spare: func(pid int) bool { return pid == os.Getppid() }, // the supervisor
	}); err != nil {
		return err
	}
	a.cleanup = append(a.cleanup, a.holder.Close)
	return nil
}

func (a *Agent) openIndex() (err error) {
	a.index, err = index.Open(index.Config{
		Path: a.state.path("index.db"), Roots: a.roots, Skip: []string{filepath.Clean(a.state.Dir)}, Log: a.log, Read: a.policy.read,
	})
	if err != nil {
		return err
	}
	a.cleanup = append(a.cleanup, a.index.Stop)
	return nil
}

func (a *Agent) deviceID() string { return a.enrollment.DeviceID }

// keyed is a set of locks by name.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*sync.Mutex // guarded by mu; never shrinks: one entry per content ever contained in this run
}

func (k *keyed) lock(name string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*sync.Mutex{}
	}
	l := k.locks[name]
	if l == nil {
		l = new(sync.Mutex)
		k.locks[name] = l
	}
	k.mu.Unlock()
	l.Lock()
	return l.Unlock
}
