// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/durable"
	"staunch/internal/order"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Item     string     `json:"item,omitzero"`
	Path     order.Text `json:"path"` // the file it is about
	What     string     `json:"what"` // what is wrong
	Do       string     `json:"do"`   // what to do about it, or what was done
	Repaired bool       `json:"repaired,omitzero"`
}

// Report is what Fsck found.
type Report struct {
	Items    int       `json:"items"` // whole ones, purged ones included
	Bytes    int64     `json:"bytes"` // of sealed content
	Findings []Finding `json:"findings,omitzero"`
}

// OK reports whether nothing is left to do.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Findings, func(f Finding) bool { return !f.Repaired })
}

// Fsck decrypts every item and compares it with its manifest, and looks for
// what belongs to none. With repair it ends interrupted work, closes what
// others may enter, and moves aside, to DIR/damaged, what cannot be used;
// it destroys nothing. Without, it changes nothing.
func (v *Vault) Fsck(ctx context.Context, repair bool) (Report, error) {
	c := &checker{v: v, repair: repair}
	if repair && v.cfg.ReadOnly {
		return c.Report, fmt.Errorf("cannot repair: %w; stop the agent first", ErrReadOnly)
	}
	for _, look := range []func(context.Context) error{c.intents, c.items, c.strays, c.modes, c.stagings} {
		if err := look(ctx); err != nil {
			return c.Report, fmt.Errorf("cannot check the vault: %w", err)
		}
	}
	if repair {
		return c.Report, v.sweep()
	}
	return c.Report, nil
}

type checker struct {
	v      *Vault
	repair bool
	Report
}

// found adds a finding. fix is tried when repairing and says what it did; nil:
// only a person can help, as do says.
func (c *checker) found(item, path, what, do string, fix func() (string, error)) {
	f := Finding{Item: item, Path: order.TextOf(path), What: what, Do: do}
	if c.repair && fix != nil {
		did, err := fix()
		if err != nil {
			f.Do = fmt.Sprintf("could not be repaired: %v; %s", err, do)
		} else {
			f.Repaired, f.Do = true, did
		}
	}
	c.Findings = append(c.Findings, f)
}

// intents comes first: what it ends is then checked like all else.
func (c *checker) intents(ctx context.Context) error {
	ids, err := c.v.intents()
	if err != nil {
		return err
	}
	if c.repair {
		ended, err := c.v.recoverAll(ctx)
		for _, r := range ended {
			f := Finding{Item: r.ID, Path: order.TextOf(c.v.intentPath(r.ID)), What: "work on this item was interrupted", Repaired: r.Ended != Stuck,
				Do: strings.TrimSpace(fmt.Sprintf("%s %s", r.Ended, r.Note))}
			c.Findings = append(c.Findings, f)
		}
		if len(ended) == 0 {
			return err
		}
		return nil // each stuck one is a finding
	}
	for _, id := range ids {
		if !c.v.claimed(id) {
			c.found(id, c.v.intentPath(id), "work on this item was interrupted, or an agent is at it now", "start the agent, which finishes or undoes it, or run staunch-agent fsck --repair", nil)
		}
	}
	return nil
}

func (c *checker) items(ctx context.Context) error {
	ids, err := c.v.ids("items", ".json")
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if c.v.claimed(id) || c.v.intended(id) {
			continue
		}
		if err := c.item(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) item(ctx context.Context, id string) error {
	const do = "it cannot be restored from here; look for a backup of the file it names, then run staunch-agent fsck --repair, which moves it to the vault's damaged folder"
	m, err := c.v.load(id)
	if errors.Is(err, ErrNotFound) {
		return nil // dropped meanwhile
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		c.found(id, c.v.manifestPath(id), err.Error(), unreadable, nil)
		return nil
	}
	if err != nil {
		c.found(id, c.v.manifestPath(id), err.Error(), "bring the manifest back from a backup; without it the content can be opened, but not put back as it was; staunch-agent fsck --repair moves both to the vault's damaged folder", c.moveAside(id))
		return nil
	}
	if m.State == Purged {
		c.Items++
		if _, err := os.Lstat(c.v.contentPath(id)); err == nil {
			c.found(id, c.v.contentPath(id), "the item is purged, its content is still there", "run staunch-agent fsck --repair, which removes it", func() (string, error) {
				return "it was removed", c.v.removeContent(id)
			})
		}
		return nil
	}
	err = c.v.verifyItem(ctx, m)
	switch {
	case err == nil:
		c.Items++
		c.Bytes += m.Stored
	case errors.Is(err, ErrDamaged):
		c.found(id, c.v.contentPath(id), err.Error(), do, c.moveAside(id))
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		c.found(id, c.v.contentPath(id), err.Error(), unreadable, nil)
	}
	return nil
}

// unreadable is the advice for what may be whole: nothing is done to it.
const unreadable = "see that the disk and the file can be read, then check again"

// moveAside moves what there is of an item to DIR/damaged.
func (c *checker) moveAside(id string) func() (string, error) {
	return func() (string, error) {
		dir := c.v.path("damaged")
		if err := durable.Mkdir(dir, 0o700); err != nil {
			return "", err
		}
		var st unix.Stat_t
		if unix.Lstat(c.v.contentPath(id), &st) != nil || st.Nlink > 1 {
			st.Size = 0 // another item has it, too
		}
		for _, p := range []string{c.v.manifestPath(id), c.v.contentPath(id)} {
			if err := durable.Rename(p, filepath.Join(dir, filepath.Base(p))); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", err
			}
		}
		c.v.account(-st.Size, 0)
		return "moved to " + dir, nil
	}
}

// strays looks for files that belong to no item.
func (c *checker) strays(context.Context) error {
	for _, folder := range []string{"items", "tmp", "staging", "intents"} {
		entries, err := os.ReadDir(c.v.path(folder))
		if err != nil {
			return err
		}
		for _, e := range entries {
			c.stray(folder, e.Name())
		}
	}
	return nil
}

func (c *checker) stray(folder, name string) {
	id, ext, _ := strings.Cut(name, ".")
	item := order.ValidItem(id)
	path := c.v.path(folder, name)
	switch {
	case item && (c.v.claimed(id) || c.v.intended(id)), strings.HasPrefix(name, ".") && strings.Contains(name, ".tmp-"):
		return // under way; what a crash leaves of it Recover removes
	case folder == "items" && item && ext == "json", folder == "intents" && item:
		return // checked before
	case folder == "items" && item && ext == "age":
		if _, err := os.Lstat(c.v.manifestPath(id)); errors.Is(err, fs.ErrNotExist) {
			c.found(id, path, "sealed content without a manifest: where it came from is not known", "open it with the key if you need it; staunch-agent fsck --repair moves it to the vault's damaged folder", c.moveAside(id))
		}
	case folder == "tmp" && item:
		c.found(id, path, "a half-written item that no work is under way on", "run staunch-agent fsck --repair, which removes it", func() (string, error) {
			return "it was removed", durable.Remove(path)
		})
	case folder == "staging":
		c.staged(path, name)
	default:
		c.found("", path, "a file that is not the vault's", "look where it comes from and move it away", nil)
	}
}

func (c *checker) staged(path, name string) {
	what := "a file in staging that no work is under way on: it is whole, but not in its place"
	if strings.HasPrefix(name, returnedPrefix) {
		what = "a file that could not be put back, because its folder was gone or replaced"
	}
	c.found("", path, what, "look what it is and move it where it belongs", nil)
}
