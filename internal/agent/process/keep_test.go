// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// envRole makes the test program one of the processes of TestKeeper.
const envRole = "STAUNCH_TEST_PROCESS_ROLE"

func TestMain(m *testing.M) {
	var err error
	switch os.Getenv(envRole) {
	case "":
		os.Exit(m.Run())
	case "keeper":
		var bound time.Duration
		if bound, err = time.ParseDuration(os.Args[len(os.Args)-1]); err == nil {
			err = Keep(os.Args[len(os.Args)-2], bound, os.Stdin, os.Stdout)
		}
	case "freezer":
		err = freezeAndHang(os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// freezeAndHang freezes, says so, and does not thaw.
func freezeAndHang(stateDir string) error {
	if err := os.Setenv(envRole, "keeper"); err != nil {
		return err
	}
	bound, err := time.ParseDuration(os.Getenv("STAUNCH_TEST_FREEZE"))
	if err != nil {
		return err
	}
	h, err := New(Config{Rung: RungFreeze, StateDir: stateDir, Keeper: []string{"keep"}, Freeze: bound})
	if err != nil {
		fmt.Println("skip", err)
		return nil
	}
	fr, err := h.freeze(context.Background())
	if err != nil {
		return err
	}
	fr.bound.Stop()
	fmt.Println("frozen")
	select {}
}

// TestKeeper: who has frozen is killed with SIGKILL, or is merely stopped; the
// keeper thaws.
func TestKeeper(t *testing.T) {
	bin := runner(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		t.Run(sig.String(), func(t *testing.T) {
			k := newKit(t, bin)
			if k.group == nil {
				t.Skip("SKIPPED, NOT PROVEN: no control group could be made")
			}
			in := k.innocent(k.program("twin", bin, k.mark))
			dir := t.TempDir()
			cmd := exec.Command("/proc/self/exe", dir)
			cmd.Env = append(os.Environ(), envRole+"=freezer", "STAUNCH_TEST_FREEZE="+bound(sig))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				cmd.Process.Kill() //nolint:errcheck // it may be gone
				cmd.Wait()         //nolint:errcheck // it is killed
				if err := ThawLeftover(dir); err != nil {
					t.Error(err)
				}
			}()
			line, err := bufio.NewReader(out).ReadString('\n')
			if err != nil || line != "frozen\n" {
				t.Skipf("SKIPPED, NOT PROVEN: %s, %v", line, err)
			}
			if sig == syscall.SIGKILL && !k.frozen() {
				t.Fatal("nothing was frozen")
			}
			if err := cmd.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			k.thawed()
			waitFor(t, "the record to be taken away", func() bool {
				_, err := os.Stat(filepath.Join(dir, frozenFile))
				return os.IsNotExist(err)
			})
			if err := alive(in); err != nil {
				t.Error(err)
			}
		})
	}
}

// bound is how long a freeze may last: long enough that the keeper does not
// thaw before the signal, except where it is to notice that its starter hangs.
func bound(sig syscall.Signal) string {
	if sig == syscall.SIGSTOP {
		return "500ms"
	}
	return "30s"
}
