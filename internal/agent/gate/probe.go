// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// Check is one thing the gate can or cannot do on this machine, found out by
// doing it.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// Probe tries the gate on a file system in memory that it mounts for the
// purpose in a scratch folder, and asks of every type of mounted file system
// whether the kernel takes a mark on it. It touches no other file. cfg.Under is
// not used.
func Probe(ctx context.Context, cfg LocalConfig) []Check {
	checks := probeGate(ctx, cfg)
	return append(checks, probeTypes()...)
}

func probeGate(ctx context.Context, cfg LocalConfig) []Check {
	failed := func(name string, err error) []Check { return []Check{{Name: name, Detail: err.Error()}} }
	dir, err := os.MkdirTemp("", "staunch-probe-*")
	if err != nil {
		return failed("scratch folder", err)
	}
	defer os.Remove(dir)
	if err := unix.Mount("staunch-probe", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
		return failed("permission events", fmt.Errorf("cannot mount a scratch file system to try them on: %w", err))
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) // nothing in it is worth an error
	cfg.Under = []string{dir}
	c, err := StartLocal(cfg)
	if err != nil {
		return failed("permission events", err)
	}
	defer c.Close()
	checks := []Check{{Name: "permission events", OK: true, Detail: "granted"}}
	return append(checks, probeRules(ctx, c, dir)...)
}

// probeRules has a canary refused by each kind of rule, and run without.
func probeRules(ctx context.Context, c *Client, dir string) []Check {
	canary := filepath.Join(dir, "canary")
	text := fmt.Sprintf("#!/bin/true\n# %d\n", time.Now().UnixNano())
	if err := runnable.Write(canary, []byte(text), 0o755); err != nil { //nolint:gosec // it is there to be executed
		return []Check{{Name: "canary", Detail: err.Error()}}
	}
	sum, err := filehash.Compute(strings.NewReader(text))
	if err != nil {
		return []Check{{Name: "canary", Detail: err.Error()}}
	}
	f, err := os.Open(canary)
	if err != nil {
		return []Check{{Name: "canary", Detail: err.Error()}}
	}
	defer f.Close() // only read
	tries := []struct {
		name string
		deny func() error
		try  []string
		want error
	}{
		{"execution without a rule", func() error { return nil }, []string{canary}, nil},
		{"execution refused by content", func() error { return c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size}) }, []string{canary}, fs.ErrPermission},
		{"execution refused by file", func() error { return errors.Join(c.AllowHash(sum.Hash()), c.DenyFile(f, "")) }, []string{canary}, fs.ErrPermission},
		{"opening refused by file", func() error { return nil }, []string{"/bin/cat", canary}, fs.ErrPermission},
		{"execution allowed again", func() error { return c.AllowFile(f) }, []string{canary}, nil},
	}
	var checks []Check
	for _, t := range tries {
		err := t.deny()
		if err == nil {
			err = judgeTry(exec.CommandContext(ctx, t.try[0], t.try[1:]...).Run(), t.want)
		}
		checks = append(checks, check(t.name, err))
	}
	return checks
}

func judgeTry(got, want error) error {
	var exit *exec.ExitError
	switch {
	case want == nil:
		return got
	case got == nil:
		return errors.New("it was not refused")
	case errors.Is(got, want), errors.As(got, &exit) && exit.Exited(): // cat has no better way to say it
		return nil
	}
	return got
}

func check(name string, err error) Check {
	if err != nil {
		return Check{Name: name, Detail: err.Error()}
	}
	return Check{Name: name, OK: true, Detail: "tried"}
}

// probeTypes marks one file system of each type for events that nobody has to
// answer, which shows what the kernel accepts without holding anybody up.
func probeTypes() []Check {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return []Check{{Name: "marks on file systems", Detail: err.Error()}}
	}
	defer unix.Close(fd) // takes all marks with it
	mounts, err := mountinfo.Read(mountinfo.Self)
	if len(mounts) == 0 {
		return []Check{{Name: "marks on file systems", Detail: err.Error()}}
	}
	var checks []Check
	for _, m := range mounts {
		name := "marks on " + m.Type
		if slices.ContainsFunc(checks, func(c Check) bool { return c.Name == name }) {
			continue
		}
		if why := skipped(m); why != "" {
			checks = append(checks, Check{Name: name, Detail: "not covered: it " + why})
			continue
		}
		err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_EXEC, unix.AT_FDCWD, m.Point)
		if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.EACCES) {
			continue // cannot be reached from here; another mount of the type may
		}
		c := check(name, err)
		if err == nil {
			c.Detail = "accepted at " + m.Point
		}
		checks = append(checks, c)
	}
	return checks
}
