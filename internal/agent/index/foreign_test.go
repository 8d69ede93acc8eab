// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace runs a shell script in a mount namespace of its own, waits until
// it says "there", and returns what ends it. It goes on with a line from in.
func inNamespace(t *testing.T, script, dir string) (end func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: mount namespaces need root")
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script+` && echo there && read -r line`, dir)
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	if err := cmd.Start(); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	end = func() {
		_ = in.Close() // read fails at the end of its input
		_ = cmd.Wait() // as it does
	}
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "there\n" {
		end()
		t.Skipf("SKIPPED, NOT PROVEN: no mount namespace here: %q", line)
	}
	return end
}

// TestForeignSearch finds what lies on a file system that only another mount
// namespace has, with all its names and nothing of the namespace's own view of
// the kernel; and nothing once the namespace has ended.
func TestForeignSearch(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "m"), 0o755))
	const text = "only they have it\n"
	end := inNamespace(t, `mount -t tmpfs own "$0/m" && mkdir "$0/m/deep" && echo only they have it >"$0/m/deep/a" && ln "$0/m/deep/a" "$0/m/b" && mount -t proc p "$0/m/deep"`, dir)
	defer end()
	search := func(roots ...string) Result {
		res, err := Search(t.Context(), SearchConfig{Foreign: true, Roots: roots, Hash: sha1Of(text), Size: int64(len(text))})
		must(t, err)
		t.Cleanup(res.Close)
		return res
	}
	for _, roots := range [][]string{nil, {dir}} {
		res := search(roots...)
		var paths []string
		for _, c := range res.Copies {
			for _, p := range c.Paths {
				paths = append(paths, p)
				if fi, err := os.Lstat(p); err != nil || fi.Size() != int64(len(text)) {
					t.Errorf("%s does not lead there: %v", p, err)
				}
			}
		}
		if len(paths) != 1 || !strings.HasPrefix(paths[0], "/proc/") || !strings.HasSuffix(paths[0], "/root"+dir+"/m/b") {
			t.Errorf("under %q: found %q; the other name is hidden by a mount", roots, paths)
		}
		if len(res.Failed) > 0 {
			t.Errorf("failed: %q", res.Failed)
		}
		if slices.ContainsFunc(res.Covered, func(s string) bool { return strings.HasSuffix(s, "/m/deep") }) {
			t.Errorf("their /proc was searched: %q", res.Covered)
		}
	}
	if res := search(filepath.Join(dir, "elsewhere")); len(res.Copies)+len(res.Covered) > 0 {
		t.Errorf("outside of the roots: %+v", res)
	}
	end()
	if res := search(dir); len(res.Copies)+len(res.Covered) > 0 {
		t.Errorf("after its end: %+v", res)
	}
}

// TestForeignRoot searches the root of a process that has another than we.
func TestForeignRoot(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "m"), 0o755))
	const text = "in their root\n"
	end := inNamespace(t, `mount -t tmpfs own "$0/m" && cd "$0/m" && mkdir old && echo in their root >c && pivot_root . old && exec 3<c`, dir)
	defer end()
	res, err := Search(t.Context(), SearchConfig{Foreign: true, Hash: sha1Of(text), Size: int64(len(text))})
	must(t, err)
	defer res.Close()
	if len(res.Copies) != 1 || len(res.Copies[0].Paths) != 1 || !isRoot(filepath.Dir(res.Copies[0].Paths[0])) {
		t.Errorf("found %+v, failed %q, not covered %q", res.Copies, res.Failed, res.NotCovered)
	}
}

// TestFailedIsTold: a folder that cannot be read is a failure, one on another
// kind of file system is not.
func TestFailedIsTold(t *testing.T) {
	s := &search{}
	s.problem("/a", unix.EIO)
	s.problem("/locked", unix.ENOKEY)
	s.outside("/nfs", "nfs4 is not a local file system")
	s.mounts = nil
	res := s.result()
	if want := []string{"/a: input/output error"}; !slices.Equal(res.Failed, want) {
		t.Errorf("failed %q, want %q", res.Failed, want)
	}
	if len(res.NotCovered) != 3 {
		t.Errorf("not covered %q", res.NotCovered)
	}
	for name, want := range map[string]bool{"/proc/1/root": true, "/proc/4194304/root": true, "/proc/self/root": false, "/proc/1/root/x": false, "/x": false, "": false} {
		if isRoot(name) != want {
			t.Errorf("isRoot(%q) = %v", name, !want)
		}
	}
}
