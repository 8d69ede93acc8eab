// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"
)

// rpmdb unpacks a database that rpm 4.18 made of three packages: tool (SHA-256
// digests), oldtool (MD5) and big, whose header with 400 files takes a dozen
// overflow pages.
func rpmdb(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/rpmdb.sqlite.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// expect has the guard check one file and reads the refusal.
func expect(t *testing.T, root, path, want string, force bool) {
	t.Helper()
	g, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Check(context.Background(), []File{open(t, filepath.Join(root, path))}, force)
	var r *Refusal
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: refused: %v", path, err)
	case want != "" && (!errors.As(err, &r) || r.Rule != Package || !strings.Contains(err.Error(), "package "+want+" ")):
		t.Errorf("%s: got %v, want package %s", path, err, want)
	}
}

func TestRPM(t *testing.T) {
	for _, db := range rpmDatabases {
		t.Run(db, func(t *testing.T) {
			root := t.TempDir()
			write(t, filepath.Join(root, db), string(rpmdb(t)))
			write(t, filepath.Join(root, "usr/bin/tool"), "packaged tool")
			write(t, filepath.Join(root, "usr/bin/oldtool"), "packaged old tool")
			write(t, filepath.Join(root, "bin/tool"), "packaged tool")
			write(t, filepath.Join(root, "usr/bin/changed"), "changed since")
			write(t, filepath.Join(root, "usr/share/big/file-1"), "big file 1")
			write(t, filepath.Join(root, "usr/share/big/file-399"), "big file 399")
			write(t, filepath.Join(root, "usr/share/big/file-400"), "big file 399")
			write(t, filepath.Join(root, "etc/tool.conf"), "conf")
			write(t, filepath.Join(root, "opt/tool"), "packaged tool")
			expect(t, root, "usr/bin/tool", "tool-1.0-1", false)
			expect(t, root, "usr/bin/tool", "", true)
			expect(t, root, "bin/tool", "tool-1.0-1", false)
			expect(t, root, "usr/bin/oldtool", "oldtool-1.0-1", false)
			expect(t, root, "usr/bin/changed", "", false)
			expect(t, root, "usr/share/big/file-1", "big-1.0-1", false)
			expect(t, root, "usr/share/big/file-399", "big-1.0-1", false)
			expect(t, root, "usr/share/big/file-400", "big-1.0-1", false) // its content is file-399's
			expect(t, root, "etc/tool.conf", "tool-1.0-1", false)
			expect(t, root, "opt/tool", "tool-1.0-1", false) // a copy: the gate would refuse the tool with it
		})
	}
}

// TestRPMLog: what a package manager committed to the write-ahead log counts,
// what it has not committed does not, and reading leaves nothing behind.
func TestRPMLog(t *testing.T) {
	root := t.TempDir()
	db := filepath.Join(root, rpmDatabases[0])
	write(t, db, string(rpmdb(t)))
	write(t, filepath.Join(root, "usr/bin/tool"), "packaged tool")
	write(t, filepath.Join(root, "usr/bin/oldtool"), "packaged old tool")
	conn, err := sql.Open("sqlite", "file:"+db+"?_pragma=journal_mode(wal)&_pragma=wal_autocheckpoint(0)")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetMaxOpenConns(1)
	run := func(q string) {
		t.Helper()
		if _, err := conn.Exec(q); err != nil {
			t.Fatal(err)
		}
	}
	run("create table keep as select * from Packages")
	run("delete from Packages where hnum = 1")
	if fi, err := os.Stat(db + "-wal"); err != nil || fi.Size() == 0 {
		t.Fatalf("the log is empty, so nothing is proven: %v", err)
	}
	expect(t, root, "usr/bin/tool", "", false)
	expect(t, root, "usr/bin/oldtool", "oldtool-1.0-1", false)
	run("pragma cache_size = 2")
	run("begin")
	run("insert into Packages select * from keep where hnum = 1")
	run("update keep set blob = zeroblob(200000)") // more than the cache: it is written before it is committed
	expect(t, root, "usr/bin/tool", "", false)
	run("rollback")
	run("insert into Packages select * from keep where hnum = 1")
	before, err := os.ReadDir(filepath.Dir(db))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, root, "usr/bin/tool", "tool-1.0-1", false)
	after, err := os.ReadDir(filepath.Dir(db))
	if err != nil || len(before) != len(after) {
		t.Errorf("left %v where %v was: %v", after, before, err)
	}
}

