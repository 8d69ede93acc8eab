// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/runnable"
	"staunch/test/rig"
)

// sample is what one order took, from the moment before the call.
type sample struct {
	answered time.Duration            // 201
	accepted time.Duration            // by the device, durably begun
	dead     time.Duration            // the last process
	sealed   time.Duration            // the last copy, durable, its place empty
	proven   time.Duration            // the receipt was made
	steps    map[string]time.Duration // how long each took
}

var cases = []struct{ matches, copies int }{{1, 1}, {10, 1}, {100, 1}, {1, 10}, {1, 100}}

func (b *bench) latency(ctx context.Context) error {
	fmt.Printf("orders, from the call, %d of each kind, one at a time\n", b.orders)
	fmt.Printf("  %9s %6s | %7s %8s | %8s %8s %6s | %8s %8s %6s | %8s | %s\n",
		"processes", "copies", "201", "begun", "dead", "floor", "ratio", "sealed", "floor", "ratio", "proven", "steps")
	for i, c := range cases {
		samples, err := b.kind1(ctx, fmt.Sprint("latency", i), c.matches, c.copies)
		if err != nil {
			return err
		}
		of := func(get func(sample) time.Duration) time.Duration {
			var all []time.Duration
			for _, s := range samples {
				all = append(all, get(s))
			}
			return median(all)
		}
		dead, sealed := of(func(s sample) time.Duration { return s.dead }), of(func(s sample) time.Duration { return s.sealed })
		deadFloor, sealedFloor := b.floor.dead(c.matches), b.floor.sealed(c.matches, c.copies)
		var steps []string
		for _, name := range []string{"find", "guard", "gate", "hold", "take", "trace", "prove"} {
			steps = append(steps, fmt.Sprintf("%s %s", name, ms(of(func(s sample) time.Duration { return s.steps[name] }))))
		}
		fmt.Printf("  %9d %6d | %7s %8s | %8s %8s %6s | %8s %8s %6s | %8s | %s\n", c.matches, c.copies,
			ms(of(func(s sample) time.Duration { return s.answered })), ms(of(func(s sample) time.Duration { return s.accepted })),
			ms(dead), ms(deadFloor), ratio(dead, deadFloor), ms(sealed), ms(sealedFloor), ratio(sealed, sealedFloor),
			ms(of(func(s sample) time.Duration { return s.proven })), strings.Join(steps, " "))
		b.blame(dead, deadFloor, sealed, sealedFloor, of)
	}
	fmt.Println()
	return nil
}

// blame names the largest parts of a figure that is far from its floor.
func (b *bench) blame(dead, deadFloor, sealed, sealedFloor time.Duration, of func(func(sample) time.Duration) time.Duration) {
	if dead <= 2*deadFloor && sealed <= 2*sealedFloor {
		return
	}
	parts := map[string]time.Duration{"before the device begins": of(func(s sample) time.Duration { return s.accepted }) - b.floor.trip - 2*b.floor.sync}
	for _, name := range []string{"find", "guard", "gate", "hold", "take"} {
		parts[name] = of(func(s sample) time.Duration { return s.steps[name] })
	}
	names := []string{"before the device begins", "find", "guard", "gate", "hold", "take"}
	slices.SortStableFunc(names, func(x, y string) int { return int(parts[y] - parts[x]) })
	fmt.Printf("  %16s   far from the floor because of: %s %s, %s %s\n", "", names[0], ms(parts[names[0]]), names[1], ms(parts[names[1]]))
}

// kind1 measures orders of one kind on a device of their own.
func (b *bench) kind1(ctx context.Context, name string, matches, copies int) ([]sample, error) {
	a, stop, err := b.device(ctx, name)
	if err != nil {
		return nil, err
	}
	var samples []sample
	for range b.orders {
		s, err := b.one(ctx, a, matches, copies)
		if err != nil {
			return nil, fmt.Errorf("%d processes, %d copies: %w\n%s", matches, copies, err, a.Process.Tail())
		}
		samples = append(samples, s)
	}
	return samples, stop()
}

// one sends one order and reads from its receipt when what was done.
func (b *bench) one(ctx context.Context, a *rig.Agent, matches, copies int) (s sample, err error) {
	dir, err := os.MkdirTemp(b.disk, "order-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	first := filepath.Join(dir, "0")
	sum, err := rig.Program(first)
	if err != nil {
		return s, err
	}
	content, err := os.ReadFile(first)
	if err != nil {
		return s, err
	}
	for i := 1; i < copies; i++ {
		if err := runnable.Write(filepath.Join(dir, fmt.Sprint(i)), content, 0o755); err != nil { //nolint:gosec // programs
			return s, err
		}
	}
	end, err := rig.Spawn(first, matches)
	if err != nil {
		return s, err
	}
	defer end()

	start := time.Now()
	action, err := b.client.StopAndQuarantineFile(ctx, a.Device, api.StopAndQuarantineRequest{Comment: "bench", Sha1: sum.SHA1.String()})
	if err != nil {
		return s, err
	}
	s.answered = time.Since(start)
	err = rig.Until("the action was over", func() (bool, error) {
		action, err = b.client.MachineAction(ctx, action.ID)
		return api.Final(action.Status), err
	})
	if err != nil {
		return s, err
	}
	e, err := b.client.Evidence(ctx, action.ID)
	if err != nil {
		return s, err
	}
	var r order.Receipt
	if err := json.Unmarshal(e.Receipt, &r); err != nil {
		return s, err
	}
	if r.Outcome != order.Proven || len(r.Copies) != copies || len(r.Matches) != matches {
		return s, fmt.Errorf("%s %s %s: %d copies, %d processes", r.Outcome, r.Code, r.Reason, len(r.Copies), len(r.Matches))
	}
	s.accepted, s.proven, s.steps = r.Accepted.Sub(start), r.Finished.Sub(start), map[string]time.Duration{}
	for _, m := range r.Matches {
		s.dead = max(s.dead, s.accepted+time.Duration(m.DoneNs))
	}
	for _, c := range r.Copies {
		s.sealed = max(s.sealed, s.accepted+time.Duration(c.DoneNs))
	}
	for _, step := range r.Steps {
		s.steps[step.Name] += time.Duration(step.EndNs - step.StartNs)
	}
	return s, nil
}
