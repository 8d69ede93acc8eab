// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	stuckAfter = 200 * time.Millisecond // without progress, another worker is added
	moreAtMost = 16                     // workers added
	graceAtEnd = 100 * time.Millisecond // for workers in the middle of something when ctx ends
)

// each calls do for every pid, on all cores.
//
// Opening a process's file can block for as long as somebody likes: a server
// that is away, a scanner that does not answer. Whoever is caught in it holds
// up nobody else, and when ctx ends he is left behind; do must therefore bear
// to be still at work after each has returned an error.
func (h *Holder) each(ctx context.Context, pids []int, do func(int)) error {
	next := make(chan int, len(pids))
	for _, pid := range pids {
		next <- pid
	}
	close(next)
	var handled atomic.Int64
	var workers sync.WaitGroup
	work := func() {
		h.working.Add(1)
		defer h.working.Add(-1)
		for pid := range next {
			if ctx.Err() != nil {
				return
			}
			do(pid)
			handled.Add(1)
		}
	}
	for range max(1, min(runtime.GOMAXPROCS(0), len(pids)/16)) {
		workers.Go(work)
	}
	done := make(chan struct{})
	go func() {
		workers.Wait()
		close(done)
	}()
	tick := time.NewTicker(stuckAfter)
	defer tick.Stop()
	for before, added := int64(-1), 0; ; {
		select {
		case <-done:
			return context.Cause(ctx)
		case <-tick.C:
			now := handled.Load()
			if now == before && added < moreAtMost {
				added++
				workers.Go(work)
			}
			before = now
		case <-ctx.Done():
			select {
			case <-done:
			case <-time.After(graceAtEnd):
			}
			if left := len(pids) - int(handled.Load()); left > 0 {
				return fmt.Errorf("%d of %d processes could not be examined in time: %w", left, len(pids), context.Cause(ctx))
			}
			return context.Cause(ctx)
		}
	}
}

// idle waits until nobody is at work any more, for two seconds at most.
func (h *Holder) idle() bool {
	for range 2000 {
		if h.working.Load() == 0 {
			return true
		}
		time.Sleep(time.Millisecond)
	}
	return false
}
