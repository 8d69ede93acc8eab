// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// age makes all files below root look as if they had changed long ago. The time
// of change of an inode cannot be set, so the test waits until it is old enough.
func age(t *testing.T, paths ...string) {
	t.Helper()
	for _, p := range paths {
		for s := stampOf(p); time.Since(time.Unix(s.ctime.Unix())) <= rest; s = stampOf(p) {
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// TestRecordsAreReadAgain: whatever happens to the package records is seen by
// the next check, and what did not change is not read again.
func TestRecordsAreReadAgain(t *testing.T) {
	root := t.TempDir()
	at := func(p string) string { return filepath.Join(root, p) }
	info, status := at("var/lib/dpkg/info"), at("var/lib/dpkg/status")
	line := func(content string) string { return fmt.Sprintf("%x  usr/bin/tool\n", md5.Sum([]byte(content))) }
	write(t, at("tool"), "tool")
	write(t, filepath.Join(info, "a.md5sums"), line("another"))
	write(t, status, "Package: a\n")
	g, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	file := []File{open(t, at("tool"))}
	refused := func(what string, want bool) {
		t.Helper()
		var r *Refusal
		err := g.Check(context.Background(), file, false)
		if got := errors.As(err, &r) && r.Rule == Package; got != want || !want && err != nil {
			t.Errorf("%s: got %v, want refused %v", what, err, want)
		}
	}
	reads := func() (n int) {
		_, err := g.records.get(func(note func(string)) (records, error) { n++; return records{}, errors.New("read") })
		if n == 0 && err != nil {
			t.Fatal(err)
		}
		return n
	}
	age(t, info, filepath.Join(info, "a.md5sums"), status)
	refused("not packaged", false)
	if reads() != 0 {
		t.Fatal("unchanged records are read again")
	}
	for _, c := range []struct {
		what string
		do   func() error
		want bool
	}{
		{"a list is written in place, of the same size", func() error {
			return os.WriteFile(filepath.Join(info, "a.md5sums"), []byte(line("tool")), 0o600)
		}, true},
		{"and its time set back", func() error {
			if err := os.WriteFile(filepath.Join(info, "a.md5sums"), []byte(line("another")), 0o600); err != nil {
				return err
			}
			old := time.Unix(1, 0)
			return os.Chtimes(filepath.Join(info, "a.md5sums"), old, old)
		}, false},
		{"a package comes", func() error { return os.WriteFile(filepath.Join(info, "b.md5sums"), []byte(line("tool")), 0o600) }, true},
		{"it goes", func() error { return os.Remove(filepath.Join(info, "b.md5sums")) }, false},
		{"a configuration file", func() error {
			return os.WriteFile(status, fmt.Appendf(nil, "Package: a\nConffiles:\n /etc/a %x\n", md5.Sum([]byte("tool"))), 0o600)
		}, true},
		{"the folder is exchanged", func() error {
			if err := os.Rename(at("var/lib/dpkg"), at("var/lib/away")); err != nil {
				return err
			}
			return os.MkdirAll(info, 0o755)
		}, false},
		{"and comes back", func() error {
			return unix.Renameat2(unix.AT_FDCWD, at("var/lib/dpkg"), unix.AT_FDCWD, at("var/lib/away"), unix.RENAME_EXCHANGE)
		}, true},
		{"other records appear", func() error {
			if err := os.Remove(status); err != nil {
				return err
			}
			write(t, at("lib/apk/db/installed"), "P:x\nF:bin\nR:tool\nZ:Q1ihKMA8OcFWqI39hXRpTfD8xaoNI=\n")
			return nil
		}, false},
	} {
		_, _ = g.readRecords(context.Background()) // what is remembered is from before
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		refused(c.what, c.want)
	}
}

// TestYoungIsNotRemembered: within a tick of the clock a second change does not show.
func TestYoungIsNotRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	write(t, path, "1")
	var r remembered[string]
	read := func(note func(string)) (string, error) {
		note(path)
		b, err := os.ReadFile(path)
		return string(b), err
	}
	for _, want := range []string{"1", "2", "3"} {
		if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := r.get(read); err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}

// TestUnreadableRecords: what cannot be read fails the check, each time, and is not remembered.
func TestUnreadableRecords(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "tool"), "tool")
	write(t, filepath.Join(root, "var/lib/dpkg/info"), "a file where a folder should be")
	g, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	g.Warm(context.Background())
	for range 2 {
		var r *Refusal
		if err := g.Check(context.Background(), []File{open(t, filepath.Join(root, "tool"))}, false); err == nil || errors.As(err, &r) {
			t.Errorf("got %v, want an error that is no refusal", err)
		}
	}
	if err := g.Check(context.Background(), []File{open(t, filepath.Join(root, "tool"))}, true); err != nil {
		t.Errorf("with force: %v", err)
	}
}

func TestParseMapping(t *testing.T) {
	for line, want := range map[string]mapping{
		"7f00-7f10 r-xp 00001000 fe:00 123                        /usr/lib/x.so":     {file{"fe:00", "123", "/usr/lib/x.so"}, "7f00-7f10", true},
		"7f00-7f10 rw-s 00001000 fe:00 123                        /a name (deleted)": {file{"fe:00", "123", "/a name (deleted)"}, "7f00-7f10", false},
		"7f00-7f10 rw-p 00000000 00:00 0                          [heap]":            {},
		"7f00-7f10 rw-p 00000000 00:00 0 ":                                           {},
		"nonsense":                                                                   {},
		"":                                                                           {},
	} {
		got, ok := parseMapping(line)
		if ok != (want.span != "") || ok && got != want {
			t.Errorf("%q: got %+v, %v, want %+v", line, got, ok, want)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	path := filepath.Join(b.TempDir(), "x")
	if err := os.WriteFile(path, []byte(b.Name()), 0o600); err != nil {
		b.Fatal(err)
	}
	f, err := openFile(path)
	if err != nil {
		b.Fatal(err)
	}
	for name, fresh := range map[string]bool{"first": true, "again": false} {
		b.Run(name, func(b *testing.B) {
			g, err := New(Config{})
			for b.Loop() {
				if fresh {
					g, err = New(Config{})
				}
				if err == nil {
					err = g.Check(b.Context(), []File{f}, false)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