// TestRecordsRefusals: damaged records are an error that says what to do, not
// silence; force goes on without them.
func TestRecordsRefusals(t *testing.T) {
	good := rpmdb(t)
	torn := bytes.Clone(good[:len(good)/2])
	zero := bytes.Clone(good)
	clear(zero[8192:])
	for name, c := range map[string]struct{ file, text, want string }{
		"rpm, no database": {rpmDatabases[1], strings.Repeat("x", 200), "it is damaged"},
		"rpm, empty":       {rpmDatabases[1], "", "EOF"},
		"rpm, torn":        {rpmDatabases[1], string(torn), "it is damaged"},
		"rpm, zeroed":      {rpmDatabases[1], string(zero), "it is damaged"},
		"pacman":           {"var/lib/pacman/local/x-1/mtree", "no gzip at all", "gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			write(t, filepath.Join(root, c.file), c.text)
			write(t, filepath.Join(root, "usr/bin/tool"), "packaged tool")
			g, err := New(Config{Root: root})
			if err != nil {
				t.Fatal(err)
			}
			f := []File{open(t, filepath.Join(root, "usr/bin/tool"))}
			err = g.Check(context.Background(), f, false)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "again with force") {
				t.Errorf("got %v, want %q and what to do", err, c.want)
			}
			if err := g.Check(context.Background(), f, true); err != nil {
				t.Errorf("with force: %v", err)
			}
		})
	}
}

func TestAPK(t *testing.T) {
	root := t.TempDir()
	sum := sha1.Sum([]byte("musl tool"))
	write(t, filepath.Join(root, "lib/apk/db/installed"), "C:Q1pSfd\nP:busybox\nV:1.36.1-r15\nF:bin\nR:busybox\na:0:0:755\nZ:Q1"+
		base64.StdEncoding.EncodeToString(sum[:])+"\nF:etc\nR:odd\nZ:Q2AAAA\n\n")
	write(t, filepath.Join(root, "bin/busybox"), "musl tool")
	write(t, filepath.Join(root, "etc/odd"), "odd")
	write(t, filepath.Join(root, "bin/other"), "musl tool")
	expect(t, root, "bin/busybox", "busybox", false)
	expect(t, root, "bin/busybox", "", true)
	expect(t, root, "bin/other", "busybox", false) // a copy
	expect(t, root, "etc/odd", "", false)
}

func TestPacman(t *testing.T) {
	root := t.TempDir()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	fmt.Fprintf(z, "#mtree\n/set type=file uid=0 gid=0 mode=755\n./usr type=dir\n./usr/bin/a\\040b time=1.0 size=9 md5digest=%x sha256digest=%x\n./usr/bin/old time=1.0 md5digest=%x\n",
		md5.Sum([]byte("x")), sha256.Sum256([]byte("arch tool")), md5.Sum([]byte("old tool")))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(root, "var/lib/pacman/local/tool-1.0-1/mtree"), b.String())
	write(t, filepath.Join(root, "usr/bin/a b"), "arch tool")
	write(t, filepath.Join(root, "usr/bin/old"), "old tool")
	write(t, filepath.Join(root, "usr/bin/new"), "old tool")
	expect(t, root, "usr/bin/a b", "tool-1.0-1", false)
	expect(t, root, "usr/bin/old", "tool-1.0-1", false)
	expect(t, root, "usr/bin/new", "tool-1.0-1", false) // a copy
}

func TestUnread(t *testing.T) {
	root := t.TempDir()
	g, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	if got := g.Unread(); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	write(t, filepath.Join(root, "var/lib/rpm/Packages"), "x")
	if got := g.Unread(); len(got) != 1 || got[0] != filepath.Join(root, "var/lib/rpm/Packages") {
		t.Errorf("got %q", got)
	}
}

// FuzzDatabase: any bytes in a database's place are read or refused, and the
// reading ends.
func FuzzDatabase(f *testing.F) {
	good := rpmdb(f)
	f.Add(good[:16384], 100, byte(7))
	f.Add(good[:8192], 4096, byte(255))
	f.Fuzz(func(t *testing.T, data []byte, at int, b byte) {
		data = append(bytes.Clone(data), good[min(len(data), len(good)):]...)
		data[(at%len(data)+len(data))%len(data)] ^= b
		d := &database{file: bytes.NewReader(data)}
		if d.header(int64(len(data))) != nil {
			return
		}
		if d.readLog(bytes.NewReader(data[len(data)/2:]), int64(len(data)-len(data)/2)) != nil {
			return
		}
		_ = d.table("Packages", func(c [][]byte) error { // the error is the answer
			if len(c) < 2 {
				return nil
			}
			h, err := parseHeader(c[1])
			if err != nil {
				return err
			}
			return h.check(ignoring)
		})
	})
}

// FuzzHeader: any bytes are a header or are refused.
func FuzzHeader(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 3, 0xe8, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 1, 'a', 'b', 'c', 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if h, err := parseHeader(data); err == nil {
			_ = h.check(ignoring) // the error is the answer
			_ = h.name()
		}
		_ = readMtree(bytes.NewReader(data), "x", ignoring) // so is this
		_, _ = columns(data)
	})
}

// ignoring goes through records and looks for nothing.
var ignoring = scan{
	note: func(string) {}, mentions: func([]byte) (bool, error) { return true, nil },
	each: func(algorithm, string, string, string) error { return nil },
}
