// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"staunch/internal/filehash"
)

func TestBeyond(t *testing.T) {
	for p, want := range map[string]string{
		"/proc/12/root/tmp/a": "12 tmp/a", "/proc/12/root": "12 ", "/proc/12/rooted/a": "", "/proc/self/root/a": "", "/proc/-1/root/a": "",
		"/proc/12/cwd/a": "", "/srv/proc/12/root/a": "", "/proc//root/a": "", "": "",
	} {
		pid, below, ok := beyond(p)
		if got := pid + " " + below; ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q %v, want %q", p, got, ok, want)
		}
	}
}

// TestBeyondOurMounts takes a file that only another mount namespace has, and
// gives it back beside: what the number leads to by then nobody knows.
func TestBeyondOurMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: mount namespaces need root")
	}
	dir := t.TempDir()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount -t tmpfs own "$0" && mkdir "$0/deep" && echo theirs >"$0/deep/evil" && echo there $$ && read -r line`, dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }() // it reads, and ends
	line, _ := bufio.NewReader(out).ReadString('\n')
	pid, err := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "there")))
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: no mount namespace here: %q", line)
	}
	path := filepath.Join("/proc", strconv.Itoa(pid), "root", dir, "deep", "evil")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := Open(Config{Dir: filepath.Join(t.TempDir(), "vault")})
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	g, err := v.Grab(t.Context(), f, []string{path}, func(filehash.Sum) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	item, err := g2item(t, v, g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	left, err := os.ReadDir(filepath.Dir(filepath.Dir(path)))
	if err != nil || len(left) != 1 {
		t.Errorf("left on their file system: %v, %v", left, err)
	}
	r, err := v.Restore(t.Context(), item, RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Side {
		t.Errorf("restored to %q", r.Paths)
	}
	raw, err := r.Paths[0].Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(raw); err != nil || string(b) != "theirs\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func g2item(t *testing.T, v *Vault, g *Grabbed) (string, error) {
	item, err := v.Seal(t.Context(), g, Why{Order: "o"})
	return item.ID, errors.Join(err, g.Remove(t.Context()))
}
