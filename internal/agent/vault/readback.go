// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"filippo.io/age"
)

// readers bounds how many cores read one sealed content back.
const readers = 4

// span is how much of it is compared at once, in bytes: whole chunks of age's.
const span = 512 << 10

// readBack reads what was sealed from the disk again, decrypts it and compares
// it with the file, which was hashed while it was encrypted: so it need not be
// hashed once more, and all cores can do it. A file with holes, or a small one,
// is hashed by one.
func (v *Vault) readBack(ctx context.Context, sealed, src *os.File, m *Manifest, unchanged func(context.Context) error) error {
	if m.Sparse || m.Size < 2*span {
		return v.verify(ctx, sealed, m)
	}
	plain, size, err := age.DecryptReaderAt(sealed, m.Stored, v.identity)
	if err != nil {
		return fmt.Errorf("%w: its content cannot be decrypted: %w", ErrDamaged, err)
	}
	if size != m.Size {
		return fmt.Errorf("%w: its content has %d bytes, the file has %d", ErrDamaged, size, m.Size)
	}
	working, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(readers, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			have, want := make([]byte, span), make([]byte, span)
			for working.Err() == nil {
				off := next.Add(span) - span
				if off >= size {
					return
				}
				n := min(span, size-off)
				if err := compare(readAt(plain), readAt(src), have[:n], want[:n], off); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	err = context.Cause(working)
	if errors.Is(err, ErrDamaged) { // or is it the file that has become another?
		err = errors.Join(unchanged(ctx), err)
	}
	return err
}

// compare reads a span from both.
func compare(plain, src func([]byte, int64) error, have, want []byte, off int64) error {
	if err := plain(have, off); err != nil {
		return fmt.Errorf("%w: its content cannot be decrypted: %w", ErrDamaged, err)
	}
	if err := src(want, off); err != nil {
		return err
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("%w: what was read back is not what the file has at byte %d", ErrDamaged, off)
	}
	return nil
}
