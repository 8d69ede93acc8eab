// SPDX-License-Identifier: Apache-2.0

// Package index tells which files of this device have a given content.
//
// An Index keeps a row for every regular file on the local file systems and
// answers by SHA-1 or SHA-256 in well under a millisecond. It promises: what it
// offers is a candidate, which Verify opens without following a link and reads
// again; and when an Answer is Complete, no other file below the covered roots
// had the content at the time the answer names. What it cannot vouch for it
// says, with the reason. It survives a restart and hashes again only what
// changed.
//
// Search does without an index: it looks at every file below the given roots,
// by size first where the size is known, at the speed of the disk or of the
// hash instructions.
package index

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// Config says what an Index covers and what it may use.
type Config struct {
	Path  string             // of the SQLite file; required; made when it is not there, and anew when it is damaged
	Roots []string           // folders to cover; empty: every local file system
	Skip  []string           // folders left out, by identity: the agent's own; may not exist yet
	Log   *slog.Logger       // nil: silent
	Now   func() time.Time   // nil: time.Now; not used to compare with file times
	First func() []string    // paths to hash before all others: what is being executed; nil: none
	Read  func(filehash.Sum) // told of each content that was read whole; must not block; nil: nobody

	Memory   int64         // bytes for the database's cache; 0: 8 MiB
	Disk     int64         // ceiling of the SQLite file in bytes; 0: 2 GiB, enough for some ten million files
	Share    int           // percent of one processor that background work may take; 0: 50
	Debounce time.Duration // a file that was written rests this long before it is hashed; 0: 2 s
	Rescan   time.Duration // how often everything is looked at again (not read again); 0: 24 h
	Budget   int64         // bytes a Barrier may hash before it gives up; 0: 1 GiB

	noEvents bool          // for tests: as without privileges
	again    time.Duration // for tests: how long after its disk was full it tries again; 0: 10 s
}

// Index is the standing map from content to files. Make one with Open.
type Index struct {
	cfg  Config
	log  *slog.Logger
	now  func() time.Time
	seed maphash.Seed

	db   atomic.Pointer[db] // nil while it is built anew
	hash *hasher
	// epoch counts barriers: what is found changed carries the number of those before.
	epoch atomic.Int64
	full  atomic.Bool  // no room for more rows
	retry atomic.Int64 // when full: Unix nanoseconds at which to try again; 0: never, it is the ceiling

	barrier sync.Mutex // one Barrier at a time

	skipMu sync.RWMutex // guards skip
	skip   map[inode.ID]bool

	mu      sync.Mutex // guards what follows; never taken by the work of a volume
	volumes []*volume
	gaps    []string // local file systems that are not covered, though they should be
	remote  []string // file systems that are none of ours
	layers  map[inode.ID]layer
	mounts  []mount
	as      vouch
	working context.Context // of the session; nil: not started, or being built anew
	started bool
	stop    context.CancelFunc

	reset chan error // why the database must be built anew
	done  sync.WaitGroup
}

// vouch is what the last Barrier made sure of.
type vouch struct {
	epoch int64
	at    time.Time // when it was called
}

// Open opens or creates the index file. Start sets the index to work.
func Open(cfg Config) (*Index, error) {
	if cfg.Path == "" {
		return nil, errors.New("cannot open the index: Config.Path is required")
	}
	setDefault(&cfg.Memory, 8<<20)
	setDefault(&cfg.Disk, 2<<30)
	setDefault(&cfg.Share, 50)
	setDefault(&cfg.Debounce, 2*time.Second)
	setDefault(&cfg.Rescan, 24*time.Hour)
	setDefault(&cfg.again, 10*time.Second)
	setDefault(&cfg.Budget, 1<<30)
	if cfg.Share < 0 || cfg.Share > 100 {
		return nil, fmt.Errorf("cannot open the index: Config.Share is %d, want percent from 1 to 100", cfg.Share)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	x := &Index{cfg: cfg, log: cfg.Log, now: cfg.Now, seed: maphash.MakeSeed(), reset: make(chan error, 1)}
	x.hash = &hasher{x: x, kick: make(chan struct{}, 1)}
	x.epoch.Store(1)
	return x, x.openDB()
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// openDB opens the file, and builds it anew when it is of no use.
func (x *Index) openDB() error {
	d, err := openDB(x.cfg.Path, x.cfg.Disk, x.cfg.Memory)
	if err != nil && broken(err) {
		x.log.Warn("the index is built anew", "path", x.cfg.Path, "error", err)
		if err := removeDB(x.cfg.Path); err != nil {
			return err
		}
		d, err = openDB(x.cfg.Path, x.cfg.Disk, x.cfg.Memory)
	}
	if err == nil {
		err = d.update(func(t tx) error { // epochs do not outlive a process
			_, err := t.exec("UPDATE file SET since=0 WHERE since IS NOT NULL")
			return err
		})
	}
	if err != nil {
		return err
	}
	x.db.Store(d)
	return nil
}

// Start begins to build and to follow. It returns at once; an error means that
// nothing at all can be covered. Cancelling ctx ends the work as Stop does, and
// Stop must be called all the same.
func (x *Index) Start(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.started {
		return errors.New("cannot start the index: it was started before")
	}
	if _, err := readMounts(); err != nil {
		return fmt.Errorf("cannot start the index: %w", err)
	}
	for _, r := range x.cfg.Roots {
		if _, _, err := resolve(r); err != nil {
			return fmt.Errorf("cannot start the index: root %s; name folders that exist, or none for every local file system", gap(r, err.Error()))
		}
	}
	x.started = true
	ctx, x.stop = context.WithCancel(ctx)
	x.done.Go(func() { x.run(ctx) })
	return nil
}

// Stop ends all work and closes the file. Lookups fail from then on.
func (x *Index) Stop() error {
	x.mu.Lock()
	if x.stop != nil {
		x.stop()
	}
	x.mu.Unlock()
	x.done.Wait()
	if d := x.db.Swap(nil); d != nil {
		return d.close()
	}
	return nil
}

// run works until ctx is done, and builds the file anew when it turns out damaged.
func (x *Index) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := x.session(ctx)
		if ctx.Err() != nil {
			return
		}
		x.log.Error("the index is damaged and is built anew", "path", x.cfg.Path, "error", err)
		if d := x.db.Swap(nil); d != nil {
			_ = d.close() // it is thrown away
		}
		if err = removeDB(x.cfg.Path); err == nil {
			err = x.openDB()
		}
		if err != nil && x.db.Load() == nil {
			x.log.Error("the index is off", "error", err)
			return
		}
	}
}

// update runs do in one transaction.
func (x *Index) update(do func(tx) error) error {
	d := x.db.Load()
	if d == nil {
		return errAnew
	}
	return d.update(do)
}

var errAnew = errors.New("the index is closed or being built anew")

// fail decides what an error means for the index.
func (x *Index) fail(path string, err error) {
	switch {
	case full(err):
		x.noRoom(err)
	case broken(err):
		select {
		case x.reset <- err:
		default:
		}
	default:
		x.log.Warn("the index will look at everything again", "path", path, "error", err)
	}
}

// own reports whether an inode is the agent's own.
func (x *Index) own(id inode.ID) bool {
	x.skipMu.RLock()
	defer x.skipMu.RUnlock()
	return x.skip[id]
}
