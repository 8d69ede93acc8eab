// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

// Barrier takes in everything that happened on the covered file systems before
// the call, and reads the files that changed, so that a Lookup right after it
// can vouch for what is not there. It returns an error that says what is left
// when it cannot: the index is still being built, ctx is done, more would have
// to be read than Config.Budget allows, a file never stops changing. Lookup
// then answers with what is known, and is not Complete.
func (x *Index) Barrier(ctx context.Context) error {
	if err := x.doBarrier(ctx); err != nil {
		return fmt.Errorf("the index cannot vouch: %w", err)
	}
	return nil
}

func (x *Index) doBarrier(ctx context.Context) error {
	x.barrier.Lock()
	defer x.barrier.Unlock()
	at := x.now()
	x.remount() // what was mounted a moment ago counts
	active := x.active()
	if len(active) == 0 {
		return errAnew
	}
	mapped := mappedForWriting()
	for _, v := range active {
		if err := v.catchUp(ctx, mapped); err != nil {
			return err
		}
	}
	epoch := x.epoch.Add(1) - 1
	x.mu.Lock()
	x.as = vouch{epoch, at}
	x.mu.Unlock()
	return x.hash.catchUp(ctx, active, epoch)
}

// catchUp takes in all events that are queued, and lists what they ask for.
func (v *volume) catchUp(ctx context.Context, mapped map[inode.ID]bool) error {
	if !v.whole.Load() {
		return fmt.Errorf("it is still being built (%s)", gap(v.point, fmt.Sprintf("%.0f %%", 100*v.x.progress(v))))
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.group == nil {
		v.failed = errScanDue
	}
	// What a listing misses because it moved just then is told by an event, so
	// events come last: until a round of them asks for no listing.
	for {
		if err := v.hear(); err != nil {
			return err
		}
		if v.x.full.Load() {
			return errors.New(v.x.wantsRoom())
		}
		if err := v.noting(v.takeIn); err != nil {
			return err
		}
		if !v.listing && v.failed == nil {
			break
		}
		if err := v.noting(func() error { return v.listFor(ctx) }); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return v.suspect(mapped)
}

// suspect makes files dirty that a process can write to through a mapping,
// which neither an event nor a stamp tells.
func (v *volume) suspect(mapped map[inode.ID]bool) error {
	var inos []uint64
	for id := range mapped {
		if id.Dev == v.root.Dev {
			inos = append(inos, id.Ino)
		}
	}
	if len(inos) == 0 {
		return nil
	}
	return v.x.update(func(t tx) error {
		for _, ino := range inos {
			if _, err := t.exec("UPDATE file SET since=?, due=? WHERE fs=? AND ino=? AND since IS NULL",
				v.x.epoch.Load(), v.x.now().UnixMilli(), v.fs, int64(ino)); err != nil {
				return err
			}
		}
		return nil
	})
}

// catchUp reads what is dirty since epoch or before, the smallest first, on all
// processors.
func (h *hasher) catchUp(ctx context.Context, active map[int64]*volume, epoch int64) error {
	budget := h.x.cfg.Budget
	size, id := int64(-1), int64(0) // where the last round ended
	for {
		jobs, err := h.jobs(ctx, jobColumns+`WHERE f.since IS NOT NULL AND f.since<=? AND (f.size>? OR (f.size=? AND f.id>?))
			ORDER BY f.size, f.id LIMIT ?`, epoch, size, size, id, batch)
		if err != nil {
			return err
		}
		if len(jobs) == 0 {
			break
		}
		for _, j := range jobs {
			budget -= j.size
		}
		if budget < 0 {
			return fmt.Errorf("more changed than a barrier reads (%d MiB)", h.x.cfg.Budget>>20)
		}
		last := jobs[len(jobs)-1]
		size, id = last.size, last.id
		h.readAll(ctx, jobs)
		h.store(ctx, jobs, epoch)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return h.left(ctx, active, epoch)
}

func (h *hasher) readAll(ctx context.Context, jobs []*job) {
	next := make(chan *job)
	var work sync.WaitGroup
	for range min(len(jobs), runtime.GOMAXPROCS(0)) {
		work.Go(func() {
			sum := newSummer()
			sum.worked = func(n int) { h.bytes.Add(int64(n)) }
			for j := range next {
				if h.open(ctx, j) {
					j.hash(ctx, sum)
				}
			}
		})
	}
	for _, j := range jobs {
		next <- j
	}
	close(next)
	work.Wait()
}

// left reports what is still dirty.
func (h *hasher) left(ctx context.Context, active map[int64]*volume, epoch int64) error {
	d := h.x.db.Load()
	if d == nil {
		return errAnew
	}
	var a Answer
	n, err := h.x.unsure(ctx, d, active, &a, -1, min(epoch, math.MaxInt64))
	switch {
	case err != nil || n == 0:
		return err
	case len(a.Unsure) > 0 && len(a.Unsure[0].Paths) > 0:
		return fmt.Errorf("%d files could not be read while they were at rest, among them %s", n, order.TextOf(a.Unsure[0].Paths[0]))
	default:
		return fmt.Errorf("%d files could not be read while they were at rest", n)
	}
}
