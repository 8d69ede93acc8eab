// SPDX-License-Identifier: Apache-2.0

package pin

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// envState makes the test program an agent that marks the files it is given,
// says so, and waits to be killed.
const envState = "STAUNCH_TEST_PIN"

func TestMain(m *testing.M) {
	if state := os.Getenv(envState); state != "" {
		os.Exit(agent(state, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func agent(state string, files []string) int {
	p, err := Open(Config{State: state, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	for _, path := range files {
		if err == nil {
			var f *os.File
			if f, err = os.Open(path); err == nil {
				err = errors.Join(p.Deny(f, "order.file"), f.Close())
			}
		}
	}
	if err != nil {
		println(err.Error())
		return 1
	}
	println("marked")
	time.Sleep(time.Minute)
	return 1
}

// open is an agent's view in this process.
func open(t *testing.T, state string, refused func(Refusal)) *Pins {
	t.Helper()
	p, err := Open(Config{State: state, Refused: refused, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if errors.Is(err, ErrOff) {
		t.Skip("SKIPPED, NOT PROVEN: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unpin(Dir(state)) }) // of a test that failed
	return p
}

func program(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "evil")
	if err := os.WriteFile(path, []byte("#!/dev/null/nothing\n"), 0o755); err != nil { //nolint:gosec // it is there to be executed
		t.Fatal(err)
	}
	return path
}

// refused says whether an execution of the file, and an opening of it by
// another process, are refused as by a mark.
func refused(t *testing.T, path string) bool {
	t.Helper()
	var err error
	for range 6000 {
		if err = exec.Command(path).Run(); !errors.Is(err, unix.ETXTBSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOTDIR) {
		t.Fatalf("execution of %s: %v", path, err)
	}
	return errors.Is(err, unix.EPERM)
}

// TestOutlives kills the agent and looks who still refuses; the next agent
// takes over, and lifts.
func TestOutlives(t *testing.T) {
	state, path := t.TempDir(), program(t)
	open(t, state, nil).Close()
	if _, err := os.Stat(Dir(state)); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("pins without a mark: %v", err)
	}
	cmd := exec.Command("/proc/self/exe", path)
	cmd.Env = append(os.Environ(), envState+"="+state)
	says, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(says).ReadString('\n')
	_ = cmd.Process.Kill() // the point of it
	_ = cmd.Wait()
	if line != "marked\n" {
		t.Fatalf("the agent said %q", line)
	}
	if !refused(t, path) {
		t.Fatal("with the agent dead the file can be executed")
	}
	if _, err := os.Open(path); !errors.Is(err, unix.EPERM) {
		t.Fatalf("with the agent dead the file can be opened: %v", err)
	}
	if fi, err := os.Stat(Dir(state)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("the pins' folder: %v %v", fi, err)
	}
	link := path + "-link"
	if err := os.Link(path, link); err != nil {
		t.Fatal(err)
	}
	if !refused(t, link) {
		t.Error("another name of the file can be executed")
	}
	next(t, state, path)
	if refused(t, path) {
		t.Error("lifted, and still refused")
	}
	if _, err := os.Stat(Dir(state)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the last mark is gone, the pins are not: %v", err)
	}
}

// next is the agent that comes after: it may open the file, hears of refusals,
// and lifts the mark.
func next(t *testing.T, state, path string) {
	heard := make(chan Refusal, 64)
	p := open(t, state, func(r Refusal) {
		select {
		case heard <- r:
		default:
		}
	})
	f, err := os.Open(path)
	if err != nil {
		t.Fatalf("the next agent may not open the file: %v", err)
	}
	defer f.Close()
	if !refused(t, path) {
		t.Error("with the next agent the file can be executed")
	}
	s, err := p.Status()
	if err != nil || s.Marks != 1 || s.Refused < 2 {
		t.Errorf("status %+v, %v", s, err)
	}
	select {
	case r := <-heard:
		if r.ID != "order.file" || r.PID <= 0 {
			t.Errorf("heard %+v", r)
		}
	case <-time.After(time.Minute):
		t.Error("refused, and nobody was told")
	}
	if err := p.Release(func(id string) bool { return id == "another" }); err != nil || !refused(t, path) {
		t.Errorf("another rule was lifted, and this one with it (%v)", err)
	}
	if err := p.Release(func(id string) bool { return id == "order.file" }); err != nil {
		t.Error(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// TestOpenedBefore: who has the file open already may neither map it to
// execute nor make a mapping executable.
func TestOpenedBefore(t *testing.T) {
	state, path := t.TempDir(), program(t)
	p := open(t, state, nil)
	defer p.Close()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	child := exec.Command("/proc/self/exe", "-test.run=^TestHolder$")
	child.Env = append(os.Environ(), "STAUNCH_TEST_PIN_HOLDER=1")
	child.ExtraFiles = []*os.File{f}
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer child.Wait() //nolint:errcheck // it has said what there is
	defer child.Process.Kill()
	lines := bufio.NewScanner(out)
	await := func(prefix string) string {
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), prefix) {
				return lines.Text()
			}
		}
		t.Fatalf("the holder never said %q", prefix)
		return ""
	}
	await("mapped")
	if err := p.Deny(f, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	if got, want := await("result"), "result operation not permitted, operation not permitted"; got != want {
		t.Errorf("map and protect: %q, want %q", got, want)
	}
	if err := p.Allow(f); err != nil {
		t.Error(err)
	}
	if refused(t, path) {
		t.Error("allowed, and still refused")
	}
}

// TestHolder is the process of TestOpenedBefore that holds the file.
func TestHolder(t *testing.T) {
	if os.Getenv("STAUNCH_TEST_PIN_HOLDER") == "" {
		t.Skip("it is a part of TestOpenedBefore")
	}
	mem, err := unix.Mmap(3, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("mapped\n")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	_, mapErr := unix.Mmap(3, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	protectErr := unix.Mprotect(mem, unix.PROT_READ|unix.PROT_EXEC)
	os.Stdout.WriteString("result " + orNot(mapErr).Error() + ", " + orNot(protectErr).Error() + "\n")
}

// TestNoGeneration: where an innocent could come by the mark there is none.
func TestNoGeneration(t *testing.T) {
	state := t.TempDir()
	p := open(t, state, nil)
	defer p.Close()
	dir := t.TempDir()
	if err := unix.Mount("staunch-test", dir, "ramfs", 0, ""); err != nil {
		t.Skip("SKIPPED, NOT PROVEN: ", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH) //nolint:errcheck // a scratch mount
	f, err := os.Create(filepath.Join(dir, "evil"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := p.Deny(f, "x"); err == nil || !strings.Contains(err.Error(), "generations") {
		t.Errorf("marked a file without generation: %v", err)
	}
	if err := p.Deny(f, strings.Repeat("x", idSize+1)); err == nil {
		t.Error("a rule's id that is too long was taken")
	}
}

// TestReused: a new file with the number of a marked one that is gone is not
// refused. STAUNCH_TEST_EXT4 names a folder on ext4, which gives numbers again
// at once.
func TestReused(t *testing.T) {
	dir := os.Getenv("STAUNCH_TEST_EXT4")
	if dir == "" {
		t.Skip("SKIPPED, NOT PROVEN: no folder on ext4 was named")
	}
	p := open(t, t.TempDir(), nil)
	defer p.Close()
	number := func(path string) uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	for i := range 20 {
		path := filepath.Join(dir, "evil")
		if err := os.WriteFile(path, []byte("#!/dev/null/nothing\n"), 0o755); err != nil { //nolint:gosec // to be executed
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		was := number(path)
		if err := errors.Join(p.Deny(f, "x"), f.Close()); err != nil {
			t.Fatal(err)
		}
		if !refused(t, path) {
			t.Fatal("a marked file can be executed")
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		innocent := filepath.Join(dir, "innocent")
		if err := os.WriteFile(innocent, []byte("#!/dev/null/nothing\n"), 0o755); err != nil { //nolint:gosec // to be executed
			t.Fatal(err)
		}
		same := number(innocent) == was
		if refused(t, innocent) {
			t.Fatal("an innocent came by the mark of a file that is gone")
		}
		if err := os.Remove(innocent); err != nil {
			t.Fatal(err)
		}
		if same {
			t.Logf("the number was given again at try %d", i+1)
			return
		}
	}
	t.Skip("SKIPPED, NOT PROVEN: no number was given again")
}

// TestOffSaysWhy: where nothing can be pinned the reason is there for people.
func TestOffSaysWhy(t *testing.T) {
	p, err := Open(Config{State: t.TempDir(), Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err == nil {
		t.Log("it works here")
		_ = p.Close() // nothing was pinned
		return
	}
	if !errors.Is(err, ErrOff) || len(err.Error()) < len(ErrOff.Error())+10 {
		t.Errorf("no reason: %v", err)
	}
	t.Log(err)
}

func TestDecodeEvent(t *testing.T) {
	var b bytes.Buffer
	e := event{TGID: 7, Exe: 1}
	copy(e.ID[:], "order.file")
	if err := binary.Write(&b, binary.NativeEndian, e); err != nil {
		t.Fatal(err)
	}
	if got, ok := decodeEvent(b.Bytes()); !ok || got != (Refusal{PID: 7, ID: "order.file", Exec: true}) {
		t.Errorf("%+v %v", got, ok)
	}
	if _, ok := decodeEvent(b.Bytes()[:20]); ok {
		t.Error("half an event was read")
	}
}

func TestStartOf(t *testing.T) {
	if n, err := startOf(os.Getpid()); err != nil || n == 0 {
		t.Errorf("%d %v", n, err)
	}
	if _, err := startOf(1 << 30); err == nil {
		t.Error("a process that is not there has a start")
	}
}
