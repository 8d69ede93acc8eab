// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Keep is the whole life of a keeper: a process that thaws what its starter
// has frozen once that is dead, or hangs for longer than bound. It is told of
// the death by the end of its input, a pipe.
//
//	write "k" to out; poll in until it hangs up, bound at most; ThawLeftover
func Keep(stateDir string, bound time.Duration, in *os.File, out io.Writer) error {
	if _, err := out.Write([]byte("k")); err != nil {
		return fmt.Errorf("cannot keep watch over a freeze: %w", err)
	}
	for end := time.Now().Add(bound); ; {
		left := time.Until(end)
		if left <= 0 {
			break
		}
		p := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}} //nolint:gosec // descriptors are small
		n, err := unix.Poll(p, int(left.Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			break
		}
	}
	return ThawLeftover(stateDir)
}

// keeper is a running one.
type keeper struct {
	cmd *exec.Cmd
	in  io.Closer // its input, which ends with this process at the latest
}

// startKeeper starts a keeper and waits until it watches. Without arguments
// for one there is none: the next start thaws.
func (h *Holder) startKeeper() (*keeper, error) {
	if len(h.cfg.Keeper) == 0 {
		return nil, nil
	}
	args := append([]string{"/proc/self/exe"}, h.cfg.Keeper...)
	args = append(args, h.cfg.StateDir, (2 * h.cfg.Freeze).String())
	cmd := &exec.Cmd{Path: args[0], Args: args, Stderr: os.Stderr}
	// A session of its own: who ends this process's group does not end it too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start who would thaw after this process's death: %w", err)
	}
	k := &keeper{cmd: cmd, in: in}
	if _, err := io.ReadFull(out, make([]byte, 1)); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start who would thaw after this process's death: %w", err), k.end())
	}
	return k, nil
}

// end lets the keeper go and waits for it.
func (k *keeper) end() error {
	if k == nil {
		return nil
	}
	err := k.in.Close()
	return errors.Join(err, k.cmd.Wait())
}
