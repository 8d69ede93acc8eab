// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestUnprivileged runs a vault as nobody: it takes nobody's own file, from
// the vault's file system and from another, and no one else's.
func TestUnprivileged(t *testing.T) {
	needRoot(t, "becoming another user")
	const nobody = 65534
	for _, kind := range []StageKind{inVault, inParent} {
		base := tempDir(t)
		place := filepath.Join(base, "place")
		if kind == inVault {
			if err := os.Mkdir(place, 0o700); err != nil {
				t.Fatal(err)
			}
		} else {
			// The mount's root is not nobody's, so that no staging folder can be made there.
			place = tmpfs(t, "mode=755")
			if err := errors.Join(os.Chmod(place, 0o755), os.Mkdir(filepath.Join(place, "home"), 0o700)); err != nil {
				t.Fatal(err)
			}
			place = filepath.Join(place, "home")
		}
		own, other := filepath.Join(place, "own"), filepath.Join(place, "others", "tool")
		write(t, own, random(5000))
		if err := errors.Join(os.Mkdir(filepath.Dir(other), 0o755), os.Chown(base, nobody, nobody), os.Chown(place, nobody, nobody), os.Chown(own, nobody, nobody),
			os.Chmod(own, 0o555), unix.Setxattr(own, "user.note", []byte("x"), 0)); err != nil {
			t.Fatal(err)
		}
		write(t, other, []byte("theirs"))
		before := lookAt(t, own)
		cmd := command("unprivileged", filepath.Join(base, "vault"), place, -1)
		binary := filepath.Join(base, "test")
		if b, err := os.ReadFile(os.Args[0]); err != nil {
			t.Fatal(err)
		} else {
			write(t, binary, b) // where nobody can reach it
		}
		cmd.Path = binary
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", kind, err, out)
		}
		after := lookAt(t, own)
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("%s: %s", kind, diff)
		}
		if !exists(other) {
			t.Errorf("%s: another's file is gone", kind)
		}
	}
}
