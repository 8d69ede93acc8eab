// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // registers itself as "pgx"
	_ "modernc.org/sqlite"             // registers itself as "sqlite"

	"staunch/internal/server/audit"
	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

func TestTamperingSQLite(t *testing.T) {
	t.Parallel()
	tampering(t, func() store.Config { return sqlite(t) })
}

func TestTamperingPostgres(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	tampering(t, func() store.Config { return postgres(t, server) })
}

// tampering changes the audit log as somebody who can write to the database
// would, and expects verification to name the first bad line.
func tampering(t *testing.T, config func() store.Config) {
	const lines, kept = 20, 12 // kept: lines of the checkpoint kept elsewhere
	for _, test := range []struct {
		name      string
		sql       []string
		rehash    bool // recompute every stored hash, as somebody would who knows how
		elsewhere bool // verify against the checkpoint kept elsewhere
		line      int64
		want      string
	}{
		{name: "untouched", line: -1},
		{name: "untouched, against a checkpoint", elsewhere: true, line: -1},
		{name: "changed", sql: []string{"UPDATE audit_lines SET leaf = replace(leaf, '\"t7\"', '\"t8\"') WHERE line = 7"}, line: 7, want: "it was changed"},
		{name: "changed beyond reading", sql: []string{"UPDATE audit_lines SET leaf = 'x' WHERE line = 7"}, line: 7, want: "cannot be read"},
		{name: "no index", sql: []string{"UPDATE audit_lines SET leaf = '{}' WHERE line = 7"}, line: 7, want: "no index"},
		{name: "dropped", sql: []string{"DELETE FROM audit_lines WHERE line = 7"}, line: 7, want: "it is missing; line 8 comes next"},
		{name: "first dropped", sql: []string{"DELETE FROM audit_lines WHERE line = 0"}, line: 0, want: "it is missing"},
		{name: "swapped", sql: []string{
			"UPDATE audit_lines SET line = -1 WHERE line = 7", "UPDATE audit_lines SET line = 7 WHERE line = 8", "UPDATE audit_lines SET line = 8 WHERE line = -1",
		}, line: 7, want: "calls itself line 8"},
		{name: "dropped and closed up", sql: []string{"DELETE FROM audit_lines WHERE line = 19", "UPDATE audit_lines SET leaf = replace(leaf, '\"index\":18', '\"index\":19'), line = 19 WHERE line = 18"},
			line: 18, want: "missing"},
		{name: "end cut off", sql: []string{"DELETE FROM audit_lines WHERE line >= 15"}, line: 15, want: "its end was cut off"},
		{name: "end cut off with its checkpoints", sql: []string{"DELETE FROM audit_lines WHERE line >= 5", "DELETE FROM audit_checkpoints"}, elsewhere: true, line: 5, want: "its end was cut off"},
		{name: "all gone", sql: []string{"DELETE FROM audit_lines", "DELETE FROM audit_checkpoints"}, elsewhere: true, line: 0, want: "its end was cut off"},
		{name: "changed with all hashes", sql: []string{"UPDATE audit_lines SET leaf = replace(leaf, '\"t7\"', '\"t8\"') WHERE line = 7"}, rehash: true, line: 0, want: "is not what was signed"},
		{name: "changed after the older checkpoint, with all hashes", sql: []string{"UPDATE audit_lines SET leaf = replace(leaf, '\"t15\"', '\"t8\"') WHERE line = 15"},
			rehash: true, elsewhere: true, line: kept, want: "a line from 12 to 19 is not what was signed"},
		{name: "line slipped in at the end", sql: []string{"INSERT INTO audit_lines (line, leaf, hashes) SELECT 20, leaf, hashes FROM audit_lines WHERE line = 19"}, line: 20, want: "calls itself line 19"},
		{name: "hashes cut", sql: []string{"UPDATE audit_lines SET hashes = (SELECT hashes FROM audit_lines WHERE line = 0) WHERE line = 7"}, line: 7, want: "1 hashes are stored with it, want 4"},
		{name: "leaf with its own hash", sql: []string{"UPDATE audit_lines SET leaf = replace(leaf, '\"t6\"', '\"t8\"') WHERE line = 6"}, rehash: true, line: 0, want: "is not what was signed"},
		{name: "checkpoint forged", sql: []string{"UPDATE audit_checkpoints SET note = replace(note, '20', '19')"}, line: -1, want: "cannot trust audit checkpoint"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, verifier := signed(t, config())
			s := open(t, c)
			var elsewhere []byte
			for i := range lines {
				if i == kept {
					elsewhere = checkpoint(t, s)
				}
				if err := s.Record(t.Context(), storetest.Entry(audit.IssueToken, fmt.Sprint("t", i))); err != nil {
					t.Fatal(err)
				}
			}
			checkpoint(t, s)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			tamper(t, c, test.sql, test.rehash)

			c.ReadOnly, c.Checkpoint = true, nil // as staunch audit verify does, without the server
			s = open(t, c)
			defer func() { _ = s.Close() }()
			var extra [][]byte
			if test.elsewhere {
				extra = append(extra, elsewhere)
			}
			report, err := s.VerifyAudit(t.Context(), verifier, extra...)
			if test.want == "" {
				if err != nil || report.Lines != lines || report.Signed != lines || report.FirstTime == "" {
					t.Errorf("report %+v, %v", report, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one that says %q", err, test.want)
			}
			if fault := (*audit.Fault)(nil); errors.As(err, &fault) && fault.Line != test.line {
				t.Errorf("names line %d, want %d: %v", fault.Line, test.line, err)
			}
			if err := s.Record(t.Context(), storetest.Entry(audit.IssueToken, "x")); err == nil || !strings.Contains(err.Error(), "for reading only") {
				t.Errorf("a store for reading was written to: %v", err)
			}
		})
	}
}

func checkpoint(t testing.TB, s *store.Store) []byte {
	t.Helper()
	signed, err := s.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func raw(t testing.TB, c store.Config) *sql.DB {
	t.Helper()
	driver, dsn := "pgx", c.URL
	if c.URL == "" {
		driver, dsn = "sqlite", strings.NewReplacer("?", "%3f", "#", "%23").Replace("file:"+c.Path)
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func tamper(t testing.TB, c store.Config, statements []string, rehash bool) {
	t.Helper()
	db := raw(t, c)
	for _, s := range statements {
		r, err := db.Exec(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if n, err := r.RowsAffected(); n == 0 {
			t.Fatalf("%s: nothing was changed (%v)", s, err)
		}
	}
	if !rehash {
		return
	}
	rows, err := db.Query("SELECT leaf FROM audit_lines ORDER BY line")
	if err != nil {
		t.Fatal(err)
	}
	var tree audit.Tree
	var all [][]byte
	for rows.Next() {
		var leaf []byte
		if err := rows.Scan(&leaf); err != nil {
			t.Fatal(err)
		}
		var hashes []byte
		for _, h := range tree.Append(leaf) {
			hashes = append(hashes, h[:]...)
		}
		all = append(all, hashes)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for i, hashes := range all {
		if _, err := db.Exec("UPDATE audit_lines SET hashes = $1 WHERE line = $2", hashes, i); err != nil {
			t.Fatal(err)
		}
	}
}
