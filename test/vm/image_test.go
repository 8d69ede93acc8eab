// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
)

// tools are this machine's programs that the battery's scenes use.
var tools = []string{
	"/bin/sh", "/bin/bash", "/bin/sleep", "/bin/cat", "/bin/cp", "/bin/mv", "/bin/true", "/bin/mount", "/usr/bin/env", "/usr/bin/unshare",
}

// initramfs packs the guest program, which is its init, the agent, the tests,
// the hostile programs, and what they need.
func initramfs(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for out, pkg := range map[string]string{"init": "./guest", "staunch-agent": "../../cmd/staunch-agent"} {
		run(t, "", "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(root, out), pkg)
	}
	for out, pkg := range map[string]string{"pins": "../../internal/agent/gate/pin", "battery": "../adversary"} {
		run(t, "", "go", "test", "-c", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(root, "tests", out), pkg)
	}
	hostile := filepath.Join(root, "hostile")
	mkdir(t, hostile)
	for _, args := range [][]string{
		{"-o", "foe", "../adversary/testdata/foe.c", "-static", "-pthread"},
		{"-o", "dyn", "../adversary/testdata/foe.c", "-DDYNAMIC", "-pthread", "-ldl"},
		{"-o", "lib", "../../internal/agent/process/testdata/lib.c", "-shared", "-fPIC"},
	} {
		args[1] = filepath.Join(hostile, args[1])
		run(t, "", "gcc", append([]string{"-O1"}, args...)...)
	}
	library := regexp.MustCompile(`(/\S+) \(0x`)
	for _, tool := range append(tools, filepath.Join(hostile, "dyn")) {
		if tool != filepath.Join(hostile, "dyn") {
			carry(t, root, tool)
		}
		for _, m := range library.FindAllSubmatch(run(t, "", "ldd", tool), -1) {
			carry(t, root, string(m[1]))
		}
	}
	if _, err := exec.LookPath("mkfs.ext4"); err == nil {
		mkdir(t, filepath.Join(root, "images"))
		run(t, "", "mkfs.ext4", "-q", filepath.Join(root, "images", "ext4"), "16m")
	}
	return pack(t, root)
}

// carry copies a file of this machine to the same place in the guest.
func carry(t *testing.T, root, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mkdir(t, filepath.Join(root, filepath.Dir(path)))
	if err := os.WriteFile(filepath.Join(root, path), b, 0o755); err != nil { //nolint:gosec // programs
		t.Fatal(err)
	}
}

// withModules appends a kernel's own modules: the kernel unpacks one archive
// after the other.
func withModules(t *testing.T, base, modules string) string {
	t.Helper()
	b, err := os.ReadFile(base)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	mkdir(t, filepath.Join(root, "modules"))
	all, err := filepath.Glob(filepath.Join(modules, "*.ko"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		content, err := os.ReadFile(m)
		if err == nil {
			err = os.WriteFile(filepath.Join(root, "modules", filepath.Base(m)), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if *only != "" {
		if err := os.WriteFile(filepath.Join(root, "only"), []byte(*only), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	more, err := os.ReadFile(pack(t, root))
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(image, append(b, more...), 0o600); err != nil {
		t.Fatal(err)
	}
	return image
}

func pack(t *testing.T, root string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "initramfs")
	run(t, root, "sh", "-c", "find . | cpio --quiet -o -H newc > "+image)
	return image
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, dir, name string, args ...string) []byte {
	t.Helper()
	c := exec.Command(name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	var out, msg bytes.Buffer
	c.Stdout, c.Stderr = &out, &msg
	if err := c.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, &out, &msg)
	}
	return out.Bytes()
}
