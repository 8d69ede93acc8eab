// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// used is what a process and its offspring have used.
type used struct {
	processes int
	cpu       time.Duration
	memory    int64 // bytes, what is shared by n processes counted to an nth each
}

// usage adds up a process and its offspring.
func usage(pid int) (u used) {
	u = used{processes: 1, cpu: cpu(pid), memory: proportional(pid)}
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is ours
	for _, l := range lists {
		b, _ := os.ReadFile(l) // a thread may have ended
		for w := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(w); err == nil {
				c := usage(child)
				u.processes, u.cpu, u.memory = u.processes+c.processes, u.cpu+c.cpu, u.memory+c.memory
			}
		}
	}
	return u
}

// proportional reads Pss of proc_pid_smaps_rollup(5), in bytes.
func proportional(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	defer f.Close() // read only
	for s := bufio.NewScanner(f); s.Scan(); {
		if kb, ok := strings.CutPrefix(s.Text(), "Pss:"); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(kb, "kB")), 10, 64) // the kernel wrote it
			return n << 10
		}
	}
	return 0
}

// idleAgent watches an agent, connected and with its index complete, that has
// nothing to do but what happens on this machine.
func (b *bench) idleAgent(ctx context.Context) error {
	a, stop, err := b.device(ctx, "idle")
	if err != nil {
		return err
	}
	// In its first half minute it reads, once, the programs that run.
	first := usage(a.Process.PID())
	if err := sleep(ctx, startTime); err != nil {
		return err
	}
	before := usage(a.Process.PID())
	if err := sleep(ctx, b.idle); err != nil {
		return err
	}
	after := usage(a.Process.PID())
	fmt.Printf("an agent without work, for %s\n  %.2f %% of a core, in the %s after its start %.2f %% · %d MB in %d processes\n\n", b.idle,
		share(before, after, b.idle), startTime, share(first, before, startTime), after.memory>>20, after.processes)
	return stop()
}

// startTime is how long an agent is left alone after its start.
const startTime = 40 * time.Second

// share is how much of a core was used, in percent.
func share(before, after used, of time.Duration) float64 {
	return 100 * (after.cpu - before.cpu).Seconds() / of.Seconds()
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
