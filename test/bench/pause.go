// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// pause tells how long innocents stand still while processes are held, by each
// way of holding them: what the receipts say, and what an innocent sees that
// does nothing but look at the clock (this program, which the agent does not
// spare). What it sees without an order is the machine's own noise.
func (b *bench) pause(ctx context.Context) error {
	const matches = 10
	fmt.Printf("pause of innocents while %d processes are stopped, by each way of holding; the longest gap an innocent sees\n", matches)
	k := kind{matches: matches, copies: 1}
	for _, rung := range []string{"bpf", "freeze", "connector"} {
		var samples []sample
		var err error
		quiet := gap(func() { time.Sleep(2 * time.Second) })
		busy := gap(func() { samples, err = b.series(ctx, "pause-"+rung, k, "--rung", rung) })
		if err != nil {
			fmt.Printf("  %-9s SKIPPED: %v\n", rung, err)
			continue
		}
		fmt.Printf("  %-9s receipts say %s · seen %s, without an order %s · dead after %s\n", rung,
			ms(of(samples, func(s sample) time.Duration { return s.pause })), ms(busy), ms(quiet), ms(of(samples, func(s sample) time.Duration { return s.dead })))
	}
	fmt.Println()
	return nil
}

// gap returns the longest time between two looks at the clock while do runs.
func gap(do func()) time.Duration {
	stop := make(chan struct{})
	var longest time.Duration
	var work sync.WaitGroup
	work.Go(func() {
		last := time.Now()
		for {
			select {
			case <-stop:
				return
			default:
			}
			time.Sleep(100 * time.Microsecond)
			now := time.Now()
			longest = max(longest, now.Sub(last))
			last = now
		}
	})
	do()
	close(stop)
	work.Wait()
	return longest
}
