// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date. Replicas that start together wait for
// the one that does it.
func migrate(ctx context.Context, db *sql.DB, e engine) error {
	var options []goose.ProviderOption
	if e.dialect == goose.DialectPostgres {
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 120), lock.WithUnlockTimeout(1, 30))
		if err != nil {
			return err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	p, err := provider(db, e, options...)
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("cannot bring the database's schema up to date: %w", err)
	}
	return nil
}

func provider(db *sql.DB, e engine, options ...goose.ProviderOption) (*goose.Provider, error) {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	options = append(options, goose.WithDisableGlobalRegistry(true))
	return goose.NewProvider(e.dialect, db, spelled{sub, e}, options...)
}

// newest is the version of the last migration.
func newest(p *goose.Provider) int64 {
	sources := p.ListSources()
	return sources[len(sources)-1].Version
}

// checkSchema makes sure that readers meet the schema that they know, and a
// database that can hold any text.
func checkSchema(ctx context.Context, db *sql.DB, e engine) error {
	p, err := provider(db, e)
	if err != nil {
		return err
	}
	var version sql.NullInt64
	row := db.QueryRowContext(ctx, "SELECT max(version_id) FROM "+goose.DefaultTablename+" WHERE is_applied")
	if err := row.Scan(&version); err != nil {
		return fmt.Errorf("cannot read the version of the database's schema (is it a Staunch database?): %w", err)
	}
	switch newest := newest(p); {
	case version.Int64 > newest:
		return fmt.Errorf("the database's schema is of version %d, this program knows up to %d: use the newer program that made it", version.Int64, newest)
	case version.Int64 < newest:
		return fmt.Errorf("the database's schema is of version %d, this program needs %d: let the server of this version open it once", version.Int64, newest)
	}
	if e.dialect != goose.DialectPostgres {
		return nil
	}
	var encoding string
	if err := db.QueryRowContext(ctx, "SHOW server_encoding").Scan(&encoding); err != nil {
		return err
	}
	if encoding != "UTF8" {
		return fmt.Errorf("the database's encoding is %s, want UTF8: CREATE DATABASE … ENCODING 'UTF8'", encoding)
	}
	return nil
}

// spelled shows migrations with ${…} replaced by the engine's spelling.
type spelled struct {
	fs.FS
	engine engine
}

// Open returns the migration as it has to be run.
func (s spelled) Open(name string) (fs.File, error) {
	f, err := s.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || info.IsDir() {
		return f, err
	}
	text, err := io.ReadAll(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &spelledFile{f, bytes.NewReader([]byte(s.engine.spell.Replace(string(text))))}, nil
}

type spelledFile struct {
	fs.File
	text *bytes.Reader
}

func (f *spelledFile) Read(p []byte) (int, error) { return f.text.Read(p) }
