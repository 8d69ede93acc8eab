// SPDX-License-Identifier: Apache-2.0

// Package fault kills server and agent at every step and at any time, during
// real orders with real files and processes, and looks afterwards whether every
// promise held: the order ends, every file is whole exactly once, nothing is
// done twice, nobody is left frozen, and the record of it verifies. It also
// brings forged orders to the agent's door, and starts and stops both programs
// in this process to see that nothing stays behind.
package fault

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"staunch/internal/agent"
	"staunch/internal/agent/gate"
	"staunch/test/rig"
)

var bin string // folder of the programs

// TestMain becomes, when a test starts it so, an agent that kills itself at a
// given step, or that agent's gate.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("STAUNCH_GATE_ROLE") != "":
		exit(gate.Main(gate.GateConfig{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}))
	case os.Getenv(envDie) != "":
		exit(mortal(os.Getenv(envDie), os.Args[1], os.Args[2]))
	}
	os.Exit(run(m))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(m *testing.M) int {
	var remove func()
	var err error
	if bin, remove, err = rig.Build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	// Rounds mostly wait, for the second for which an agent looks again.
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// envDie says behind what the agent dies: a number of journal records, or the
// name of a step of its vault.
const envDie = "STAUNCH_FAULT_DIE"

// mortal is an agent, as staunch-agent runs it, that is killed at one moment.
func mortal(behind, state, disk string) error {
	die := func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	n, err := strconv.Atoi(behind)
	isStep := err != nil
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	// Only the scratch disk is gated.
	gates, why := gate.StartLocal(gate.LocalConfig{GateArgs: []string{"gate"}, Settings: gate.Settings{Under: []string{disk}}})
	off := ""
	if why != nil {
		off = why.Error()
	}
	a, err := agent.New(agent.Config{
		State: agent.State{Dir: state}, Roots: []string{disk}, Gate: gates, GateOff: off, Log: log,
		AfterAppend: func(i int) {
			if !isStep && i == n {
				die()
			}
		},
		VaultStep: func(name string) {
			if isStep && name == behind {
				die()
			}
		},
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return a.Run(ctx)
}

// needRoot skips where what is asked for cannot be done.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: faults during real orders need root")
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// scratch is a folder with a short path: a socket's has at most 107 bytes.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "staunch-fault-")
	must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// startServer starts a real server that ends, in good order, with the test.
func startServer(t testing.TB) *rig.Server {
	t.Helper()
	s := &rig.Server{Program: filepath.Join(bin, "staunch"), Data: filepath.Join(scratch(t), "server")}
	must(t, s.Start())
	t.Cleanup(func() {
		if s.Process.Ended() {
			return
		}
		if err := s.Process.End(syscall.SIGTERM); err != nil {
			t.Errorf("the server did not end well: %v\n%s", err, s.Process.Tail())
		}
	})
	var ignored struct{}
	for _, limit := range []string{"limits.perMinute", "limits.perHour"} {
		if err := s.Admin(context.Background(), &ignored, "settings", "set", limit, "1000000"); err != nil {
			t.Fatal(err)
		}
	}
	return s
}
