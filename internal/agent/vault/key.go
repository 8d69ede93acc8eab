// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"filippo.io/age"
	"golang.org/x/sys/unix"

	"staunch/internal/durable"
)

// private checks that a folder belongs to us alone.
func private(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a folder", dir)
	case int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to user %d, not to %d who runs this; give it back with chown or choose another folder", dir, st.Uid, os.Geteuid())
	case st.Mode&0o077 != 0:
		return fmt.Errorf("others may enter %s (mode %04o); run chmod 700 %s", dir, st.Mode&0o7777, dir)
	}
	return nil
}

// about is vault.json: what the folder is and which key opens it.
type about struct {
	Version   int    `json:"version"`
	UID       string `json:"uid"`       // 16 hex digits, random: names this vault's staging folders
	Recipient string `json:"recipient"` // the device key's public half
}

// unseal reads or makes the key, and checks that it is this vault's.
func (v *Vault) unseal() error {
	var a about
	b, err := readBounded(v.path("vault.json"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && !v.cfg.ReadOnly:
		return v.found()
	case err == nil:
		err = decodeFrame("vault", b, &a)
	}
	if err != nil {
		return fmt.Errorf("%s: %w; if it is not another version's, bring it back from a backup", v.path("vault.json"), err)
	}
	if err := known(a.Version); err != nil {
		return err
	}
	if raw, err := hex.DecodeString(a.UID); err != nil || len(raw) != 8 {
		return fmt.Errorf("%s: uid %q is not 16 hex digits", v.path("vault.json"), a.UID)
	}
	v.uid = a.UID
	if v.identity = v.cfg.Identity; v.identity == nil {
		if v.identity, err = readKey(v.path("key")); err != nil {
			return fmt.Errorf("%w; without its key nothing in the vault can be opened here: bring the key back, or open the items with the escrow key", err)
		}
	}
	if have := v.identity.Recipient().String(); have != a.Recipient {
		return fmt.Errorf("it was sealed with another key (%.20s…) than the one at hand (%.20s…): bring back the key that belongs to it", a.Recipient, have)
	}
	return nil
}

// found makes a new vault. vault.json comes last: with it, the key is there.
func (v *Vault) found() error {
	if left, err := os.ReadDir(v.path("items")); err != nil || len(left) > 0 {
		return errors.Join(err, fmt.Errorf("there are items, but no %s: bring it back", v.path("vault.json")))
	}
	if v.identity = v.cfg.Identity; v.identity == nil {
		id, err := age.GenerateHybridIdentity()
		if err != nil {
			return err
		}
		if err := durable.WriteFile(v.path("key"), []byte(id.String()+"\n"), 0o600); err != nil {
			return err
		}
		v.identity = id
	}
	v.uid = newID()[:16]
	b, err := encodeFrame("vault", about{Version: Version, UID: v.uid, Recipient: v.identity.Recipient().String()})
	if err != nil {
		return err
	}
	return durable.WriteFile(v.path("vault.json"), b, 0o600)
}

func readKey(path string) (*age.HybridIdentity, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the vault's key: %w", err)
	}
	id, err := age.ParseHybridIdentity(strings.TrimSpace(string(b)))
	if err != nil {
		return nil, fmt.Errorf("cannot read the vault's key %s: %w", path, err)
	}
	return id, nil
}
