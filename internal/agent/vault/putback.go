// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

// returnedPrefix begins the name of a file that waits in a staging folder for
// a person, because its own folder is gone.
const returnedPrefix = "returned-"

// ElsewhereError says that a file was given back whole, but under another name
// than the one it was taken from.
type ElsewhereError struct {
	Path order.Text // where it is
	Why  string
}

func (e *ElsewhereError) Error() string {
	return fmt.Sprintf("the file was put back as %q: %s", e.Path, e.Why)
}

// PutBack gives the file its name, mode and flags again; sealed content is
// dropped. It is not given up half way, so ctx only carries values. An
// *ElsewhereError says that the file is back under another name, because its
// own was taken or its folder is gone. With any other error it is whole in
// staging, and Recover tries again.
//
//	rename fsync(dir) fsync(staging) unlink(intent) fsync(intents)
func (g *Grabbed) PutBack(context.Context) error {
	if g.ended {
		return errors.New("cannot put file back: it was put back or removed before")
	}
	defer g.end()
	if g.sealed {
		g.in.Doing = returning
		if err := g.v.writeIntent(&g.in); err != nil {
			return fmt.Errorf("cannot put file back: %w", err)
		}
		g.v.cfg.Step("putback:returning")
	}
	return g.giveBack(g.file)
}

// giveBack is PutBack of a file that is not sealed, or of one that should not
// have been grabbed: then file is nil and nothing about it is changed.
func (g *Grabbed) giveBack(file *os.File) error {
	var elsewhere *ElsewhereError
	err := g.v.giveBack(&g.in, g.stage, g.parent, file)
	if err != nil && !errors.As(err, &elsewhere) {
		return fmt.Errorf("cannot put file back, it is in %q as %s: %w", g.in.Staging.Dir, g.in.Staging.Name, err)
	}
	return errors.Join(err, g.v.drop(g.in.ID), g.v.closeIntent(g.in.ID))
}

// giveBack moves a staged file to its place, or beside it; parent is nil where
// its folder is gone. file is the staged file, if it is the one of the intent.
func (v *Vault) giveBack(in *Intent, s *stage, parent, file *os.File) error {
	as, err := "", error(unix.ENOENT)
	if parent != nil {
		as, err = v.moveBack(in, s, parent)
	}
	switch {
	case err == nil && as == in.Names[0].base():
	case err == nil:
		err = &ElsewhereError{Path: order.TextOf(path.Join(parent.Name(), as)), Why: "its name was taken meanwhile"}
	case errors.Is(err, unix.ENOENT):
		if _, err := idAt(s.dir, in.Staging.Name); gone(err) {
			return fmt.Errorf("%w from staging: somebody else removed it", ErrVanished)
		}
		name := returnedPrefix + in.ID
		if err := moveName(s.dir, in.Staging.Name, s.dir, name); err != nil {
			return err
		}
		err = &ElsewhereError{Path: order.TextOf(path.Join(s.dir.Name(), name)), Why: "its folder is gone or was replaced; move it where it belongs"}
	default:
		return err
	}
	v.cfg.Step("putback:moved")
	if file != nil {
		if s.kind == inParent {
			err = errors.Join(err, restoreMode(file, in.Mode))
		}
		err = errors.Join(err, lockInode(int(file.Fd()), in.Flags))
	}
	if parent != nil {
		err = errors.Join(err, v.syncDir(parent))
	}
	err = errors.Join(err, v.syncDir(s.dir))
	v.cfg.Step("putback:synced")
	return err
}

// restoreMode gives a file that was staged in its own folder its mode again;
// one that still has it may be locked already.
func restoreMode(f *os.File, mode uint32) error {
	st, err := inode.Of(f)
	if err != nil || st.Mode == mode {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), mode&0o7777); err != nil {
		return fmt.Errorf("cannot give the file its mode %04o: %w", mode&0o7777, err)
	}
	return nil
}

// moveBack renames a staged file into its folder, whose flags are lifted for it.
func (v *Vault) moveBack(in *Intent, s *stage, parent *os.File) (as string, err error) {
	first := in.Names[0]
	var now Parent
	done, err := v.enterParent(parent, &now)
	if err != nil {
		return "", err
	}
	defer done()
	if err := unlockInode(int(parent.Fd()), now.Flags); err != nil {
		return "", err
	}
	as, err = moveBack(s.dir, in.Staging.Name, parent, first.base(), in.ID)
	return as, errors.Join(err, lockInode(int(parent.Fd()), now.Flags|first.Parent.Flags))
}
