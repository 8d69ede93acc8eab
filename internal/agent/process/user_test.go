// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestOtherUser runs the body of TestAsUser as the user nobody: only that
// user's processes are held, and the result says so.
func TestOtherUser(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	if err := os.Chmod(filepath.Dir(k.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	evil := k.program("evil", bin, k.mark)
	roots := k.innocent(evil)
	ready(t, roots, "evil")
	cmd := exec.Command(evil, "sleep", deadline(), "0")
	cmd.Env = append(os.Environ(), k.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	test := k.program("test", self, "")
	as := exec.Command(test, "-test.run=^TestAsUser$", "-test.v")
	as.Env = append(os.Environ(), "STAUNCH_TEST_EVIL="+evil, fmt.Sprintf("STAUNCH_TEST_PID=%d", cmd.Process.Pid), "TMPDIR=/tmp")
	as.Dir = "/"
	as.SysProcAttr = cmd.SysProcAttr
	if out, err := as.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
	if err := <-done; err == nil || err.Error() != "signal: killed" {
		t.Errorf("nobody's process ended with %v", err)
	}
	if err := alive(roots); err != nil {
		t.Errorf("root's process: %v", err)
	}
}

// TestAsUser is run by TestOtherUser.
func TestAsUser(t *testing.T) {
	evil := os.Getenv("STAUNCH_TEST_EVIL")
	if evil == "" {
		t.Skip("run by TestOtherUser")
	}
	k := &kit{t: t}
	h, err := New(Config{StateDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close() //nolint:errcheck // nothing was armed
	rung, why := h.Rung()
	t.Log(rung, why)
	if rung == RungBPF || !strings.Contains(why, "not bpf: ") {
		t.Errorf("rung %s, %s", rung, why)
	}
	d, err := h.Arm(k.target(evil, true))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	r := stop(t, d)
	notes := strings.Join(r.Notes, "\n")
	if r.Proven || r.Met != 1 || fmt.Sprint(r.Matches[0].PID) != os.Getenv("STAUNCH_TEST_PID") || !r.Matches[0].Gone {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(notes, "processes of other users could not be looked at: run as root") || !strings.Contains(notes, "only this user's") {
		t.Errorf("the notes do not say what was not looked at:\n%s", notes)
	}
}
