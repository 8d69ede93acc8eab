// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"time"
)

// findLooks are how long what is executed is followed before it is said that
// nothing is there: until after the last of them.
var findLooks = []time.Duration{10 * time.Millisecond, 100 * time.Millisecond}

// lookHarder looks again for what a first look has not found, with every
// execution followed from before it on. So a program that is in no place for
// longer than a look takes is met as it starts anew, and one of which only a
// descriptor is left, as its keeper starts it. Files are searched for again
// where nobody had told of those that moved.
func (c *containment) lookHarder(ctx context.Context) error {
	watch, err := c.holder.Watch(c.target())
	if err != nil {
		return fmt.Errorf("cannot follow what is executed: %w", err)
	}
	again := c.look
	if c.vouched {
		again = c.running
	}
	if watch == nil {
		_, why := c.holder.Follows()
		c.receipt.NotCovered = merge(c.receipt.NotCovered, []string{"programs that come and go between two looks: " + why})
		return again(ctx)
	}
	err = again(ctx)
	since := c.now()
	for _, delay := range findLooks {
		if err == nil && len(c.copies) == 0 {
			err = c.notAll(watch.Wait(ctx, max(delay-c.now().Sub(since), 0)))
		}
	}
	before := len(c.copies)
	c.addRunning(watch.Close())
	if err == nil && before == 0 && len(c.copies) > 0 {
		err = c.look(ctx) // where it lies now: its size is known
	}
	return err
}
