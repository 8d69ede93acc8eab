// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"staunch/internal/order"
)

// The ways in which the agent is asked: one that runs all the time and has an
// index, or one for each command, which searches.
const (
	running = "running"
	alone   = "alone"
)

// agent is a staunch-agent that runs.
type agent struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer // complete once it has ended
	done chan struct{}
	err  error // after done
}

// patience is how long the index may take to vouch for the disks. It never
// does while a foe renames without end, and then the order must do without.
const patience = 4 * time.Second

// startAgent runs the agent over the world's disks and waits until it answers
// and its index vouches for them.
func (w *world) startAgent() {
	w.t.Helper()
	args := []string{"run", "--state", w.state}
	for _, root := range w.walked {
		args = append(args, "--index", root)
	}
	if w.rung != "" {
		args = append(args, "--rung", w.rung)
	}
	a := &agent{cmd: exec.Command(kit.agent, args...), log: new(bytes.Buffer), done: make(chan struct{})}
	a.cmd.Stderr = a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	w.check(a.cmd.Start())
	kit.fuse.on(a.cmd.Process.Pid)
	go func() {
		defer close(a.done)
		a.err = a.cmd.Wait()
	}()
	w.agent = a
	begun := time.Now()
	w.wait("the agent", func() bool {
		select {
		case <-a.done:
			w.t.Fatalf("the agent ended: %v\n%s", a.err, a.log)
		default:
		}
		var s struct {
			Running bool
			Index   struct{ Complete bool }
		}
		if _, err := w.ask(&s, "status"); err != nil || !s.Running || !s.Index.Complete && time.Since(begun) < time.Duration(kit.slow)*patience {
			time.Sleep(20 * time.Millisecond)
			return false
		}
		return true
	})
}

// stop ends the agent in good order.
func (a *agent) stop() error {
	_ = a.cmd.Process.Signal(syscall.SIGTERM) // or it has ended, which shows
	select {
	case <-a.done:
		if a.err != nil {
			return fmt.Errorf("the agent ended badly: %w\n%s", a.err, a.log)
		}
		return nil
	case <-time.After(kit.lifetime() / 2):
		a.kill()
		return fmt.Errorf("the agent did not end\n%s", a.log)
	}
}

// kill ends the agent and all its processes: the group is ours.
func (a *agent) kill() {
	select {
	case <-a.done:
		return
	default:
	}
	_ = syscall.Kill(-a.cmd.Process.Pid, syscall.SIGKILL) // gone is as well
	<-a.done
}

// ask runs one command of the agent and decodes its answer. The exit code is
// returned; err says that there was no answer.
func (w *world) ask(answer any, args ...string) (code int, err error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), kit.bound())
	defer cancel()
	cmd := exec.CommandContext(ctx, kit.agent, append([]string{"--json"}, append(args, "--state", w.state)...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	if err := cmd.Start(); err != nil {
		return -1, err
	}
	kit.fuse.on(cmd.Process.Pid)
	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		return -1, fmt.Errorf("staunch-agent %s: %w\n%s", strings.Join(args, " "), err, &msg)
	}
	code = cmd.ProcessState.ExitCode()
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return code, fmt.Errorf("staunch-agent %s: exit %d: %w\n%s%s", strings.Join(args, " "), code, err, &out, &msg)
	}
	return code, nil
}

// contain orders the content to be stopped and quarantined.
func (w *world) contain() (order.Receipt, int, error) {
	w.t.Helper()
	args := []string{"contain", w.hash()}
	if w.agent == nil {
		for _, root := range w.walked {
			args = append(args, "--scan", root)
		}
		if w.rung != "" {
			args = append(args, "--rung", w.rung)
		}
	}
	for try := 0; ; try++ {
		var r order.Receipt
		code, err := w.ask(&r, args...)
		if try < 3 && refusedByAnother(r) {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		return r, code, err
	}
}

// refusedByAnother tells a failure that is no fault of this world's agent: it
// may not open what the gate of a world beside it refuses at that moment, and
// rightly says so instead of calling anything proven.
func refusedByAnother(r order.Receipt) bool {
	return len(r.Steps) == 1 && r.Outcome == order.Failed && strings.Contains(r.Reason, "/proc/") && strings.Contains(r.Reason, "operation not permitted")
}

// restore puts every item with the content back.
func (w *world) restore() ([]order.Receipt, error) {
	var all []order.Receipt
	_, err := w.ask(&all, "quarantine", "restore", w.hash())
	return all, err
}

func (w *world) items() ([]order.Item, error) {
	var all []order.Item
	_, err := w.ask(&all, "quarantine", "list", "--all")
	return all, err
}

// fsck checks vault and journal; the agent must not run.
func (w *world) fsck() error {
	var report struct {
		OK       bool
		Findings []any
	}
	code, err := w.ask(&report, "fsck")
	if err == nil && (code != 0 || !report.OK) {
		err = fmt.Errorf("fsck: exit %d: %v", code, report.Findings)
	}
	return err
}

// leftovers lists what lies in staging folders on the disks after the work.
func (w *world) leftovers() (all []string) {
	for _, root := range w.walked {
		m, _ := filepath.Glob(filepath.Join(root, ".staunch*", "*")) // the pattern is valid
		all = append(all, m...)
	}
	return all
}
