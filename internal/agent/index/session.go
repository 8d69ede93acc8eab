// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

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
			roots = append(roots, root{m.Point, m.ID})
		}
		return roots, nil, remotes
	}
	add := func(point string, m *mount) {
		if k := m.Kind(); k == remote {
			remotes = append(remotes, gap(point, m.Type+" is not a local file system"))
		} else if k != pseudo && !slices.Contains(roots, root{point, m.ID}) {
			roots = append(roots, root{point, m.ID})
		}
	}
	for _, name := range x.cfg.Roots {
		point, f, err := resolve(name)
		if err != nil {
			gaps = append(gaps, gap(name, err.Error()))
			continue
		}
		i := slices.IndexFunc(mounts, func(m mount) bool { return m.ID == f.mountID })
		switch {
		case i < 0:
			gaps = append(gaps, gap(name, "its mount is not listed"))
		case !slices.ContainsFunc(roots, func(r root) bool { return r.mount == f.mountID && within(point, r.point) }):
			add(point, &mounts[i])
		}
		for j := range mounts {
			if mounts[j].Point != point && within(mounts[j].Point, point) && !hidden(mounts, j) {
				add(mounts[j].Point, &mounts[j])
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
