// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Machines is over how many devices Fill spreads actions.
const Machines = 10_000

// MachineID is the id of the nth of them.
func MachineID(n int) string { return fmt.Sprintf("%040x", n+1) }

// Fill writes as many actions past the store into an empty database of its
// schema, a second apart, the last of them at now: of 10,000 devices and 50
// applications, one in a thousand pending. Each carries an order of the usual
// size. Indexes are made when the rows are there, which is by far the fastest.
func Fill(ctx context.Context, db *sql.DB, rows int, now time.Time) error {
	var version string
	postgres := db.QueryRowContext(ctx, "SELECT version()").Scan(&version) == nil // SQLite has no such function
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // back to its pool
	exec := func(text string, args ...any) {
		if err == nil {
			if _, err = conn.ExecContext(ctx, text, args...); err != nil {
				err = fmt.Errorf("cannot fill the table of actions: %w: %.60s", err, text)
			}
		}
	}
	series, blob, list := "WITH RECURSIVE s(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM s WHERE i < $1)", "zeroblob(900)",
		"SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'actions' AND sql IS NOT NULL"
	id := "printf('%08x-%04x-4000-8000-%012x', i / 4096, i % 4096, i)"
	machine, pick := "printf('%040x', i % 10000 + 1)", "printf('%040x', i)"
	if postgres {
		series, blob, list = "WITH s(i) AS (SELECT * FROM generate_series(1, $1::bigint) AS i)", "decode(repeat('00', 900), 'hex')",
			"SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'actions' AND indexdef NOT LIKE '%UNIQUE%'"
		hex := func(n int, of string) string { return fmt.Sprintf("lpad(to_hex(%s), %d, '0')", of, n) }
		id = hex(8, "i / 4096") + " || '-' || " + hex(4, "i % 4096") + " || '-4000-8000-' || " + hex(12, "i")
		machine, pick = hex(40, "i % 10000 + 1"), hex(40, "i")
	} else {
		exec("PRAGMA synchronous = OFF")
		exec("PRAGMA cache_size = -1000000")
	}
	made, err := indexes(ctx, conn, list)
	if err != nil {
		return err
	}
	for name := range made {
		exec("DROP INDEX " + name)
	}
	at := fmt.Sprintf("(%d - ($1 - i) * 1000000)", now.UnixMicro())
	exec(series+` INSERT INTO actions (id, type, status, machine_id, machine_name, requestor, requestor_kind, requestor_id, comment, created, updated, expires,
		canceller, canceller_kind, canceller_id, cancel_comment, error_hresult, troubleshoot, external_id, source, sha1, sha256, item, active_key, acknowledged, signed_order)
		SELECT `+id+`, CASE WHEN i % 20 = 0 THEN 'RestoreFile' ELSE 'StopAndQuarantineFile' END,
		CASE WHEN i % 1000 = 0 THEN 'Pending' WHEN i % 10 = 1 THEN 'Failed' WHEN i % 100 = 2 THEN 'TimeOut' ELSE 'Succeeded' END,
		`+machine+`, 'host-' || (i % 10000) || '.corp.example', 'app' || (i % 50), 'app', 'id', 'case ' || i, `+at+`, `+at+` + (i % 60) * 1000000, `+at+` + 259200000000,
		'', '', '', '', 0, '', '', 'PublicApi', `+pick+`, '', '', 'k' || i, i % 1000 <> 0, `+blob+` FROM s`, rows)
	for _, text := range made {
		exec(text)
	}
	if !postgres {
		exec("PRAGMA wal_checkpoint(TRUNCATE)")
	}
	exec("ANALYZE actions")
	return err
}

// FillSQLite is Fill for the database in a file that no store has open.
func FillSQLite(ctx context.Context, path string, rows int, now time.Time) error {
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return err
	}
	return errors.Join(Fill(ctx, db, rows, now), db.Close())
}

func indexes(ctx context.Context, conn *sql.Conn, list string) (map[string]string, error) {
	found, err := conn.QueryContext(ctx, list)
	if err != nil {
		return nil, fmt.Errorf("cannot list indexes: %w", err)
	}
	defer func() { _ = found.Close() }() // Err has what matters
	made := map[string]string{}
	for found.Next() {
		var name, text string
		if err := found.Scan(&name, &text); err != nil {
			return nil, err
		}
		made[name] = text
	}
	return made, found.Err()
}
