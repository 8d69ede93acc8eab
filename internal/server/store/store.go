// SPDX-License-Identifier: Apache-2.0

// Package store keeps what the control plane knows: actions, devices, apps,
// settings, and the audit log of who changed them. It runs on SQLite (embedded,
// the default) and on PostgreSQL (several replicas) with one SQL text.
//
// It promises:
//
//   - What a method returned from without an error is on the disk, with its audit
//     entry; what it returned an error from left nothing behind. The one exception
//     is PostgreSQL's connection breaking during a commit: the error then says
//     that it is not known which.
//   - Changes happen one after the other, over all replicas; a reader sees every
//     change that was answered before it began to read.
//   - The audit log has no gaps, whatever fails or runs beside it.
//   - Text that one of the databases could not keep (NUL, invalid UTF-8) is
//     refused by both, as an api.Error InvalidInput that names the field.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/device"
	"staunch/internal/server/issuer"
)

var (
	_ action.Store = (*Store)(nil)
	_ device.Store = (*Store)(nil)
	_ issuer.Store = (*Store)(nil)
)

// Config says which database to open.
type Config struct {
	URL        string           // postgres://… ; "": SQLite at Path
	Path       string           // of the SQLite file; required without URL; made if it is not there
	Checkpoint note.Signer      // signs the audit log; required unless ReadOnly
	Log        *slog.Logger     // required
	Now        func() time.Time // nil: time.Now

	// ReadOnly opens a database that must exist and changes nothing: for
	// verifying the audit log without the server. It may be open elsewhere.
	ReadOnly bool
}

// Store is an open database. Its methods may be called from many goroutines.
type Store struct {
	log    *slog.Logger
	now    func() time.Time
	engine engine
	signer note.Signer
	read   *sql.DB // connections that cannot write
	write  *sql.DB // nil: read-only
	counts *sql.DB // of calls over all replicas; nil: there is one process

	writer *writer       // nil: read-only
	signed chan struct{} // closed when signCheckpoints has returned
	tuned  chan struct{} // likewise of tune
	stop   context.CancelFunc

	closing sync.Once
	closed  error // of the first Close
}

// Open opens the database, brings its schema up to date and starts the writer.
func Open(ctx context.Context, c Config) (*Store, error) {
	if c.Log == nil {
		return nil, errors.New("cannot open store: Log is required")
	}
	if c.Checkpoint == nil && !c.ReadOnly {
		return nil, errors.New("cannot open store: a key to sign audit checkpoints is required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	engine, err := newEngine(c)
	if err != nil {
		return nil, fmt.Errorf("cannot open store: %w", err)
	}
	s := &Store{log: c.Log, now: c.Now, engine: engine, signer: c.Checkpoint, signed: make(chan struct{}), tuned: make(chan struct{})}
	if err := s.open(ctx, c.ReadOnly); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open store in %s: %w", engine, err), s.closePools())
	}
	if c.ReadOnly {
		return s, nil
	}
	s.writer = newWriter(s.write, engine, s.now)
	var life context.Context
	life, s.stop = context.WithCancel(context.Background())
	go s.signCheckpoints(life)
	go s.tune(life)
	return s, nil
}

// open opens the pools and migrates.
func (s *Store) open(ctx context.Context, readOnly bool) (err error) {
	if !readOnly {
		if s.write, err = s.engine.openWriter(); err != nil {
			return err
		}
		if err := s.write.PingContext(ctx); err != nil {
			return err
		}
		if err := migrate(ctx, s.write, s.engine); err != nil {
			return err
		}
	}
	if !readOnly {
		s.counts = s.engine.openCounts()
	}
	if s.read, err = s.engine.openReaders(); err != nil {
		return err
	}
	return checkSchema(ctx, s.read, s.engine)
}

// Close waits for the changes under way, signs what is not signed yet and closes
// the database. Changes asked for later fail.
func (s *Store) Close() error {
	s.closing.Do(func() {
		if s.writer != nil {
			s.stop()
			<-s.signed
			<-s.tuned
			s.writer.close()
		}
		s.closed = s.closePools()
	})
	return s.closed
}

func (s *Store) closePools() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write, s.counts} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// Ping reports whether the database answers and, unless read-only, can be
// written to.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.read.PingContext(ctx); err != nil {
		return fmt.Errorf("cannot reach the database: %w", err)
	}
	if s.writer == nil {
		return nil
	}
	if err := s.change(ctx, func(*tx) error { return nil }); err != nil {
		return fmt.Errorf("cannot write to the database: %w", err)
	}
	return nil
}

// change runs fn in a transaction of its own as far as anybody can see; see writer.
func (s *Store) change(ctx context.Context, fn func(*tx) error) error {
	if s.writer == nil {
		return errors.New("cannot change the store: it was opened for reading only")
	}
	return s.writer.do(ctx, fn)
}

// Record appends an entry that stands alone: a refusal.
func (s *Store) Record(ctx context.Context, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error { return t.record(&e) })
}
