// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// TestFsckFindings damages a vault in every way there is a finding for, reads
// the finding, repairs, and finds nothing more that a repair could mend.
func TestFsckFindings(t *testing.T) {
	ghost := strings.Repeat("0", 32)
	for name, c := range map[string]struct {
		spoil  func(v *Vault, it order.Item) error
		what   string // of the finding
		mended bool   // by repair
		items  int    // whole ones after it
	}{
		"content flipped": {func(v *Vault, it order.Item) error { return flip(v.contentPath(it.ID), -1) },
			"its content cannot be decrypted", true, 0},
		"content header": {func(v *Vault, it order.Item) error { return flip(v.contentPath(it.ID), 30) },
			"its content cannot be decrypted", true, 0},
		"content cut": {func(v *Vault, it order.Item) error { return os.Truncate(v.contentPath(it.ID), 3000) },
			"its content has 3000 bytes, the manifest says", true, 0},
		"content gone": {func(v *Vault, it order.Item) error { return os.Remove(v.contentPath(it.ID)) },
			"its content is missing", true, 0},
		"content of another": {func(v *Vault, it order.Item) error {
			return rewrite(v, it.ID, func(m *Manifest) { m.SHA256[0]++ })
		}, "its content has sha256", true, 0},
		"shorter than said": {func(v *Vault, it order.Item) error {
			return rewrite(v, it.ID, func(m *Manifest) { m.Size++ })
		}, "its content cannot be decrypted: unexpected EOF", true, 0},
		"longer than said": {func(v *Vault, it order.Item) error {
			return rewrite(v, it.ID, func(m *Manifest) { m.Size-- })
		}, "its content is longer than the manifest says", true, 0},
		"manifest flipped": {func(v *Vault, it order.Item) error { return flip(v.manifestPath(it.ID), -10) },
			"does not have the digest its first line names", true, 0},
		"manifest cut": {func(v *Vault, it order.Item) error { return os.Truncate(v.manifestPath(it.ID), 20) },
			"it is not a manifest: it has no first line", true, 0},
		"manifest gone": {func(v *Vault, it order.Item) error { return os.Remove(v.manifestPath(it.ID)) },
			"sealed content without a manifest", true, 0},
		"manifest a pipe": {func(v *Vault, it order.Item) error {
			return errors.Join(os.Remove(v.manifestPath(it.ID)), unix.Mkfifo(v.manifestPath(it.ID), 0o600))
		}, "is not a regular file", true, 0},
		"content a pipe": {func(v *Vault, it order.Item) error {
			return errors.Join(os.Remove(v.contentPath(it.ID)), unix.Mkfifo(v.contentPath(it.ID), 0o600))
		}, "its content has 0 bytes, the manifest says", true, 0},
		"manifest of another": {func(v *Vault, it order.Item) error {
			return os.Rename(v.manifestPath(it.ID), v.manifestPath(ghost))
		}, "it is the manifest of item", true, 0},
		"another version": {func(v *Vault, it order.Item) error {
			b, _ := os.ReadFile(v.manifestPath(it.ID))
			return os.WriteFile(v.manifestPath(it.ID), bytes.Replace(b, []byte(" v2 "), []byte(" v9 "), 1), 0o600)
		}, "its format is version 9, this agent knows versions 1 to 2", false, 0},
		"purged with content": {func(v *Vault, it order.Item) error {
			return rewrite(v, it.ID, func(m *Manifest) { m.State = Purged })
		}, "the item is purged, its content is still there", true, 1},
		"half-written": {func(v *Vault, it order.Item) error { return os.WriteFile(v.tmpPath(ghost), nil, 0o600) },
			"a half-written item", true, 1},
		"interrupted": {func(v *Vault, it order.Item) error {
			return v.writeIntent(&Intent{Version: Version, ID: ghost, Doing: sealing})
		}, "work on this item was interrupted", true, 1},
		"intent flipped": {func(v *Vault, it order.Item) error {
			if err := v.writeIntent(&Intent{Version: Version, ID: ghost, Doing: sealing}); err != nil {
				return err
			}
			return flip(v.intentPath(ghost), -5)
		}, "work on this item was interrupted", false, 1},
		"lost in staging": {func(v *Vault, it order.Item) error { return os.WriteFile(v.path("staging", ghost), nil, 0o600) },
			"a file in staging that no work is under way on", false, 1},
		"stranger":     {func(v *Vault, it order.Item) error { return os.WriteFile(v.path("items", "notes.txt"), nil, 0o600) }, "a file that is not the vault's", false, 1},
		"readable":     {func(v *Vault, it order.Item) error { return os.Chmod(v.contentPath(it.ID), 0o644) }, "its mode is 0644, so others may get at it", true, 1},
		"open folder":  {func(v *Vault, it order.Item) error { return os.Chmod(v.path("items"), 0o755) }, "its mode is 0755", true, 1},
		"readable key": {func(v *Vault, it order.Item) error { return os.Chmod(v.path("key"), 0o640) }, "its mode is 0640", true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			v, place := newVault(t)
			path := filepath.Join(place, "tool")
			write(t, path, random(100000))
			it := take(t, v, path)
			if err := c.spoil(v, it); err != nil {
				t.Fatal(err)
			}
			for _, repair := range []bool{false, true} {
				rep, err := v.Fsck(t.Context(), repair)
				if err != nil {
					t.Fatal(err)
				}
				if len(rep.Findings) == 0 || !strings.Contains(rep.Findings[0].What, c.what) || rep.Findings[0].Do == "" || rep.Findings[0].Path == "" {
					t.Errorf("repair %v: want …%s…, got %+v", repair, c.what, rep.Findings)
				}
				if rep.OK() != (repair && c.mended) {
					t.Errorf("repair %v: OK is %v: %+v", repair, rep.OK(), rep.Findings)
				}
			}
			if c.mended {
				sound(t, v, c.items)
			}
		})
	}
}

