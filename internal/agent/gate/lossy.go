// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// lossy hands records to another handler from a goroutine and drops them while
// that one is slow: a log that blocks, because its reader waits for the gate,
// must not keep the supervisor from answering for the gate.
type lossy struct {
	slog.Handler
	queue *lossyQueue
}

type lossyQueue struct {
	records chan func()
	dropped atomic.Int64
	once    sync.Once
	done    chan struct{}
}

// newLossy returns the handler, and a function that writes what is queued,
// waits a second for it at most, and ends the goroutine.
func newLossy(to slog.Handler) (slog.Handler, func()) {
	q := &lossyQueue{records: make(chan func(), 256), done: make(chan struct{})}
	go func() {
		defer close(q.done)
		for write := range q.records {
			if write == nil {
				return
			}
			write()
		}
	}()
	return &lossy{to, q}, func() {
		q.once.Do(func() {
			timeout := time.After(time.Second)
			select {
			case q.records <- nil:
			case <-timeout:
				return
			}
			select {
			case <-q.done:
			case <-timeout:
			}
		})
	}
}

func (l *lossy) Handle(ctx context.Context, r slog.Record) error {
	if n := l.queue.dropped.Swap(0); n > 0 {
		r = r.Clone()
		r.AddAttrs(slog.Int64("records_lost_before", n))
	}
	select {
	case l.queue.records <- func() { _ = l.Handler.Handle(context.WithoutCancel(ctx), r) }: // a log that fails has nobody to tell
	default:
		l.queue.dropped.Add(1)
	}
	return nil
}

func (l *lossy) WithAttrs(a []slog.Attr) slog.Handler { return &lossy{l.Handler.WithAttrs(a), l.queue} }
func (l *lossy) WithGroup(name string) slog.Handler {
	return &lossy{l.Handler.WithGroup(name), l.queue}
}
