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

	"staunch/internal/agent/inode"
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
		if err != nil {
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
		return order.Restored{}, errors.Join(full(err), v.removeTmp(t.dir, tmp), v.closeIntent(m.ID))
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

// create makes a file that nobody else can open: without a name where the
// file system can, else under a hidden one.
func (v *Vault) create(t target, m *Manifest) (f *os.File, tmp string, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(t.dir.Fd()), &st); err == nil && st.Blocks > 0 && int64(st.Bfree)*st.Bsize < m.plan().stored() {
		return nil, "", fmt.Errorf("no room for %d bytes in %q: free some, or choose another destination", m.plan().stored(), order.TextOf(t.dir.Name()))
	}
	done, err := v.enterLifted(t.dir)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, done()) }()
	fd, err := -1, error(unix.EOPNOTSUPP)
	if !v.named {
		fd, err = unix.Openat(int(t.dir.Fd()), ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	}
	if err == nil {
		return os.NewFile(uintptr(fd), t.base), "", nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return nil, "", fmt.Errorf("cannot make a file in %q: %w", order.TextOf(t.dir.Name()), err)
	}
	tmp = ".staunch-" + m.ID
	// Left by a run that was killed: the name is this item's alone.
	if err := unix.Unlinkat(int(t.dir.Fd()), tmp, 0); err != nil && !gone(err) {
		return nil, "", err
	}
	fd, err = unix.Openat(int(t.dir.Fd()), tmp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, "", fmt.Errorf("cannot make a file in %q: %w", order.TextOf(t.dir.Name()), err)
	}
	return os.NewFile(uintptr(fd), t.base), tmp, nil
}

// enterLifted is enterParent with the folder's locks off until done.
func (v *Vault) enterLifted(dir *os.File) (done func() error, err error) {
	var now Parent
	leave, err := v.enterParent(dir, &now)
	if err != nil {
		return nil, err
	}
	if err := unlockInode(int(dir.Fd()), now.Flags); err != nil {
		leave()
		return nil, err
	}
	return func() error {
		defer leave()
		return lockInode(int(dir.Fd()), now.Flags)
	}, nil
}

// removeTmp removes the hidden name of a file that was given up.
func (v *Vault) removeTmp(dir *os.File, tmp string) (err error) {
	if tmp == "" {
		return nil
	}
	if _, err := idAt(dir, tmp); gone(err) {
		return nil
	}
	done, err := v.enterLifted(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if err := unix.Unlinkat(int(dir.Fd()), tmp, 0); err != nil && !gone(err) {
		return err
	}
	return nil
}

// fill writes content and metadata, checks the content as it now is, and notes
// which file is about to get a name.
func (v *Vault) fill(ctx context.Context, m *Manifest, content, f *os.File, in *Intent) error {
	if err := f.Truncate(m.Size); err != nil {
		return err
	}
	write := func(b block) error {
		if len(b.data) == 0 {
			return nil // stays a hole
		}
		_, err := f.WriteAt(b.data, b.off)
		return err
	}
	if err := v.decrypt(ctx, content, m, write); err != nil {
		return err
	}
	sum, err := hashFile(ctx, f, m.Size)
	if err == nil && sum != m.sum() {
		err = fmt.Errorf("%w: what was written has sha256 %s, the manifest says %s", ErrDamaged, sum.SHA256, m.SHA256)
	}
	if err != nil {
		return err
	}
	in.Lost = writeMeta(f, &m.Meta)
	if err := unix.Fsync(int(f.Fd())); err != nil {
		return fmt.Errorf("cannot sync the restored file: %w", err)
	}
	st, err := inode.Of(f)
	if err != nil {
		return err
	}
	in.Dev, in.Ino = st.Dev, st.Ino
	if err := v.writeIntent(in); err != nil {
		return err
	}
	v.cfg.Step("restore:filled")
	return nil
}

// place gives the file its first name; EEXIST: it was taken meanwhile.
func (v *Vault) place(dir *os.File, f *os.File, tmp string, in *Intent) (err error) {
	done, err := v.enterLifted(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	if tmp != "" {
		return moveName(dir, tmp, dir, in.Names[0].base())
	}
	return linkOpen(f, dir, in.Names[0].base())
}

// linkOpen gives an open file a name in dir.
func linkOpen(f, dir *os.File, base string) error {
	err := unix.Linkat(int(f.Fd()), "", int(dir.Fd()), base, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPERM) {
		// Unprivileged: the same by way of the process's own descriptors.
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), int(dir.Fd()), base, unix.AT_SYMLINK_FOLLOW)
	}
	return err
}

// complete gives a restored file its further names and its flags, and writes
// down that it was restored. Recover comes here too.
func (v *Vault) complete(m *Manifest, in *Intent, f *os.File) (order.Restored, error) {
	res := order.Restored{Item: m.ID, Paths: []order.Text{in.Names[0].Path}, Side: in.Side, Lost: in.Lost}
	for _, n := range in.Names[1:] {
		if err := v.linkName(f, n); err != nil {
			res.Lost = append(res.Lost, fmt.Sprintf("name %q: %v", n.Path, err))
			continue
		}
		res.Paths = append(res.Paths, n.Path)
	}
	if in.Side && len(m.Names) > 1 {
		for _, n := range m.Names[1:] {
			res.Lost = append(res.Lost, fmt.Sprintf("name %q: the file is in a side folder", n.Path))
		}
	}
	v.cfg.Step("restore:named")
	res.Lost = append(res.Lost, restoreFlags(int(f.Fd()), &m.Meta)...)
	if err := unix.Fsync(int(f.Fd())); err != nil {
		return res, fmt.Errorf("cannot sync the restored file: %w", err)
	}
	if err := v.syncName(in.Names[0]); err != nil {
		return res, err
	}
	v.cfg.Step("restore:synced")
	m.State = Restored
	m.History = append(m.History, Change{Time: v.cfg.Now().UTC(), State: Restored, Paths: res.Paths, Side: res.Side, Lost: res.Lost})
	if err := v.save(m); err != nil {
		return res, fmt.Errorf("the file is restored, but that could not be written down: %w", err)
	}
	v.cfg.Step("restore:noted")
	return res, v.closeIntent(m.ID)
}

// linkName gives a restored file one of the further names it had.
func (v *Vault) linkName(f *os.File, n Name) (err error) {
	dir, err := openDir(n.dir())
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // read only
	now, err := parentOf(dir)
	if err == nil && !now.same(n.Parent) {
		err = errors.New("its folder is another one now")
	}
	if err != nil {
		return err
	}
	done, err := v.enterLifted(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	err = linkOpen(f, dir, n.base())
	if errors.Is(err, unix.EEXIST) {
		st, statErr := inode.Of(f)
		if there, err := idAt(dir, n.base()); err == nil && statErr == nil && there == st.ID {
			return nil // by the run that was interrupted
		}
		return errors.New("its place is taken")
	}
	return errors.Join(err, syncDir(dir))
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
