// SPDX-License-Identifier: Apache-2.0

// Package rig sets up the real thing for tests and measurements: the programs
// built from this tree, a server and agents as processes in scratch folders, a
// disk of their own, and harmless programs that do not want to be stopped. It
// looks at processes and files itself and believes neither server nor agent.
//
// Whatever it starts has a function that ends it, by its process id; every wait
// ends after Patience.
package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Patience is how long anything may take. What takes longer has failed; it is
// far above what a busy machine needs, so that no test fails on time alone.
const Patience = 90 * time.Second

// Until asks again and again until done says so.
func Until(what string, done func() (bool, error)) error {
	return until(Patience, what, nil, done)
}

func until(patience time.Duration, what string, gone <-chan struct{}, done func() (bool, error)) error {
	deadline := time.Now().Add(patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		ok, err := done()
		switch {
		case err != nil:
			return fmt.Errorf("waiting until %s: %w", what, err)
		case ok:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("waited %s in vain until %s", patience, what)
		}
		select {
		case <-gone:
			return fmt.Errorf("it ended before %s", what)
		case <-time.After(pause):
		}
	}
}

// Build builds both programs from the tree into a new folder, which everybody
// may enter, and returns it. remove removes it.
func Build() (bin string, remove func(), err error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", nil, fmt.Errorf("cannot find the source tree: %w", err)
	}
	if bin, err = os.MkdirTemp("", "staunch-bin-"); err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.RemoveAll(bin) } // scratch
	c := exec.Command("go", "build", "-o", bin+"/", "./cmd/...")
	c.Dir = strings.TrimSpace(string(root))
	if out, err := c.CombinedOutput(); err != nil {
		remove()
		return "", nil, fmt.Errorf("cannot build the programs: %w\n%s", err, out)
	}
	return bin, remove, os.Chmod(bin, 0o755) //nolint:gosec // others run them in tests
}

// Process is a program at work, in a process group of its own.
type Process struct {
	log  *os.File
	cmd  *exec.Cmd
	gone chan struct{}
	err  error // how it ended; valid once gone is closed
}

// Start runs a program whose output goes to the end of the file log.
func Start(log, program string, args ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	p := &Process{log: f, cmd: exec.Command(program, args...), gone: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	// Should this process be killed, what it started must not stay behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.gone)
	}()
	return p, nil
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Gone is closed once it has ended.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Ended reports whether it has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.gone:
		return true
	default:
		return false
	}
}

// End sends sig, waits until the process and all of its group have ended, and
// returns how the process ended: nil for exit code 0, or by sig if that is
// SIGKILL. One that does not end in time is killed, which is an error.
func (p *Process) End(sig syscall.Signal) error {
	if p.Ended() {
		return p.end(fmt.Errorf("it had ended before: %w", orDone(p.err)))
	}
	_ = p.cmd.Process.Signal(sig) // it may just have ended
	select {
	case <-p.gone:
	case <-time.After(Patience):
		_ = p.cmd.Process.Kill()
		<-p.gone
		return p.end(fmt.Errorf("it did not end within %s of %v", Patience, sig))
	}
	var exit *exec.ExitError
	if sig == syscall.SIGKILL && errors.As(p.err, &exit) && exit.ProcessState.Sys().(syscall.WaitStatus).Signal() == sig { //nolint:errcheck,forcetypeassert // always, on Unix
		return p.end(nil)
	}
	return p.end(p.err)
}

// Wait waits until it has ended by itself, and returns how.
func (p *Process) Wait() error {
	select {
	case <-p.gone:
		return p.end(p.err)
	case <-time.After(Patience):
		return p.End(syscall.SIGKILL)
	}
}

// end waits for the rest of the group and closes the log. What outlives its
// parent for long is killed, and said.
func (p *Process) end(err error) error {
	pgid := p.PID()
	left := until(10*time.Second, "the process group ended", nil, func() (bool, error) {
		return errors.Is(syscall.Kill(-pgid, 0), syscall.ESRCH), nil
	})
	if left != nil {
		_ = syscall.Kill(-pgid, syscall.SIGKILL)
		err = errors.Join(err, fmt.Errorf("processes of group %d outlived their first one", pgid))
	}
	_ = p.log.Close()
	return err
}

func orDone(err error) error {
	if err == nil {
		return errors.New("with exit code 0")
	}
	return err
}

// Tail returns the last lines of the log.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return filepath.Base(p.log.Name()) + ":\n  " + strings.Join(lines[max(0, len(lines)-20):], "\n  ")
}

// Run runs a short-lived program to its end and returns its standard output.
func Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...)
	out, err := c.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return out, fmt.Errorf("%s %s: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return out, nil
}
