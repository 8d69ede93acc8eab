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
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// Config says what an Index covers and what it may use.
type Config struct {
	Path  string           // of the SQLite file; required; made when it is not there, and anew when it is damaged
	Roots []string         // folders to cover; empty: every local file system
	Skip  []string         // folders left out, by identity: the agent's own; may not exist yet
	Log   *slog.Logger     // nil: silent
	Now   func() time.Time // nil: time.Now; not used to compare with file times
	First func() []string  // paths to hash before all others: what is being executed; nil: none

	Memory   int64         // bytes for the database's cache; 0: 8 MiB
	Disk     int64         // ceiling of the SQLite file in bytes; 0: 2 GiB, enough for some ten million files
	Share    int           // percent of one processor that background work may take; 0: 50
	Debounce time.Duration // a file that was written rests this long before it is hashed; 0: 2 s
	Rescan   time.Duration // how often everything is looked at again (not read again); 0: 24 h
	Budget   int64         // bytes a Barrier may hash before it gives up; 0: 1 GiB

	noEvents bool // for tests: as without privileges
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
	full  atomic.Bool // no room for more rows

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
		if err := removeDB(x.cfg.Path); err == nil {
			err = x.openDB()
		}
		if err != nil && x.db.Load() == nil {
			x.log.Error("the index is off", "error", err)
			return
		}
	}
}

// session follows the mounts until ctx is done or the file is found damaged.
func (x *Index) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer func() {
		cancel()
		x.mu.Lock()
		all := x.volumes
		x.volumes, x.mounts, x.working = nil, nil, nil
		x.mu.Unlock()
		for _, v := range all {
			v.close()
		}
		work.Wait()
	}()
	// Not an os.File: the runtime's poller would take the one notice there is of a change.
	changes, err := unix.Open(mountsFile, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		x.log.Error("the index cannot follow what is mounted; a barrier looks all the same", "error", err)
	} else {
		defer closeFD(changes)
	}
	x.mu.Lock()
	x.working = ctx
	x.mu.Unlock()
	x.remount()
	x.prune()
	work.Go(func() { x.hash.run(ctx) })
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-x.reset:
			return err
		case <-tick.C:
			// The kernel flags every change of the mounts on a descriptor of the list.
			p := []unix.PollFd{{Fd: int32(changes), Events: unix.POLLPRI}}
			if n, err := unix.Poll(p, 0); err == nil && n > 0 && p[0].Revents&(unix.POLLERR|unix.POLLPRI) != 0 {
				x.remount()
			}
		}
	}
}

// keepAway is how long the rows of a file system that is not mounted are kept.
const keepAway = 30 * 24 * time.Hour

// prune forgets file systems that have been away for long.
func (x *Index) prune() {
	active := x.active()
	err := x.update(func(t tx) error {
		var old []int64
		err := t.rows("SELECT id FROM fs WHERE used<?", []any{x.now().Add(-keepAway).Unix()}, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			if active[id] == nil {
				old = append(old, id)
			}
			return err
		})
		for _, id := range old {
			for _, query := range []string{
				"DELETE FROM name WHERE dir IN (SELECT id FROM dir WHERE fs=?)",
				"DELETE FROM dir WHERE fs=?", "DELETE FROM file WHERE fs=?", "DELETE FROM fs WHERE id=?",
			} {
				if err == nil {
					_, err = t.exec(query, id)
				}
			}
		}
		return err
	})
	if err != nil {
		x.fail(x.cfg.Path, err)
	}
}

// remount makes the volumes those that are mounted now.
func (x *Index) remount() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.working == nil || x.working.Err() != nil {
		return
	}
	mounts, err := readMounts()
	if err != nil {
		x.log.Error("the index cannot see what is mounted", "error", err)
		x.gaps = []string{err.Error()}
		return
	}
	if x.mounts != nil && slices.Equal(mounts, x.mounts) {
		return
	}
	x.mounts, x.layers = mounts, overlays(mounts)
	x.knowOwn()
	var wanted []root
	wanted, x.gaps, x.remote = x.wanted(mounts)
	x.volumes = slices.DeleteFunc(x.volumes, func(v *volume) bool {
		i := slices.IndexFunc(wanted, func(w root) bool { return w.point == v.point && w.mount == v.mount })
		if i >= 0 {
			wanted = slices.Delete(wanted, i, i+1)
			return false
		}
		x.log.Info("a file system left the index", "path", v.point)
		v.close()
		return true
	})
	for _, w := range wanted {
		v, err := newVolume(x, w.point, w.mount)
		if err == nil {
			err = x.begin(v)
		}
		if err != nil {
			x.gaps = append(x.gaps, gap(w.point, err.Error()))
			x.log.Warn("a file system is not in the index", "path", w.point, "error", err)
		}
	}
}

