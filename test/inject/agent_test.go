// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// patience is how long one command may take; one that takes longer hangs.
const patience = 60 * time.Second

// result is what a command did and said.
type result struct {
	code           int // -1: killed
	stdout, stderr string
	hits           []string // the calls that were broken
	hung           bool
}

func (r result) String() string {
	return fmt.Sprintf("exit %d, hit %q\n%s%s", r.code, r.hits, r.stdout, r.stderr)
}

// receipt is the account that the command printed; nil if it got not so far.
func (r result) receipts() []order.Receipt {
	var one order.Receipt
	if json.Unmarshal([]byte(r.stdout), &one) == nil {
		return []order.Receipt{one}
	}
	var many []order.Receipt
	_ = json.Unmarshal([]byte(r.stdout), &many) // none: the command did not get so far
	return many
}

// agent runs the agent on the world's state folder, broken as inject says; ""
// runs it whole.
func (w *world) agent(inject string, args ...string) result {
	w.t.Helper()
	args = append(args, "--json", "--state", w.state)
	if inject == "" {
		return w.run(agentPath, args...)
	}
	inject, known := strings.CutPrefix(inject, "known ")
	call, how, _ := strings.Cut(inject, ":")
	trace := filepath.Join(w.dir, "trace")
	strace := []string{"-f", "-y", "-s", "0", "-o", trace, "-e", "trace=" + call, "-e", "inject=" + inject}
	if known {
		strace = append(strace, w.known()...)
	}
	r := w.run("strace", append(append(strace, agentPath), args...)...)
	b, err := os.ReadFile(trace)
	must(w.t, err)
	kills := strings.HasPrefix(how, "signal=KILL")
	for line := range strings.Lines(string(b)) {
		// A call that a signal ended has no outcome.
		if strings.Contains(line, "(INJECTED)") || kills && strings.Contains(line, call+"(") && strings.HasSuffix(line, " ?\n") {
			r.hits = append(r.hits, w.short(line))
		}
	}
	return r
}

var (
	randomIDs = regexp.MustCompile(`[0-9a-f]{16,}|tmp-[0-9]+`)
	numbers   = regexp.MustCompile(`[0-9]+<|[0-9]{3,}`)
)

// short is a line of a trace without what differs from run to run; $W stands
// for the scratch world.
func (w *world) short(line string) string {
	_, line, _ = strings.Cut(strings.TrimSpace(line), " ")
	line = strings.ReplaceAll(strings.TrimSpace(line), w.dir, "$W")
	line = randomIDs.ReplaceAllString(line, "ID")
	line = numbers.ReplaceAllString(line, "N")
	if head, _, ok := strings.Cut(line, " = "); ok {
		return strings.TrimSpace(head)
	}
	return line
}

func (w *world) run(name string, args ...string) result {
	w.t.Helper()
	return w.runAs(nil, name, args...)
}

// runAs runs a command as another user; nil: as this one.
func (w *world) runAs(user *syscall.Credential, name string, args ...string) result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1", worldEnv+"="+w.dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = patience
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		w.t.Errorf("cannot run %s %q: %v", name, args, err)
	}
	if r.hung = ctx.Err() != nil; r.hung {
		w.killLeft()
		if name != "strace" { // what hangs when broken, broken judges
			w.t.Errorf("%s %q hangs: %s", name, args, r)
		}
	}
	return r
}

// worldEnv marks the processes that a world started, the gate's too.
const worldEnv = "STAUNCH_INJECT_WORLD"

// killLeft ends the processes that this world started and that did not end.
func (w *world) killLeft() {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		env, _ := os.ReadFile(path) // gone meanwhile, or a kernel thread
		exe, _ := os.Readlink(filepath.Dir(path) + "/exe")
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil && exe == agentPath && bytes.Contains(env, []byte(worldEnv+"="+w.dir)) {
			_ = unix.Kill(pid, unix.SIGKILL) // gone meanwhile
		}
	}
}

// contain contains the evil files with an agent that nothing breaks. Another
// world's gate may stand before a process that this agent has to look at; it
// then fails, rightly, and is asked again.
func (w *world) contain(more ...string) result {
	w.t.Helper()
	for n := 0; ; n++ {
		r := w.agent("", append([]string{"contain", w.hash, "--scan", w.disk}, more...)...)
		if r.code == 0 || n == 5 || !strings.Contains(r.stdout, "cannot look at every process") && !strings.Contains(r.stdout, `"NotProven"`) {
			return r
		}
	}
}

// lost is what a restore said that it could not give back.
func (r result) lost() (all []string) {
	for _, rec := range r.receipts() {
		if rec.Restored != nil {
			all = append(all, rec.Restored.Lost...)
		}
	}
	return all
}

// items lists what the vault has.
func (w *world) items() []order.Item {
	w.t.Helper()
	r := w.agent("", "quarantine", "list", "--all")
	var items []order.Item
	if err := json.Unmarshal([]byte(r.stdout), &items); err != nil || r.code != 0 {
		w.t.Errorf("cannot list the vault: %v: %s", err, r)
	}
	return items
}
