// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

func open(t *testing.T, path string) File {
	t.Helper()
	f, err := openFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.File.Close() })
	return f
}

func openFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	st, err1 := inode.Of(f)
	sum, err2 := filehash.Compute(f)
	return File{File: f, ID: st.ID, Sum: sum, Paths: []string{path}}, errors.Join(err1, err2)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRules has one row per rule; each reads the refusal's text.
func TestRules(t *testing.T) {
	root := t.TempDir()
	at := func(p string) string { return filepath.Join(root, p) }
	write(t, at("usr/bin/tool"), "packaged tool")
	write(t, at("usr/bin/changed"), "changed since")
	write(t, at("tmp/copy-of-tool"), "packaged tool")
	write(t, at("bin/merged"), "merged usr")
	write(t, at("etc/tool.conf"), "conf")
	write(t, at("var/lib/dpkg/info/tool.md5sums"), fmt.Sprintf("%x  usr/bin/tool\n%x  usr/bin/changed\n%x  usr/bin/merged\n",
		md5.Sum([]byte("packaged tool")), md5.Sum([]byte("as shipped")), md5.Sum([]byte("merged usr"))))
	write(t, at("var/lib/dpkg/status"), fmt.Sprintf("Package: toolconf\nStatus: install ok installed\nConffiles:\n /etc/tool.conf %x\nDescription: x\n", md5.Sum([]byte("conf"))))
	write(t, at("lib64/ld-linux-x86-64.so.2"), "loader")
	write(t, at("empty"), "")
	write(t, at("srv/app/main"), "ours")
	write(t, at("state/vault/x"), "sealed")
	write(t, at("tmp/evil"), "evil")
	if err := os.Link(at("lib64/ld-linux-x86-64.so.2"), at("tmp/innocent-name")); err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{Own: []string{at("state")}, Protected: []string{at("srv/app")}, Root: root})
	if err != nil {
		t.Fatal(err)
	}
	write(t, at("lib/modules/"+g.kernel+"/a.ko"), "module")

	for _, c := range []struct {
		path  string
		force bool
		rule  Rule // "" = may be taken
		text  string
	}{
		{at("tmp/evil"), false, "", ""},
		{at("empty"), true, EmptyFile, "content is empty"},
		{at("tmp/innocent-name"), true, Loader, "every dynamic program needs it"},
		{at("lib/modules/" + g.kernel + "/a.ko"), true, Kernel, "the running kernel"},
		{at("srv/app/main"), true, Protected, "the operator protects " + at("srv/app")},
		{at("state/vault/x"), true, Agent, "belongs to the agent"},
		{"/proc/self/exe", true, Agent, "the agent itself"},
		{at("usr/bin/tool"), false, Package, "package tool ships this content"},
		{at("usr/bin/tool"), true, "", ""},
		{at("bin/merged"), false, Package, "package tool"},
		{at("etc/tool.conf"), false, Package, "package toolconf"},
		{at("usr/bin/changed"), false, "", ""},
		{at("tmp/copy-of-tool"), false, Package, "as /usr/bin/tool"}, // the gate would refuse the tool with it
		{at("tmp/copy-of-tool"), true, "", ""},
	} {
		t.Run(fmt.Sprintf("%s,force=%v", strings.TrimPrefix(c.path, root), c.force), func(t *testing.T) {
			err := g.Check(context.Background(), []File{open(t, c.path)}, c.force)
			var r *Refusal
			switch {
			case c.rule == "" && err != nil:
				t.Errorf("refused: %v", err)
			case c.rule != "" && (!errors.As(err, &r) || r.Rule != c.rule || !strings.Contains(err.Error(), c.text)):
				t.Errorf("got %v, want rule %s with %q", err, c.rule, c.text)
			}
		})
	}
}

func TestInitIsProtected(t *testing.T) {
	f, err := os.Open("/proc/1/exe")
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: pid 1's executable cannot be opened here: %v", err)
	}
	f.Close()
	g, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Check(context.Background(), []File{open(t, "/proc/1/exe")}, true)
	var r *Refusal
	if !errors.As(err, &r) || r.Rule != Init {
		t.Errorf("got %v, want rule init", err)
	}
}

func TestBadConfig(t *testing.T) {
	for _, p := range []string{"relative", "/bad[pattern"} {
		if _, err := New(Config{Protected: []string{p}}); err == nil || !strings.Contains(err.Error(), p) {
			t.Errorf("Protected %q: got %v, want an error that names it", p, err)
		}
	}
}

// TestTooMany: content that very many files have is not taken without force.
func TestTooMany(t *testing.T) {
	root := t.TempDir()
	var files []File
	for i := range 4 {
		p := filepath.Join(root, fmt.Sprint("srv/", i))
		write(t, p, "\n")
		files = append(files, open(t, p))
	}
	g, err := New(Config{Root: root, Many: 3})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Check(context.Background(), files, false)
	var r *Refusal
	if !errors.As(err, &r) || r.Rule != TooMany || !strings.Contains(err.Error(), "4 files have this content of 1 bytes, more than 3") {
		t.Errorf("got %v, want rule too-many", err)
	}
	if err := g.Check(context.Background(), files, true); err != nil {
		t.Errorf("with force: %v", err)
	}
	if err := g.Check(context.Background(), files[:3], false); err != nil {
		t.Errorf("three: %v", err)
	}
}

// TestOwn: the agent's units and its processes' programs, by name and by identity.
func TestOwn(t *testing.T) {
	root := t.TempDir()
	at := func(p string) string { return filepath.Join(root, p) }
	write(t, at("etc/systemd/system/staunch-agent.service"), "unit")
	write(t, at("usr/lib/systemd/system/staunch-agent-gate.service"), "unit")
	write(t, at("etc/systemd/system/staunch-agent.service.d/local.conf"), "drop-in")
	write(t, at("etc/systemd/system/other.service"), "other")
	write(t, at("srv/staunch-agent.service"), "not a unit")
	if err := os.Link(at("etc/systemd/system/staunch-agent.service"), at("srv/link")); err != nil {
		t.Fatal(err)
	}
	g, err := New(Config{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	for p, protected := range map[string]bool{
		"etc/systemd/system/staunch-agent.service":              true,
		"usr/lib/systemd/system/staunch-agent-gate.service":     true,
		"etc/systemd/system/staunch-agent.service.d/local.conf": true,
		"srv/link":                         true,
		"etc/systemd/system/other.service": false,
		"srv/staunch-agent.service":        false,
	} {
		err := g.Check(context.Background(), []File{open(t, at(p))}, true)
		var r *Refusal
		if got := errors.As(err, &r) && r.Rule == Agent; got != protected || !protected && err != nil {
			t.Errorf("%s: got %v, want protected %v", p, err, protected)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(filepath.Dir(self), "another-name")
	if err := os.Link(self, link); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(link)
	err = g.Check(context.Background(), []File{open(t, link)}, true)
	var r *Refusal
	if !errors.As(err, &r) || r.Rule != Agent {
		t.Errorf("a link to the running program: got %v", err)
	}
	if !slices.Contains(processes(), os.Getpid()) {
		t.Errorf("the agent's own process is not in %v", processes())
	}
}
