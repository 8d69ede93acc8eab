// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/internal/server/audit"
	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

// The environment that makes this test binary the child of a crash test.
const (
	crashDatabase = "STAUNCH_CRASH_DATABASE" // path or URL
	crashKey      = "STAUNCH_CRASH_KEY"      // note signer key
)

func TestMain(m *testing.M) {
	if os.Getenv(crashDatabase) != "" {
		fmt.Fprintln(os.Stderr, crashChild(os.Getenv(crashDatabase), os.Getenv(crashKey)))
		os.Exit(1) // it ends by being killed
	}
	os.Exit(m.Run())
}

func crashConfig(database string, signer note.Signer) store.Config {
	c := store.Config{Path: database, Checkpoint: signer, Log: slog.New(slog.DiscardHandler)}
	if strings.HasPrefix(database, "postgres://") {
		c.URL, c.Path = database, ""
	}
	return c
}

// crashChild creates actions as fast as it can and prints the id of each once
// it was told that the action is kept.
func crashChild(database, key string) error {
	signer, err := note.NewSigner(key)
	if err != nil {
		return err
	}
	s, err := store.Open(context.Background(), crashConfig(database, signer))
	if err != nil {
		return err
	}
	failed := make(chan error)
	for i := range 16 {
		go func() {
			for {
				a := storetest.NewAction(fmt.Sprint("machine", i))
				if err := s.CreateAction(context.Background(), a, storetest.Entry(audit.StopAndQuarantineFile, a.ID)); err != nil {
					failed <- err
					return
				}
				if _, err := os.Stdout.WriteString(a.ID + "\n"); err != nil { // one write each: a line is whole or not there
					failed <- err
					return
				}
			}
		}()
	}
	return <-failed
}

// TestKillSQLite kills the process. What a loss of power would take is not
// shown by that: it rests on synchronous=FULL, which TestPragmasOnEveryConnection holds.
func TestKillSQLite(t *testing.T) {
	t.Parallel()
	kill(t, sqlite(t).Path, func(child *exec.Cmd) error { return child.Process.Kill() })
}

func TestKillPostgresReplica(t *testing.T) {
	t.Parallel()
	kill(t, storetest.StartPostgres(t).Create(t), func(child *exec.Cmd) error { return child.Process.Kill() })
}

// TestKillPostgresServer stops the database server at once and without a word.
func TestKillPostgresServer(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	kill(t, server.Create(t), func(child *exec.Cmd) error {
		server.Crash(t)
		return child.Process.Kill()
	})
}

func kill(t *testing.T, database string, crash func(child *exec.Cmd) error) {
	key, vkey, err := note.GenerateKey(nil, "staunch.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	printed := map[string]bool{}
	for round := range 4 {
		t.Logf("round %d: killed after %d answers", round, runUntilKilled(t, database, key, crash, printed))
		checkAfterCrash(t, database, key, verifier, printed)
	}
}

// runUntilKilled runs a child until it has printed some ids, kills it, and adds
// all that it printed. It returns how many those are.
func runUntilKilled(t *testing.T, database, key string, crash func(*exec.Cmd) error, printed map[string]bool) int {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashDatabase+"="+database, crashKey+"="+key)
	var stderr strings.Builder
	child.Stderr = &stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	enough, n := 1+rand.IntN(1500), 0
	var once sync.Once
	var group sync.WaitGroup
	for lines := bufio.NewScanner(out); lines.Scan(); {
		printed[lines.Text()] = true
		if n++; n >= enough {
			once.Do(func() {
				group.Go(func() { // beside the reading: the child is at full speed when it dies
					if err := crash(child); err != nil && !strings.Contains(err.Error(), "already finished") {
						t.Errorf("cannot kill: %v", err)
					}
				})
			})
		}
	}
	group.Wait()
	_ = child.Wait() // it was killed
	if n < enough {
		t.Fatalf("the child ended after %d answers: %s", n, &stderr)
	}
	return n
}

func checkAfterCrash(t *testing.T, database, key string, verifier note.Verifier, printed map[string]bool) {
	t.Helper()
	signer, err := note.NewSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, crashConfig(database, signer))
	defer func() { _ = s.Close() }()
	audited := map[string]bool{}
	for after := int64(-1); ; {
		page, err := s.AuditEntries(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			audited[e.Target] = true
		}
		after = page[len(page)-1].Index
	}
	for id := range printed {
		if _, err := s.Action(t.Context(), id); err != nil {
			t.Fatalf("an action that was answered is gone: %v", err)
		}
		if !audited[id] {
			t.Fatalf("action %s has no audit entry", id)
		}
	}
	for id := range audited {
		if _, err := s.Action(t.Context(), id); err != nil {
			t.Fatalf("an audit entry is about an action that was not kept: %v", err)
		}
	}
	checkpoint(t, s)
	report, err := s.VerifyAudit(t.Context(), verifier)
	if err != nil || report.Signed != report.Lines || int(report.Lines) < len(printed) {
		t.Fatalf("audit log after the crash: %+v, %v", report, err)
	}
}

// After its server was restarted the store goes on by itself.
func TestPostgresComesBack(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	c, verifier := signed(t, postgres(t, server))
	s := open(t, c)
	defer func() { _ = s.Close() }()
	record := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return s.Record(ctx, storetest.Entry(audit.IssueToken, "x"))
	}
	if err := record(); err != nil {
		t.Fatal(err)
	}
	server.Crash(t)
	if err := record(); err != nil {
		t.Errorf("first change after a restart of the server: %v", err)
	}
	if _, err := s.AuditEntries(t.Context(), -1, 10); err != nil {
		t.Errorf("first read after a restart of the server: %v", err)
	}
	if r, err := s.VerifyAudit(t.Context(), verifier); err != nil || r.Lines != 2 {
		t.Errorf("audit log: %+v, %v", r, err)
	}
}

// Replicas that start together on an empty database make it once.
func TestPostgresReplicasStartTogether(t *testing.T) {
	t.Parallel()
	c, _ := signed(t, postgres(t, storetest.StartPostgres(t)))
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			s, err := store.Open(t.Context(), c)
			if err != nil {
				t.Errorf("Open: %v", err)
				return
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
	group.Wait()
}
