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

// proofLooks are when the processes are looked at again after the last step:
// an execution in flight or a library being mapped shows within them, and so
// long has who drops the file anew to do it before files are looked for.
var proofLooks = []time.Duration{0, 10 * time.Millisecond, 100 * time.Millisecond, time.Second}

// prove looks again until nothing is left, or asks for another round.
func (c *containment) prove(ctx context.Context) error {
	if c.index != nil && len(c.Scan) == 0 { // it costs little to know early
		if err := c.noMoreCopies(ctx, c.look); err != nil {
			return err
		}
	}
	since := c.now()
	for _, delay := range proofLooks {
		c.wait(ctx, delay-c.now().Sub(since))
		if err := c.noMoreProcesses(ctx); err != nil {
			return err
		}
	}
	if err := c.noMoreCopies(ctx, c.look, c.searchForeign); err != nil {
		return err
	}
	if err := c.noMoreProcesses(ctx); err != nil { // the search took its time
		return err
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

// noMoreCopies looks for files once.
func (c *containment) noMoreCopies(ctx context.Context, looks ...func(context.Context) error) error {
	before := len(c.copies)
	for _, look := range looks {
		if err := look(ctx); err != nil {
			return err
		}
	}
	if n := len(c.copies) - before; n > 0 {
		return fmt.Errorf("%w: %d more copies", errRound, n)
	}
	return nil
}

// noMoreProcesses looks at every process once.
func (c *containment) noMoreProcesses(ctx context.Context) error {
	matches, err := c.patiently(ctx, func() ([]process.Match, error) { return c.armed.Look(ctx) })
	if err := c.notAll(err); err != nil {
		return err
	}
	if len(matches) > 0 {
		return fmt.Errorf("%w: %d more processes", errRound, len(matches))
	}
	return nil
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
