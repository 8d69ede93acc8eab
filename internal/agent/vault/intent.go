// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"staunch/internal/order"
)

// Intent is what is being done with one file: intents/ID.json, framed like a
// manifest. It is durable before anything is changed and removed when nothing
// is left to do.
type Intent struct {
	Version int       `json:"version"`
	ID      string    `json:"id"` // the item's
	Doing   Doing     `json:"doing"`
	Began   time.Time `json:"began"`

	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`   // of the file
	Mode  uint32 `json:"mode"`  // before it was staged
	Flags uint32 `json:"flags"` // inode flags, before the locks among them were lifted

	// Names are the file's; the first is the one that is moved to staging, or
	// that a restored file is linked to. Their parents' flags are as they were
	// before the locks among them were lifted.
	Names   []Name  `json:"names,omitzero"`
	Staging Staging `json:"staging,omitzero"`

	Side bool     `json:"side,omitzero"` // of a restore: not where the file came from
	Lost []string `json:"lost,omitzero"` // of a restore: what could not be set so far
}

// Doing says what an intent is about.
type Doing string

// What an intent is about.
const (
	taking    Doing = "taking"    // without a committed item: undo. With: finish the removal
	returning Doing = "returning" // put the file back and drop the item, whatever is there
	sealing   Doing = "sealing"   // a file without a name: no removal to finish
	restoring Doing = "restoring" // the file is linked: finish. Is not: undo
)

func decodeIntent(b []byte) (*Intent, error) {
	in := &Intent{}
	if err := decodeFrame("intent", b, in); err != nil {
		return nil, err
	}
	return in, in.validate()
}

func (in *Intent) validate() error {
	switch {
	case known(in.Version) != nil:
		return known(in.Version)
	case !order.ValidItem(in.ID):
		return fmt.Errorf("item id %q is not 32 hex digits", in.ID)
	case !slices.Contains([]Doing{taking, returning, sealing, restoring}, in.Doing):
		return fmt.Errorf("it is about %q, which is not known", in.Doing)
	case in.Doing != sealing && len(in.Names) == 0:
		return fmt.Errorf("it has no name")
	}
	if s := in.Staging; s != (Staging{}) {
		raw, err := s.Dir.Bytes()
		if err != nil {
			return err
		}
		if !slices.Contains([]StageKind{inVault, inMount, inParent}, s.Kind) || !strings.HasPrefix(raw, "/") ||
			!strings.Contains(s.Name, in.ID) || strings.ContainsAny(s.Name, "/\x00") {
			return fmt.Errorf("its staging place %q in %q is not one", s.Name, s.Dir)
		}
	}
	return validNames(in.Names)
}

func (v *Vault) writeIntent(in *Intent) error {
	in.Version = Version // it may have been read from an older one
	b, err := encodeFrame("intent", in)
	if err != nil {
		return fmt.Errorf("cannot note what is about to be done: %w", err)
	}
	return full(v.syncs.WriteFile(v.intentPath(in.ID), b, 0o600))
}

func (v *Vault) closeIntent(id string) error { return v.syncs.Remove(v.intentPath(id)) }

// intents returns the ids of all intents.
func (v *Vault) intents() ([]string, error) { return v.ids("intents", ".json") }

// ids returns the item ids of the files in a folder that end in suffix.
func (v *Vault) ids(folder, suffix string) ([]string, error) {
	entries, err := os.ReadDir(v.path(folder))
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok && order.ValidItem(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
