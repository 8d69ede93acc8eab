// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// replace puts data in the place of the open file at rel, with its owner, mode
// and extended attributes (ACL, label). Its time of writing is now: daemons look
// at that to see that they must read again. A crash leaves the old file or the
// new one.
//
// It is durable.WriteFile for a folder that somebody hostile may own: names are
// followed below r only, and the new file has what the old one had.
//
//	open(temporary, O_EXCL) fchown fchmod fsetxattr write fsync rename fsync(dir)
func replace(r *os.Root, rel string, old *os.File, data []byte) (err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(old.Fd()), &st); err != nil {
		return err
	}
	tmp := path.Join(path.Dir(rel), "."+path.Base(rel)+".staunch-new")
	if len(path.Base(tmp)) > 255 {
		tmp = path.Join(path.Dir(rel), ".staunch-new")
	}
	if err := r.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err // a leftover of ours, or something in its way
	}
	f, err := r.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()     // the first error is the one to report
			_ = r.Remove(tmp) // a leftover is harmless
		}
	}()
	if err := like(f, old, &st); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := r.Rename(tmp, rel); err != nil {
		return err
	}
	return syncDir(r, path.Dir(rel))
}

// like gives f the owner, mode and extended attributes of old.
func like(f, old *os.File, st *unix.Stat_t) error {
	if err := f.Chown(int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), st.Mode&0o7777); err != nil {
		return err
	}
	list := make([]byte, 64<<10)
	n, err := unix.Flistxattr(int(old.Fd()), list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot list its attributes: %w", err)
	}
	value := make([]byte, 64<<10)
	for name := range bytes.SplitSeq(bytes.Trim(list[:n], "\x00"), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		n, err := unix.Fgetxattr(int(old.Fd()), string(name), value)
		if err != nil {
			return fmt.Errorf("cannot read its attribute %s: %w", name, err)
		}
		if err := unix.Fsetxattr(int(f.Fd()), string(name), value[:n], 0); err != nil {
			return fmt.Errorf("cannot keep its attribute %s: %w", name, err)
		}
	}
	return nil
}

// syncDir makes the names in a folder below r durable.
func syncDir(r *os.Root, dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) {
		err = nil // this file system cannot; nothing further could be done
	}
	return errors.Join(err, d.Close())
}
