// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"staunch/internal/durable"
	"staunch/internal/order"
)

// RestoreOptions says where a restored file goes.
type RestoreOptions struct {
	// Destination is an absolute path. Empty: where the file was taken, under
	// all the names it had.
	Destination string
	// SideDir is the folder for a file whose place is taken or has changed. It
	// is made if need be. Empty: DIR/restored/ITEM.
	SideDir string
}

// target is where a restored file will get its first name.
type target struct {
	dir   *os.File
	base  string
	names []Name // all it shall have; the first is this one
	side  string // why it is not the place that was meant; empty: it is
}

// Restore gives a sealed file back: content, owner, mode, ACL, attributes,
// capabilities, times, flags and hard links. It has a name only once it is
// whole and on the disk. What could not be set is named in Lost. Where its
// place is taken, or its folder is gone, replaced or led to by a link, the file
// goes into a side folder and Side says so. The item keeps its content.
//
//	openat(O_TMPFILE) write read fchown fsetxattr fchmod utimensat fsync fsync(intent) linkat ioctl(flags) fsync fsync(dir) write(manifest) unlink(intent)
func (v *Vault) Restore(ctx context.Context, id string, opts RestoreOptions) (_ order.Restored, err error) {
	defer func() {
		switch {
		case errors.Is(err, ErrDamaged):
			err = fmt.Errorf("cannot restore: %w; run staunch-agent fsck, which says what is left of it", err)
		case err != nil:
			err = fmt.Errorf("cannot restore: %w", err)
		}
	}()
	if err := v.claim(id); err != nil {
		return order.Restored{}, err
	}
	defer v.release(id)
	m, content, err := v.openItem(id)
	if err != nil {
		return order.Restored{}, err
	}
	defer content.Close() //nolint:errcheck // read only
	t, err := v.aim(m, opts)
	if err != nil {
		return order.Restored{}, err
	}
	res, err := v.restoreTo(ctx, m, content, t)
	if errors.Is(err, unix.EEXIST) && t.side == "" {
		// Taken between the look and the link.
		if t, err = v.aside(m, opts, path.Base(t.base), "its place was taken"); err == nil {
			res, err = v.restoreTo(ctx, m, content, t)
		}
	}
	return res, err
}

// aim finds the place a file goes to.
func (v *Vault) aim(m *Manifest, opts RestoreOptions) (target, error) {
	dest, names := opts.Destination, slices.Clone(m.Names)
	if dest != "" {
		if err := checkPath(dest); err != nil {
			return target{}, err
		}
		names = []Name{{Path: order.TextOf(dest)}}
	}
	if len(names) == 0 {
		return v.aside(m, opts, "item-"+m.ID[:8], "the file had no name")
	}
	first := names[0]
	if _, _, ok := beyond(first.dir()); ok {
		return v.aside(m, opts, first.base(), "its place was seen by other processes only")
	}
	dir, err := openDir(first.dir())
	if err != nil {
		return v.aside(m, opts, first.base(), "its folder cannot be used: "+err.Error())
	}
	now, err := parentOf(dir)
	if err != nil {
		_ = dir.Close() // read only
		return target{}, err
	}
	why := ""
	if dest == "" && !now.same(first.Parent) {
		why = "its folder is another one now"
	} else if _, err := idAt(dir, first.base()); err == nil {
		why = "its place is taken"
	}
	if why != "" {
		_ = dir.Close() // read only
		return v.aside(m, opts, first.base(), why)
	}
	return target{dir: dir, base: first.base(), names: names}, nil
}

// aside finds a free name in the side folder.
func (v *Vault) aside(m *Manifest, opts RestoreOptions, base, why string) (target, error) {
	folder := opts.SideDir
	if folder == "" {
		folder = v.path("restored", m.ID)
	}
	folder, err := filepath.Abs(folder)
	if err == nil {
		err = durable.Mkdir(folder, 0o700)
	}
	if err == nil {
		folder, err = filepath.EvalSymlinks(folder)
	}
	if err != nil {
		return target{}, fmt.Errorf("%s, and the side folder cannot be used: %w", why, err)
	}
	dir, err := openDir(folder)
	if err != nil {
		return target{}, fmt.Errorf("%s, and the side folder cannot be used: %w", why, err)
	}
	name := base
	for n := 2; ; n++ {
		if _, err := idAt(dir, name); err != nil {
			break // free, or the link will say why not
		}
		suffix := fmt.Sprintf(".%d", n)
		name = base[:min(len(base), unix.NAME_MAX-len(suffix))] + suffix
	}
	return target{dir: dir, base: name, names: []Name{{Path: order.TextOf(path.Join(folder, name))}}, side: why}, nil
}

// restoreTo writes the file and gives it its names.
func (v *Vault) restoreTo(ctx context.Context, m *Manifest, content *os.File, t target) (_ order.Restored, err error) {
	defer t.dir.Close() //nolint:errcheck // read only
	in, err := v.intend(m, t)
	if err != nil {
		return order.Restored{}, err
	}
	f, tmp, err := v.create(t, m)
	if err != nil {
		return order.Restored{}, errors.Join(err, v.closeIntent(m.ID))
	}
	defer f.Close() //nolint:errcheck // synced, or given up
	err = v.fill(ctx, m, content, f, in)
	if err == nil {
		err = v.place(t.dir, f, tmp, in)
	}
	if err != nil {
		return order.Restored{}, errors.Join(noRoomAt(t.dir, m, err), v.removeTmp(t.dir, tmp), v.closeIntent(m.ID))
	}
	v.cfg.Step("restore:linked")
	return v.complete(m, in, f)
}

// intend notes what is about to be made, and the flags of the folders that may
// have to be lifted for it.
func (v *Vault) intend(m *Manifest, t target) (*Intent, error) {
	parent, err := v.parent(t.dir)
	if err != nil {
		return nil, err
	}
	t.names[0].Parent = parent
	for i := range t.names[1:] {
		n := &t.names[i+1]
		n.Parent.Flags = 0
		if dir, err := openDir(n.dir()); err == nil {
			if now, err := v.parent(dir); err == nil && now.same(n.Parent) {
				n.Parent.Flags = now.Flags
			}
			_ = dir.Close() // read only
		}
	}
	in := &Intent{
		Version: Version, ID: m.ID, Doing: restoring, Began: v.cfg.Now().UTC(), Mode: m.Meta.Mode, Flags: m.Meta.Flags,
		Names: t.names, Side: t.side != "",
		Staging: Staging{Kind: inParent, Dir: order.TextOf(t.dir.Name()), Name: ".staunch-" + m.ID},
	}
	if err := v.writeIntent(in); err != nil {
		return nil, err
	}
	v.cfg.Step("restore:intent")
	return in, nil
}
