// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

func sumPath(path string) (filehash.Sum, error) {
	f, err := os.Open(path)
	if err != nil {
		return filehash.Sum{}, err
	}
	defer f.Close()
	return filehash.Compute(f)
}

func mustSum(t testing.TB, path string) filehash.Sum {
	t.Helper()
	s, err := sumPath(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A denied file cannot be opened or executed under any name, in any way.
func TestDenyFile(t *testing.T) {
	dir := scratch(t)
	prog, script, lib := program(t, dir+"/prog"), write(t, dir+"/script", "#!/bin/sh\necho ran\n", 0o755), dir+"/lib.so"
	py := write(t, dir+"/script.py", "print('ran')\n", 0o644)
	src := write(t, dir+"/lib.c", "int staunch_test;\n", 0o644)
	if err := run(t, "gcc", "-shared", "-o", lib, src); err != nil {
		t.Fatalf("cannot build a library: %v", err)
	}
	innocent := program(t, dir+"/innocent")
	c := startLocal(t, dir, Settings{})
	for _, path := range []string{prog, script, lib, py} {
		f, err := os.OpenFile(path, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.DenyFile(f, "order-1"); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}

	t.Run("direct", func(t *testing.T) { mustRefuse(t, prog) })
	t.Run("loader", func(t *testing.T) { mustRefuse(t, loader(t), prog) })
	t.Run("script", func(t *testing.T) { mustRefuse(t, script) })
	t.Run("interpreter", func(t *testing.T) { mustRefuse(t, "/bin/sh", "-c", ". "+script) })
	t.Run("sh", func(t *testing.T) { mustRefuse(t, "/bin/bash", script) })
	t.Run("python", func(t *testing.T) { mustRefuse(t, "python3", py) })
	t.Run("copy", func(t *testing.T) { mustRefuse(t, "cp", prog, dir+"/copy") })
	t.Run("cat", func(t *testing.T) { mustRefuse(t, "cat", prog) })
	t.Run("preload", func(t *testing.T) {
		out, err := exec.Command("env", "LD_PRELOAD="+lib, "/bin/true").CombinedOutput()
		if err == nil && !strings.Contains(string(out), "cannot be preloaded") {
			t.Errorf("the library was loaded: %s", out)
		}
	})
	t.Run("hard link", func(t *testing.T) {
		if err := os.Link(prog, dir+"/link"); err != nil {
			t.Fatal(err)
		}
		mustRefuse(t, dir+"/link")
	})
	t.Run("rename", func(t *testing.T) {
		if err := os.Rename(prog, dir+"/renamed"); err != nil {
			t.Fatal(err)
		}
		defer os.Rename(dir+"/renamed", prog)
		mustRefuse(t, dir+"/renamed")
	})
	t.Run("another mount namespace", func(t *testing.T) {
		other := t.TempDir()
		mustRefuse(t, "unshare", "-m", "sh", "-c", "mount --bind "+dir+" "+other+" && exec "+other+"/prog")
		mustRun(t, "unshare", "-m", "sh", "-c", "mount --bind "+dir+" "+other+" && exec "+other+"/innocent")
	})
	t.Run("innocent", func(t *testing.T) { mustRun(t, innocent) })
	t.Run("the agent itself", func(t *testing.T) {
		if _, err := os.ReadFile(prog); err != nil {
			t.Errorf("the worker cannot read what it must seal: %v", err)
		}
	})
	t.Run("allowed again", func(t *testing.T) {
		for _, path := range []string{prog, script} {
			if err := c.AllowFile(open(t, path)); err != nil {
				t.Fatal(err)
			}
			mustRun(t, path)
		}
	})
}

func loader(t testing.TB) string {
	t.Helper()
	for _, p := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"} {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	t.Skip("SKIPPED, NOT PROVEN: no known loader here")
	return ""
}

// A denied content cannot be executed from a copy that nobody knew of, also on
// a file system that is mounted later.
func TestDenyHash(t *testing.T) {
	for _, tt := range []struct {
		name string
		size func(int64) int64
		hash func(filehash.Hash) filehash.Hash
	}{
		{"both digests, size known", func(n int64) int64 { return n }, func(h filehash.Hash) filehash.Hash { return h }},
		{"SHA-1, size unknown", func(int64) int64 { return -1 }, func(h filehash.Hash) filehash.Hash { return filehash.Hash{SHA1: h.SHA1} }},
		{"SHA-256, size known", func(n int64) int64 { return n }, func(h filehash.Hash) filehash.Hash { return filehash.Hash{SHA256: h.SHA256} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := scratch(t)
			prog, innocent := program(t, dir+"/prog"), write(t, dir+"/innocent", "#!/bin/sh\necho fine\n", 0o755)
			sum := mustSum(t, prog)
			c := startLocal(t, dir, Settings{})
			mustRun(t, prog)
			if err := c.DenyHash(Rule{File: tt.hash(sum.Hash()), Size: tt.size(sum.Size), ID: "order-1"}); err != nil {
				t.Fatal(err)
			}
			mustRefuse(t, prog)
			mustRefuse(t, prog)
			mustRefuse(t, program(t, dir+"/copy"))
			mustRun(t, innocent)

			later := filepath.Join(dir, "later")
			if err := os.Mkdir(later, 0o755); err != nil {
				t.Fatal(err)
			}
			mountAt(t, later)
			copied := program(t, later+"/copy")
			eventually(t, func() bool { return run(t, copied) != nil })
			mustRefuse(t, copied)

			if err := c.AllowHash(sum.Hash()); err != nil {
				t.Fatal(err)
			}
			mustRun(t, prog)
			mustRun(t, copied)
			if s, err := c.Status(); err != nil || s.Hashes != 0 || len(s.Covered) != 0 {
				t.Errorf("after the last rule: %+v, %v; want no file system covered", s, err)
			}
		})
	}
}

// eventually waits for what the kernel tells others and not us.
func eventually(t testing.TB, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it never happened")
}

func TestRefusals(t *testing.T) {
	dir := scratch(t)
	prog := program(t, dir+"/pr\nog")
	sum := mustSum(t, prog)
	c := startLocal(t, dir, Settings{})
	if err := c.DenyHash(Rule{File: sum.Hash(), Size: sum.Size, ID: "by-hash"}); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, prog)
	r := <-c.Refusals()
	if r.PID <= 0 || !r.Exec || r.Late || r.ID != "by-hash" || r.File != sum.Hash() || string(r.Path) != dir+`/pr\x0aog` || r.When.IsZero() {
		t.Errorf("refusal by hash: %+v", r)
	}
	if err := c.DenyFile(open(t, prog), "by-file"); err != nil {
		t.Fatal(err)
	}
	mustRefuse(t, "cat", prog)
	r = <-c.Refusals()
	if r.Exec || r.ID != "by-file" || !r.File.IsZero() {
		t.Errorf("refusal by file: %+v", r)
	}
	if err := c.Release("by-file"); err != nil {
		t.Fatal(err)
	}
	s, err := c.Status()
	if err != nil || s.Denied != 2 || s.Files != 0 || s.Hashes != 1 || s.HashedExecs != 1 || !s.Unlimited || s.Mode != "fail-open" {
		t.Errorf("status: %+v, %v", s, err)
	}
}

// Every request that cannot be carried out says why.
func TestRefusedRequests(t *testing.T) {
	dir := scratch(t)
	c := startLocal(t, dir, Settings{})
	hash := filehash.Hash{SHA1: filehash.SHA1{1}}
	for _, tt := range []struct {
		name string
		do   func() error
		want string
	}{
		{"a folder", func() error { return c.DenyFile(open(t, dir), "x") }, "not a regular file"},
		{"a device", func() error { return c.DenyFile(open(t, "/dev/null"), "x") }, "not a regular file"},
		{"no file", func() error { return c.DenyFile(nil, "x") }, "descriptor is missing"},
		{"no hash", func() error { return c.DenyHash(Rule{Size: 1}) }, "hash is missing"},
		{"the empty content", func() error {
			h, err := filehash.Parse("da39a3ee5e6b4b0d3255bfef95601890afd80709")
			if err != nil {
				return err
			}
			return c.DenyHash(Rule{File: h, Size: -1})
		}, "countless harmless files"},
		{"negative size", func() error { return c.DenyHash(Rule{File: hash, Size: -2}) }, "say -1 where the size is not known"},
		{"long id", func() error { return c.DenyHash(Rule{File: hash, ID: strings.Repeat("x", MaxID+1)}) }, "the limit is 44"},
		{"long message", func() error { return c.DenyFile(open(t, "/bin/true"), strings.Repeat("x", maxMessage)) }, "the limit is"},
		{"unknown", func() error { _, err := c.request(message{Op: "sing"}, nil); return err }, "no such request"},
		{"no pidfd", func() error { _, err := c.request(message{Op: opExempt}, open(t, "/bin/true")); return err }, "no pidfd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.do(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	if s, err := c.Status(); err != nil || s.Files != 0 || s.Hashes != 0 {
		t.Errorf("something was kept: %+v, %v", s, err)
	}
}
