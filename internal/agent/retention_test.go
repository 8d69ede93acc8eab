// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// kit is an agent in a scratch folder that searches a scratch disk.
func kit(t *testing.T, cfg Config) (*Agent, string) {
	t.Helper()
	dir := t.TempDir()
	state, err := OpenState(filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	cfg.State, cfg.Roots, cfg.NoIndex, cfg.GateOff = state, []string{disk}, true, "not in this test"
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := a.StartLocal(); err != nil {
		t.Fatal(err)
	}
	return a, disk
}

func put(t *testing.T, path, content string) filehash.Hash {
	t.Helper()
	if err := runnable.Write(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	sum, err := filehash.Compute(strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return sum.Hash()
}

// TestRetention: an item past its time is purged and says so; a younger one stays.
func TestRetention(t *testing.T) {
	a, disk := kit(t, Config{})
	for _, name := range []string{"old", "young"} {
		h := put(t, filepath.Join(disk, name), name+t.Name())
		if r, err := a.Contain(context.Background(), Request{File: h}); err != nil || len(r.Copies) != 1 {
			t.Fatalf("%s: %+v %v", name, r, err)
		}
		if name == "old" {
			time.Sleep(5 * time.Millisecond)
		}
	}
	items, err := a.Items(context.Background())
	if err != nil || len(items) != 2 {
		t.Fatalf("%+v %v", items, err)
	}
	a.purgeOlder(context.Background(), items[0].Sealed) // the newest first
	items, err = a.Items(context.Background())
	if err != nil || len(items) != 2 || items[0].State != "sealed" || items[1].State != "purged" {
		t.Errorf("%+v %v; want the young one sealed and the old one purged", items, err)
	}
}
