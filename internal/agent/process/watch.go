// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"sync"
	"time"

	"staunch/internal/agent/inode"
)

// Watch meets whoever runs a target from its beginning on, until the first
// match: a program that is nowhere for longer than a search takes is met as it
// executes. It kills nobody. Whom it cannot look at it passes over: that
// nobody is left is for Look to say.
type Watch struct {
	got    *gathered
	cancel context.CancelFunc
	done   chan struct{}
	caught chan struct{} // closed when there is a match, or nothing more comes

	mu   sync.Mutex
	turn int   // guarded by mu; how often everybody was dealt with
	err  error // guarded by mu; why it ended
}

// watchEvery is the pause between two looks at what has happened.
const watchEvery = 2 * time.Millisecond

// Watch begins to watch for a target. It returns nil where forks and
// executions cannot be followed; see Follows.
func (h *Holder) Watch(t Target) (*Watch, error) {
	if t.Match == nil {
		return nil, errors.New("cannot watch for a target without a way to recognise its content")
	}
	s, err := h.follow()
	if s == nil || err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := h.newLook(newJudge(t, h.table))
	w := &Watch{
		got:    &gathered{look: l, files: true, seen: make(map[identity]bool), handed: make(map[inode.ID]bool)},
		cancel: cancel, done: make(chan struct{}), caught: make(chan struct{}),
	}
	go w.run(ctx, s)
	return w, nil
}

func (w *Watch) run(ctx context.Context, s stream) {
	defer close(w.done)
	defer close(w.caught)
	c := newPursuit(w.got.look, w.got.deal)
	c.ended = w.got.any
	var err error
	for err == nil && ctx.Err() == nil && !w.got.any() {
		var complete bool
		if complete, err = c.run(ctx, s); complete {
			w.mu.Lock()
			w.turn++
			w.mu.Unlock()
			pause(ctx, watchEvery)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(err, s.close())
}

// Wait watches on for d, returns at once if there is a match, and otherwise
// not before everybody who came by then was dealt with. ErrOutrun says that
// this did not come to an end within the configuration's Patience.
func (w *Watch) Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.caught:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	patient := time.NewTimer(w.got.look.h.cfg.Patience)
	defer patient.Stop()
	// The turn that is under way may have begun before.
	for from := w.turns(); w.turns() < from+2; {
		select {
		case <-w.caught:
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-patient.C:
			return ErrOutrun
		case <-time.After(watchEvery):
		}
	}
	return nil
}

func (w *Watch) turns() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.turn
}

// Close ends the watch and returns the matches. Each file that matched is
// handed out once, open, as by Look.
func (w *Watch) Close() []Match {
	w.cancel()
	<-w.done
	return w.got.take()
}

// Follows reports whether forks and executions can be followed on this
// machine, so that nobody can pass between two looks; if not, why.
func (h *Holder) Follows() (bool, string) {
	if h.hooks != nil {
		return true, ""
	}
	h.connects.Do(func() {
		if !h.proc.root {
			h.unheard = errors.New("without root only this user's processes can be looked at")
			return
		}
		h.unheard = h.prepareConnector()
	})
	if h.unheard != nil {
		return false, h.unheard.Error()
	}
	return true, ""
}

// follow opens a stream of forks and executions; nil where there is none.
func (h *Holder) follow() (stream, error) {
	if h.hooks != nil {
		return h.hooks.stream()
	}
	if ok, _ := h.Follows(); !ok {
		return nil, nil
	}
	return openConnector()
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
