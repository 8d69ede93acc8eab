// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// syncDir makes the names in an open folder durable, with one sync for all who
// wait for that.
func (v *Vault) syncDir(dir *os.File) error {
	id, err := idAt(dir, ".")
	if err == nil {
		err = v.syncs.Do(id, func() error { return unix.Fsync(int(dir.Fd())) })
	}
	// As durable.SyncDir: some file systems cannot, and say EINVAL.
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("cannot sync folder %q: %w", order.TextOf(dir.Name()), err)
	}
	return nil
}

// moveName gives a name in one folder to another folder, replacing nothing.
func moveName(from *os.File, name string, to *os.File, as string) error {
	err := unix.Renameat2(int(from.Fd()), name, int(to.Fd()), as, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A file system without that flag: a second name, which fails if it is
	// taken, then the first one's removal. Recover knows a file with both.
	if err := unix.Linkat(int(from.Fd()), name, int(to.Fd()), as, 0); err != nil {
		return err
	}
	return unix.Unlinkat(int(from.Fd()), name, 0)
}

// moveBack gives a staged file its name again. A name that is taken meanwhile
// is not touched: the file comes beside it, under a name that says why.
func moveBack(stage *os.File, staged string, parent *os.File, base, id string) (as string, err error) {
	mine, err := idAt(stage, staged)
	if err != nil {
		return "", err
	}
	as = base
	for n := 1; n < 100; n++ {
		err = moveName(stage, staged, parent, as)
		if !errors.Is(err, unix.EEXIST) {
			return as, err
		}
		if there, err := idAt(parent, as); err == nil && there == mine {
			return as, unix.Unlinkat(int(stage.Fd()), staged, 0) // it has both names
		}
		as = beside(base, id, n)
	}
	return "", err
}

// beside makes a name like base that the kernel takes.
func beside(base, id string, n int) string {
	suffix := ".staunch-returned-" + id[:8]
	if n > 1 {
		suffix += fmt.Sprintf("-%d", n)
	}
	return base[:min(len(base), unix.NAME_MAX-len(suffix))] + suffix
}
