// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"staunch/api"
	"staunch/internal/durable"
)

// Backup writes the whole database, as it is at one instant, to a new file at
// path while everything goes on. The file is a database: to restore it, put it
// in the place of the other one while no server runs.
//
//	VACUUM INTO temporary, fsync, link, unlink, fsync(dir)
func (s *Store) Backup(ctx context.Context, path string) (err error) {
	if s.engine.config != nil {
		return api.Errorf(api.InvalidInput, "a PostgreSQL database is backed up with PostgreSQL's own tools: run pg_dump --format=custom against it")
	}
	if path, err = filepath.Abs(path); err != nil {
		return fmt.Errorf("cannot back up: %w", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return api.Errorf(api.InvalidInput, "cannot back up to %s: it exists already, choose another name", path)
	}
	dir, err := os.MkdirTemp(filepath.Dir(path), ".staunch-backup-") // only we can read in it
	if err != nil {
		return api.Errorf(api.InvalidInput, "cannot back up to %s: %v", path, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	whole := filepath.Join(dir, "whole")
	if err := s.vacuumInto(ctx, whole); err != nil {
		return fmt.Errorf("cannot back up to %s: %w", path, err)
	}
	if err := secure(whole); err != nil {
		return fmt.Errorf("cannot back up to %s: %w", path, err)
	}
	if err := os.Link(whole, path); err != nil { // unlike a rename it does not replace what came meanwhile
		return fmt.Errorf("cannot back up: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

// vacuumInto uses a connection of its own: the readers' cannot write, not even
// elsewhere, and the writer has other things to do.
func (s *Store) vacuumInto(ctx context.Context, path string) (err error) {
	db, err := sql.Open("sqlite", s.engine.dsn("rw"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, "VACUUM INTO $1", path)
	return err
}

// secure makes a file durable and its owner's alone.
func secure(path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return errors.Join(f.Chmod(0o600), f.Sync())
}
