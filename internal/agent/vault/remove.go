// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

// Remove makes a sealed file disappear: every other name of it that is known
// and still leads to it, then the staged one. ErrChanged: somebody wrote to it
// after it was sealed; nothing was removed, and the caller calls PutBack. A
// *LeftError names what is left; the item is whole all the same.
//
//	(rename unlink fsync)(each other name) fsync(dir) unlink fsync(staging) unlink(intent) fsync(intents)
func (g *Grabbed) Remove(ctx context.Context) error {
	if g.ended || !g.sealed {
		return errors.New("cannot remove file: it is not sealed")
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot remove file: %w", err)
	}
	if err := g.unchanged(ctx); err != nil {
		return fmt.Errorf("cannot remove file: %w; it was sealed as it was before", err)
	}
	defer g.end()
	left, err := g.v.finish(&g.in, g.stage, g.file, g.prior)
	if err != nil {
		return fmt.Errorf("cannot remove file: %w", err)
	}
	disarm(g.file)
	if left != nil {
		return left
	}
	return nil
}

// disarm takes the right to execute from a sealed file that has no name any
// more: whoever still holds a descriptor of it could start it by that. Its
// owner can give the right back; then it is for the gate to refuse.
func disarm(f *os.File) {
	if st, err := inode.Of(f); err == nil && st.Nlink == 0 {
		_ = unix.Fchmod(int(f.Fd()), st.Mode&0o7666) // not granted for some files in memory
	}
}

// finish removes all names of a sealed and staged file and closes its intent.
// The staged name goes last: as long as it is there, the file can be told from
// others that have its names. prior is the item that the file is in, if that is
// not the one of the intent.
func (v *Vault) finish(in *Intent, s *stage, file *os.File, prior *Manifest) (*LeftError, error) {
	st, err := inode.Of(file)
	if err != nil {
		return nil, err
	}
	names := v.removeNames(in, s, st.ID)
	v.cfg.Step("remove:names")
	if st, err = inode.Of(file); err != nil {
		return nil, err
	}
	_, staged := idAt(s.dir, in.Staging.Name)
	if staged == nil {
		st.Nlink-- // goes now
	}
	left := leftOver(names, st.Nlink)
	if prior != nil {
		err = v.noteLeft(prior, in.Names, left)
	} else if left != nil {
		var m *Manifest
		if m, err = v.load(in.ID); err == nil {
			err = v.noteLeft(m, nil, left)
		}
	}
	if err != nil { // the answer says it, too
		v.cfg.Log.Warn("what is left of a file is not in its manifest", "item", in.ID, "error", err)
	}
	if err := v.unlinkStaged(in, s, st.ID); err != nil {
		return left, err
	}
	v.cfg.Step("remove:staged")
	if err := v.syncDir(s.dir); err != nil {
		return left, err
	}
	// Not synced: an intent that a loss of power brings back has nothing left to do.
	if err := os.Remove(v.intentPath(in.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return left, err
	}
	return left, nil
}

// removeNames removes every name but the staged one, and returns those that
// could not be.
func (v *Vault) removeNames(in *Intent, s *stage, id inode.ID) (left []Left) {
	for i, n := range in.Names {
		var err error
		if i == 0 {
			err = v.syncName(n) // its removal, by the grab
		} else {
			err = v.removeName(in.ID, i, n, s, id)
			v.cfg.Step("remove:name")
		}
		if err != nil {
			left = append(left, Left{Path: n.Path, Err: err})
		}
	}
	return left
}

func (v *Vault) unlinkStaged(in *Intent, s *stage, id inode.ID) (err error) {
	done, err := v.enterLifted(s.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	there, err := idAt(s.dir, in.Staging.Name)
	switch {
	case gone(err):
		return nil
	case err != nil:
		return err // it may be there: the intent stays, and says so
	case there != id:
		return nil // in a folder that is not ours alone, somebody has put another file there
	}
	if err := unix.Unlinkat(int(s.dir.Fd()), in.Staging.Name, 0); err != nil && !gone(err) {
		return err
	}
	return nil
}

// syncName makes a name's absence durable. A folder that is gone has no names.
func (v *Vault) syncName(n Name) error {
	dir, err := openDir(n.dir())
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	return v.syncDir(dir)
}

func gone(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// removeName removes the nth name if it still leads to the file. It is moved
// out of reach before it is looked at: a name that others can change between
// the look and the removal would remove a file of their choice.
func (v *Vault) removeName(item string, n int, name Name, s *stage, id inode.ID) error {
	dir, err := openDir(name.dir())
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	if there, err := idAt(dir, name.base()); err != nil || there != id {
		if err != nil && !gone(err) {
			return err
		}
		return nil // it is not this file's name any more
	}
	var now Parent
	done, err := v.enterParent(dir, &now)
	if err != nil {
		return err
	}
	defer done()
	if err := unlockInode(int(dir.Fd()), now.Flags); err != nil {
		return fmt.Errorf("cannot lift the immutable or append-only flag of its folder: %w", err)
	}
	err = unlinkSame(dir, name.base(), s, item, n, id)
	return errors.Join(err, lockInode(int(dir.Fd()), now.Flags|name.Parent.Flags), v.syncDir(dir))
}

// unlinkSame removes a name in dir by way of the staging folder, or, where the
// name lies on another mount than it, of a hidden name beside it.
func unlinkSame(dir *os.File, base string, s *stage, item string, n int, id inode.ID) error {
	to, beside := s, &stage{kind: inParent, dir: dir}
	if s.kind == inParent {
		to = beside // another file's folder is no better than this one, and may be locked
	}
	err := moveName(dir, base, to.dir, to.name(item, n))
	if errors.Is(err, unix.EXDEV) {
		to = beside
		err = moveName(dir, base, to.dir, to.name(item, n))
	}
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return settle(to, to.name(item, n), dir, base, item, id)
}

// settle removes a name that was moved to staging if it is the file's. If it is
// another's, or cannot be removed, it goes back: in staging nobody would look
// for it once the intent is closed.
func settle(s *stage, staged string, dir *os.File, base, item string, id inode.ID) error {
	there, err := idAt(s.dir, staged)
	if err == nil && there == id {
		if err = unix.Unlinkat(int(s.dir.Fd()), staged, 0); err == nil {
			return nil
		}
	}
	as, backErr := moveBack(s.dir, staged, dir, base, item)
	if backErr == nil && as != base {
		backErr = &ElsewhereError{Path: order.TextOf(dir.Name() + "/" + as), Why: "another file had the name, or it could not be removed, and the name was taken again meanwhile"}
	}
	return errors.Join(err, backErr)
}
