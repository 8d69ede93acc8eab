// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"staunch/internal/agent/gate"
	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// TestLate: of what the gate had to let pass, a rule that blocks stops the
// process and leaves the file; an order takes the file as well.
func TestLate(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: every process has to be looked at, which takes root")
	}
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	dir := t.TempDir()
	a := newRuled(t).Agent
	a.roots = []string{dir}
	for _, c := range []struct {
		rule  string
		taken bool
	}{{ruleIDs + "7", false}, {newID(), true}} {
		content := append(bytes.Clone(program), "of this test alone: "+c.rule...)
		sum, err := filehash.Compute(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "program")
		if err := runnable.Write(path, content, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Process.Kill() //nolint:errcheck // it is dead
		a.stopLate(gate.Refusal{PID: cmd.Process.Pid, File: sum.Hash(), ID: c.rule, Exec: true, Late: true})
		_ = cmd.Wait() // how it ended is looked at below
		if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
			t.Errorf("%s: the process ended with %v, want killed", c.rule, cmd.ProcessState)
		}
		a.work.Wait()
		_, err = os.Lstat(path)
		items, listErr := a.vault.List()
		if taken := os.IsNotExist(err); taken != c.taken || (len(items) == 1) != c.taken || listErr != nil {
			t.Errorf("%s: the file was taken: %v, want %v; in the vault: %v, %v", c.rule, taken, c.taken, items, listErr)
		}
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}
