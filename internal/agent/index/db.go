// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// The index on the disk. It can be rebuilt at any time from the file systems it
// describes, so it is written without waiting for the disk, and thrown away
// when it is damaged or of another version.
//
//	fs    a file system below a root; key finds it again after a reboot
//	dir   a folder: its parent and its name there, so that moving a tree changes one row
//	file  an inode: the stamp under which it was last seen, and the digests of its content;
//	      since is set while the digests may be of an older content (or are missing)
//	name  a name in a folder, of a file
//	loose files that lost a name in the transaction under way
//
// k1 and k2 are the first eight bytes of the digests.
const schema = `
CREATE TABLE fs (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, gen INTEGER NOT NULL, used INTEGER NOT NULL);
CREATE TABLE dir (id INTEGER PRIMARY KEY, fs INTEGER NOT NULL, ino INTEGER NOT NULL, handle BLOB NOT NULL,
	parent INTEGER NOT NULL, name BLOB NOT NULL, seen INTEGER NOT NULL, listed INTEGER NOT NULL, err TEXT);
CREATE UNIQUE INDEX dir_ino ON dir (fs, ino);
CREATE INDEX dir_handle ON dir (fs, handle) WHERE handle <> x'';
CREATE INDEX dir_parent ON dir (parent, name);
CREATE INDEX dir_todo ON dir (fs, seen, listed);
CREATE INDEX dir_err ON dir (fs) WHERE err IS NOT NULL;
CREATE TABLE file (id INTEGER PRIMARY KEY, fs INTEGER NOT NULL, ino INTEGER NOT NULL,
	size INTEGER NOT NULL, mtime INTEGER NOT NULL, ctime INTEGER NOT NULL,
	sha1 BLOB, sha256 BLOB, k1 INTEGER, k2 INTEGER,
	since INTEGER, due INTEGER, heat INTEGER NOT NULL DEFAULT 0, err TEXT, handle BLOB);
CREATE UNIQUE INDEX file_ino ON file (fs, ino);
CREATE INDEX file_k1 ON file (k1) WHERE k1 IS NOT NULL;
CREATE INDEX file_k2 ON file (k2) WHERE k2 IS NOT NULL;
CREATE INDEX file_due ON file (due) WHERE since IS NOT NULL;
CREATE INDEX file_dirty ON file (fs, size, since) WHERE since IS NOT NULL;
CREATE TABLE name (dir INTEGER NOT NULL, name BLOB NOT NULL, file INTEGER NOT NULL, PRIMARY KEY (dir, name)) WITHOUT ROWID;
CREATE INDEX name_file ON name (file);
CREATE TABLE loose (file INTEGER PRIMARY KEY);
`

// schemaVersion is PRAGMA user_version; another one is built anew.
const schemaVersion = 1

const pageSize = 4096

// db is the open file: one writer, and readers that see what was last committed.
type db struct {
	path  string
	write *sql.DB
	read  *sql.DB
	reads sync.Map // SQL text → *sql.Stmt

	mu     sync.Mutex // one transaction at a time; guards what follows
	conn   *sql.Conn  // of write
	writes map[string]*sql.Stmt
}

// errUnusable is a file that has to be built anew.
var errUnusable = errors.New("the index file cannot be used")

// openDB opens or creates the file. Unusable ones are the caller's to remove.
func openDB(path string, disk, cache int64) (*db, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the index: %w", err)
	}
	_ = f.Close() // it was only to give it its mode
	dsn := (&url.URL{Scheme: "file", Path: path}).String() + "?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"
	d := &db{path: path, writes: map[string]*sql.Stmt{}}
	if d.write, err = sql.Open("sqlite", dsn+fmt.Sprintf("&_txlock=immediate&_pragma=cache_size(-%d)&_pragma=max_page_count(%d)&_pragma=journal_size_limit(%d)",
		cache>>10, max(disk/pageSize, 16), 16<<20)); err != nil {
		return nil, fmt.Errorf("cannot open the index: %w", err)
	}
	d.write.SetMaxOpenConns(1)
	if d.read, err = sql.Open("sqlite", dsn+"&_pragma=query_only(1)&_pragma=cache_size(-1024)"); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the index: %w", err), d.write.Close())
	}
	d.read.SetMaxOpenConns(2)
	if err := d.prepare(); err != nil {
		return nil, errors.Join(err, d.close())
	}
	if d.conn, err = d.write.Conn(context.Background()); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the index: %w", err), d.close())
	}
	return d, nil
}

