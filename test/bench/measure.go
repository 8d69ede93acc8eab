// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// measureArg has this program measure and not conduct: what is measured must
// be neither the agent nor a program that another tool spares.
const measureArg = "-measure-in"

// costs are medians of starting a program and of opening a file.
type costs struct {
	ExecCold, ExecWarm, OpenCold, OpenWarm time.Duration
	Refused                                bool // the denied program could not be started
}

// The files in a folder to measure in: exec-N and open-N, and denied.
const (
	coldFiles = 200 // each met once
	warmTimes = 500 // of one file
)

// smallProgram is an ELF file that ends at once, with n bytes after it.
func smallProgram(n int, tail []byte) []byte {
	code := []byte{0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05} // exit(0)
	machine := uint16(62)
	if runtime.GOARCH == "arm64" {
		code, machine = []byte{0xa8, 0x0b, 0x80, 0xd2, 0, 0, 0x80, 0xd2, 1, 0, 0, 0xd4}, 183
	}
	const base, head = 0x400000, 64 + 56
	var b bytes.Buffer
	put := func(all ...any) {
		for _, v := range all {
			_ = binary.Write(&b, binary.LittleEndian, v) // never fails
		}
	}
	put([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9), uint16(2), machine, uint32(1), uint64(base+head), uint64(64), uint64(0),
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0))
	size := uint64(head + len(code))
	put(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x1000), code, make([]byte, n), tail)
	return b.Bytes()
}

// stock writes the files to measure in a new folder. size is the size of each program's padding.
func stock(dir string, size int, denied []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // others run what is in it
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "denied"), denied, 0o755); err != nil { //nolint:gosec // likewise
		return err
	}
	for i := range coldFiles {
		tail := fmt.Appendf(nil, "%08d", i)
		for _, name := range []string{"exec", "open"} {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(name, "-", i)), smallProgram(size, tail), 0o755); err != nil { //nolint:gosec // likewise
				return err
			}
		}
	}
	return nil
}

// measureHere prints the costs in a folder as JSON.
func measureHere(dir, out string) {
	runtime.LockOSThread()
	c, err := measureIn(dir)
	if err == nil {
		var b []byte
		if b, err = json.Marshal(c); err == nil {
			err = os.WriteFile(out, b, 0o600)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func measureIn(dir string) (c costs, err error) {
	name := func(what string, i int) string { return filepath.Join(dir, fmt.Sprint(what, "-", i)) }
	c.Refused = errors.Is(start(filepath.Join(dir, "denied")), syscall.EPERM)
	cold := func(what string, do func(string) error) (time.Duration, error) {
		i := 0
		return repeat(coldFiles, func() error { i++; return do(name(what, i-1)) })
	}
	warm := func(what string, do func(string) error) (time.Duration, error) {
		return repeat(warmTimes, func() error { return do(name(what, 0)) })
	}
	for _, m := range []struct {
		what string
		do   func(string) error
		how  func(string, func(string) error) (time.Duration, error)
		into *time.Duration
	}{
		{"exec", start, cold, &c.ExecCold},
		{"exec", start, warm, &c.ExecWarm},
		{"open", openOnce, cold, &c.OpenCold},
		{"open", openOnce, warm, &c.OpenWarm},
	} {
		if *m.into, err = m.how(m.what, m.do); err != nil {
			return c, err
		}
	}
	return c, nil
}

// start starts a program and waits for its end.
func start(path string) error {
	pid, err := syscall.ForkExec(path, []string{path}, &syscall.ProcAttr{})
	if err != nil {
		return fmt.Errorf("cannot start %s: %w", path, err)
	}
	_, err = syscall.Wait4(pid, nil, 0, nil)
	return err
}

func openOnce(path string) error {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open %s: %w", path, err)
	}
	return syscall.Close(fd)
}

// measured measures in a process of its own, in the mount namespace of pid if
// that is not 0. watchdog is called when it does not end: it must free it.
func (b *bench) measured(ctx context.Context, dir string, pid int, watchdog func()) (c costs, err error) {
	self, err := os.Executable()
	if err != nil {
		return c, err
	}
	out := filepath.Join(b.dir, "costs.json")
	_ = os.Remove(out) // of the one before
	args := []string{self, measureArg, dir, out}
	if pid != 0 {
		args = append([]string{"nsenter", "-t", strconv.Itoa(pid), "-m", "--"}, args...)
	}
	ctx, cancel := context.WithTimeout(ctx, measureTime)
	defer cancel()
	freed := context.AfterFunc(ctx, watchdog)
	defer freed()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // ourselves
	cmd.WaitDelay = 5 * time.Second
	if text, err := cmd.CombinedOutput(); err != nil {
		return c, fmt.Errorf("measuring ended with %w: %s", err, bytes.TrimSpace(text))
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return c, err
	}
	return c, json.Unmarshal(text, &c)
}

// measureTime bounds one measurement: a tool that never answers must not hold
// what it was asked about for longer.
const measureTime = 60 * time.Second
