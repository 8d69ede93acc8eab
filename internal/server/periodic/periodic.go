// SPDX-License-Identifier: Apache-2.0

// Package periodic does one thing now and then. It promises that nothing of it
// goes on after Stop.
package periodic

import (
	"context"
	"time"
)

// Loop is a thing that is done now and then. A nil Loop does nothing.
type Loop struct {
	stop context.CancelFunc
	done chan struct{} // closed when the loop has ended
}

// Start begins to call do, one call at a time, the first after one interval,
// until Stop or the end of ctx.
func Start(ctx context.Context, every time.Duration, do func(context.Context)) *Loop {
	ctx, stop := context.WithCancel(ctx)
	l := &Loop{stop, make(chan struct{})}
	go func() {
		defer close(l.done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			do(ctx)
		}
	}()
	return l
}

// Stop ends the loop and waits for it.
func (l *Loop) Stop() {
	if l == nil {
		return
	}
	l.stop()
	<-l.done
}
