// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bufio"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// huge makes an executable file that takes many seconds to hash, and hardly
// any memory.
func huge(t testing.TB, path string) string {
	t.Helper()
	write(t, path, "#!/bin/true\n", 0o755)
	if err := os.Truncate(path, 1<<40); err != nil {
		t.Fatal(err)
	}
	return path
}

var patient = Settings{Bound: time.Second, Budget: time.Minute, MaxSize: 1 << 50}

// denyAll denies a content of unknown size, so that every execution is hashed.
func denyAll(t testing.TB, c *Client, path string) {
	t.Helper()
	sum := mustSum(t, path)
	if err := c.DenyHash(Rule{File: sum.Hash(), Size: -1, ID: "order-1"}); err != nil {
		t.Fatal(err)
	}
}

// background runs a program and sends what came of it. The shell in between
// does the waiting: this process forks under a lock until the execution is
// decided, one at a time.
func background(path string) <-chan error {
	c := make(chan error, 1)
	go func() { c <- exec.Command("/bin/sh", "-c", `"$0"; exit $?`, path).Run() }()
	return c
}

func result(t testing.TB, c <-chan error) error {
	t.Helper()
	select {
	case err := <-c:
		return err
	case <-time.After(60 * time.Second):
		t.Fatal("an execution hangs")
		return nil
	}
}

func mustStatus(t testing.TB, c *Client) Status {
	t.Helper()
	s, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever happens to the gate, what it had taken up is answered by the
// setting, what it had not is judged by its successor, and the rules stand.
func TestGateDies(t *testing.T) {
	for _, tt := range []struct {
		name   string
		closed bool
		signal syscall.Signal
	}{
		{"killed, fail-open", false, syscall.SIGKILL},
		{"killed, fail-closed", true, syscall.SIGKILL},
		{"stopped, fail-open", false, syscall.SIGSTOP},
		{"stopped, fail-closed", true, syscall.SIGSTOP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := scratch(t)
			prog, innocent, big := program(t, dir+"/prog"), write(t, dir+"/innocent", "#!/bin/true\n", 0o755), huge(t, dir+"/huge")
			set := patient
			set.FailClosed = tt.closed
			c := startLocal(t, dir, set)
			keeper := childOf(t, os.Getpid(), roleKeeper)
			first := gatePID(t, keeper, 0)
			denyAll(t, c, prog)
			if err := c.DenyFile(open(t, prog), "order-1"); err != nil {
				t.Fatal(err)
			}
			taken := background(big)
			eventually(t, func() bool { return mustStatus(t, c).Pending == 1 })

			if err := syscall.Kill(first, tt.signal); err != nil {
				t.Fatal(err)
			}
			if tt.signal == syscall.SIGSTOP {
				eventually(t, func() bool { return state(first) == "T" })
			}
			denied, fine := background(prog), background(innocent)
			if err := result(t, taken); (err == nil) == tt.closed {
				t.Errorf("the execution the gate had taken up: %v with fail-closed %v", err, tt.closed)
			}
			if result(t, denied) == nil {
				t.Error("the denied file ran while the gate was replaced")
			}
			if err := result(t, fine); err != nil {
				t.Errorf("the innocent was refused: %v", err)
			}
			mustRefuse(t, prog)
			mustRefuse(t, "cat", prog)
			mustRefuse(t, program(t, dir+"/copy"))
			mustRun(t, innocent)
			if _, err := os.ReadFile(prog); err != nil {
				t.Errorf("the successor does not know the worker: %v", err)
			}
			if s := mustStatus(t, c); s.Restarts != 1 || s.Swept != 1 || s.Files != 1 || s.Hashes != 1 {
				t.Errorf("status of the successor: %+v", s)
			}
		})
	}
}

