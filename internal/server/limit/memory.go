// SPDX-License-Identifier: Apache-2.0

// Package limit counts calls in two windows, a minute and an hour, and refuses
// what is over. In one process that costs a map lookup; over several replicas the
// counts are kept where all of them can reach, and each takes calls from there in
// leases, so that not every call is a change of a row.
//
// It promises that over all replicas no window of a caller ever holds more calls
// than its limit. It may hold fewer: what a replica has leased and not used yet, at
// most a sixteenth of what was left.
package limit

import (
	"context"
	"sync"
	"time"
)

// Limit is how many calls two windows hold; 0 is no limit.
type Limit struct{ PerMinute, PerHour int }

// Within is the narrower of two limits, window by window.
func (l Limit) Within(most Limit) Limit {
	narrower := func(a, b int) int {
		if a == 0 || b > 0 && b < a {
			return b
		}
		return a
	}
	return Limit{PerMinute: narrower(l.PerMinute, most.PerMinute), PerHour: narrower(l.PerHour, most.PerHour)}
}

// Limiter counts calls.
type Limiter interface {
	// Take counts n calls of key, unless a window of l is full: then it returns
	// how long until there is room. With n = 0 it only looks.
	Take(ctx context.Context, key string, l Limit, n int) (wait time.Duration, err error)
}

// maxKeys bounds what a Memory holds: some 10 MB.
const maxKeys = 1 << 16

// Memory is a Limiter in this process: two fixed windows a key, each beginning
// with the first call it counts.
type Memory struct {
	Now func() time.Time // required

	mu   sync.Mutex
	keys map[string]*windows // guarded by mu
}

type windows struct{ minute, hour window }

type window struct {
	start time.Time
	used  int
}

// wait returns how long until the window has room, 0 for now.
func (w *window) wait(now time.Time, length time.Duration, limit int) time.Duration {
	// A clock that was set back must not shut a caller out for long.
	if age := now.Sub(w.start); age < 0 || age >= length {
		*w = window{start: now}
	}
	if limit <= 0 || w.used < limit {
		return 0
	}
	return w.start.Add(length).Sub(now)
}

// Take implements Limiter. It never fails.
func (m *Memory) Take(_ context.Context, key string, l Limit, n int) (time.Duration, error) {
	now := m.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.keys[key]
	if w == nil {
		if n == 0 {
			return 0, nil
		}
		w = m.add(key, now)
	}
	wait := max(w.minute.wait(now, time.Minute, l.PerMinute), w.hour.wait(now, time.Hour, l.PerHour))
	if wait == 0 {
		w.minute.used += n
		w.hour.used += n
	}
	return wait, nil
}

func (m *Memory) add(key string, now time.Time) *windows {
	if len(m.keys) >= maxKeys {
		m.makeRoom(now)
	}
	if m.keys == nil {
		m.keys = map[string]*windows{}
	}
	w := &windows{}
	m.keys[key] = w
	return w
}

// makeRoom forgets keys whose hour is over; if there are none, some key, which
// then begins anew: memory stays bounded, and callers are known apps.
func (m *Memory) makeRoom(now time.Time) {
	for k, w := range m.keys {
		if now.Sub(w.hour.start) >= time.Hour {
			delete(m.keys, k)
		}
	}
	for k := range m.keys {
		if len(m.keys) < maxKeys {
			return
		}
		delete(m.keys, k)
	}
}
