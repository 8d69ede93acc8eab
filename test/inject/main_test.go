// SPDX-License-Identifier: Apache-2.0

// Package inject breaks the real agent at its system calls: it is killed at
// them, and they are made to fail, while it contains a file and while it gives
// one back. After each run the world is looked at with other eyes than the
// agent's: every file is whole exactly once, in its place or in the vault, with
// all that belonged to it; nobody is frozen; innocents are untouched; and the
// agent that is started next finishes. It also damages state folders by hand
// and reads what the agent says to that.
//
// strace(1) does the breaking. It counts calls per thread, and which thread of
// a Go program makes which call differs from run to run: a point "the third
// fsync" is an instant near that one, in as many threads as get so far. What
// was really hit is in the log. The gate's processes are broken along with the
// agent.
//
// A plain run tries a sample, drawn with a seed that is printed; -inject.all
// tries all there is.
package inject

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	all    = flag.Bool("inject.all", false, "try every point and every way to break it")
	sample = flag.Int("inject.n", 10, "how many containments and how many restores to break")
	seed   = flag.Uint64("inject.seed", 1, "what the sample is drawn with; another number tries other points")
	agent  = flag.String("inject.agent", "", "the agent to break; empty: built from this tree")
	only   = flag.String("inject.only", "", "try only this: what strace's inject takes, such as fsync:signal=KILL:when=3")
)

// agentPath is the agent under test.
var agentPath string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "staunch-inject-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)                      //nolint:errcheck // scratch
	if err := os.Chmod(dir, 0o755); err != nil { // others run the agent too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	agentPath = filepath.Join(dir, "staunch-agent")
	if *agent != "" {
		agentPath = *agent
		return m.Run()
	}
	build := exec.Command("go", "build", "-o", agentPath, "staunch/cmd/staunch-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build the agent: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// needs skips loudly where calls cannot be broken.
func needs(t *testing.T) {
	t.Helper()
	needsRoot(t)
	out, err := exec.Command("strace", "-f", "-o", os.DevNull, "-e", "inject=getpid:error=EIO:when=1", "true").CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: what a system call that fails or kills does: strace cannot inject here (install strace, allow ptrace): %v: %s", err, out)
	}
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: the agent's state after faults and bad input: needs root, to mount a scratch disk")
	}
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: the agent's state after faults and bad input: cannot mount a scratch disk: %v", err)
	}
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
