// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"staunch/internal/agent/process"
	"staunch/internal/order"
)

// gate refuses open and exec of every known copy, and exec of every unknown one.
func (c *containment) gate(context.Context) error {
	if !c.gates.on() {
		c.receipt.Gate = "none"
		c.note("no gate: %s; a copy that is not found can be started until it is", c.gateOff)
		return nil
	}
	if err := c.gates.deny(Gated{File: c.File, Size: c.size(), Order: c.ID, Since: c.begun.UTC()}); err != nil {
		return fail(order.NotSupported, "cannot gate: %w", err)
	}
	c.gated = true
	c.receipt.Gate = "content and files"
	for _, t := range c.open() {
		if err := c.gates.denyFile(t.File, c.ID); err != nil {
			c.note("file %s: %v", t.Stat.ID, err)
		}
	}
	return nil
}

func (c *containment) ungate() {
	if !c.gated {
		return
	}
	c.gated = false
	c.openFiles()
	if err := errors.Join(c.gates.releaseFiles(c.ID), c.gates.lift(c.ID)); err != nil {
		c.note("the gate could not be lifted: %v", err)
	}
}

// ungateBefore lifts what this order had gated before the agent was killed, where
// it ends now without having changed anything. What it has sealed by then stays
// refused.
func (c *containment) ungateBefore() {
	if !slices.ContainsFunc(c.gates.list(), func(k Gated) bool { return k.Order == c.ID }) {
		return
	}
	items, err := c.vault.List()
	if err != nil || slices.ContainsFunc(items, func(i order.Item) bool { return i.Order == c.ID && i.State == "sealed" }) {
		return
	}
	c.gated = true
	c.ungate()
}

// openFiles lifts the gate on the files that are left where they are.
func (c *containment) openFiles() {
	for _, t := range c.copies {
		if t.state == order.Sealed || t.File == nil {
			continue
		}
		if err := c.gates.allowFile(t.File); err != nil {
			c.note("the gate on file %s could not be lifted: %v", t.Stat.ID, err)
		}
	}
}

// endFileRules ends the rules on single files that are about nothing any more:
// those of sealed ones. What stays in its place, as in the layer of an image,
// stays refused.
func (c *containment) endFileRules() {
	var gone []*taken
	for _, t := range c.copies {
		if t.state == order.Sealed && t.File != nil {
			gone = append(gone, t)
		}
	}
	var err error
	if len(gone) == len(c.copies) {
		err = c.gates.releaseFiles(c.ID)
	} else {
		for _, t := range gone {
			err = errors.Join(err, c.gates.allowFile(t.File))
		}
	}
	if err != nil {
		c.log.Warn("gate rules are left over", "order_id", c.ID, "error", err)
	}
}

// target is what the process package has to recognise.
func (c *containment) target() process.Target {
	t := process.Target{Match: c.sums.match, Sum: c.File.Matches, Size: max(c.size(), 0)}
	for _, k := range c.open() {
		t.Copies = append(t.Copies, process.Copy{File: k.File, Stat: k.Stat})
	}
	return t
}

// arm begins to hold what is known, and what was found since. A copy that
// changes all the time must not keep the others from being held.
func (c *containment) arm() (err error) {
	again := c.armed != nil
	if !again {
		t := c.target()
		t.Copies = nil
		if c.armed, err = c.holder.Arm(t); err != nil {
			return fail(order.ProcessRunning, "cannot hold the processes: %w", err)
		}
	}
	for _, t := range c.open() {
		err := c.armed.Add(process.Copy{File: t.File, Stat: t.Stat})
		switch {
		case err == nil:
		case again, errors.Is(err, process.ErrOther):
			c.note("the hold has no rule for file %s itself: %v", t.Stat.ID, err)
		default:
			return fail(order.ProcessRunning, "cannot hold the processes: %w", err)
		}
	}
	return nil
}

// maxNamed bounds the processes that a reason names one by one; the receipt
// lists them all.
const maxNamed = 3

// hold kills every match by a method that forking does not outrun.
func (c *containment) hold(ctx context.Context) (err error) {
	if err := c.arm(); err != nil {
		return err
	}
	res, err := c.armed.Stop(ctx)
	c.receipt.Rung, c.receipt.HeldProven = res.Rung, res.Proven
	c.receipt.PauseNs = max(c.receipt.PauseNs, res.PauseNs)
	c.receipt.Notes = merge(c.receipt.Notes, res.Notes)
	c.addRunning(res.Matches)
	alive, why := 0, err
	for _, m := range res.Matches {
		c.receipt.Matches = append(c.receipt.Matches, m.Wire(c.begun))
		if m.Gone {
			continue
		}
		if alive++; alive <= maxNamed {
			why = errors.Join(why, fmt.Errorf("process %d: %w", m.PID, m.Err))
		}
	}
	if alive > 0 {
		return fail(order.ProcessRunning, "%d of %d processes could not be stopped: %w", alive, len(res.Matches), why)
	}
	if err != nil {
		return fail(order.ProcessRunning, "cannot stop the processes: %w", err)
	}
	return nil
}
