// SPDX-License-Identifier: Apache-2.0

// Package soak lets random things happen to a real server and a real agent:
// orders, duplicates, cancellations, standing rules and restores for programs
// that fight back, while worker, gate, agent and server are killed and disks are
// full. After each round it looks at the world with eyes of its own:
//
//   - every order has ended, and the audit log verifies;
//   - what was said to have succeeded did: nothing runs and no copy is left;
//   - nothing is lost: given back, every file is in its place as it was;
//   - no innocent was harmed, and nobody is frozen.
//
// Two rounds are part of every test run; `make soak` goes on for as long as it is
// told. The seed is printed, and makes the same choices again; what the machine
// makes of them differs.
package soak

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"staunch/test/rig"
)

var (
	lasts = flag.Duration("soak.for", 0, "how long to go on; 0 = two rounds")
	seed  = flag.Uint64("soak.seed", 0, "of the choices; 0 = another each time")
)

var bin string // folder of the programs

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	var remove func()
	var err error
	if bin, remove, err = rig.Build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	return m.Run()
}

func TestSoak(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: stopping other people's processes needs root")
	}
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	t.Logf("seed %d", *seed)
	w := newWorld(t, rand.New(rand.NewPCG(*seed, 0)))
	end := time.Now().Add(*lasts)
	for w.round = 1; w.round <= 2 || time.Now().Before(end); w.round++ {
		w.play()
		if t.Failed() {
			break
		}
	}
	t.Logf("%d rounds: %v", w.round-1, w.counts)
}

// hostile builds the program that fights back; nil where there is no compiler.
func hostile(t *testing.T) []byte {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Log("without gcc there are no hostile programs: shells that respawn have to do")
		return nil
	}
	out := filepath.Join(t.TempDir(), "foe")
	if msg, err := exec.Command(gcc, "-O1", "-o", out, "../adversary/testdata/foe.c", "-static", "-pthread").CombinedOutput(); err != nil {
		t.Fatalf("cannot build the hostile program: %v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	must(t, err)
	return b
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