// While no gate can be started at all the supervisor answers by the setting.
func TestNoSuccessor(t *testing.T) {
	for _, closed := range []bool{false, true} {
		t.Run("fail-closed "+strconv.FormatBool(closed), func(t *testing.T) {
			dir, exe := scratch(t), t.TempDir()+"/agent"
			if err := os.Symlink("/proc/"+strconv.Itoa(os.Getpid())+"/exe", exe); err != nil {
				t.Fatal(err)
			}
			c, err := StartLocal(LocalConfig{
				Settings: Settings{Bound: time.Second, FailClosed: closed, Under: []string{dir}},
				Exe:      exe, GateArgs: []string{"test-gate"},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			keeper := childOf(t, os.Getpid(), roleKeeper)
			fuse(t, keeper)
			prog := program(t, dir+"/prog")
			denyAll(t, c, prog)

			if err := os.Remove(exe); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(gatePID(t, keeper, 0), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool { return childOf(t, keeper, roleGate) == 0 })
			if err := result(t, background(prog)); (err == nil) == closed {
				t.Errorf("without a gate: %v, fail-closed %v", err, closed)
			}
			if err := os.Symlink("/proc/"+strconv.Itoa(os.Getpid())+"/exe", exe); err != nil {
				t.Fatal(err)
			}
			if s := mustStatus(t, c); s.Swept == 0 {
				t.Errorf("status: %+v; want it to count what was let go", s)
			}
			mustRefuse(t, prog)
		})
	}
}

// An event that takes longer than its budget is answered by the setting; a
// content that turns out to be denied is reported all the same.
func TestBudget(t *testing.T) {
	dir := scratch(t)
	big := write(t, dir+"/big", "#!/bin/true\n", 0o755)
	if err := os.Truncate(big, 400<<20); err != nil {
		t.Fatal(err)
	}
	c := startLocal(t, dir, Settings{Budget: time.Millisecond})
	denyAll(t, c, big)
	mustRun(t, big)
	if r := <-c.Refusals(); !r.Late || r.ID != "order-1" {
		t.Errorf("refusal: %+v; want it late", r)
	}
	if s := mustStatus(t, c); s.FailOpens != 1 || s.Late != 1 {
		t.Errorf("status: %+v", s)
	}
	if err := os.Truncate(big, 2<<30); err != nil {
		t.Fatal(err)
	}
	mustRun(t, big) // beyond MaxSize
	if s := mustStatus(t, c); s.FailOpens != 2 || s.HashedExecs != 1 {
		t.Errorf("status: %+v", s)
	}
}

// One file that takes long holds up nobody else.
func TestManyExecs(t *testing.T) {
	dir := scratch(t)
	big := huge(t, dir+"/huge")
	c := startLocal(t, dir, patient)
	denyAll(t, c, program(t, dir+"/prog"))
	taken := background(big)
	eventually(t, func() bool { return mustStatus(t, c).Pending == 1 })
	var all []<-chan error
	for i := range 100 {
		path := write(t, dir+"/innocent"+strconv.Itoa(i), "#!/bin/true\n#"+strconv.Itoa(i), 0o755)
		all = append(all, background(path), background(path), background(dir+"/prog"))
	}
	for i, c := range all {
		if err := result(t, c); (err == nil) != (i%3 != 2) {
			t.Errorf("execution %d: %v", i, err)
		}
	}
	if s := mustStatus(t, c); s.Pending != 1 || s.FailOpens != 0 || s.Overflows != 0 || s.Denied != 100 {
		t.Errorf("status: %+v; want only the big file pending", s)
	}
	if err := syscall.Kill(gatePID(t, childOf(t, os.Getpid(), roleKeeper), 0), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := result(t, taken); err != nil {
		t.Error(err)
	}
}

// puppet is a supervisor with its worker, in processes of their own.
type puppet struct {
	t   testing.TB
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func startSupervisor(t testing.TB, dir string, env ...string) *puppet {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envTestRole+"=supervisor", "STAUNCH_TEST_UNDER="+dir)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fuse(t, cmd.Process.Pid)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &puppet{t, cmd, in, bufio.NewReader(out)}
}

func (p *puppet) do(command string) string {
	p.t.Helper()
	if _, err := io.WriteString(p.in, command+"\n"); err != nil {
		p.t.Fatal(err)
	}
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%s: %v", command, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (p *puppet) want(command, answer string) {
	p.t.Helper()
	if got := p.do(command); !strings.HasPrefix(got, answer) {
		p.t.Errorf("%s: %s; want %s", command, got, answer)
	}
}

// The gate outlasts the worker, the rules outlast both, nothing outlasts the
// supervisor.
func TestSupervise(t *testing.T) {
	dir := scratch(t)
	prog, innocent := program(t, dir+"/prog"), write(t, dir+"/innocent", "#!/bin/true\n", 0o755)
	p := startSupervisor(t, dir)
	p.want("deny "+prog, "ok")
	p.want("hash "+prog, "ok")
	mustRefuse(t, prog)
	gate := gatePID(t, p.cmd.Process.Pid, 0)

	worker := p.do("pid -")
	if _, err := io.WriteString(p.in, "exit 1\n"); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, prog)
	if again := p.do("pid -"); again == worker {
		t.Errorf("the worker is %s still", again)
	}
	p.want("read "+prog, "ok")
	p.want("status -", "ok files=1 hashes=1 restarts=0")

	if err := syscall.Kill(gate, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, prog)
	p.want("status -", "ok files=1 hashes=1 restarts=1")
	p.want("read "+prog, "ok")

	gate = gatePID(t, p.cmd.Process.Pid, gate)
	workerPID, err := strconv.Atoi(strings.TrimPrefix(p.do("pid -"), "ok "))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(gate, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waiting := background(innocent)
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := result(t, waiting); err != nil {
		t.Errorf("after the supervisor's death: %v; want all released", err)
	}
	eventually(t, func() bool { return gone(gate) && gone(workerPID) })
	mustRun(t, prog)
}

// state is the letter of proc_pid_stat(5), "" once the process is reaped.
func state(pid int) string {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:1]
}

func gone(pid int) bool { return state(pid) == "" || state(pid) == "Z" }

// The service manager hears that the agent is ready, well, and stopping; its
// children do not speak for it.
func TestNotify(t *testing.T) {
	dir, socket := scratch(t), t.TempDir()+"/notify"
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := startSupervisor(t, dir, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=200000")
	if got := p.do("env NOTIFY_SOCKET"); got != "ok " {
		t.Errorf("the worker has NOTIFY_SOCKET: %s", got)
	}
	buf := make([]byte, 100)
	heard := func() string {
		if err := l.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		if got := heard(); got != want {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for heard() != "STOPPING=1" {
	}
}

// A worker that says so is not started again, and the supervisor says it.
func TestWorkerEndsForGood(t *testing.T) {
	p := startSupervisor(t, scratch(t))
	if _, err := io.WriteString(p.in, "exit "+strconv.Itoa(ExitForGood)+"\n"); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.cmd.Wait(); err == nil {
		t.Error("the supervisor ended well")
	} else if !asExit(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the supervisor ended with %v", err)
	}
}

func asExit(err error, exit **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError)
	*exit = e
	return ok
}

// A stop that is asked for stops all, and lets everything go.
func TestSuperviseStops(t *testing.T) {
	dir := scratch(t)
	prog := program(t, dir+"/prog")
	p := startSupervisor(t, dir)
	p.want("hash "+prog, "ok")
	mustRefuse(t, prog)
	gate := gatePID(t, p.cmd.Process.Pid, 0)
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("the supervisor ended with %v", err)
	}
	if !gone(gate) {
		t.Error("the gate is still there")
	}
	mustRun(t, prog)
}

// Without privileges the worker runs alone and knows why.
func TestSuperviseWithoutPrivileges(t *testing.T) {
	needRoot(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envTestRole+"=supervisor", "STAUNCH_TEST_UNDER=/nonexistent")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	cmd.Stdout = &text
	if err := cmd.Start(); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: cannot run the test program as nobody: %v", err)
	}
	fuse(t, cmd.Process.Pid)
	if _, err := io.WriteString(in, "exit "+strconv.Itoa(ExitForGood)+"\n"); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if !strings.Contains(text.String(), "off: the gate is off: ") || !strings.Contains(text.String(), "CAP_SYS_ADMIN") {
		t.Errorf("the worker heard %q", text.String())
	}
}

// A content that changes between being judged and being executed never runs.
func TestWriterRace(t *testing.T) {
	for _, how := range []string{"write", "mmap"} {
		t.Run(how, func(t *testing.T) {
			dir := scratch(t)
			good, evil := build(t, dir+"/good", "return 0;"), build(t, dir+"/evil", "return 6;")
			sum := mustSum(t, evil)
			if len(readFile(t, good)) != len(readFile(t, evil)) {
				t.Fatal("the two programs must have one size")
			}
			target := write(t, dir+"/target", string(readFile(t, good)), 0o755)
			c := startLocal(t, dir, Settings{})
			if err := c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size, ID: "order-1"}); err != nil {
				t.Fatal(err)
			}
			flip := exec.Command("/proc/self/exe")
			flip.Env = append(os.Environ(), envTestRole+"=flip", "STAUNCH_TEST_FILES="+strings.Join([]string{how, target, good, evil}, ":"))
			if err := flip.Start(); err != nil {
				t.Fatal(err)
			}
			outcome := map[int]int{}
			const enough = 25
			for n := 0; n < 3000 && (outcome[0] < enough || outcome[-1] < enough); n++ {
				cmd := exec.Command(target)
				_ = cmd.Run() // refusals are expected
				code := -1
				if cmd.ProcessState != nil {
					code = cmd.ProcessState.ExitCode()
				}
				outcome[code]++
			}
			_ = flip.Process.Kill()
			_ = flip.Wait()
			t.Logf("ran good %d, refused %d, ran evil %d", outcome[0], outcome[-1], outcome[6])
			if outcome[6] != 0 {
				t.Errorf("the denied content ran %d times", outcome[6])
			}
			if outcome[0] < enough || outcome[-1] < enough {
				t.Error("the race did not take place")
			}
		})
	}
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func build(t testing.TB, path, body string) string {
	t.Helper()
	src := write(t, path+".c", "int main(void) { "+body+" }\n", 0o644)
	if err := run(t, "gcc", "-static", "-o", path, src); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: no C compiler for the test's programs: %v", err)
	}
	return path
}

