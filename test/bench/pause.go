// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
	"staunch/test/rig"
)

// gapArg has this program be an innocent that looks at the clock until it is
// told to end, and then writes down the longest time between two looks.
const gapArg = "-gap-to"

// pause tells how long innocents stand still while their neighbours in a
// control group are stopped, by each way of holding: what the receipts say, and
// what such a neighbour sees. What it sees without an order is the machine's
// own noise.
func (b *bench) pause(ctx context.Context) error {
	fmt.Printf("pause of an innocent beside 10 processes that are stopped, by each way of holding; and the longest gap it sees, with what it sees without an order\n")
	group, err := newGroup()
	if err != nil {
		fmt.Printf("  SKIPPED: no control group (version 2) of our own: %v\n\n", err)
		return nil
	}
	defer group.remove()
	quiet, err := b.gap(group, func() { time.Sleep(2 * time.Second) })
	if err != nil {
		return err
	}
	for _, rung := range []string{"bpf", "freeze", "connector"} {
		var samples []sample
		var failed error
		busy, err := b.gap(group, func() {
			samples, failed = b.series(ctx, "pause-"+rung, kind{matches: 10, copies: 1, group: group}, "--rung", rung)
		})
		if err != nil {
			return err
		}
		if failed != nil {
			first, _, _ := strings.Cut(failed.Error(), "\n")
			fmt.Printf("  %-9s SKIPPED: %s\n", rung, first)
			continue
		}
		unproven := 0
		for _, s := range samples {
			if s.unproven {
				unproven++
			}
		}
		fmt.Printf("  %-9s proven %d of %d · receipts say %s · seen %s, without an order %s · dead after %s\n", rung, len(samples)-unproven, len(samples),
			ms(of(b.middle, samples, func(s sample) time.Duration { return s.pause })), ms(busy), ms(quiet), ms(of(b.middle, samples, func(s sample) time.Duration { return s.dead })))
	}
	fmt.Println()
	return nil
}

// gap has an innocent in the group look at the clock while do runs.
func (b *bench) gap(group group, do func()) (time.Duration, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out := filepath.Join(b.dir, "gap")
	cmd := exec.Command(self, gapArg, out) //nolint:gosec // ourselves
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err = group.add(cmd.Process.Pid)
	if err == nil {
		err = rig.Until("the innocent was at work", func() (bool, error) { _, err := os.Stat(out); return err == nil, nil })
	}
	if err == nil {
		do()
	}
	err = errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(string(text), 10, 64)
	return time.Duration(ns), errors.Join(err, os.Remove(out))
}

// innocent is gapArg.
func innocent(ended <-chan os.Signal, out string) error {
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		return err
	}
	longest, last := time.Duration(0), time.Now()
	for {
		select {
		case <-ended:
			return os.WriteFile(out, fmt.Append(nil, longest.Nanoseconds()), 0o600)
		default:
		}
		time.Sleep(100 * time.Microsecond)
		now := time.Now()
		longest, last = max(longest, now.Sub(last)), now
	}
}

// group is the folder of a control group.
type group string

func newGroup() (group, error) {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
			dir, err := os.MkdirTemp(root, "staunch-bench-")
			return group(dir), err
		}
	}
	return "", errors.New("they are not mounted")
}

func (g group) add(pid int) error {
	return os.WriteFile(filepath.Join(string(g), "cgroup.procs"), fmt.Append(nil, pid), 0o600)
}

// addAll adds all that run a content.
func (g group) addAll(sum filehash.Sum) error {
	pids, err := rig.Running(sum)
	for _, pid := range pids {
		err = errors.Join(err, g.add(pid))
	}
	return err
}

func (g group) remove() {
	_ = rig.Until("the control group was empty", func() (bool, error) { return os.Remove(string(g)) == nil, nil }) // else it is left, empty
}
