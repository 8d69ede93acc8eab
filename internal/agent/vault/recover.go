// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/durable"
	"staunch/internal/order"
)

// Ended says how Recover ended what a crash had interrupted.
type Ended string

// The ends.
const (
	Finished Ended = "finished" // the item is whole and its file gone; or the restored file is whole
	Undone   Ended = "undone"   // the file is where it was; there is no item
	Stuck    Ended = "stuck"    // could not be ended now; Note says why, and where the file is
)

// Recovered is what became of one interrupted piece of work.
type Recovered struct {
	ID    string       `json:"id"`    // of the item
	Ended Ended        `json:"ended"` //
	Paths []order.Text `json:"paths"` // of the file
	Note  string       `json:"note,omitzero"`
}

// Recover finishes or undoes all that a crash interrupted. It is called before
// anything else is done with the vault, and may be called again. The error
// says what is stuck; the rest was dealt with.
func (v *Vault) Recover(ctx context.Context) ([]Recovered, error) {
	all, err := v.recoverAll(ctx)
	if v.cfg.ReadOnly || ctx.Err() != nil {
		return all, err
	}
	return all, errors.Join(err, v.sweep())
}

func (v *Vault) recoverAll(ctx context.Context) ([]Recovered, error) {
	if v.cfg.ReadOnly {
		return nil, ErrReadOnly
	}
	ids, err := v.intents()
	if err != nil {
		return nil, fmt.Errorf("cannot recover: %w", err)
	}
	var all []Recovered
	var stuck error
	for _, id := range ids {
		if ctx.Err() != nil {
			return all, errors.Join(stuck, ctx.Err())
		}
		if v.claim(id) != nil {
			continue // under way in this process
		}
		r, err := v.recover(ctx, id)
		v.release(id)
		if err != nil {
			r.Ended, r.Note = Stuck, err.Error()
			stuck = errors.Join(stuck, fmt.Errorf("cannot recover item %s: %w", id, err))
		}
		v.cfg.Log.Warn("dealt with interrupted work", "item", id, "ended", r.Ended, "note", r.Note)
		all = append(all, r)
	}
	return all, stuck
}

func (v *Vault) recover(ctx context.Context, id string) (Recovered, error) {
	r := Recovered{ID: id}
	b, err := readBounded(v.intentPath(id))
	if err != nil {
		return r, err
	}
	in, err := decodeIntent(b)
	if err == nil && in.ID != id {
		err = fmt.Errorf("it is of item %s", in.ID)
	}
	if err != nil {
		return r, fmt.Errorf("the intent %s: %w; look for the file %s in the staging folders (staunch-agent fsck lists them)", v.intentPath(id), err, id)
	}
	for _, n := range in.Names {
		r.Paths = append(r.Paths, n.Path)
	}
	switch in.Doing {
	case restoring:
		r.Ended, err = v.recoverRestore(in)
	case sealing:
		r.Ended, err = v.recoverSealing(ctx, in)
	default:
		r.Ended, r.Note, err = v.recoverTaking(ctx, in)
	}
	return r, err
}

// committed returns the manifest of an item that is whole.
func (v *Vault) committed(ctx context.Context, id string) (*Manifest, error) {
	m, err := v.load(id)
	if err != nil {
		return nil, err
	}
	return m, v.verifyItem(ctx, m)
}

func (v *Vault) recoverSealing(ctx context.Context, in *Intent) (Ended, error) {
	if _, err := v.committed(ctx, in.ID); err == nil {
		return Finished, v.closeIntent(in.ID)
	}
	return Undone, errors.Join(v.drop(in.ID), v.closeIntent(in.ID))
}

// recoverTaking decides by the manifest: an item that is whole has taken the
// file's place, if the file is still the one that was sealed.
func (v *Vault) recoverTaking(ctx context.Context, in *Intent) (Ended, string, error) {
	m, err := v.committed(ctx, in.ID)
	whole := err == nil && in.Doing == taking
	if err != nil && ctx.Err() != nil {
		return Stuck, "", ctx.Err()
	}
	s, err := v.openStage(in.Staging)
	if err != nil && !gone(err) {
		return Stuck, "", err
	}
	defer v.tidy(s)
	defer s.close()
	var file *os.File
	if s != nil {
		// After a restart the device number may be another; the name is ours.
		file, err = openFile(s.dir, in.Staging.Name, func(id inode.ID) bool { return id.Ino == in.Ino })
		if err == nil {
			defer file.Close() //nolint:errcheck // read only
		} else if !gone(err) && !errors.Is(err, ErrChanged) {
			return Stuck, "", err
		}
	}
	staged := s != nil && !gone(err)
	switch {
	case whole && !staged:
		// The staged name goes last, so all others are dealt with.
		return Finished, "", errors.Join(v.relockParents(in), v.closeIntent(in.ID))
	case whole && file != nil && v.sameContent(ctx, file, m):
		return v.recoverRemoval(in, s, file)
	}
	return v.undo(in, s, file, staged)
}

