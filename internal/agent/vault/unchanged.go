// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// lease asks the kernel for a read lease: it is granted only if nobody has the
// file open for writing, and stands only as long as nobody opens it so. Not
// every file system and user gets one; then contents are compared instead.
func lease(f *os.File) bool {
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	return err == nil
}

// unchanged reports whether the staged file still has the content it was
// checked to have.
func (g *Grabbed) unchanged(ctx context.Context) error {
	if g.leased {
		// While a breaker waits, F_GETLEASE says what the lease must become.
		if have, err := unix.FcntlInt(g.file.Fd(), unix.F_GETLEASE, 0); err == nil && have == unix.F_RDLCK {
			return nil
		}
		// Somebody opens it for writing. To open it is not yet to change it:
		// else a file could be kept from ever being taken by opening it.
		g.leased = false
	}
	now, err := inode.Of(g.file)
	if err != nil {
		return err
	}
	// The content decides, never the times: they can be set, and a mapping
	// writes without touching them.
	var sum filehash.Sum
	if now.Size == g.stat.Size {
		if sum, err = hashFile(ctx, g.file, now.Size); err != nil {
			return err
		}
	}
	if sum != g.sum {
		return fmt.Errorf("%w: somebody wrote to it", ErrChanged)
	}
	return nil
}
