// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/process"
	"staunch/internal/filehash"
)

// TestStandingHold: what is started from memory of a held content is killed
// until the content is released; another content is not.
func TestStandingHold(t *testing.T) {
	h, err := process.New(process.Config{Rung: process.RungBPF})
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: this machine has no kernel hooks for us: %v", err)
	}
	defer h.Close()
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	held := append(bytes.Clone(program), "held, as this test's own content"...)
	other := append(bytes.Clone(program), "free, as this test's own content"...)
	sum, err := filehash.Compute(bytes.NewReader(held))
	if err != nil {
		t.Fatal(err)
	}
	start := func(content []byte) error {
		fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "program")
		defer f.Close()
		if _, err := f.Write(content); err != nil {
			t.Fatal(err)
		}
		return exec.Command(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), "0.5").Run()
	}
	s := &standing{holder: h, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	s.keep(sum.Hash(), sum.Size, true)
	err = start(held)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("held: got %v, want killed", err)
	}
	if err := start(other); err != nil {
		t.Errorf("another content of the same size: %v", err)
	}
	s.release(sum)
	if err := start(held); err != nil {
		t.Errorf("released: %v", err)
	}
}