func (v *Vault) sameContent(ctx context.Context, f *os.File, m *Manifest) bool {
	st, err := inode.Of(f)
	if err != nil || st.Size != m.Size {
		return false
	}
	sum, err := hashFile(ctx, f, st.Size)
	return err == nil && sum == m.sum()
}

// recoverRemoval finishes a Remove. A further name may have been caught on its
// way through staging.
func (v *Vault) recoverRemoval(in *Intent, s *stage, file *os.File) (Ended, string, error) {
	st, err := inode.Of(file)
	if err != nil {
		return Stuck, "", err
	}
	for i, n := range in.Names[1:] {
		if err := v.settleName(in, i+1, n, s, st.ID); err != nil {
			return Stuck, "", err
		}
	}
	left, err := v.finish(in, s, st.ID)
	if err != nil {
		return Stuck, "", err
	}
	if st, err = inode.Of(file); err != nil {
		return Stuck, "", err
	}
	note := ""
	if err := leftOver(left, st.Nlink); err != nil {
		note = err.Error()
	}
	return Finished, note, nil
}

func (v *Vault) settleName(in *Intent, n int, name Name, s *stage, id inode.ID) error {
	dir, err := openDir(name.dir())
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	done, err := v.enterLifted(dir)
	if err != nil {
		return err
	}
	for _, at := range []*stage{s, {kind: inParent, dir: dir}} {
		staged := at.name(in.ID, n)
		if _, there := idAt(at.dir, staged); there == nil {
			err = errors.Join(err, settle(at, staged, dir, name.base(), in.ID, id))
		}
	}
	return errors.Join(err, done(), lockInode(int(dir.Fd()), name.Parent.Flags))
}

// undo puts a staged file back, or, where it never left its place or is there
// again, its flags; then it drops the item.
func (v *Vault) undo(in *Intent, s *stage, file *os.File, staged bool) (Ended, string, error) {
	parent, err := v.sameParent(in.Names[0])
	if err != nil {
		return Stuck, "", err
	}
	if parent != nil {
		defer parent.Close() //nolint:errcheck // read only
	}
	note := ""
	if staged {
		err = v.giveBack(in, s, parent, file)
		var elsewhere *ElsewhereError
		if errors.As(err, &elsewhere) {
			note, err = elsewhere.Error(), nil
		}
	} else if parent != nil {
		note, err = v.relock(in, parent)
	} else {
		note = "its folder is gone or was replaced, and nothing of it is in staging"
	}
	if err != nil {
		return Stuck, "", err
	}
	if note == missing {
		// Whatever was sealed may be all that is left of it: fsck shows it.
		return Undone, note, v.closeIntent(in.ID)
	}
	return Undone, note, errors.Join(v.drop(in.ID), v.closeIntent(in.ID))
}

const missing = "somebody else removed the file meanwhile; what had been sealed of it was kept"

// relock gives a file that is in its place, and its folder, the flags they had.
func (v *Vault) relock(in *Intent, parent *os.File) (note string, err error) {
	first := in.Names[0]
	file, err := openFile(parent, first.base(), func(id inode.ID) bool { return id.Ino == in.Ino })
	switch {
	case err == nil:
		defer file.Close() //nolint:errcheck // read only
		if in.Staging.Kind == inParent {
			err = restoreMode(file, in.Mode)
		}
		err = errors.Join(err, lockInode(int(file.Fd()), in.Flags))
	case gone(err), errors.Is(err, ErrChanged):
		note, err = missing, nil
	}
	return note, errors.Join(err, lockInode(int(parent.Fd()), first.Parent.Flags), syncDir(parent))
}

// relockParents gives the folders of all names the flags they had.
func (v *Vault) relockParents(in *Intent) error {
	for _, n := range in.Names {
		if n.Parent.Flags&locks == 0 {
			continue
		}
		dir, err := v.sameParent(n)
		if err != nil {
			return err
		}
		if dir == nil {
			continue
		}
		err = lockInode(int(dir.Fd()), n.Parent.Flags)
		_ = dir.Close() // read only
		if err != nil {
			return err
		}
	}
	return nil
}

// sameParent opens the folder of a name if it is still the one it was, else it
// returns nil.
func (v *Vault) sameParent(n Name) (*os.File, error) {
	dir, err := openDir(n.dir())
	if gone(err) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	now, err := parentOf(dir)
	if err == nil && now.same(n.Parent) {
		return dir, nil
	}
	_ = dir.Close() // read only
	return nil, err
}

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

func (v *Vault) intended(id string) bool {
	_, err := os.Lstat(v.intentPath(id))
	return err == nil
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
			if err := durable.Remove(v.contentPath(id)); err != nil {
				return err
			}
		}
	}
	return nil
}
