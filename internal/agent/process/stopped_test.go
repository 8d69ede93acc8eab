// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// state is what /proc says of a process: R, S, D, T, Z; 0 once it is gone.
func state(pid int) byte {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	v, err := parseVital(b)
	if err != nil {
		return 0
	}
	return v.state
}

// TestStoppedAndNotKilled: between the stop signal and the kill a match may end
// by itself, or turn out to have been on its way to another program. Neither is
// said to run still, and the second, an innocent now, does not stay stopped.
func TestStoppedAndNotKilled(t *testing.T) {
	needRoot(t)
	k := newKit(t, runner(t))
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Skip("SKIPPED, NOT PROVEN: there is no /bin/sh")
	}
	evil := k.program("evil", shell, k.mark)
	begin := func() (*exec.Cmd, io.Writer) {
		t.Helper()
		cmd := exec.Command(evil, "-c", "read x; exec sleep 60")
		cmd.Env = append(os.Environ(), k.mark)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		k.run(cmd)
		ready(t, cmd, "evil")
		return cmd, in
	}
	moves, in := begin()
	dies, _ := begin()
	stays, _ := begin()

	h := newHolder(t, RungBestEffort)
	d, err := h.Arm(k.target(evil, true))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	if err := d.settle(t.Context(), h.newLook(d.judge), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	is := func(cmd *exec.Cmd, want byte) {
		t.Helper()
		waitFor(t, fmt.Sprintf("process %d to be in state %q", cmd.Process.Pid, want), func() bool { return state(cmd.Process.Pid) == want })
	}
	for _, cmd := range []*exec.Cmd{moves, dies, stays} {
		is(cmd, 'T')
	}
	kill := func(cmd *exec.Cmd, sig unix.Signal) {
		t.Helper()
		if err := unix.Kill(cmd.Process.Pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	// The stop signal of the one that moves on takes effect in its next program.
	kill(moves, unix.SIGCONT)
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "it to move on", func() bool {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", moves.Process.Pid))
		return err == nil && !strings.HasPrefix(exe, evil)
	})
	kill(moves, unix.SIGSTOP)
	is(moves, 'T')
	kill(dies, unix.SIGKILL)
	is(dies, 0)

	r := stop(t, d)
	waitFor(t, "the innocent to run on", func() bool { return alive(moves) == nil })
	got := map[int]string{}
	for _, m := range r.Matches {
		got[m.PID] = fmt.Sprintf("killed %v, gone %v, %v", m.Killed, m.Gone, m.Err)
	}
	want := map[int]string{
		dies.Process.Pid:  "killed false, gone true, <nil>",
		stays.Process.Pid: "killed true, gone true, <nil>",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) || r.Met != 2 {
		t.Errorf("met %d: %v, want %v", r.Met, got, want)
	}
}