// flip exchanges the content of a file with another and back until it is killed.
func flip() error {
	args := strings.Split(os.Getenv("STAUNCH_TEST_FILES"), ":")
	how, target := args[0], args[1]
	good, err := os.ReadFile(args[2])
	if err != nil {
		return err
	}
	evil, err := os.ReadFile(args[3])
	if err != nil {
		return err
	}
	var diff []int // only what differs is written: the window is small
	for i := range good {
		if good[i] != evil[i] {
			diff = append(diff, i)
		}
	}
	for {
		put(how, target, evil, diff)
		put(how, target, good, diff)
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
	}
}

// put writes text where it differs, with the file open as briefly as can be.
func put(how, target string, text []byte, diff []int) {
	f, err := os.OpenFile(target, os.O_RDWR, 0)
	if err != nil {
		return // ETXTBSY while it runs
	}
	defer f.Close()
	if how == "write" {
		for _, i := range diff {
			_, _ = f.WriteAt(text[i:i+1], int64(i))
		}
		return
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return
	}
	for _, i := range diff {
		mem[i] = text[i]
	}
	_ = unix.Munmap(mem)
}

// A file that somebody writes is not executed, as the kernel has it, and is
// once the writer is gone.
func TestWriter(t *testing.T) {
	dir := scratch(t)
	prog := program(t, dir+"/prog")
	c := startLocal(t, dir, Settings{})
	denyAll(t, c, write(t, dir+"/other", "#!/bin/false", 0o755))
	f, err := os.OpenFile(prog, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, prog)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	mustRun(t, prog)
	if s := mustStatus(t, c); s.Writers != 1 {
		t.Errorf("status: %+v", s)
	}
}

