// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

const (
	maxWaiting  = 5000             // sightings that wait for the link; of more the newest are dropped, and counted
	flushEvery  = 2 * time.Second  //
	lookEvery   = 30 * time.Second // at what runs
	maxKnown    = 16_384           // programs remembered
	hashEach    = 50 * time.Millisecond
	maxExecuted = 256 << 20 // bytes; larger programs are not reported
)

// sightings are what the device has to tell the server of files it met. They
// wait in memory for the link: what waits when the agent ends is lost, and the
// files are met again.
type sightings struct {
	log *slog.Logger

	mu      sync.Mutex
	order   []met                  // guarded by mu
	waiting map[met]order.Sighting // guarded by mu
	dropped int                    // guarded by mu
}

// met is what makes two sightings one: the later is kept.
type met struct {
	file filehash.SHA256
	what string
	rule string
}

func (s *sightings) add(f order.Sighting) {
	if f.SHA1.IsZero() || f.SHA256.IsZero() {
		return // an open of a gated file, whose order's receipt names it
	}
	k := met{f.SHA256, f.What, f.Blocked}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == nil {
		s.waiting = map[met]order.Sighting{}
	}
	if _, ok := s.waiting[k]; !ok {
		if len(s.order) >= maxWaiting {
			s.dropped++
			return
		}
		s.order = append(s.order, k)
	}
	s.waiting[k] = f
}

// take returns up to one message's worth, the oldest first.
func (s *sightings) take() []order.Sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(s.order), order.MaxSightings)
	batch := make([]order.Sighting, 0, n)
	for _, k := range s.order[:n] {
		batch = append(batch, s.waiting[k])
		delete(s.waiting, k)
	}
	s.order = append([]met(nil), s.order[n:]...)
	if s.dropped > 0 {
		s.log.Warn("sightings were dropped", "count", s.dropped)
		s.dropped = 0
	}
	return batch
}

// flush sends what waits, as far as there is a link.
func (a *Agent) flushSightings() {
	for {
		a.mu.Lock()
		up := a.uplink
		a.mu.Unlock()
		if up == nil {
			return
		}
		batch := a.sightings.take()
		if len(batch) == 0 {
			return
		}
		if err := up.Send(order.Message{Sightings: &order.SightingsOf{Files: batch}}); err != nil {
			for _, f := range batch {
				a.sightings.add(f)
			}
			return
		}
	}
}

// reportSightings tells the server of what was met, until the agent stops.
func (a *Agent) reportSightings() {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	known := map[program]bool{}
	var looked time.Time
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-tick.C:
		}
		if now := a.now(); now.Sub(looked) >= lookEvery {
			looked = now
			a.seeRunning(known)
		}
		a.flushSightings()
	}
}

// program is one version of a file that runs.
type program struct {
	path     string
	size     int64
	modified int64
}

// seeRunning reports programs that run and were not seen before. Reading them
// is spread over time; it goes through /proc, so a program that was deleted is read too.
func (a *Agent) seeRunning(known map[program]bool) {
	if !a.privileged {
		return
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	if len(known) > maxKnown {
		clear(known)
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		exe := "/proc/" + e.Name() + "/exe"
		name, err := os.Readlink(exe)
		if err != nil {
			continue // a kernel thread, or it has ended
		}
		st, err := os.Stat(exe)
		if err != nil || !st.Mode().IsRegular() || st.Size() > maxExecuted {
			continue
		}
		p := program{name, st.Size(), st.ModTime().UnixNano()}
		if known[p] {
			continue
		}
		known[p] = true
		if f, ok := readProgram(exe); ok {
			a.sightings.add(order.Sighting{SHA1: f.SHA1, SHA256: f.SHA256, Size: f.Size, Path: order.TextOf(name), Seen: a.now().UTC(), What: "executed"})
		}
		select {
		case <-a.ctx.Done():
			return
		case <-time.After(hashEach):
		}
	}
}

func readProgram(exe string) (filehash.Sum, bool) {
	f, err := os.Open(exe)
	if err != nil {
		return filehash.Sum{}, false
	}
	defer func() { _ = f.Close() }() // read only
	sum, err := filehash.Compute(io.LimitReader(f, maxExecuted+1))
	return sum, err == nil && sum.Size <= maxExecuted
}
