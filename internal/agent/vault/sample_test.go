// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestWriteSample makes the sample that is kept for each version of the format:
//
//	STAUNCH_WRITE_SAMPLE=testdata/v2 go test -run TestWriteSample ./internal/agent/vault
func TestWriteSample(t *testing.T) {
	dir := os.Getenv("STAUNCH_WRITE_SAMPLE")
	if dir == "" {
		t.Skip("only when a new version of the format is made")
	}
	place := filepath.Join(os.TempDir(), "staunch-sample")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(place)
	v := openVault(t, Config{Dir: dir, Now: func() time.Time { return time.Date(2026, 11, 24, 21, 0, 0, 1, time.UTC) }})
	hostile, sparse, purged := filepath.Join(place, "to\xffol\n"), filepath.Join(place, "disk.img"), filepath.Join(place, "purged")
	for _, path := range []string{hostile, sparse, purged} {
		write(t, path, []byte("#!/bin/sh\necho a sample\n"))
	}
	err := errors.Join(os.Link(hostile, filepath.Join(place, "other")), os.Chmod(hostile, 0o4755), os.Truncate(sparse, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	take(t, v, hostile, filepath.Join(place, "other"))
	restore(t, v, take(t, v, sparse).ID, RestoreOptions{})
	if err := v.Purge(t.Context(), take(t, v, purged).ID); err != nil {
		t.Fatal(err)
	}
	sound(t, v, 3)
}
