// SPDX-License-Identifier: Apache-2.0

// Package vm boots other kernels under QEMU and lets the agent contain a
// respawning program there. scripts/vmtest fetches the kernels and runs it.
package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// initramfs packs the agent and the guest program, which is its init.
func initramfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for out, pkg := range map[string]string{"init": "./guest", "staunch-agent": "../../cmd/staunch-agent"} {
		c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(dir, out), pkg)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if b, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, b)
		}
	}
	image := filepath.Join(t.TempDir(), "initramfs")
	c := exec.Command("sh", "-c", "find . | cpio --quiet -o -H newc > "+image)
	c.Dir = dir
	if b, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	return image
}

func TestKernels(t *testing.T) {
	dir := os.Getenv("STAUNCH_VM_KERNELS")
	if dir == "" {
		t.Skip("SKIPPED, NOT PROVEN: no kernels to boot; run make vmtest")
	}
	kernels, err := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		t.Fatalf("no kernels in %s: %v", dir, err)
	}
	image := initramfs(t)
	for _, k := range kernels {
		t.Run(strings.TrimPrefix(filepath.Base(k), "vmlinuz-"), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
			defer cancel()
			c := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "1024", "-nographic", "-no-reboot",
				"-net", "none", "-kernel", k, "-initrd", image, "-append", "console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1")
			out, err := c.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, tail(out))
			}
			results := regexp.MustCompile(`(?m)^(PASS|FAIL) (\S+)(.*?)\r?$`).FindAllSubmatch(out, -1)
			for _, r := range results {
				fmt.Printf("%s  %s %s%s\n", filepath.Base(k), r[1], r[2], r[3])
				if string(r[1]) == "FAIL" {
					t.Errorf("%s%s", r[2], r[3])
				}
			}
			if !bytes.Contains(out, []byte("GUEST DONE")) {
				t.Errorf("the guest did not come to its end:\n%s", tail(out))
			}
		})
	}
}

func tail(b []byte) []byte { return b[max(0, len(b)-6000):] }
