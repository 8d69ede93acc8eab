// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

// volume keeps the rows of one file system below one root true.
//
// All it ever does is look at a name and make the rows say what is there. A
// listing looks at every name of a folder, an event makes it look at one. Since
// what happens after a look is always told by a later event, the rows are true
// once all folders are listed and all events are read, in whatever order
// listings and events came.
type volume struct {
	x     *Index
	fs    int64
	key   string // finds the rows again after a reboot, when device numbers may be others
	point string // the root's path
	root  inode.ID
	mount uint64 // mount id of the root
	group *group // nil: no events, and whyNot says why

	whyNot  string
	handles bool // folders are opened by handle, so that no renaming outruns us
	kick    chan struct{}
	cancel  context.CancelFunc
	work    sync.WaitGroup

	pendingMu sync.Mutex // guards pending
	pending   pending

	mu      sync.Mutex // one look at a time; guards what follows
	gen     int64      // of the current scan
	listing bool       // there may be folders left to list
	failed  error      // the last attempt to look failed: a scan is due

	foreign atomic.Pointer[string] // a folder in it that is a volume of its own, but not mounted as one (btrfs)

	countMu sync.Mutex // guards count
	count   counts

	ready     atomic.Bool // a whole scan is done and nothing was missed since
	whole     atomic.Bool // it was ready once
	overflows atomic.Int64
	lag       atomic.Int64 // nanoseconds from the oldest event of the last batch to its being taken in
}

// newVolume looks at a root. It fails when the root cannot be opened.
func newVolume(x *Index, point string, mount uint64) (*volume, error) {
	v := &volume{x: x, point: point, kick: make(chan struct{}, 1)}
	fd, err := openAt(unix.AT_FDCWD, point, openDirFlags&^unix.O_NOFOLLOW)
	if err != nil {
		return nil, fmt.Errorf("cannot open the folder: %w", err)
	}
	defer closeFD(fd)
	f, err := look(fd, "")
	if err != nil {
		return nil, err
	}
	v.root, v.mount = f.id, f.mountID
	if f.mountID != mount {
		return nil, errHidden
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return nil, err
	}
	v.key = fmt.Sprintf("%x %08x%08x %s", st.Type, uint32(st.Fsid.Val[0]), uint32(st.Fsid.Val[1]), hex.EncodeToString([]byte(point)))
	if h := dirHandle(fd, ""); h != "" {
		if again, err := h.open(fd, openDirFlags); err == nil {
			closeFD(again)
			v.handles = true
		}
	}
	return v, nil
}

// watch begins to hear of events. It comes before the first look.
func (v *volume) watch() {
	if v.x.cfg.noEvents {
		v.whyNot = "switched off"
		return
	}
	group, err := newGroup(v.point)
	switch {
	case errors.Is(err, unix.EPERM):
		v.whyNot = "no file system events without root's rights: what changed is seen only by looking at everything again"
	case err != nil:
		v.whyNot = err.Error()
	default:
		v.group = group
	}
}

// keep takes in events and lists folders until ctx is done.
func (v *volume) keep(ctx context.Context) {
	lower() // disk after everybody else; the processor is needed to keep up with events
	rescan := time.NewTicker(v.x.cfg.Rescan)
	defer rescan.Stop()
	room := time.NewTicker(v.x.cfg.again)
	defer room.Stop()
	pace := pacer{share: v.x.cfg.Share}
	for ctx.Err() == nil {
		pace.start()
		v.mu.Lock()
		err := v.step(ctx)
		more := (v.listing || v.failed != nil) && !v.x.full.Load()
		v.mu.Unlock()
		switch {
		case err != nil && ctx.Err() == nil:
			v.x.fail(v.point, err)
			sleep(ctx, time.Second)
		case more:
			pace.rest(ctx)
			continue
		}
		select {
		case <-ctx.Done():
		case <-v.kick:
		case <-room.C:
			v.x.roomy()
		case <-rescan.C:
			v.mu.Lock()
			v.failed = errScanDue
			v.mu.Unlock()
		}
	}
}

var (
	errScanDue = errors.New("a scan is due")
	errNoRoom  = errors.New("there was no room")
	errClosed  = os.ErrClosed
)

