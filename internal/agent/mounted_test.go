// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A file system that only another process has mounted is told of.
func TestForeign(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: mount namespaces need root")
	}
	dir := t.TempDir()
	script := `mount -t tmpfs own "$0" && echo there && read -r line`
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", script, dir)
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
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: no mount namespace here: %v", err)
	}
	if !slices.ContainsFunc(foreign(), func(s string) bool { return strings.HasPrefix(s, dir+": tmpfs") }) {
		t.Errorf("%s is not in %q", dir, foreign())
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // read fails at the end of its input
	if slices.ContainsFunc(foreign(), func(s string) bool { return strings.HasPrefix(s, dir) }) {
		t.Errorf("%s is gone and still in %q", dir, foreign())
	}
}
