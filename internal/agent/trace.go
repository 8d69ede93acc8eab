// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"staunch/internal/agent/persistence"
	"staunch/internal/agent/process"
	"staunch/internal/order"
)

// traceTime bounds the search for what brings the file back: the receipt waits
// for it, and the gate holds meanwhile.
const traceTime = 500 * time.Millisecond

// maxSeen bounds the processes remembered for trace.
const maxSeen = 256

// remember keeps who started the matches and where they ran. It must be called
// while they are there: a dead process has no control group.
func (c *containment) remember(matches []process.Match) {
	for _, m := range matches {
		p := persistence.Process{PID: m.PID, PPID: m.PPID, Start: m.Start}
		if len(c.seen) == maxSeen || slices.ContainsFunc(c.seen, func(q persistence.Process) bool { return q.PID == p.PID && q.Start == p.Start }) {
			continue
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", m.PID))
		if err == nil { // gone: its parent is known all the same
			p.Cgroup = persistence.GroupOf(string(text))
		}
		c.seen = append(c.seen, p)
		if name, ok := strings.CutSuffix(m.Exe, " (deleted)"); ok && m.How == process.Executes && !strings.HasPrefix(name, "/memfd:") {
			c.once = merge(c.once, []string{name})
		}
	}
}

// A tracing is a search for what would bring the file back. It runs beside the
// proof, which does not depend on it.
type tracing struct {
	done  chan struct{}
	step  int // of the receipt
	res   persistence.Result
	err   error
	endNs int64
}

// trace begins to look for what would bring the file back. What is to be
// disabled must be known before the proof, so that is waited for.
func (c *containment) trace(ctx context.Context) error {
	c.endTrace() // of an earlier round, which knew less
	t := &tracing{done: make(chan struct{}), step: len(c.receipt.Steps)}
	c.tracing = t
	targets := c.traceTargets()
	go func() {
		defer close(t.done)
		ctx, cancel := context.WithTimeout(ctx, traceTime)
		defer cancel()
		t.res, t.err = persistence.Find(ctx, persistence.Config{}, targets)
		t.endNs = c.since()
	}()
	if c.Disable {
		c.endTrace()
		c.disable(ctx, t.res.Findings)
	}
	return nil
}

// traceTargets are what was contained so far.
func (c *containment) traceTargets() persistence.Targets {
	targets := persistence.Targets{Processes: slices.Clone(c.seen), Size: c.size(), Match: func(f *os.File) bool {
		is, _ := c.sums.match(f) // unreadable: no match
		return is
	}}
	for _, t := range c.copies {
		targets.Paths = merge(targets.Paths, t.Paths)
	}
	for _, earlier := range c.receipt.Copies { // sealed by an order before this one
		for _, p := range earlier.Paths {
			if b, err := p.Bytes(); err == nil {
				targets.Paths = merge(targets.Paths, []string{b})
			}
		}
	}
	targets.Paths = slices.DeleteFunc(merge(targets.Paths, c.once), func(p string) bool { return !strings.HasPrefix(p, "/") })
	return targets
}

// endTrace waits for the search that runs, if any, and names in the receipt what
// it has found. What goes wrong in it is a note: the file is contained anyway.
func (c *containment) endTrace() {
	t := c.tracing
	if t == nil {
		return
	}
	c.tracing = nil
	<-t.done
	if t.step < len(c.receipt.Steps) {
		c.receipt.Steps[t.step].EndNs = max(c.receipt.Steps[t.step].EndNs, t.endNs)
	}
	if t.err != nil {
		c.note("what would bring the file back could not be looked for: %v", t.err)
		return
	}
	c.receipt.Persistence = nil // of an earlier round
	for _, f := range t.res.Findings {
		c.receipt.Persistence = append(c.receipt.Persistence, f.Wire())
	}
	if t.res.Cut {
		c.receipt.Notes = merge(c.receipt.Notes, []string{fmt.Sprintf("the search for what would bring the file back was cut off after %s or %d findings", traceTime, len(t.res.Findings))})
	}
	for _, s := range t.res.Skipped {
		c.receipt.Notes = merge(c.receipt.Notes, []string{"not looked at for what would bring the file back: " + string(order.TextOf(s))})
	}
}
