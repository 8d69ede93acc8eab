// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/order"
)

// create makes a file that nobody else can open: without a name where the
// file system can, else under a hidden one.
func (v *Vault) create(t target, m *Manifest) (f *os.File, tmp string, err error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(t.dir.Fd()), &st); err == nil && st.Blocks > 0 && int64(st.Bfree)*st.Bsize < m.plan().stored() {
		return nil, "", noRoomAt(t.dir, m, unix.ENOSPC)
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
	in.Lost = storeAs(int(f.Fd()), &m.Meta)
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
	in.Lost = append(in.Lost, writeMeta(f, &m.Meta)...)
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
	return errors.Join(err, v.syncDir(dir))
}
