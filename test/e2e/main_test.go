// SPDX-License-Identifier: Apache-2.0

// Package e2e tells stories of the real programs: server, agent and command
// line as processes, with real files, real processes and a disk of their own.
// The stories are the scripts in ../testdata/script, each of which begins with
// what it proves; commands_test.go has the few commands that they need beyond
// the usual ones of testscript.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"staunch/internal/server/storetest"
	"staunch/test/rig"
)

const scripts = "../testdata/script"

// onPostgres are the stories that are told on PostgreSQL as well.
var onPostgres = []string{"story.txtar", "restart.txtar", "ratelimit.txtar", "reach.txtar"}

var (
	bin  string // folder of the programs
	work string // where the scripts work; others may pass through
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	var remove func()
	var err error
	if bin, remove, err = rig.Build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer remove()
	if work, err = os.MkdirTemp("", "staunch-e2e-"); err == nil {
		err = os.Chmod(work, 0o755) //nolint:gosec // a story is told as nobody
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(work) }() // scratch
	// Scripts mostly wait, for the second for which an agent looks again.
	flag.Parse()
	if err := flag.Set("test.parallel", "4"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func params(t *testing.T, database string) testscript.Params {
	root, err := os.MkdirTemp(work, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(root, 0o755); err != nil { //nolint:gosec // as above
		t.Fatal(err)
	}
	return testscript.Params{
		WorkdirRoot:        root,
		RequireUniqueNames: true,
		Deadline:           time.Now().Add(10 * time.Minute),
		Setup:              func(e *testscript.Env) error { return setup(e, database) },
		Cmds:               commands,
		Condition: func(name string) (bool, error) {
			switch name {
			case "root":
				return os.Geteuid() == 0, nil
			case "postgres":
				return database != "", nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
	}
}

func TestScripts(t *testing.T) {
	found, err := filepath.Glob(filepath.Join(scripts, "*.txtar"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no scripts in %s: %v", scripts, err)
	}
	all, err := os.ReadDir(scripts)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if !slices.Contains(found, filepath.Join(scripts, e.Name())) {
			t.Errorf("%s lies among the scripts and is not run", e.Name())
		}
	}
	// The one that waits for more than a minute first, so that it ends with the rest.
	slices.SortStableFunc(found, func(a, b string) int { return rank(a) - rank(b) })
	p := params(t, "")
	p.Files = found
	testscript.Run(t, p)
}

func rank(script string) int {
	if filepath.Base(script) == "expiry.txtar" {
		return 0
	}
	return 1
}

func TestScriptsOnPostgres(t *testing.T) {
	pg := storetest.StartPostgres(t)
	for _, name := range onPostgres {
		p := params(t, pg.Create(t))
		p.Files = []string{filepath.Join(scripts, name)}
		// One after another, and each ended before the database goes.
		t.Run("on", func(t *testing.T) { testscript.Run(t, p) })
	}
}
