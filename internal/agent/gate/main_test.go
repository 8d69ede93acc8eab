// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/runnable"
)

// The test program is its own gate, supervisor and worker.
const envTestRole = "STAUNCH_TEST_ROLE"

func TestMain(m *testing.M) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch {
	case os.Getenv(envRole) != "":
		exitWith(Main(GateConfig{Log: log}))
	case len(os.Args) > 1 && os.Args[1] == "test-worker":
		exitWith(testWorker())
	case os.Getenv(envTestRole) == "supervisor":
		exitWith(testSupervisor(log))
	case os.Getenv(envTestRole) == "flip":
		exitWith(flip())
	}
	os.Exit(m.Run())
}

func exitWith(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func testSupervisor(log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := os.Unsetenv(envTestRole); err != nil { // a worker that took this role would do so without end
		return err
	}
	under := os.Getenv("STAUNCH_TEST_UNDER")
	if under == "" {
		return errors.New("refusing to gate the whole machine in a test")
	}
	return Supervise(ctx, SupervisorConfig{
		Settings: Settings{
			Bound: time.Second, Under: []string{under},
			FailClosed: os.Getenv("STAUNCH_TEST_CLOSED") != "",
		},
		GateArgs: []string{"test-gate"}, WorkerArgs: []string{"test-worker"}, Log: log,
	})
}

// testWorker does what its commands say, one a line, and answers with a line:
// "deny PATH", "allow PATH", "read PATH", "hash PATH", "status", "pid", "env NAME", "exit N".
func testWorker() error {
	c, err := Inherited()
	if err != nil {
		fmt.Println("off:", err)
	}
	for {
		var verb, arg string
		if _, err := fmt.Scanln(&verb, &arg); err == io.EOF {
			return nil
		}
		fmt.Println(workerDoes(c, verb, arg))
	}
}

func workerDoes(c *Client, verb, arg string) string {
	word := func(err error) string {
		if err != nil {
			return "error: " + strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		return "ok"
	}
	switch verb {
	case "deny", "allow":
		f, err := os.OpenFile(arg, unix.O_PATH, 0)
		if err != nil {
			return word(err)
		}
		defer f.Close()
		if verb == "deny" {
			return word(c.DenyFile(f, "order-1"))
		}
		return word(c.AllowFile(f))
	case "read":
		_, err := os.ReadFile(arg)
		return word(err)
	case "hash":
		sum, err := sumPath(arg)
		if err != nil {
			return word(err)
		}
		return word(c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size, ID: "order-1"}))
	case "status":
		s, err := c.Status()
		if err != nil {
			return word(err)
		}
		return fmt.Sprintf("ok files=%d hashes=%d restarts=%d", s.Files, s.Hashes, s.Restarts)
	case "pid":
		return "ok " + strconv.Itoa(os.Getpid())
	case "env":
		return "ok " + os.Getenv(arg)
	case "exit":
		code, _ := strconv.Atoi(arg)
		os.Exit(code)
	}
	return "error: what is " + verb
}

// needRoot skips where the kernel grants no permission events.
func needRoot(t testing.TB) {
	t.Helper()
	g, err := newGroup()
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	_ = unix.Close(g.fd)
}

// scratch mounts a file system for the test alone. Only such are ever marked.
func scratch(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	mountAt(t, dir)
	return dir
}

func mountAt(t testing.TB, dir string) {
	t.Helper()
	if err := unix.Mount("staunch-test", dir, "tmpfs", 0, "size=256m"); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot mount a scratch file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
}

// fuse kills pid after a while, from a process that does not depend on this
// one: a gate that hangs must not outlive its test.
func fuse(t testing.TB, pid int) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `sleep 90; kill -9 "$0"`, strconv.Itoa(pid))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
}

// startLocal starts a gate that covers dir and nothing else.
func startLocal(t testing.TB, dir string, set Settings) *Client {
	t.Helper()
	set.Under = []string{dir}
	c, err := StartLocal(LocalConfig{Settings: set, GateArgs: []string{"test-gate"}})
	if err != nil {
		t.Fatal(err)
	}
	keeper := childOf(t, os.Getpid(), roleKeeper)
	fuse(t, keeper)
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// childOf finds the child of ppid that plays the role; 0 where there is none.
func childOf(t testing.TB, ppid int, role string) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(ppid) || fields[0] == "Z" {
			continue
		}
		env, _ := os.ReadFile(filepath.Join(filepath.Dir(stat), "environ"))
		if strings.Contains(string(env), envRole+"="+role+"\x00") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			return pid
		}
	}
	return 0
}

// gatePID waits for the gate of a local client whose pid is not old.
func gatePID(t testing.TB, keeper, old int) int {
	t.Helper()
	for range 6000 {
		if pid := childOf(t, keeper, roleGate); pid != 0 && pid != old {
			return pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("no gate process appears")
	return 0
}

func open(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func write(t testing.TB, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := runnable.Write(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// program copies a small program to path. It prints "ran" and ends.
func program(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	return write(t, path, string(b), 0o755)
}

// run executes and returns what happened, within a bound.
func run(t testing.TB, name string, args ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s %v hangs", name, args)
	}
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func mustRun(t testing.TB, name string, args ...string) {
	t.Helper()
	if err := run(t, name, args...); err != nil {
		t.Errorf("%s %v: %v; want it to run", name, args, err)
	}
}

func mustRefuse(t testing.TB, name string, args ...string) {
	t.Helper()
	err := run(t, name, args...)
	if err == nil {
		t.Errorf("%s %v ran; want it refused", name, args)
	} else if s := err.Error(); !strings.Contains(strings.ToLower(s), "not permitted") {
		t.Errorf("%s %v: %v; want EPERM", name, args, err)
	}
}