func flip(path string, at int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if at < 0 {
		at += len(b)
	}
	b[at] ^= 1
	return os.WriteFile(path, b, 0o600)
}

func rewrite(v *Vault, id string, change func(*Manifest)) error {
	m, err := v.load(id)
	if err != nil {
		return err
	}
	change(m)
	return v.save(m)
}

// TestFsckDestroysNothing: what was damaged is in the damaged folder.
func TestFsckDestroysNothing(t *testing.T) {
	v, place := newVault(t)
	path := filepath.Join(place, "tool")
	write(t, path, random(1000))
	it := take(t, v, path)
	if err := flip(v.contentPath(it.ID), -1); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(v.contentPath(it.ID))
	_, err := v.Restore(t.Context(), it.ID, RestoreOptions{})
	wantErr(t, "Restore", err, ErrDamaged, "cannot be decrypted")
	if exists(path) {
		t.Error("a damaged item was restored")
	}
	if _, err := v.Fsck(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile(v.path("damaged", it.ID+".age"))
	if err != nil || !bytes.Equal(want, have) || !exists(v.path("damaged", it.ID+".json")) {
		t.Errorf("not in the damaged folder: %v", err)
	}
	if v.used != 0 {
		t.Errorf("%d bytes used", v.used)
	}
}

// TestFsckOtherMounts: a file forgotten in this vault's staging folder on
// another file system is found; another vault's is not ours.
func TestFsckOtherMounts(t *testing.T) {
	v, _ := newVault(t)
	m := tmpfs(t, "")
	for _, d := range []string{filepath.Join(m, v.mountStageName()), filepath.Join(m, ".staunch-staging-0000000000000000")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(d, newID()), nil)
	}
	rep, err := v.Fsck(t.Context(), false)
	if err != nil || len(rep.Findings) != 1 || !strings.HasPrefix(string(rep.Findings[0].Path), m) {
		t.Errorf("%+v, %v", rep, err)
	}
}