// A closed client leaves no goroutine and no process, and says that it is closed.
func TestClose(t *testing.T) {
	dir := scratch(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c, err := StartLocal(LocalConfig{Settings: Settings{Under: []string{dir}}, GateArgs: []string{"test-gate"}})
	if err != nil {
		t.Fatal(err)
	}
	prog := program(t, dir+"/prog")
	if err := c.DenyFile(open(t, prog), "x"); err != nil {
		t.Fatal(err)
	}
	keeper := childOf(t, os.Getpid(), roleKeeper)
	fuse(t, keeper)
	gate := gatePID(t, keeper, 0)
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, ok := <-c.Refusals(); ok {
		t.Error("a refusal that never was")
	}
	if _, err := c.Status(); err == nil || !strings.Contains(err.Error(), "the connection is closed") {
		t.Errorf("after Close: %v", err)
	}
	eventually(t, func() bool { return gone(gate) && gone(keeper) })
	mustRun(t, prog)
}

// A supervisor that is killed takes its gate along; the client hears of it.
func TestLocalSupervisorDies(t *testing.T) {
	dir := scratch(t)
	c, err := StartLocal(LocalConfig{Settings: Settings{Under: []string{dir}}, GateArgs: []string{"test-gate"}})
	if err != nil {
		t.Fatal(err)
	}
	prog := program(t, dir+"/prog")
	denyAll(t, c, prog)
	keeper := childOf(t, os.Getpid(), roleKeeper)
	fuse(t, keeper)
	gate := gatePID(t, keeper, 0)
	if err := syscall.Kill(gate, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	waiting := background(prog)
	if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = result(t, waiting) // judged just before, or let go
	eventually(t, func() bool { return gone(gate) })
	mustRun(t, prog)
	for range c.Refusals() { // ends, as the connection has
	}
	if err := c.Close(); err == nil || !strings.Contains(err.Error(), "ended badly") {
		t.Errorf("Close: %v", err)
	}
}
