// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"staunch/internal/server/audit"
)

// session is the writer's connection with what is worth keeping between
// transactions.
type session struct {
	conn       *sql.Conn
	statements map[string]*sql.Stmt // by text; the texts are this package's, so they are few
	tree       audit.Tree           // of the audit log as it was last seen
}

func newSession(ctx context.Context, db *sql.DB) (*session, error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &session{conn: conn, statements: make(map[string]*sql.Stmt)}, nil
}

// drop closes the connection for good; what was not committed is undone by that.
func (s *session) drop() {
	for _, stmt := range s.statements {
		_ = stmt.Close() // it goes with its connection
	}
	// A connection whose use returns ErrBadConn does not go back to the pool.
	_ = s.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = s.conn.Close()
}

// begin begins a transaction and brings the tree up to date: another replica, or
// another process, may have appended lines since.
func (s *session) begin(ctx context.Context, e engine, now func() time.Time) (*tx, error) {
	t := &tx{ctx: ctx, session: s, now: now}
	if err := t.exec(e.begin); err != nil {
		return nil, err
	}
	if e.lock != "" {
		if err := t.exec(e.lock); err != nil {
			return nil, err
		}
	}
	// After the lock, not with it: a statement sees what was committed when it began.
	size, err := countLines(t)
	if err != nil {
		return nil, err
	}
	if size != s.tree.Size() {
		if s.tree, err = audit.LoadTree(size, hashReader{t}); err != nil {
			return nil, err
		}
	}
	t.base, t.tree = s.tree, s.tree
	return t, nil
}

// tx is the transaction that a change runs in.
type tx struct {
	ctx     context.Context
	session *session
	now     func() time.Time

	base  audit.Tree   // of the lines that were committed when it began
	tree  audit.Tree   // with lines
	lines []audit.Line // to be appended, in order
}

// querier is what reads: a transaction, or the pool of readers.
type querier interface {
	query(sql string, args ...any) (*sql.Rows, error)
	row(sql string, args ...any) *sql.Row
}

func (t *tx) prepared(text string) (*sql.Stmt, error) {
	if stmt, ok := t.session.statements[text]; ok {
		return stmt, nil
	}
	stmt, err := t.session.conn.PrepareContext(t.ctx, text)
	if err != nil {
		return nil, err
	}
	t.session.statements[text] = stmt
	return stmt, nil
}

func (t *tx) exec(text string, args ...any) error {
	_, err := t.execCount(text, args...)
	return err
}

// execCount returns the number of rows that text touched.
func (t *tx) execCount(text string, args ...any) (int64, error) {
	stmt, err := t.prepared(text)
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(t.ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (t *tx) query(text string, args ...any) (*sql.Rows, error) {
	stmt, err := t.prepared(text)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(t.ctx, args...)
}

func (t *tx) row(text string, args ...any) *sql.Row {
	stmt, err := t.prepared(text)
	if err != nil { // the same text fails again, and its Row carries the error
		return t.session.conn.QueryRowContext(t.ctx, text, args...)
	}
	return stmt.QueryRowContext(t.ctx, args...)
}

// record appends an entry to the audit log, setting its Index and Time. It is
// written with the change, or neither is.
func (t *tx) record(e *audit.Entry) error {
	if err := checkEntry(e); err != nil {
		return err
	}
	e.Index, e.Time = t.tree.Size(), audit.Instant(t.now())
	leaf, err := audit.Leaf(*e)
	if err != nil {
		return err
	}
	t.lines = append(t.lines, audit.Line{Index: e.Index, Leaf: leaf, Hashes: t.tree.Append(leaf)})
	return nil
}

// appendLines writes the lines of the whole batch. A multi-row INSERT of a few
// sizes costs far less than one statement a line.
func (t *tx) appendLines() error {
	const columns = 3
	for lines := t.lines; len(lines) > 0; {
		n := 64
		for n > len(lines) {
			n /= 2
		}
		args := make([]any, 0, columns*n)
		for _, l := range lines[:n] {
			args = append(args, l.Index, string(l.Leaf), joinHashes(l.Hashes))
		}
		if err := t.exec("INSERT INTO audit_lines (line, leaf, hashes) VALUES "+tuples(n, columns), args...); err != nil {
			return err
		}
		lines = lines[n:]
	}
	return nil
}

// pool reads outside any change.
type pool struct {
	ctx context.Context
	db  *sql.DB
}

func (p pool) query(text string, args ...any) (*sql.Rows, error) {
	return p.db.QueryContext(p.ctx, text, args...)
}

func (p pool) row(text string, args ...any) *sql.Row {
	return p.db.QueryRowContext(p.ctx, text, args...)
}

// reader is the pool of readers for one call.
func (s *Store) reader(ctx context.Context) pool { return pool{ctx, s.read} }

// collect reads all rows through scan.
func collect[T any](rows *sql.Rows, err error, scan func(func(...any) error) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // rows.Err has what matters
	list := []T{}
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

func joinHashes(hashes []tlog.Hash) []byte {
	b := make([]byte, 0, len(hashes)*tlog.HashSize)
	for _, h := range hashes {
		b = append(b, h[:]...)
	}
	return b
}

func splitHashes(b []byte) ([]tlog.Hash, error) {
	if len(b)%tlog.HashSize != 0 {
		return nil, fmt.Errorf("%d bytes are not a whole number of hashes", len(b))
	}
	hashes := make([]tlog.Hash, len(b)/tlog.HashSize)
	for i := range hashes {
		copy(hashes[i][:], b[i*tlog.HashSize:])
	}
	return hashes, nil
}
