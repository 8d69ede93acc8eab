// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

var errStalled = errors.New("opening their files is being held up by another program")

const (
	stuckAfter = 50 * time.Millisecond  // without progress, another worker is added
	moreAtMost = 16                     // workers added
	graceAtEnd = 100 * time.Millisecond // for workers in the middle of something when ctx ends
)

// each calls do for every pid, on all cores.
//
// Opening a process's file can block for as long as somebody likes: a server
// that is away, a scanner that does not answer. Whoever is caught in it holds
// up nobody else, and when ctx ends, or nothing moves for as long as the
// configuration's Patience, he is left behind; do must therefore bear to be
// still at work after each has returned an error.
func (h *Holder) each(ctx context.Context, pids []int, do func(int)) error {
	next := make(chan int, len(pids))
	for _, pid := range pids {
		next <- pid
	}
	close(next)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var handled atomic.Int64
	workers := max(1, min(runtime.GOMAXPROCS(0), len(pids)/16))
	left := make(chan struct{}, workers+moreAtMost) // one for each worker that has left
	work := func() {
		defer func() {
			h.working.Add(-1)
			left <- struct{}{}
		}()
		for pid := range next {
			if ctx.Err() != nil {
				return
			}
			do(pid)
			handled.Add(1)
		}
	}
	h.working.Add(int64(workers))
	for range workers {
		go work()
	}
	tick := time.NewTicker(stuckAfter)
	defer tick.Stop()
	end := ctx.Done()
	var grace <-chan time.Time
	last, moved, added := int64(-1), time.Now(), 0
	for workers > 0 {
		select {
		case <-left:
			workers--
		case <-tick.C:
			now := handled.Load()
			switch {
			case now != last:
				last, moved = now, time.Now()
			case time.Since(moved) > h.cfg.Patience:
				return leftBehind(len(pids)-int(now), len(pids), errStalled)
			case added < moreAtMost:
				added++
				workers++
				h.working.Add(1)
				go work()
			}
		case <-end:
			end, grace = nil, time.After(graceAtEnd)
		case <-grace:
			return leftBehind(len(pids)-int(handled.Load()), len(pids), context.Cause(ctx))
		}
	}
	return context.Cause(ctx)
}

func leftBehind(left, all int, cause error) error {
	if left == 0 {
		return cause
	}
	return fmt.Errorf("%d of %d processes could not be examined in time: %w", left, all, cause)
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
