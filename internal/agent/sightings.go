// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"os"
	"strconv"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

const (
	flushEvery  = 2 * time.Second  //
	lookEvery   = 30 * time.Second // at what runs
	maxKnown    = 16_384           // programs remembered
	hashEach    = 50 * time.Millisecond
	maxExecuted = 256 << 20 // bytes; larger programs are not reported
)

// flushSightings sends what waits, as far as there is a link; SightingsKept goes on.
func (a *Agent) flushSightings() {
	a.mu.Lock()
	up := a.uplink
	a.mu.Unlock()
	if up == nil {
		return
	}
	if of := a.sightings.take(); of != nil && up.Send(order.Message{Sightings: of}) != nil {
		a.sightings.again()
	}
}

// SightingsKept implements link.SightingsHandler.
func (a *Agent) SightingsKept(k order.SightingsKept) {
	if k.Refused != "" {
		a.log.Warn("the server refuses sightings", "error", k.Refused)
	}
	a.sightings.kept(k.Seq)
	a.flushSightings()
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
			a.sightings.sync()
			return
		case <-tick.C:
		}
		if now := a.now(); now.Sub(looked) >= lookEvery {
			looked = now
			a.seeRunning(known)
		}
		a.sightings.sync()
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
