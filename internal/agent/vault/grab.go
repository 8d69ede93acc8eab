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
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// Grabbed is a file that was taken out of its place and waits in staging. It
// ends with Remove or PutBack; Seal comes before Remove. One goroutine uses it.
type Grabbed struct {
	v      *Vault
	in     Intent
	meta   Meta
	sum    filehash.Sum
	parent *os.File // of the first name
	stage  *stage
	file   *os.File   // the staged file
	stat   inode.Stat // of it, when its content was checked
	leased bool       // nobody has it open for writing, and nobody can without breaking the lease
	sealed bool
	prior  *Manifest // the item that has this file already; Seal claims it
	ended  bool
}

// ID is the id of the item it becomes.
func (g *Grabbed) ID() string { return g.in.ID }

// Sum is its content.
func (g *Grabbed) Sum() filehash.Sum { return g.sum }

// Names are the names that were found to lead to it.
func (g *Grabbed) Names() []order.Text {
	names := make([]order.Text, 0, len(g.in.Names))
	for _, n := range g.in.Names {
		names = append(names, n.Path)
	}
	return names
}

// Grab takes the open file f out of its place: of names, absolute raw paths,
// those that lead to it without a link are noted, and the first of them is
// moved to a folder that only we may enter, on the same file system. Then it
// is read again, and want says whether it has the content that is looked for.
//
// If what was moved is not f, or want says no, it is put back at once and the
// error matches ErrChanged. ErrVanished: f has no name any more. ErrMoved: it
// has, but none of those given. With any error, everything is as it was, or
// the error says where the file is.
//
//	fsync(intent) rename open hash
func (v *Vault) Grab(ctx context.Context, f *os.File, names []string, want func(filehash.Sum) bool) (*Grabbed, error) {
	id := newID()
	if err := v.claim(id); err != nil {
		return nil, fmt.Errorf("cannot take file: %w", err)
	}
	g := &Grabbed{v: v, in: Intent{Version: Version, ID: id, Doing: taking, Began: v.cfg.Now().UTC()}}
	err := g.begin(ctx, f, names)
	if err == nil {
		err = g.move(f)
	}
	if err == nil {
		err = g.check(ctx, f, want)
	}
	if err != nil {
		g.end()
		return nil, fmt.Errorf("cannot take file %q: %w", order.TextOf(f.Name()), err)
	}
	return g, nil
}

// end gives up the descriptors and the claim.
func (g *Grabbed) end() {
	if g.ended {
		return
	}
	g.ended = true
	if g.file != nil {
		_ = g.file.Close() // read only; gives the lease up too
	}
	if g.parent != nil {
		_ = g.parent.Close() // read only
	}
	g.v.tidy(g.stage)
	g.stage.close()
	g.v.release(g.in.ID)
	if g.prior != nil {
		g.v.release(g.prior.ID)
	}
}

// begin looks at the file and its names, and changes nothing.
func (g *Grabbed) begin(ctx context.Context, f *os.File, names []string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := inode.Of(f)
	switch {
	case err != nil:
		return err
	case !st.Regular():
		return errors.New("it is not a regular file")
	case len(names) == 0:
		return errors.New("no name given: a file without one is sealed from its descriptor")
	}
	if err := g.v.Room(Stored(f, st.Size)); err != nil {
		return err
	}
	if g.meta, err = readMeta(f); err != nil {
		return err
	}
	g.stat = st
	g.in.Dev, g.in.Ino, g.in.Mode, g.in.Flags = st.Dev, st.Ino, g.meta.Mode, g.meta.Flags
	return g.find(st, names)
}

// find keeps the names that lead to the file, and the first one's folder open.
func (g *Grabbed) find(st inode.Stat, names []string) error {
	var why error
	for _, raw := range names {
		dir, n, err := g.v.locate(raw, st.ID)
		if err != nil {
			why = errors.Join(why, err)
			continue
		}
		g.in.Names = append(g.in.Names, n)
		if g.parent == nil {
			g.parent = dir
		} else {
			_ = dir.Close() // read only
		}
	}
	switch {
	case g.parent != nil:
		return nil
	case st.Nlink == 0:
		return ErrVanished
	}
	return fmt.Errorf("%w: %w", ErrMoved, why)
}

