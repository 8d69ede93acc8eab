// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// noFiles makes every open of this process fail for a moment: a disk that does
// not answer looks the same.
func noFiles(t *testing.T, during func()) {
	t.Helper()
	var had unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
		t.Fatal(err)
	}
	none := had
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &had); err != nil {
			t.Fatal(err)
		}
	}()
	during()
}

// TestRecoverUnsure: while it cannot be seen whether an item is whole, nothing
// of it is dropped and its intent stays; later it is finished.
func TestRecoverUnsure(t *testing.T) {
	for _, doing := range []Doing{sealing, taking} {
		v, place := newVault(t)
		path := filepath.Join(place, "tool")
		write(t, path, random(3000))
		f := mustOpen(t, path)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		it, err := v.SealOpen(t.Context(), f, why)
		if err != nil {
			t.Fatal(err)
		}
		in := &Intent{Version: Version, ID: it.ID, Doing: doing}
		if doing == taking {
			in.Names = []Name{{Path: "/none/tool"}}
			in.Staging = Staging{Kind: inVault, Dir: "/none", Name: it.ID}
		}
		if err := v.writeIntent(in); err != nil {
			t.Fatal(err)
		}
		var ended Ended
		noFiles(t, func() {
			if doing == sealing {
				ended, err = v.recoverSealing(t.Context(), in)
			} else {
				ended, _, err = v.recoverTaking(t.Context(), in)
			}
		})
		wantErr(t, string(doing), err, unix.EMFILE, "nothing was changed")
		if ended != Stuck || !exists(v.contentPath(it.ID)) || !exists(v.manifestPath(it.ID)) || !exists(v.intentPath(it.ID)) {
			t.Errorf("%s: %s; content %v, manifest %v, intent %v", doing, ended, exists(v.contentPath(it.ID)), exists(v.manifestPath(it.ID)), exists(v.intentPath(it.ID)))
		}
		got, err := v.Recover(t.Context())
		if err != nil || len(got) != 1 || got[0].Ended != Finished {
			t.Errorf("%s, later: %+v, %v", doing, got, err)
		}
		sound(t, v, 1)
	}
}

// badDisk gives an error from a byte on.
type badDisk struct {
	io.ReaderAt
	from int64
}

func (d badDisk) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > d.from {
		return 0, unix.EIO
	}
	return d.ReaderAt.ReadAt(p, off)
}

// TestUnreadableIsNotDamaged: a disk that does not give the sealed bytes is not
// taken for bytes that are wrong, wherever in the content it happens.
func TestUnreadableIsNotDamaged(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(1<<20))
	it := take(t, v, path)
	m, f, err := v.openItem(it.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := v.verify(t.Context(), f, m); err != nil {
		t.Fatal(err)
	}
	for _, from := range []int64{0, 100, 4096, 300 << 10, m.Stored - 1} {
		err := v.verify(t.Context(), badDisk{f, from}, m)
		wantErr(t, "verify", err, unix.EIO, "its content cannot be read")
		if errors.Is(err, ErrDamaged) {
			t.Errorf("from byte %d: %v", from, err)
		}
	}
}

// TestFsckUnreadable: what cannot be read now is found, and not moved aside.
func TestFsckUnreadable(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(3000))
	it := take(t, v, path)
	c := &checker{v: v, repair: true}
	noFiles(t, func() {
		if err := c.item(t.Context(), it.ID); err != nil {
			t.Error(err)
		}
	})
	if len(c.Findings) != 1 || c.Findings[0].Repaired || c.Findings[0].Do != unreadable || !exists(v.contentPath(it.ID)) {
		t.Errorf("%+v", c.Findings)
	}
	sound(t, v, 1)
}
