// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// child prepares a process that dies with the thread that starts it.
func child(exe string, args []string, env ...string) *exec.Cmd {
	cmd := &exec.Cmd{Path: exe, Args: append([]string{exe}, args...)}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "STAUNCH_GATE_") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") && !strings.HasPrefix(kv, "WATCHDOG_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	return cmd
}

func socketEnv(fd int) string { return envSocket + "=" + strconv.Itoa(fd) }

// ignoreProgram keeps the executions of exe, and of its loader if it has one,
// from being asked about: the supervisor must be able to start a gate while
// none answers.
func ignoreProgram(fan group, exe string) error {
	if err := fan.ignore(exe); err != nil {
		return fmt.Errorf("cannot exempt %s from the gate: %w", exe, err)
	}
	f, err := elf.Open(exe)
	if err != nil {
		return fmt.Errorf("cannot read %s: %w", exe, err)
	}
	defer f.Close() // only read
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		name := make([]byte, min(p.Filesz, unix.PathMax))
		if _, err := p.ReadAt(name, 0); err != nil {
			return fmt.Errorf("cannot read %s: %w", exe, err)
		}
		loader := string(bytes.TrimRight(name, "\x00"))
		if err := fan.ignore(loader); err != nil {
			return fmt.Errorf("cannot exempt %s from the gate: %w", loader, err)
		}
	}
	return nil
}
