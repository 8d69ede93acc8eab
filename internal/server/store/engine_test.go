// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"

	"staunch/internal/server/audit"
)

// testConfig is a configuration for a SQLite database at path.
func testConfig(t testing.TB, path string) Config {
	t.Helper()
	skey, _, err := note.GenerateKey(nil, "staunch.test/audit")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Path: path, Checkpoint: signer, Log: slog.New(slog.DiscardHandler)}
}

// A PRAGMA reaches one connection; the settings have to be on each that the pools open.
func TestPragmasOnEveryConnection(t *testing.T) {
	s, err := Open(t.Context(), testConfig(t, filepath.Join(t.TempDir(), "x.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	fresh := func(open func() (*sql.DB, error)) *sql.DB {
		db, err := open()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	writer, readers := fresh(s.engine.openWriter), fresh(s.engine.openReaders)
	for _, pool := range []struct {
		name string
		db   *sql.DB
		want map[string]string
	}{
		{"writer", writer, map[string]string{"journal_mode": "wal", "synchronous": "2", "busy_timeout": "5000", "foreign_keys": "1", "query_only": "0"}},
		{"readers", readers, map[string]string{"journal_mode": "wal", "busy_timeout": "5000", "foreign_keys": "1", "query_only": "1"}},
	} {
		pool.db.SetMaxOpenConns(4)
		for range 3 { // held, so that each is another connection
			conn, err := pool.db.Conn(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			for pragma, want := range pool.want {
				var got string
				if err := conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
					t.Errorf("%s: %s is %s (%v), want %s", pool.name, pragma, got, err, want)
				}
			}
		}
	}
	if _, err := readers.Exec("INSERT INTO settings (name, value) VALUES ('a', 'b')"); err == nil {
		t.Error("a reader wrote")
	}
	if _, err := writer.Exec("INSERT INTO device_tags (device, tag) VALUES ('nobody', 'x')"); err == nil || !strings.Contains(err.Error(), "FOREIGN KEY") {
		t.Errorf("foreign keys are not enforced: %v", err)
	}
}

func TestDatabaseFileIsPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	s, err := Open(t.Context(), testConfig(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", info.Name(), info.Mode())
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	good := testConfig(t, filepath.Join(dir, "x.db"))
	notSQLite := filepath.Join(dir, "text")
	if err := os.WriteFile(notSQLite, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no log", func(c *Config) { c.Log = nil }, "Log is required"},
		{"no signer", func(c *Config) { c.Checkpoint = nil }, "a key to sign audit checkpoints is required"},
		{"nowhere", func(c *Config) { c.Path = "" }, "neither URL nor Path is given"},
		{"another database", func(c *Config) { c.URL = "mysql://u:secret@h/db" }, `"mysql://", want postgres://`},
		{"bad URL", func(c *Config) { c.URL = "postgres://u:secret@h:port/db" }, "cannot parse"},
		{"no server", func(c *Config) { c.URL = "postgres://u:secret@/db?host=" + dir }, "cannot open store in PostgreSQL database \"db\" at " + dir},
		{"no folder", func(c *Config) { c.Path = filepath.Join(dir, "no", "x.db") }, "no such file or directory"},
		{"a folder", func(c *Config) { c.Path = dir }, "cannot open store in " + dir},
		{"not a database", func(c *Config) { c.Path = notSQLite }, "file is not a database"},
		{"nothing to read", func(c *Config) { c.Path = filepath.Join(dir, "none"); c.ReadOnly = true }, "no such file or directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := good
			test.change(&c)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			s, err := Open(ctx, c)
			if err == nil {
				_ = s.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q, want one that says %q and no password", err, test.want)
			}
		})
	}
}

func TestOpenRefusesOtherVersions(t *testing.T) {
	c := testConfig(t, filepath.Join(t.TempDir(), "x.db"))
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	readOnly := c
	readOnly.ReadOnly = true
	for _, test := range []struct {
		sql  string
		c    Config
		want string
	}{
		{"INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, TRUE)", c, "is of version 999, this program knows up to"},
		{"DELETE FROM goose_db_version WHERE version_id > 0", readOnly, "let the server of this version open it once"},
		{"DROP TABLE goose_db_version", readOnly, "is it a Staunch database?"},
	} {
		db, err := s.engine.openWriter()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(test.sql); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Open(t.Context(), test.c)
		if err == nil {
			_ = again.Close()
			t.Fatalf("%s: opened", test.sql)
		}
		if !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %q, want one that says %q", err, test.want)
		}
	}
}

// The outbox and what else is looked up must stay fast with millions of rows:
// they may not scan the table, nor sort it. TestPlans holds lists to the same.
func TestQueriesUseIndexes(t *testing.T) {
	s, err := Open(t.Context(), testConfig(t, filepath.Join(t.TempDir(), "x.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for _, test := range []struct{ sql, want string }{
		{"SELECT id FROM actions WHERE NOT acknowledged ORDER BY seq LIMIT 1", "SCAN actions USING INDEX actions_outbox"},
		{"SELECT id FROM actions WHERE NOT acknowledged AND machine_id = 'm' ORDER BY seq LIMIT 1", "USING INDEX actions_outbox_machine (machine_id=?)"},
		{"SELECT DISTINCT machine_id FROM actions WHERE NOT acknowledged AND machine_id > 'm' ORDER BY machine_id LIMIT 9", "INDEX actions_outbox_machine (machine_id>?)"},
		{"SELECT id FROM actions WHERE active_key = 'k' AND status IN ('Pending', 'InProgress')", "USING INDEX actions_active (active_key=?)"},
		{"SELECT id FROM actions WHERE expires <= 5 AND status NOT IN ('Succeeded', 'Failed', 'TimeOut', 'Cancelled') ORDER BY expires LIMIT 1", "INDEX actions_expiry (expires<?)"},
		{selectItem + " WHERE i.machine_id = 'm' AND i.sealed <= 7 AND (i.sealed < 7 OR i.id < 'x') ORDER BY i.sealed DESC, i.id DESC", "USING INDEX items_machine (machine_id=? AND sealed<?)"},
		{selectItem + " WHERE i.sealed <= 7 AND (i.sealed < 7 OR i.id < 'x') ORDER BY i.sealed DESC, i.id DESC", "USING INDEX items_sealed (sealed<?)"},
		{selectDevice + "WHERE lower(name) = 'a' OR lower(label) = 'a' ORDER BY seq DESC LIMIT 9", "MULTI-INDEX OR"},
		{"SELECT max(line) FROM audit_lines", "SEARCH audit_lines USING COVERING INDEX"},
	} {
		plan := explain(t, s, test.sql)
		sorts := strings.Contains(plan, "TEMP B-TREE") && !strings.Contains(plan, "MULTI-INDEX")
		if !strings.Contains(plan, test.want) || sorts {
			t.Errorf("%s\nplan is\n%swant %s", test.sql, plan, test.want)
		}
	}
}

func explain(t *testing.T, s *Store, text string) string {
	t.Helper()
	rows, err := s.read.Query("EXPLAIN QUERY PLAN " + text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	defer func() { _ = rows.Close() }()
	var plan strings.Builder
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan.WriteString("  " + detail + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}

// The writer takes what is waiting into one transaction: 100 changes held back
// together may not cost anything like 100 commits.
func TestGroupCommit(t *testing.T) {
	s, err := Open(t.Context(), testConfig(t, filepath.Join(t.TempDir(), "x.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	entered, leave := make(chan struct{}), make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		if err := s.change(t.Context(), func(*tx) error { close(entered); <-leave; return nil }); err != nil {
			t.Errorf("change: %v", err)
		}
	})
	<-entered
	seen := make(map[*tx]int) // by transaction; the writer's goroutine alone writes to it
	for range 100 {
		group.Go(func() {
			if err := s.change(t.Context(), func(t *tx) error { seen[t]++; return nil }); err != nil {
				t.Errorf("change: %v", err)
			}
		})
	}
	for len(s.writer.jobs) < 100 {
		time.Sleep(time.Millisecond)
	}
	close(leave)
	group.Wait()
	if len(seen) != 1 {
		t.Errorf("100 waiting changes took %d transactions, want 1", len(seen))
	}
}

func TestCloseLeavesNoGoroutine(t *testing.T) {
	before := goleak.IgnoreCurrent()
	c := testConfig(t, filepath.Join(t.TempDir(), "x.db"))
	for range 3 {
		s, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetSetting(t.Context(), "a", "b", audit.Entry{}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Setting(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	goleak.VerifyNone(t, before)
}
