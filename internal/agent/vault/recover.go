// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"staunch/internal/agent/inode"
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
	v.mu.Lock()
	first := !v.swept
	v.swept = v.swept || ctx.Err() == nil
	v.mu.Unlock()
	if v.cfg.ReadOnly || ctx.Err() != nil || !first { // later, what is half-written may be being written
		return all, err
	}
	return all, errors.Join(err, v.sweep(), v.findLeft())
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
		over := errors.Is(err, fs.ErrNotExist) && !v.intended(id) // ended since we looked
		v.release(id)
		if over {
			continue
		}
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

// committed returns the manifest of an item that is whole, nil if there surely
// is none. That the disk does not answer now says neither: what is there stays.
func (v *Vault) committed(ctx context.Context, id string) (*Manifest, error) {
	m, err := v.load(id)
	if err == nil {
		err = v.verifyItem(ctx, m)
	}
	switch {
	case err == nil, errors.Is(err, ErrPurged): // purged since, by who knew that it was whole
		return m, nil
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrDamaged):
		return nil, nil
	}
	return nil, fmt.Errorf("it is not known whether its item is whole, so nothing was changed: %w", err)
}

func (v *Vault) recoverSealing(ctx context.Context, in *Intent) (Ended, error) {
	m, err := v.committed(ctx, in.ID)
	switch {
	case err != nil:
		return Stuck, err
	case m != nil:
		return Finished, v.closeIntent(in.ID)
	}
	return Undone, errors.Join(v.drop(in.ID), v.closeIntent(in.ID))
}

// recoverTaking decides by the manifest: an item that is whole has taken the
// file's place, if the file is still the one that was sealed.
func (v *Vault) recoverTaking(ctx context.Context, in *Intent) (Ended, string, error) {
	var m *Manifest
	if in.Doing == taking { // what is being returned goes back, sealed or not
		var err error
		if m, err = v.committed(ctx, in.ID); err != nil {
			return Stuck, "", err
		}
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
	if m != nil && !staged {
		// The staged name goes last, so all others are dealt with.
		return Finished, "", errors.Join(v.relockParents(in), v.closeIntent(in.ID))
	}
	if m != nil && m.State != Purged && file != nil {
		same, err := sameContent(ctx, file, m)
		if err != nil {
			return Stuck, "", err
		}
		if same {
			return v.recoverRemoval(in, s, file)
		}
	}
	return v.undo(in, s, file, staged)
}

func sameContent(ctx context.Context, f *os.File, m *Manifest) (bool, error) {
	st, err := inode.Of(f)
	if err != nil || st.Size != m.Size {
		return false, err
	}
	sum, err := hashFile(ctx, f, st.Size)
	if errors.Is(err, ErrChanged) {
		return false, nil // it becomes shorter just now
	}
	return sum == m.sum(), err
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
	left, err := v.finish(in, s, file, nil)
	if err != nil {
		return Stuck, "", err
	}
	if left != nil {
		return Finished, left.Error(), nil
	}
	return Finished, "", nil
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

// recoverRestore finishes a restore whose file has its first name, and undoes
// one whose file has none.
func (v *Vault) recoverRestore(in *Intent) (Ended, error) {
	first := in.Names[0]
	dir, err := v.sameParent(first)
	if err != nil {
		return Stuck, err
	}
	if dir == nil {
		return Undone, v.closeIntent(in.ID)
	}
	defer dir.Close() //nolint:errcheck // read only
	if err := v.relockParents(in); err != nil {
		return Stuck, err
	}
	f, err := openFile(dir, first.base(), func(id inode.ID) bool { return id.Ino == in.Ino })
	if gone(err) || errors.Is(err, ErrChanged) {
		return Undone, errors.Join(v.removeTmp(dir, in.Staging.Name), v.closeIntent(in.ID))
	}
	if err != nil {
		return Stuck, err
	}
	defer f.Close() //nolint:errcheck // read only
	m, err := v.load(in.ID)
	if err != nil {
		return Stuck, err
	}
	if last := len(m.History) - 1; last >= 0 && m.History[last].State == Restored && !m.History[last].Time.Before(in.Began) {
		return Finished, v.closeIntent(in.ID) // it was written down
	}
	_, err = v.complete(m, in, f)
	return Finished, err
}
