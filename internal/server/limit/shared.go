// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A Lease is a number of calls that a replica may admit without asking again.
type Lease struct {
	Calls int           // 0: there is no room
	Left  time.Duration // from before it was asked for: how long it is good, or until there is room

	Minute, Hour int64 // the windows it was taken from, for giving back
}

// Counts is where replicas count together.
type Counts interface {
	// LeaseCalls takes up to ask calls out of both windows of key: no more than a
	// sixteenth of what is left, and one where there is any room. unused is given
	// back to those of its windows that are not over.
	LeaseCalls(ctx context.Context, key string, l Limit, ask int, unused Lease) (Lease, error)
}

const (
	// hurry is how soon a lease must be used up for the next one to be larger: who
	// calls seldom leases one call at a time and leaves none unused.
	hurry    = time.Second
	maxLease = 4096
)

// Shared is a Limiter over all replicas that share a Counts. When that cannot be
// reached each of them counts on its own.
type Shared struct {
	counts Counts
	log    *slog.Logger
	now    func() time.Time

	mu    sync.Mutex
	keys  map[string]*held // guarded by mu
	alone Memory           // while Counts fails
}

// NewShared makes a Shared.
func NewShared(counts Counts, log *slog.Logger) *Shared {
	return &Shared{counts: counts, log: log, now: time.Now, alone: Memory{Now: time.Now}}
}

// held is what this replica has of one key.
type held struct {
	turn chan struct{} // holds a token while somebody looks at the rest

	limit   Limit // that the rest was asked for
	lease   Lease
	ends    time.Time // of lease
	given   time.Time // when lease was
	ask     int       // how many it was asked for
	blocked time.Time // no room before
}

// Take implements Limiter.
func (s *Shared) Take(ctx context.Context, key string, l Limit, n int) (time.Duration, error) {
	if l == (Limit{}) {
		return 0, nil
	}
	h := s.held(key)
	select {
	case h.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-h.turn }()
	now := s.now()
	if h.limit != l {
		h.limit, h.blocked = l, time.Time{}
	}
	// A clock that was set back must not shut a caller out for long.
	if wait := h.blocked.Sub(now); wait > 0 && wait <= time.Hour {
		return wait, nil
	}
	unused := Lease{}
	if !now.Before(h.ends) || now.Before(h.given) {
		unused, h.lease.Calls = h.lease, 0
	}
	if h.lease.Calls < n {
		if err := s.lease(ctx, key, h, n, unused, now); err != nil {
			s.log.Error("rate_limit_alone", "error", err)
			// What the replicas admit together is then at most the limit times their number.
			return s.alone.Take(ctx, key, l, n)
		}
	}
	if h.lease.Calls < n {
		h.blocked = now.Add(h.lease.Left)
		return h.lease.Left, nil
	}
	h.lease.Calls -= n
	return 0, nil
}

// lease asks for more calls: twice as many as the last time if those went fast,
// as many if they went soon, else one.
func (s *Shared) lease(ctx context.Context, key string, h *held, n int, unused Lease, now time.Time) error {
	ask := 1
	if age := now.Sub(h.given); unused.Calls == 0 && age >= 0 {
		switch {
		case age < hurry:
			ask = min(2*h.ask, maxLease)
		case age < 10*hurry:
			ask = h.ask
		}
	}
	got, err := s.counts.LeaseCalls(ctx, key, h.limit, max(ask, n-h.lease.Calls), unused)
	if err != nil {
		return err
	}
	got.Calls += h.lease.Calls
	h.lease, h.ends, h.given, h.ask = got, now.Add(got.Left), now, ask
	return nil
}

func (s *Shared) held(key string) *held {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.keys[key]
	if h == nil {
		for k := range s.keys { // some key, whose caller then leases anew
			if len(s.keys) < maxKeys {
				break
			}
			delete(s.keys, k)
		}
		if s.keys == nil {
			s.keys = map[string]*held{}
		}
		h = &held{turn: make(chan struct{}, 1)}
		s.keys[key] = h
	}
	return h
}

// Windows are the counts of one key, as a Counts keeps them: when each window
// began, in microseconds, and how many calls it holds.
type Windows struct {
	Minute, MinuteUsed int64
	Hour, HourUsed     int64
}

// Lease takes a lease out of the windows at now, in microseconds of the one clock
// that all replicas share. Both windows begin with the first call they count.
func (w *Windows) Lease(now int64, l Limit, ask int, unused Lease) Lease {
	w.giveBack(unused)
	left := ask
	wait := time.Duration(0)
	for _, window := range []struct {
		begin, used *int64
		length      time.Duration
		limit       int
	}{{&w.Minute, &w.MinuteUsed, time.Minute, l.PerMinute}, {&w.Hour, &w.HourUsed, time.Hour, l.PerHour}} {
		// A clock that was set back must not shut a caller out for long.
		if age := now - *window.begin; age < -time.Second.Microseconds() || age >= window.length.Microseconds() {
			*window.begin, *window.used = now, 0
		}
		if window.limit <= 0 {
			continue
		}
		room := window.limit - int(*window.used)
		left = min(left, max(room/16, min(room, 1)))
		if room <= 0 {
			wait = max(wait, w.ends(*window.begin, window.length, now))
		}
	}
	out := Lease{Calls: max(left, 0), Minute: w.Minute, Hour: w.Hour, Left: wait}
	if out.Calls > 0 {
		w.MinuteUsed += int64(out.Calls)
		w.HourUsed += int64(out.Calls)
		out.Left = min(w.ends(w.Minute, time.Minute, now), w.ends(w.Hour, time.Hour, now))
	}
	return out
}

func (w *Windows) ends(begin int64, length time.Duration, now int64) time.Duration {
	return min(time.Duration(begin-now)*time.Microsecond+length, length)
}

func (w *Windows) giveBack(unused Lease) {
	n := int64(unused.Calls)
	if unused.Minute == w.Minute {
		w.MinuteUsed = max(w.MinuteUsed-n, 0)
	}
	if unused.Hour == w.Hour {
		w.HourUsed = max(w.HourUsed-n, 0)
	}
}
