// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"log/slog"
	"path/filepath"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) *storetest.Harness { return harness(t, sqlite(t)) })
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	server := storetest.StartPostgres(t)
	storetest.Run(t, func(t *testing.T) *storetest.Harness { return harness(t, postgres(t, server)) })
}

// sqlite is a configuration for a new database, without its signer.
func sqlite(t testing.TB) store.Config {
	return store.Config{Path: filepath.Join(t.TempDir(), "staunch ünï?#.db"), Log: logger(t)}
}

func postgres(t testing.TB, server *storetest.Postgres) store.Config {
	return store.Config{URL: server.Create(t), Log: logger(t)}
}

func harness(t testing.TB, c store.Config) *storetest.Harness {
	signer, verifier := storetest.Signer(t)
	c.Checkpoint = signer
	return &storetest.Harness{
		Open:         func(t testing.TB) storetest.Store { return open(t, c) },
		Verifier:     verifier,
		Replicas:     true,
		ActionFields: store.ActionFields,
		DeviceFields: store.DeviceFields,

		IndicatorFields: store.IndicatorFields,
		AlertFields:     store.AlertFields,
	}
}

func open(t testing.TB, c store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signed adds a signer to c.
func signed(t testing.TB, c store.Config) (store.Config, note.Verifier) {
	signer, verifier := storetest.Signer(t)
	c.Checkpoint = signer
	return c, verifier
}

func logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), nil))
}
