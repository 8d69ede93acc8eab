// SPDX-License-Identifier: Apache-2.0

package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // registers itself as "sqlite"

	"staunch/internal/durable"
)

// engine is all in which the two databases differ, but for backup.
type engine struct {
	dialect goose.Dialect
	path    string          // SQLite
	config  *pgx.ConnConfig // PostgreSQL

	spell *strings.Replacer // what ${…} stands for in migrations
	begin string            // begins a transaction that will write
	lock  string            // then taken first, so that changes of all replicas queue up; "": begin did it
	// snapshot is the isolation in which several reads see one state.
	snapshot sql.IsolationLevel
	timeout  time.Duration // of one transaction; 0: none. A local file needs none, and a cancelled SQLite call costs more
}

// lockKey is the advisory lock that changes take: "staunch" in ASCII.
const lockKey = "32497584252543848"

func newEngine(c Config) (engine, error) {
	switch scheme, _, _ := strings.Cut(c.URL, "://"); {
	case c.URL == "" && c.Path == "":
		return engine{}, errors.New("neither URL nor Path is given")
	case c.URL == "":
		return newSQLite(c)
	case scheme != "postgres" && scheme != "postgresql":
		return engine{}, fmt.Errorf("database URL begins with %q, want postgres://", scheme+"://")
	}
	config, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return engine{}, err // pgx keeps the password out of it
	}
	config.RuntimeParams["application_name"] = "staunch"
	return engine{
		dialect: goose.DialectPostgres,
		config:  config,
		// "C" compares bytes, as SQLite does: paging keys then sort alike on both.
		spell:    strings.NewReplacer("${SERIAL}", "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "${BLOB}", "BYTEA", "${TEXT}", `TEXT COLLATE "C"`, "${UNLOGGED}", "UNLOGGED"),
		begin:    "BEGIN",
		snapshot: sql.LevelRepeatableRead,
		lock:     "SELECT pg_advisory_xact_lock(" + lockKey + ")",
		timeout:  30 * time.Second,
	}, nil
}

func newSQLite(c Config) (engine, error) {
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return engine{}, err
	}
	e := engine{
		dialect: goose.DialectSQLite3,
		path:    path,
		spell:   strings.NewReplacer("${SERIAL}", "INTEGER PRIMARY KEY AUTOINCREMENT", "${BLOB}", "BLOB", "${TEXT}", "TEXT", "${UNLOGGED}", ""),
		begin:   "BEGIN IMMEDIATE",
	}
	if _, err := os.Stat(path); c.ReadOnly || err == nil || !errors.Is(err, os.ErrNotExist) {
		return e, err
	}
	// SQLite would make it readable by everybody, and gives its side files the same mode.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return engine{}, err
	}
	return e, errors.Join(f.Close(), durable.SyncDir(filepath.Dir(path)))
}

// String names the database without its password.
func (e engine) String() string {
	if e.config == nil {
		return e.path
	}
	return fmt.Sprintf("PostgreSQL database %q at %s", e.config.Database, e.config.Host)
}

// openWriter opens the pool of the one connection that writes.
func (e engine) openWriter() (*sql.DB, error) {
	if e.config != nil {
		db := stdlib.OpenDB(*e.config)
		db.SetMaxOpenConns(2) // the writer's, and one more for the lock that migrations take
		return db, nil
	}
	db, err := sql.Open("sqlite", e.dsn("rw", "journal_mode(WAL)", "synchronous(FULL)", "cache_size(-32768)", "journal_size_limit(67108864)"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return db, nil
}

// openReaders opens a pool of connections that cannot write.
func (e engine) openReaders() (*sql.DB, error) {
	// More readers than this only keep SQLite's writer from its turn.
	readers := max(4, 2*runtime.GOMAXPROCS(0))
	if e.config != nil {
		config := e.config.Copy()
		config.RuntimeParams["default_transaction_read_only"] = "on"
		db := stdlib.OpenDB(*config)
		db.SetMaxOpenConns(readers)
		db.SetMaxIdleConns(readers)
		return db, nil
	}
	db, err := sql.Open("sqlite", e.dsn("ro", "query_only(1)", "cache_size(-8192)"))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	db.SetConnMaxLifetime(tuneEvery)
	return db, nil
}

// dsn puts every setting where it is applied to each new connection. A PRAGMA
// executed on the pool would reach one of them.
func (e engine) dsn(mode string, pragmas ...string) string {
	q := url.Values{"mode": {mode}, "_txlock": {"immediate"}}
	if mode == "ro" {
		q.Set("_txlock", "deferred")
	}
	q["_pragma"] = append([]string{"busy_timeout(5000)", "foreign_keys(1)", "temp_store(MEMORY)"}, pragmas...)
	return (&url.URL{Scheme: "file", OmitHost: true, Path: e.path, RawQuery: q.Encode()}).String()
}
