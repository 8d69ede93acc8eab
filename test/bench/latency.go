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
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/test/rig"
)

// sample is what one order took, from the moment before the call.
type sample struct {
	answered time.Duration            // 201
	accepted time.Duration            // by the device, durably begun
	dead     time.Duration            // the last process
	sealed   time.Duration            // the last copy, durable, its place empty
	proven   time.Duration            // the receipt was made
	pause    time.Duration            // of innocents, as the receipt says
	unproven bool                     // stopped and sealed, but the receipt does not call it proven
	steps    map[string]time.Duration // how long each took
}

// kind is a sort of order.
type kind struct {
	matches, copies int
	fresh           bool  // its files are written a moment before, else they have rested
	group           group // of the processes; "": the one we are in
}

var kinds = []kind{
	{matches: 1, copies: 1, fresh: true},
	{matches: 1, copies: 1}, {matches: 10, copies: 1}, {matches: 100, copies: 1}, {matches: 1000, copies: 1},
	{matches: 1, copies: 10}, {matches: 1, copies: 100}, {matches: 1, copies: 1000},
}

// times is how many orders of a kind are sent.
func (b *bench) times(k kind) int { return min(b.orders, max(2, 400/max(k.matches, k.copies))) }

func (b *bench) latency(ctx context.Context) error {
	fmt.Printf("orders, from the call, one at a time; %s of %d, of %d with 100, of %d with 1000\n", b.which(), b.orders, b.times(kind{matches: 100}), b.times(kind{matches: 1000}))
	fmt.Printf("  %9s %6s | %7s %7s | %7s %7s %6s | %7s %7s %6s | %7s %6s | %s\n",
		"processes", "copies", "201", "begun", "dead", "floor", "ratio", "sealed", "floor", "ratio", "proven", "ratio", "steps")
	for i, k := range kinds {
		samples, err := b.series(ctx, fmt.Sprint("latency", i), k)
		if err != nil {
			return err
		}
		b.row(k, samples)
	}
	fmt.Println()
	return nil
}

// of is the median of one figure of several orders, or the best.
func of(middle func([]time.Duration) time.Duration, all []sample, get func(sample) time.Duration) time.Duration {
	var list []time.Duration
	for _, s := range all {
		list = append(list, get(s))
	}
	return middle(list)
}

var stepNames = []string{"find", "guard", "gate", "hold", "take", "trace", "prove"}

func (b *bench) row(k kind, samples []sample) {
	dead := of(b.middle, samples, func(s sample) time.Duration { return s.dead })
	sealed := of(b.middle, samples, func(s sample) time.Duration { return s.sealed })
	proven := of(b.middle, samples, func(s sample) time.Duration { return s.proven })
	begun := of(b.middle, samples, func(s sample) time.Duration { return s.accepted })
	deadFloor, sealedFloor := b.floor.dead(k.matches), b.floor.sealed(k.matches, k.copies)
	parts := map[string]time.Duration{"before the device begins": begun - b.floor.trip - 2*b.floor.sync}
	var steps []string
	for _, name := range stepNames {
		parts[name] = of(b.middle, samples, func(s sample) time.Duration { return s.steps[name] })
		steps = append(steps, name+" "+ms(parts[name]))
	}
	fmt.Printf("  %9d %6d | %7s %7s | %7s %7s %6s | %7s %7s %6s | %7s %6s | %s\n", k.matches, k.copies,
		ms(of(b.middle, samples, func(s sample) time.Duration { return s.answered })), ms(begun),
		ms(dead), ms(deadFloor), ratio(dead, deadFloor), ms(sealed), ms(sealedFloor), ratio(sealed, sealedFloor),
		ms(proven), ratio(proven, sealedFloor), strings.Join(steps, " "))
	if k.fresh {
		fmt.Printf("  %16s   (the file was written a moment ago; below, files have rested)\n", "")
	}
	if dead <= 2*deadFloor && sealed <= 2*sealedFloor {
		return
	}
	names := []string{"before the device begins", "find", "guard", "gate", "hold", "take"}
	slices.SortStableFunc(names, func(x, y string) int { return int(parts[y] - parts[x]) })
	fmt.Printf("  %16s   far from the floor because of: %s %s, %s %s\n", "", names[0], ms(parts[names[0]]), names[1], ms(parts[names[1]]))
}

// series measures orders of one kind on a device of their own.
func (b *bench) series(ctx context.Context, name string, k kind, args ...string) ([]sample, error) {
	dirs := make([]string, b.times(k))
	sums := make([]filehash.Sum, len(dirs))
	defer func() {
		for _, d := range dirs {
			_ = os.RemoveAll(d) // scratch
		}
	}()
	prepare := func(i int) (err error) {
		if dirs[i], err = os.MkdirTemp(b.disk, "order-"); err == nil {
			sums[i], err = copies(dirs[i], k.copies)
		}
		return err
	}
	for i := range dirs {
		if k.fresh {
			break
		}
		if err := prepare(i); err != nil {
			return nil, err
		}
	}
	a, stop, err := b.device(ctx, name, args...) // ready when its index has read them
	if err != nil {
		return nil, err
	}
	var samples []sample
	for i := range dirs {
		if k.fresh {
			if err := prepare(i); err != nil {
				return nil, err
			}
		}
		s, err := b.one(ctx, a, k, dirs[i], sums[i])
		if err != nil {
			return nil, fmt.Errorf("%d processes, %d copies: %w\n%s", k.matches, k.copies, err, a.Process.Tail())
		}
		samples = append(samples, s)
	}
	return samples, stop()
}

// copies writes n files of one new content, named by their numbers.
func copies(dir string, n int) (filehash.Sum, error) {
	first := filepath.Join(dir, "0")
	sum, err := rig.Program(first)
	if err != nil {
		return sum, err
	}
	content, err := os.ReadFile(first)
	if err != nil {
		return sum, err
	}
	for i := 1; i < n; i++ {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), content, 0o755); err != nil { //nolint:gosec // programs
			return sum, err
		}
	}
	return sum, nil
}

// one sends one order and reads from its receipt when what was done.
func (b *bench) one(ctx context.Context, a *rig.Agent, k kind, dir string, sum filehash.Sum) (s sample, err error) {
	end, err := rig.Spawn(filepath.Join(dir, "0"), k.matches)
	if err != nil {
		return s, err
	}
	defer end()
	if k.group != "" {
		if err := k.group.addAll(sum); err != nil {
			return s, err
		}
	}
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
	// Not every way of holding proves, on every machine: its pause is a pause all the same.
	unproven := k.group != "" && r.Code == order.NotProven
	if r.Outcome != order.Proven && !unproven || len(r.Copies) != k.copies || len(r.Matches) != k.matches {
		return s, fmt.Errorf("%s %s %s: %d copies, %d processes", r.Outcome, r.Code, r.Reason, len(r.Copies), len(r.Matches))
	}
	s.read(&r, start)
	s.unproven = unproven
	return s, nil
}

func (s *sample) read(r *order.Receipt, start time.Time) {
	s.accepted, s.proven, s.steps = r.Accepted.Sub(start), r.Finished.Sub(start), map[string]time.Duration{}
	s.pause = time.Duration(r.PauseNs)
	for _, m := range r.Matches {
		s.dead = max(s.dead, s.accepted+time.Duration(m.DoneNs))
	}
	for _, c := range r.Copies {
		s.sealed = max(s.sealed, s.accepted+time.Duration(c.DoneNs))
	}
	for _, step := range r.Steps {
		s.steps[step.Name] += time.Duration(step.EndNs - step.StartNs)
	}
}
