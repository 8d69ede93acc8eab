// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/storetest"
)

func TestBackup(t *testing.T) {
	t.Parallel()
	c, verifier := signed(t, sqlite(t))
	s := open(t, c)
	defer func() { _ = s.Close() }()
	before := storetest.NewAction("machine")
	if err := s.CreateAction(t.Context(), before, storetest.Entry(audit.StopAndQuarantineFile, before.ID)); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup // everything goes on meanwhile
	for i := range 50 {
		group.Go(func() {
			if err := s.Record(t.Context(), storetest.Entry(audit.IssueToken, fmt.Sprint(i))); err != nil {
				t.Errorf("Record: %v", err)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "backup with 'quotes'.db")
	if err := s.Backup(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	group.Wait()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("backup: %v, %v", info, err)
	}

	c.Path = path
	copied := open(t, c)
	if _, err := copied.Action(t.Context(), before.ID); err != nil {
		t.Error(err)
	}
	if _, err := copied.VerifyAudit(t.Context(), verifier); err != nil {
		t.Error(err)
	}
	if err := copied.Close(); err != nil {
		t.Error(err)
	}

	if err := s.Backup(t.Context(), path); err == nil || !strings.Contains(err.Error(), "it exists already") {
		t.Errorf("backup over a file: %v", err)
	}
	if err := s.Backup(t.Context(), filepath.Join(t.TempDir(), "no", "b.db")); err == nil || !strings.Contains(err.Error(), "no such file or directory") {
		t.Errorf("backup into no folder: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := s.Backup(ctx, filepath.Join(dir, "b.db")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled backup: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("a cancelled backup left %v, %v", left, err)
	}
}

func TestBackupPostgres(t *testing.T) {
	t.Parallel()
	c, _ := signed(t, postgres(t, storetest.StartPostgres(t)))
	s := open(t, c)
	defer func() { _ = s.Close() }()
	err := s.Backup(t.Context(), filepath.Join(t.TempDir(), "b"))
	if api.CodeOf(err) != api.InvalidInput || !strings.Contains(err.Error(), "pg_dump") {
		t.Errorf("backup of PostgreSQL: %v", err)
	}
}
