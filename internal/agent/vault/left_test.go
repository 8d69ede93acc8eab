// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// keep makes a folder's names stay: it becomes a read-only mount. The returned
// function ends that.
func keep(t *testing.T, dir string) (end func()) {
	t.Helper()
	needRoot(t, "a name that cannot be removed")
	err := unix.Mount(dir, dir, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: a name that cannot be removed: %v", err)
	}
	done := false
	end = func() {
		if !done {
			done = true
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(end)
	return end
}

// TestLeftIsOneItem: a file of which one name cannot be removed is one item,
// that knows of the name; when the name can be removed, it is still one, and
// gives back all of them.
func TestLeftIsOneItem(t *testing.T) {
	for _, restart := range []bool{false, true} {
		v, place := newVault(t)
		kept := filepath.Join(place, "kept")
		if err := os.Mkdir(kept, 0o755); err != nil {
			t.Fatal(err)
		}
		a, b := filepath.Join(place, "a"), filepath.Join(kept, "b")
		write(t, a, random(3000))
		if err := errors.Join(os.Link(a, b), unix.Setxattr(a, "user.note", []byte("x"), 0)); err != nil {
			t.Fatal(err)
		}
		before := lookAt(t, a)
		end := keep(t, kept)
		g, err := v.Grab(t.Context(), mustOpen(t, a), []string{a, b}, anything)
		if err != nil {
			t.Fatal(err)
		}
		it, err := v.Seal(t.Context(), g, why)
		if err != nil {
			t.Fatal(err)
		}
		var left *LeftError
		if err := g.Remove(t.Context()); !errors.As(err, &left) || len(left.Names) != 1 || left.Names[0].Path != order.TextOf(b) || left.Unknown != 0 {
			t.Fatalf("got %v", err)
		}
		m, err := v.Get(it.ID)
		if err != nil || !m.left() || !strings.Contains(strings.Join(m.History[0].Lost, ""), b) {
			t.Errorf("the manifest does not say it: %+v, %v", m, err)
		}
		if exists(a) || !exists(b) {
			t.Fatalf("a %v, b %v", exists(a), exists(b))
		}
		end()
		if restart {
			dir := v.dir
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			v = openVault(t, Config{Dir: dir})
		}
		if again := take(t, v, b); again.ID != it.ID {
			t.Errorf("the name that was left became item %s, the file was %s", again.ID, it.ID)
		}
		if m, err = v.Get(it.ID); err != nil || m.left() || len(m.Names) != 2 || exists(b) {
			t.Errorf("names %+v, history %+v, %v; b %v", m.Names, m.History, err, exists(b))
		}
		sound(t, v, 1)
		if res := restore(t, v, it.ID, RestoreOptions{}); len(res.Paths) != 2 || len(res.Lost) > 0 {
			t.Errorf("%+v", res)
		}
		if got := lookAt(t, b); got.Nlink != 2 || got.Sum != before.Sum || idOf(t, a) != idOf(t, b) {
			t.Errorf("b is %+v", got)
		}
		sound(t, v, 1)
	}
}

// TestLeftUnknown: so does a name that nobody knew of.
func TestLeftUnknown(t *testing.T) {
	v, place := newVault(t)
	a, b := filepath.Join(place, "a"), filepath.Join(place, "b")
	write(t, a, random(300))
	if err := os.Link(a, b); err != nil {
		t.Fatal(err)
	}
	g, err := v.Grab(t.Context(), mustOpen(t, a), []string{a}, anything)
	if err != nil {
		t.Fatal(err)
	}
	it, err := v.Seal(t.Context(), g, why)
	if err != nil {
		t.Fatal(err)
	}
	var left *LeftError
	if err := g.Remove(t.Context()); !errors.As(err, &left) || left.Unknown != 1 {
		t.Fatalf("got %v", err)
	}
	if again := take(t, v, b); again.ID != it.ID {
		t.Errorf("it became item %s, the file was %s", again.ID, it.ID)
	}
	m, err := v.Get(it.ID)
	if err != nil || len(m.Names) != 2 || m.left() {
		t.Errorf("%+v, %v", m, err)
	}
	sound(t, v, 1)
}

// TestLeftOthers: what is not that file becomes an item of its own: another
// owner, another content in the same inode, or an item that is not whole.
func TestLeftOthers(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, v *Vault, id, b string){
		"other mode":      func(t *testing.T, _ *Vault, _, b string) { _ = os.Chmod(b, 0o700) },
		"other content":   func(t *testing.T, _ *Vault, _, b string) { write(t, b, random(300)) },
		"content damaged": func(t *testing.T, v *Vault, id, _ string) { _ = flip(v.contentPath(id), -3) },
		"content purged":  func(t *testing.T, v *Vault, id, _ string) { _ = v.Purge(t.Context(), id) },
	} {
		t.Run(name, func(t *testing.T) {
			v, place := newVault(t)
			a, b := filepath.Join(place, "a"), filepath.Join(place, "b")
			write(t, a, random(300))
			if err := os.Link(a, b); err != nil {
				t.Fatal(err)
			}
			g, err := v.Grab(t.Context(), mustOpen(t, a), []string{a}, anything)
			if err != nil {
				t.Fatal(err)
			}
			it, err := v.Seal(t.Context(), g, why)
			if err != nil {
				t.Fatal(err)
			}
			_ = g.Remove(t.Context()) // b is left
			spoil(t, v, it.ID, b)
			before := lookAt(t, b)
			again := take(t, v, b)
			if again.ID == it.ID {
				t.Fatal("it was taken for the same file")
			}
			restore(t, v, again.ID, RestoreOptions{})
			if got := lookAt(t, b); got.Sum != before.Sum || got.Mode != before.Mode {
				t.Errorf("got %+v, want %+v", got, before)
			}
		})
	}
}