// TestRecoverStuck: a damaged intent is not guessed at, and does not keep the
// others from being dealt with.
func TestRecoverStuck(t *testing.T) {
	v, _ := newVault(t)
	a, b := strings.Repeat("a", 32), strings.Repeat("b", 32)
	for _, id := range []string{a, b} {
		if err := v.writeIntent(&Intent{Version: Version, ID: id, Doing: sealing}); err != nil {
			t.Fatal(err)
		}
	}
	if err := flip(v.intentPath(a), -3); err != nil {
		t.Fatal(err)
	}
	got, err := v.Recover(t.Context())
	wantErr(t, "Recover", err, nil, "cannot recover item "+a, "look for the file "+a+" in the staging folders")
	if len(got) != 2 || got[0].Ended != Stuck || got[1].Ended != Undone || exists(v.intentPath(b)) {
		t.Errorf("%+v", got)
	}
}

func TestIntentRefuses(t *testing.T) {
	good := Intent{Version: Version, ID: strings.Repeat("a", 32), Doing: taking, Names: []Name{{Path: "/x"}},
		Staging: Staging{Kind: inVault, Dir: "/v/staging", Name: strings.Repeat("a", 32)}}
	for name, c := range map[string]struct {
		spoil func(*Intent)
		want  string
	}{
		"version": {func(in *Intent) { in.Version = 3 }, "version 3"},
		"id":      {func(in *Intent) { in.ID = "../x" }, "is not 32 hex digits"},
		"doing":   {func(in *Intent) { in.Doing = "dreaming" }, `"dreaming", which is not known`},
		"names":   {func(in *Intent) { in.Names = nil }, "it has no name"},
		"dots":    {func(in *Intent) { in.Names[0].Path = "/a/../b" }, "is not a clean absolute path"},
		"text":    {func(in *Intent) { in.Names[0].Path = `/\q` }, "a lone backslash"},
		"staging": {func(in *Intent) { in.Staging.Name = "../" + in.ID }, "its staging place"},
		"kind":    {func(in *Intent) { in.Staging.Kind = "moon" }, "its staging place"},
	} {
		in := good
		in.Names = append([]Name{}, good.Names...)
		c.spoil(&in)
		b, err := encodeFrame("intent", in)
		if err != nil {
			t.Fatal(err)
		}
		_, err = decodeIntent(b)
		wantErr(t, name, err, nil, c.want)
	}
}

func TestManifestRefuses(t *testing.T) {
	good := Manifest{Version: Version, ID: strings.Repeat("a", 32), State: Sealed, Size: 100, Sparse: true, Extents: []Extent{{0, 10}, {20, 80}}}
	good.SHA1[0], good.SHA256[0] = 1, 1
	if err := good.validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func(*Manifest)
		want  string
	}{
		"version":   {func(m *Manifest) { m.Version = 0 }, "version 0"},
		"id":        {func(m *Manifest) { m.ID = "" }, "is not 32 hex digits"},
		"state":     {func(m *Manifest) { m.State = "lost" }, `state "lost" is not known`},
		"size":      {func(m *Manifest) { m.Size = -1 }, "a size is negative"},
		"digest":    {func(m *Manifest) { m.SHA1 = [20]byte{} }, "a digest is missing"},
		"overlap":   {func(m *Manifest) { m.Extents = []Extent{{0, 10}, {5, 10}} }, "extent 5+10 does not fit"},
		"beyond":    {func(m *Manifest) { m.Extents = []Extent{{90, 11}} }, "extent 90+11 does not fit"},
		"overflow":  {func(m *Manifest) { m.Extents = []Extent{{1, 1<<63 - 1}} }, "does not fit"},
		"not whole": {func(m *Manifest) { m.Sparse = false }, "it has extents but is not sparse"},
		"name":      {func(m *Manifest) { m.Names = []Name{{Path: "x"}} }, "is not a clean absolute path"},
	} {
		m := good
		c.spoil(&m)
		b, err := encodeManifest(&m)
		if err != nil {
			t.Fatal(err)
		}
		_, err = decodeManifest(b)
		wantErr(t, name, err, nil, c.want)
	}
}