// locate opens the folder of a name and checks that the name is the file's.
func (v *Vault) locate(raw string, id inode.ID) (*os.File, Name, error) {
	if err := checkPath(raw); err != nil {
		return nil, Name{}, err
	}
	dir, err := openDir(path.Dir(raw))
	if err != nil {
		return nil, Name{}, err
	}
	there, err := idAt(dir, path.Base(raw))
	if err == nil && there != id {
		err = errors.New("another file has this name now")
	}
	n := Name{Path: order.TextOf(raw)}
	if err == nil {
		n.Parent, err = v.parent(dir)
	}
	if err != nil {
		_ = dir.Close() // read only
		return nil, Name{}, fmt.Errorf("%q: %w", n.Path, err)
	}
	return dir, n, nil
}

// base is the last element of a name, as the kernel knows it. Names were
// checked when they were noted or read.
func (n Name) base() string {
	raw, _ := n.Path.Bytes()
	return path.Base(raw)
}

func (n Name) dir() string {
	raw, _ := n.Path.Bytes()
	return path.Dir(raw)
}

// move takes the first name to the best staging folder that takes it. Until it
// has succeeded, the file is in its place.
func (g *Grabbed) move(f *os.File) error {
	var refused []*stage
	defer func() {
		for _, s := range refused {
			g.v.tidy(s)
			s.close()
		}
	}()
	done, err := g.v.enterParent(g.parent, &g.in.Names[0].Parent)
	if err != nil {
		return err
	}
	defer done()
	err = unix.EXDEV
	for _, open := range g.v.stages(g.parent) {
		var s *stage
		if s, err = open(); err != nil {
			continue // no place of ours can be made there; the last one is always there
		}
		if err = g.moveTo(f, s); err == nil {
			g.stage = s
			return nil
		}
		refused = append(refused, s)
		if !errors.Is(err, unix.EXDEV) {
			break
		}
	}
	if errors.Is(err, unix.ENOENT) {
		err = fmt.Errorf("%w: %w", ErrMoved, err)
	}
	return err
}

func (g *Grabbed) moveTo(f *os.File, s *stage) (err error) {
	v, first := g.v, g.in.Names[0]
	g.in.Staging = s.ref(g.in.ID)
	if err := v.writeIntent(&g.in); err != nil {
		return err
	}
	v.cfg.Step("grab:intent")
	defer func() {
		if err != nil {
			err = errors.Join(err, lockInode(int(f.Fd()), g.in.Flags), v.closeIntent(g.in.ID))
		}
	}()
	if err := unlockInode(int(f.Fd()), g.in.Flags); err != nil {
		return fmt.Errorf("cannot lift its immutable or append-only flag: %w", err)
	}
	if err := unlockInode(int(g.parent.Fd()), first.Parent.Flags); err != nil {
		return fmt.Errorf("cannot lift the immutable or append-only flag of its folder: %w", err)
	}
	v.cfg.Step("grab:lifted")
	err = moveName(g.parent, first.base(), s.dir, g.in.Staging.Name)
	if err == nil {
		v.cfg.Step("grab:moved")
	}
	return errors.Join(err, lockInode(int(g.parent.Fd()), first.Parent.Flags))
}

// check opens what was grabbed and reads it again. Whatever is wrong, what was
// grabbed goes back at once.
func (g *Grabbed) check(ctx context.Context, f *os.File, want func(filehash.Sum) bool) error {
	file, err := openFile(g.stage.dir, g.in.Staging.Name, func(id inode.ID) bool { return id == g.stat.ID })
	if errors.Is(err, ErrChanged) {
		// Another file was given the name between the look and the move. It
		// goes back; it is not ours to change.
		err = fmt.Errorf("%w: its name led to another file", err)
		return errors.Join(err, lockInode(int(f.Fd()), g.in.Flags), g.giveBack(nil))
	}
	if err != nil {
		return errors.Join(err, g.giveBack(f))
	}
	g.file = file
	if g.stage.kind == inParent {
		if err := unix.Fchmod(int(file.Fd()), 0o600); err != nil {
			return errors.Join(err, g.giveBack(file))
		}
	}
	g.leased = lease(file)
	if g.stat, err = inode.Of(file); err == nil {
		g.sum, err = hashFile(ctx, file, g.stat.Size)
	}
	if err == nil && !want(g.sum) {
		err = fmt.Errorf("%w: it has sha256 %s now", ErrChanged, g.sum.SHA256)
	}
	if err != nil {
		return errors.Join(err, g.giveBack(file))
	}
	g.v.cfg.Step("grab:checked")
	return nil
}
