// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"syscall"
	"time"

	"staunch/internal/agent/inode"
	"staunch/internal/agent/process"
	"staunch/internal/order"
)

// proofLooks are when the processes are looked at again after the last step:
// an execution in flight or a library being mapped shows within them.
var proofLooks = []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}

// prove looks again until nothing is left, or asks for another round.
func (c *containment) prove(ctx context.Context) error {
	before := len(c.copies)
	if err := c.look(ctx); err != nil {
		return err
	}
	if n := len(c.copies) - before; n > 0 {
		return fmt.Errorf("%w: %d more copies", errRound, n)
	}
	since := c.now()
	for _, delay := range proofLooks {
		c.wait(ctx, delay-c.now().Sub(since))
		matches, err := c.patiently(ctx, func() ([]process.Match, error) { return c.armed.Look(ctx) })
		if err := c.notAll(err); err != nil {
			return err
		}
		if len(matches) > 0 {
			return fmt.Errorf("%w: %d more processes", errRound, len(matches))
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
	c.receipt.NotCovered = merge(c.receipt.NotCovered, foreign())
	point, err := c.stillMounted()
	if err == nil && point != "" {
		err = fail(order.Partial, "a sealed file is still mounted at %q: unmount it, and order again", point)
	}
	return err
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
