// SPDX-License-Identifier: Apache-2.0

// Package vm boots other kernels under QEMU and fights the agent's battles
// there: the chains of hoppers on every rung, the core of test/adversary, the
// agent that is killed while it denies, and the tests of packages whose subject
// this machine's kernel may lack. scripts/vmtest fetches the kernels and runs it.
package vm

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// bootFlags are what a kernel is started with beside the console. BPF is the
// last of the security modules in Debian's list from 6.1 on; 5.10 must be told.
func bootFlags(kernel string) string {
	if kernel == "5.10" {
		return "lsm=lockdown,yama,integrity,apparmor,bpf"
	}
	return ""
}

// limit is how long one kernel may take, boot to end: an emulator on two cores.
const limit = 40 * time.Minute

func TestKernels(t *testing.T) {
	dir := os.Getenv("STAUNCH_VM_KERNELS")
	if dir == "" {
		t.Skip("SKIPPED, NOT PROVEN: no kernels to boot; run make vmtest")
	}
	kernels, err := filepath.Glob(filepath.Join(dir, "vmlinuz-*"))
	if err != nil || len(kernels) == 0 {
		t.Fatalf("no kernels in %s: %v", dir, err)
	}
	base := initramfs(t)
	for _, k := range kernels {
		name := strings.TrimPrefix(filepath.Base(k), "vmlinuz-")
		t.Run(name, func(t *testing.T) {
			image := withModules(t, base, filepath.Join(dir, "modules-"+name))
			boot(t, name, k, image)
		})
	}
}

// boot runs one machine to its end and takes its results from the console.
func boot(t *testing.T, name, kernel, image string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	// One thread: with several the emulator may show one processor an old byte
	// of code that another has just patched, which is the end of the guest.
	c := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=single", "-cpu", "max", "-smp", "2", "-m", "3072", "-nographic", "-no-reboot",
		"-net", "none", "-kernel", kernel, "-initrd", image, "-append", "console=ttyS0 quiet panic=-1 "+bootFlags(name))
	log := new(strings.Builder)
	c.Stdout, c.Stderr = io.MultiWriter(log, &lines{name: name}), log
	err := c.Run()
	out := log.String()
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(out))
	}
	results := regexp.MustCompile(`(?m)^(PASS|FAIL|SKIP) (\S+)(.*?)\r?$`).FindAllStringSubmatch(out, -1)
	for _, r := range results {
		if r[1] == "FAIL" {
			t.Errorf("%s%s", r[2], r[3])
		}
	}
	lies := regexp.MustCompile(`(?m)^false successes: (\d+)\r?$`).FindAllStringSubmatch(out, -1)
	for _, l := range lies {
		if n, err := strconv.Atoi(l[1]); err != nil || n > 0 {
			t.Errorf("false successes: %s", l[1])
		}
	}
	switch {
	case !strings.Contains(out, "GUEST DONE"):
		t.Errorf("the guest did not come to its end:\n%s", tail(out))
	case *only != "":
	case len(lies) < 2:
		t.Errorf("the battery printed %d of its 2 counts of false successes:\n%s", len(lies), tail(out))
	case len(results) < 20:
		t.Errorf("only %d results:\n%s", len(results), tail(out))
	}
	if t.Failed() && (testing.Verbose() || len(results) < 20) {
		t.Logf("the console:\n%s", out)
	}
}

// lines shows what is of interest as it comes.
type lines struct {
	name string
	rest string
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest += string(b)
	for {
		line, rest, ok := strings.Cut(l.rest, "\n")
		if !ok {
			return len(b), nil
		}
		l.rest = rest
		line = strings.TrimRight(line, "\r")
		for _, p := range []string{"PASS ", "FAIL ", "SKIP ", "false successes", "kernel ", "known limit"} {
			if strings.HasPrefix(line, p) {
				fmt.Printf("%-5s %s\n", l.name, line)
				break
			}
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-6000):] }

// only is for those who look for something: `go test ./test/vm -args -only=pins`.
var only = flag.String("only", "", "run this part of the guest alone: doctor, hoppers, outlives, pins, battery or rungs")
