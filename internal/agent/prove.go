// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"staunch/internal/agent/inode"
	"staunch/internal/agent/process"
	"staunch/internal/order"
)

// proofLooks are when the processes are looked at again after the last step, at most:
// an execution in flight or a library being mapped shows within them.
var proofLooks = []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}

// prove looks again until nothing is left, or asks for another round.
func (c *containment) prove(ctx context.Context) error {
	before := len(c.copies)
	if err := c.look(ctx); err != nil {
		return err
	}
	if err := c.searchForeign(ctx); err != nil {
		return err
	}
	if n := len(c.copies) - before; n > 0 {
		return fmt.Errorf("%w: %d more copies", errRound, n)
	}
	since := c.now()
	for _, delay := range proofLooks {
		c.wait(ctx, delay-c.now().Sub(since))
		unused := c.unused()
		matches, err := c.patiently(ctx, func() ([]process.Match, error) { return c.armed.Look(ctx) })
		if err := c.notAll(err); err != nil {
			return err
		}
		if len(matches) > 0 {
			return fmt.Errorf("%w: %d more processes", errRound, len(matches))
		}
		if unused {
			break // nothing is in flight that a later look could show
		}
	}
	if c.privileged && !c.receipt.HeldProven {
		return fail(order.NotProven, "all that was found is stopped and sealed, but holding by %s does not exclude that a process escaped by forking: see the notes, and staunch-agent doctor", c.receipt.Rung)
	}
	for _, t := range c.copies {
		for _, p := range t.Paths {
			if id, ok := at(p); ok && id == t.Stat.ID && t.state == order.Sealed {
				return fail(order.Partial, "a sealed file is still at %q", p)
			}
		}
	}
	if c.privileged && len(c.unread) > 0 {
		return fail(order.NotProven, "all that was found is stopped and sealed, but not everything could be read, and what could not may have the content: %s; see notCovered, mend it, and order again",
			strings.Join(c.unread, "; "))
	}
	point, err := c.stillMounted()
	if err == nil && point != "" {
		err = fail(order.Partial, "a sealed file is still mounted at %q: unmount it, and order again", point)
	}
	return err
}

// unused reports whether nothing is left that could become a match: nobody but
// us has any copy open, so nobody runs, maps, reads or is about to execute one
// (a kernel counts an opening before it asks the gate); no copy has a name by
// which to open it, and the gate refuses who was on the way; and what is
// executed from elsewhere meets the kernel hooks, which stand beyond the proof.
func (c *containment) unused() bool {
	if c.receipt.Rung != process.RungBPF || !c.receipt.HeldProven || !c.gated || len(c.copies) == 0 {
		return false
	}
	for _, t := range c.copies {
		if t.state != order.Sealed || t.Layer != "" {
			return false
		}
		if alone, err := inode.Alone(t.File); err != nil || !alone {
			return false
		}
	}
	return true
}

// at returns the identity of what lies at a path, without following a link.
func at(path string) (inode.ID, bool) {
	fi, err := os.Lstat(path)
	if err != nil {
		return inode.ID{}, false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return inode.ID{Dev: st.Dev, Ino: st.Ino}, ok
}
