// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// leaves asserts that exactly these names are in the folder: no temporary is left.
func leaves(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	for _, content := range []string{"one", "two, longer", ""} {
		if err := WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil || string(b) != content {
			t.Errorf("got %q %v, want %q", b, err, content)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", fi.Mode(), err)
	}
	leaves(t, dir, "state")

	// What cannot be written leaves what was there.
	if err := WriteFile(filepath.Join(dir, "none", "x"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "cannot write ") {
		t.Errorf("missing folder: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "taken"), nil, 0o600); err == nil {
		t.Error("a folder was replaced by a file")
	}
	leaves(t, dir, "state", "taken")
}

func TestCreateFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state")
	if err := CreateFile(path, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := CreateFile(path, []byte("second"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want that it exists", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "first" {
		t.Errorf("got %q %v", b, err)
	}
	leaves(t, dir, "state")
}

func TestNames(t *testing.T) {
	dir := t.TempDir()
	deep := filepath.Join(dir, "a", "b")
	if err := Mkdir(deep, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Mkdir(deep, 0o700); err != nil {
		t.Errorf("again: %v", err)
	}
	from, to := filepath.Join(dir, "from"), filepath.Join(deep, "to")
	if err := WriteFile(from, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Mkdir(from, 0o700); err == nil || !strings.Contains(err.Error(), "a file is in its place") {
		t.Errorf("a folder over a file: %v", err)
	}
	if err := Rename(from, to); err != nil {
		t.Fatal(err)
	}
	leaves(t, deep, "to")
	for range 2 {
		if err := Remove(to); err != nil {
			t.Errorf("remove: %v", err)
		}
	}
	leaves(t, deep)
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want locked", err)
	}
	unlock()
	again, err := Lock(path)
	if err != nil {
		t.Fatalf("after it was given up: %v", err)
	}
	again()
}