// knowOwn finds what is left out: what Config.Skip names, and the index file,
// the writing of which would be an event to write of.
func (x *Index) knowOwn() {
	skip := idsOf(append([]string{x.cfg.Path, x.cfg.Path + "-wal", x.cfg.Path + "-shm"}, x.cfg.Skip...))
	x.skipMu.Lock()
	defer x.skipMu.Unlock()
	x.skip = skip
}

// root is where a volume begins.
type root struct {
	point string
	mount uint64 // mount id
}

// wanted lists the roots to cover, the local ones that cannot be, and those of
// other machines.
func (x *Index) wanted(mounts []mount) (roots []root, gaps, remotes []string) {
	if len(x.cfg.Roots) == 0 {
		picked, remotes, _ := sources(mounts)
		for _, m := range picked {
			roots = append(roots, root{m.point, m.id})
		}
		return roots, nil, remotes
	}
	add := func(point string, m *mount) {
		if k := m.kind(); k == remote {
			remotes = append(remotes, gap(point, m.fstype+" is not a local file system"))
		} else if k != pseudo && !slices.Contains(roots, root{point, m.id}) {
			roots = append(roots, root{point, m.id})
		}
	}
	for _, name := range x.cfg.Roots {
		point, f, err := resolve(name)
		if err != nil {
			gaps = append(gaps, gap(name, err.Error()))
			continue
		}
		i := slices.IndexFunc(mounts, func(m mount) bool { return m.id == f.mountID })
		switch {
		case i < 0:
			gaps = append(gaps, gap(name, "its mount is not listed"))
		case !slices.ContainsFunc(roots, func(r root) bool { return r.mount == f.mountID && within(point, r.point) }):
			add(point, &mounts[i])
		}
		for j := range mounts {
			if mounts[j].point != point && within(mounts[j].point, point) && !hidden(mounts, j) {
				add(mounts[j].point, &mounts[j])
			}
		}
	}
	return roots, gaps, remotes
}

// resolve returns the path without links, and what is there: a folder.
func resolve(name string) (string, facts, error) {
	point, err := filepath.Abs(name)
	if err == nil {
		point, err = filepath.EvalSymlinks(point)
	}
	if err != nil {
		return "", facts{}, err
	}
	f, err := look(unix.AT_FDCWD, point)
	if err == nil && !f.folder() {
		err = errors.New("is not a folder")
	}
	return point, f, err
}

// begin sets a volume to work. x.mu is held.
func (x *Index) begin(v *volume) error {
	err := x.update(func(t tx) error {
		_, err := t.exec("INSERT OR IGNORE INTO fs (key, gen, used) VALUES (?, 0, 0)", v.key)
		if err == nil {
			_, err = t.one("SELECT id FROM fs WHERE key=?", []any{v.key}, &v.fs)
		}
		if err == nil { // what waited while it was away
			_, err = t.exec("UPDATE file SET due=MIN(due, ?) WHERE fs=? AND since IS NOT NULL", x.now().UnixMilli(), v.fs)
		}
		return err
	})
	if err != nil {
		return err
	}
	v.failed = errScanDue
	v.watch()
	ctx, cancel := context.WithCancel(x.working)
	v.cancel = cancel
	if v.group != nil {
		v.work.Go(func() { v.listen(ctx) })
	} else {
		x.log.Warn("the index cannot follow a file system", "path", v.point, "reason", v.whyNot)
	}
	v.work.Go(func() { v.keep(ctx) })
	x.volumes = append(x.volumes, v)
	return nil
}

// close ends a volume's work.
func (v *volume) close() {
	v.cancel()
	if v.group != nil {
		v.group.close()
	}
	v.work.Wait()
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
		if !x.full.Swap(true) {
			x.log.Error("the index has reached its ceiling; raise it, or cover fewer roots", "ceiling_bytes", x.cfg.Disk, "error", err)
		}
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
