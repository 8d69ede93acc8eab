// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// pending is what events told and nobody looked at yet.
type pending struct {
	places  map[place]struct{}
	targets map[handle]struct{}
	since   time.Time // of the oldest
	rescan  bool      // more happened than could be remembered
}

// pendingLimit bounds the places and inodes remembered; beyond it a scan is cheaper.
const pendingLimit = 1 << 16

// hear moves the kernel's queue into pending.
func (v *volume) hear() error {
	if v.group == nil {
		return nil
	}
	err := v.group.drain(func(e event) {
		v.pendingMu.Lock()
		defer v.pendingMu.Unlock()
		v.pending.add(&e)
	})
	if err != nil {
		v.pendingMu.Lock()
		v.pending.rescan = true
		v.pendingMu.Unlock()
	}
	return err
}

func (p *pending) add(e *event) {
	if p.since.IsZero() {
		p.since = time.Now()
	}
	if e.overflow() || len(p.places)+len(p.targets) > pendingLimit {
		*p = pending{since: p.since, rescan: true} // the scan sees all that these would have told
	}
	if p.rescan {
		return
	}
	if p.places == nil {
		p.places, p.targets = map[place]struct{}{}, map[handle]struct{}{}
	}
	for _, at := range e.places {
		if at.name != "" {
			p.places[at] = struct{}{}
		}
	}
	if e.target != "" && e.mask&unix.FAN_ONDIR == 0 {
		p.targets[e.target] = struct{}{}
	}
}

func (v *volume) takePending() pending {
	v.pendingMu.Lock()
	defer v.pendingMu.Unlock()
	p := v.pending
	v.pending = pending{}
	return p
}

// coalesce is how long events are left in the kernel's queue, which merges
// those about the same file.
const coalesce = 100 * time.Millisecond

// listen hears of events until the group is closed.
func (v *volume) listen(ctx context.Context) {
	for v.group.wait() == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-time.After(coalesce):
		}
		if err := v.hear(); err != nil && ctx.Err() == nil && !errors.Is(err, errClosed) {
			v.x.log.Error("file system events cannot be read", "path", v.point, "error", err)
			v.wake()
			return
		}
		v.wake()
	}
}

func (v *volume) wake() {
	select {
	case v.kick <- struct{}{}:
	default:
	}
}
