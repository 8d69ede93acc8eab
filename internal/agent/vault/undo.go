// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

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
		note = nowhere
	}
	if err != nil {
		return Stuck, "", err
	}
	if note == missing || note == nowhere {
		// Whatever was sealed may be all that is left of it: fsck shows it.
		return Undone, note, v.closeIntent(in.ID)
	}
	return Undone, note, errors.Join(v.drop(in.ID), v.closeIntent(in.ID))
}

const (
	missing = "somebody else removed the file meanwhile; what had been sealed of it was kept"
	nowhere = "its folder is gone or was replaced, and nothing of it is in staging; what had been sealed of it was kept"
)

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
	return note, errors.Join(err, lockInode(int(parent.Fd()), first.Parent.Flags), v.syncDir(parent))
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