func (d *db) prepare() error {
	var version int
	if err := d.write.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("%w: %w", errUnusable, err)
	}
	if version == 0 {
		if _, err := d.write.Exec(schema + fmt.Sprintf("PRAGMA user_version = %d;", schemaVersion)); err != nil {
			return fmt.Errorf("%w: %w", errUnusable, err)
		}
		return nil
	}
	if version != schemaVersion {
		return fmt.Errorf("%w: it is of version %d, this program writes version %d", errUnusable, version, schemaVersion)
	}
	var verdict string
	if err := d.write.QueryRow("PRAGMA quick_check(1)").Scan(&verdict); err != nil || verdict != "ok" {
		return fmt.Errorf("%w: it is damaged (%s %w)", errUnusable, verdict, err)
	}
	return nil
}

func (d *db) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reads.Range(func(_, s any) bool {
		_ = s.(*sql.Stmt).Close() // the connections go next
		return true
	})
	for _, s := range d.writes {
		_ = s.Close() // the connection goes next
	}
	if d.conn != nil {
		_ = d.conn.Close() // gives it back to write
	}
	return errors.Join(d.read.Close(), d.write.Close())
}

// removeDB removes the file and what SQLite keeps beside it.
func removeDB(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("cannot remove the unusable index: %w", err)
		}
	}
	return nil
}

// broken reports whether err means that the file has to be built anew.
func broken(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return errors.Is(err, errUnusable)
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA, sqlite3.SQLITE_ERROR:
		return true
	}
	return false
}

// full reports whether err means that there is no more room.
func full(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL
}

// tx is one transaction of the writer. Its statements are prepared once and
// live as long as the one connection.
type tx struct{ db *db }

// update runs do in one transaction.
func (d *db) update(do func(tx) error) (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t := tx{d}
	defer func() {
		if err != nil {
			_, _ = t.exec("ROLLBACK") // SQLite may have done so by itself; the first error is the one to report
			err = fmt.Errorf("cannot change the index: %w", err)
		}
	}()
	if _, err := t.exec("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err := do(t); err != nil {
		return err
	}
	_, err = t.exec("COMMIT")
	return err
}

func (t tx) stmt(query string) (*sql.Stmt, error) {
	if s := t.db.writes[query]; s != nil {
		return s, nil
	}
	s, err := t.db.conn.PrepareContext(context.Background(), query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(strings.Fields(query), " "), err)
	}
	t.db.writes[query] = s
	return s, nil
}

func (d *db) stmt(query string) (*sql.Stmt, error) {
	if s, ok := d.reads.Load(query); ok {
		return s.(*sql.Stmt), nil
	}
	s, err := d.read.Prepare(query)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(strings.Fields(query), " "), err)
	}
	if old, loaded := d.reads.LoadOrStore(query, s); loaded {
		_ = s.Close() // somebody was faster
		return old.(*sql.Stmt), nil
	}
	return s, nil
}

// exec returns how many rows changed.
func (t tx) exec(query string, args ...any) (int64, error) {
	s, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.Exec(args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// insert returns the new row's id.
func (t tx) insert(query string, args ...any) (int64, error) {
	s, err := t.stmt(query)
	if err != nil {
		return 0, err
	}
	r, err := s.Exec(args...)
	if err != nil {
		return 0, err
	}
	return r.LastInsertId()
}

// one reads one row into dst and reports whether there was one.
func (t tx) one(query string, args []any, dst ...any) (bool, error) {
	s, err := t.stmt(query)
	if err != nil {
		return false, err
	}
	err = s.QueryRow(args...).Scan(dst...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// rows calls each for every row; each must not use the connection, which is busy.
func (t tx) rows(query string, args []any, each func(scan func(...any) error) error) error {
	s, err := t.stmt(query)
	if err != nil {
		return err
	}
	r, err := s.Query(args...)
	return collect(r, err, each)
}

func (d *db) one(ctx context.Context, query string, args []any, dst ...any) (bool, error) {
	s, err := d.stmt(query)
	if err != nil {
		return false, err
	}
	err = s.QueryRowContext(ctx, args...).Scan(dst...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

func (d *db) rows(ctx context.Context, query string, args []any, each func(scan func(...any) error) error) error {
	s, err := d.stmt(query)
	if err != nil {
		return err
	}
	r, err := s.QueryContext(ctx, args...)
	return collect(r, err, each)
}

func collect(r *sql.Rows, err error, each func(scan func(...any) error) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // Err tells what went wrong
	for r.Next() {
		if err := each(r.Scan); err != nil {
			return err
		}
	}
	return r.Err()
}