// sliceOf bounds how long one step lists, so that events are taken in between.
const sliceOf = 20 * time.Millisecond

// step takes in what happened, then lists folders for a while. v.mu is held.
func (v *volume) step(ctx context.Context) error {
	if v.x.full.Load() {
		v.failed = errNoRoom // whatever happens meanwhile is not written down
		v.ready.Store(false)
		return nil
	}
	return v.noting(func() error {
		if err := v.takeIn(); err != nil {
			return err
		}
		return v.listFor(ctx)
	})
}

// noting remembers a failure, after which everything must be looked at again.
func (v *volume) noting(do func() error) error {
	err := do()
	if err != nil {
		v.failed = err
		v.ready.Store(false)
	}
	return err
}

// listFor lists folders for sliceOf.
func (v *volume) listFor(ctx context.Context) error {
	for until := time.Now().Add(sliceOf); v.listing && ctx.Err() == nil && time.Now().Before(until); {
		if err := v.listSome(); err != nil {
			return err
		}
	}
	return nil
}

// takeIn begins the scan that is due, and applies all events heard of.
func (v *volume) takeIn() error {
	if v.failed != nil {
		if err := v.scan(); err != nil {
			return err
		}
	}
	p := v.takePending()
	if p.rescan {
		v.overflows.Add(1)
		v.x.log.Warn("more file system events than could be followed: looking at everything again", "path", v.point)
		return v.scan()
	}
	if len(p.places)+len(p.targets) == 0 {
		return nil
	}
	if err := v.apply(p); err != nil {
		return err
	}
	v.lag.Store(int64(time.Since(p.since)))
	return nil
}

// scan begins to look at everything: the root first, and each folder when its
// parent has shown it. v.mu is held.
func (v *volume) scan() error {
	v.ready.Store(false)
	v.foreign.Store(nil)
	err := v.x.update(func(t tx) error {
		if _, err := t.exec("UPDATE fs SET gen=gen+1, used=? WHERE id=?", v.x.now().Unix(), v.fs); err != nil {
			return err
		}
		if _, err := t.one("SELECT gen FROM fs WHERE id=?", []any{v.fs}, &v.gen); err != nil {
			return err
		}
		mount, err := v.open()
		if err != nil {
			return err
		}
		defer closeFD(mount)
		_, err = t.putDir(v.fs, 0, "", int64(v.root.Ino), v.handleAt(mount, ""), v.gen)
		return err
	})
	if err == nil {
		v.failed, v.listing = nil, true
	}
	return err
}

// finish forgets what the scan did not meet. v.mu is held.
func (v *volume) finish() error {
	err := v.x.update(func(t tx) error {
		var ids []int64
		err := t.rows("SELECT id FROM dir WHERE fs=? AND seen<?", []any{v.fs, v.gen}, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			ids = append(ids, id)
			return err
		})
		for _, id := range ids {
			if err == nil {
				err = t.removeDir(id)
			}
		}
		if err != nil {
			return err
		}
		mount, err := v.open()
		if err != nil {
			return err
		}
		defer closeFD(mount)
		return v.sweep(t, mount)
	})
	if err != nil {
		return err
	}
	v.listing = false
	v.whole.Store(true)
	v.ready.Store(v.failed == nil)
	v.x.hash.wake()
	return nil
}

// notCovered tells of a part of the volume that has no rows, or "".
func (v *volume) notCovered() string {
	if name := v.foreign.Load(); name != nil {
		return gap(v.point, "holds a subvolume that is not mounted on its own: "+string(order.TextOf(*name)))
	}
	return ""
}

// open opens the root, which must be the one it was.
func (v *volume) open() (int, error) {
	fd, err := openAt(unix.AT_FDCWD, v.point, openDirFlags&^unix.O_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("cannot open %s: %w", v.point, err)
	}
	if f, err := look(fd, ""); err != nil || f.id != v.root {
		closeFD(fd)
		return -1, fmt.Errorf("cannot open %s: %w", v.point, errReplaced)
	}
	return fd, nil
}

// handleAt returns the handle of a folder, where they are of use.
func (v *volume) handleAt(fd int, name string) handle {
	if !v.handles {
		return ""
	}
	return dirHandle(fd, name)
}
