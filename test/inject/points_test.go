// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// calls are the system calls that are broken: all that touch files, what the
// agent, its gate and its helpers say to each other, and what ends processes.
var calls = []string{
	"openat", "openat2", "read", "pread64", "write", "pwrite64", "ftruncate", "fallocate", "fsync", "fdatasync",
	"renameat", "renameat2", "linkat", "unlinkat", "mkdirat", "fchmod", "fchmodat", "fchown", "fsetxattr", "fgetxattr", "flistxattr",
	"utimensat", "ioctl", "statx", "newfstatat", "fstat", "fstatfs", "getdents64", "lseek", "flock",
	"bpf", "fanotify_init", "fanotify_mark", "pidfd_open", "pidfd_send_signal", "sendmsg", "recvmsg",
}

// always are calls that count whatever they are about: they name no file.
var always = []string{"bpf", "fanotify_init", "fanotify_mark", "pidfd_open", "pidfd_send_signal", "sendmsg"}

// notProven is in the receipt of a containment that did all it could by a way
// of holding that is not proof on this machine.
const notProven = `"code":"NotProven"`

// ways are how a call is broken.
var ways = []string{"signal=KILL", "error=EIO", "error=ENOSPC", "error=EPERM", "error=EINTR"}

// known makes strace count only calls about files whose names are known before.
func (w *world) known() []string {
	paths := []string{w.state, w.disk}
	for _, n := range []string{"evil", "d", "d/evil2", "e", "e/copy", "innocent"} {
		paths = append(paths, w.on(n))
	}
	for _, n := range []string{
		"lock", "device.key", "gates.json", "frozen.json", "journal", "journal/journal.log", "vault", "vault/vault.json", "vault/key",
		"vault/items", "vault/intents", "vault/tmp", "vault/staging",
	} {
		paths = append(paths, filepath.Join(w.state, n))
	}
	if w.group != "" {
		paths = append(paths, filepath.Join(w.group, "cgroup.freeze"), filepath.Join(w.group, "cgroup.events"))
	}
	var args []string
	for _, p := range paths {
		args = append(args, "-P", p)
	}
	return args
}

// points runs a command whole and returns every point of it at which it can be
// broken: the nth call of a kind in a thread, where any thread's nth is about
// the scratch world; and again, as "known …", of those calls alone that are
// about files with names that are known before.
func (w *world) points(again func(), args ...string) []string {
	w.t.Helper()
	all := w.trace("", nil, args)
	again()
	all = append(all, w.trace("known ", w.known(), args)...)
	slices.Sort(all)
	return all
}

func (w *world) trace(prefix string, only, args []string) (points []string) {
	w.t.Helper()
	trace := filepath.Join(w.dir, "good")
	strace := append([]string{"-f", "-y", "-s", "0", "-o", trace, "-e", "trace=" + strings.Join(calls, ",")}, only...)
	strace = append(append(strace, agentPath), args...)
	if r := w.run("strace", append(strace, "--json", "--state", w.state)...); r.code != 0 && !strings.Contains(r.stdout, notProven) {
		w.t.Fatalf("a run that nothing breaks fails: %s", r)
	}
	b, err := os.ReadFile(trace)
	must(w.t, err)
	counts, found := map[string]int{}, map[string]bool{}
	for line := range strings.Lines(string(b)) {
		thread, rest, _ := strings.Cut(line, " ")
		call, _, ok := strings.Cut(strings.TrimSpace(rest), "(")
		if !ok || strings.HasPrefix(strings.TrimSpace(rest), "<... ") {
			continue
		}
		counts[thread+call]++
		ours := strings.Contains(line, w.dir) || strings.Contains(line, "/sys/fs/cgroup") || slices.Contains(always, call)
		if ours && slices.Contains(calls, call) {
			found[fmt.Sprintf("%s%s:%%s:when=%d", prefix, call, counts[thread+call])] = true
		}
	}
	for p := range found {
		for _, way := range ways {
			points = append(points, fmt.Sprintf(p, way))
		}
	}
	return points
}

// choose draws the sample. Kinds of calls are drawn first, so that the rare
// ones, which change things, are as likely as the many reads.
func choose(t *testing.T, points []string, n int) []string {
	t.Helper()
	if *only != "" {
		return []string{*only}
	}
	if *all {
		return points
	}
	r := rand.New(rand.NewPCG(*seed, 0))
	kinds := map[string][]string{}
	for _, p := range points {
		call, _, _ := strings.Cut(p, ":")
		kinds[call] = append(kinds[call], p)
	}
	names := slices.Sorted(func(yield func(string) bool) {
		for k := range kinds {
			if !yield(k) {
				return
			}
		}
	})
	var chosen []string
	for len(chosen) < min(n, len(points)) && len(names) > 0 {
		k := names[r.IntN(len(names))]
		p := kinds[k][r.IntN(len(kinds[k]))]
		if !slices.Contains(chosen, p) {
			chosen = append(chosen, p)
		}
	}
	return chosen
}
