// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"io/fs"
	"os"
	"strings"
)

// sweep removes what no intent speaks of and no item needs: half-written
// temporary files, and the content of purged items.
func (v *Vault) sweep() error {
	var all error
	for _, folder := range []string{"tmp", "intents", "items", "."} {
		entries, err := os.ReadDir(v.path(folder))
		if err != nil {
			return err
		}
		for _, e := range entries {
			id, _, _ := strings.Cut(e.Name(), ".")
			ours := strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), ".tmp-") || folder == "tmp" && !v.claimed(id) && !v.intended(id)
			if ours && !v.working() {
				if err := os.Remove(v.path(folder, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
					all = errors.Join(all, err)
				}
			}
		}
	}
	return errors.Join(all, v.sweepPurged())
}

// intended reports whether work on an item is noted, or may be.
func (v *Vault) intended(id string) bool {
	_, err := os.Lstat(v.intentPath(id))
	return !errors.Is(err, fs.ErrNotExist)
}

// working reports whether this process works on an item now.
func (v *Vault) working() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.busy) > 0
}

func (v *Vault) sweepPurged() error {
	ids, err := v.ids("items", ".age")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if m, err := v.load(id); err == nil && m.State == Purged {
			if err := v.removeContent(id); err != nil {
				return err
			}
		}
	}
	return nil
}
