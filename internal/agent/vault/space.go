// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// overhead is what an item takes beside its content, in bytes: header for some
// recipients, manifest, intent.
const overhead = 32 << 10

// sealedSize is the room that n bytes of content need, in bytes, generously:
// age adds 16 to every 64 KiB.
func sealedSize(n int64) int64 { return n + n>>12 + overhead }

// Room reports, as an error that matches ErrNoSpace, whether n bytes of
// content surely do not fit into the vault now.
func (v *Vault) Room(n int64) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.room(sealedSize(n))
}

// room is called with mu held.
func (v *Vault) room(need int64) error {
	if c := v.cfg.Ceiling; c > 0 && v.used+v.reserved+need > c {
		return fmt.Errorf("%w: %d bytes are needed, %d of the %d allowed are taken; purge items or raise the vault's ceiling", ErrNoSpace, need, v.used+v.reserved, c)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(v.dir, &st); err != nil {
		return fmt.Errorf("cannot see how much room the vault has: %w", err)
	}
	if st.Blocks == 0 {
		return nil // a file system without a limit of its own
	}
	free := int64(st.Bavail) * st.Bsize
	if os.Geteuid() == 0 {
		free = int64(st.Bfree) * st.Bsize
	}
	if v.reserved+need > free {
		return fmt.Errorf("%w: %d bytes are needed, the disk of %s has %d; free some or purge items", ErrNoSpace, v.reserved+need, v.dir, free)
	}
	return nil
}

// reserve sets room for n bytes of content aside until it is given back.
func (v *Vault) reserve(n int64) (giveBack func(), err error) {
	need := sealedSize(n)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.room(need); err != nil {
		return nil, err
	}
	v.reserved += need
	return func() { v.account(0, -need) }, nil
}

func (v *Vault) account(used, reserved int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.used += used
	v.reserved += reserved
}

// noRoomError is ErrNoSpace of another disk than the vault's.
type noRoomError struct {
	need int64 // bytes
	dir  order.Text
	err  error
}

func (e *noRoomError) Error() string {
	return fmt.Sprintf("no room for %d bytes in %q: free some, or choose another destination: %v", e.need, e.dir, e.err)
}
func (e *noRoomError) Unwrap() error        { return e.err }
func (e *noRoomError) Is(target error) bool { return target == ErrNoSpace }

// noRoomAt is full for the folder of a file that is given back.
func noRoomAt(dir *os.File, m *Manifest, err error) error {
	if errors.Is(full(err), ErrNoSpace) && !errors.Is(err, ErrNoSpace) {
		return &noRoomError{m.plan().stored(), order.TextOf(dir.Name()), err}
	}
	return err
}

// full turns the ways of a disk to say that it is full into ErrNoSpace.
func full(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}
