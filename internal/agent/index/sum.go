// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"crypto/sha1" //nolint:gosec // the API we keep names files by SHA-1
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

// summer reads files through descriptors and sums them up. One goroutine uses it.
type summer struct {
	buf    []byte
	one    hash.Hash // SHA-1
	two    hash.Hash // SHA-256
	worked func(n int)
}

const readBuf = 128 << 10 // fits the processor's own cache

func newSummer() *summer {
	return &summer{buf: make([]byte, readBuf), one: sha1.New(), two: sha256.New(), worked: func(int) {}} //nolint:gosec // see import
}

// tries bounds how often a file that changes while it is read is read again.
const tries = 3

var errChanging = errors.New("it changes while it is read")

// sizeLimit is how large a file is read, in bytes. Nobody names a content by
// its hash that takes a quarter of an hour to hash, but an attacker can make a
// file that looks 8 EiB large for nothing.
const sizeLimit = 1 << 40

var errTooLarge = fmt.Errorf("larger than %d GiB, which nothing here hashes", sizeLimit>>30)

// match reads fd and reports whether its content is the one h names. One digest
// decides, at its own full speed; both are computed only of what matches. What
// matched was the content, even if the file was renamed meanwhile; of what did
// not match that is known only if nothing changed.
func (s *summer) match(ctx context.Context, fd int, f *facts, h filehash.Hash) (sum filehash.Sum, found bool, err error) {
	for range tries {
		found, err = s.first(ctx, fd, f.size, h)
		if err == nil && found {
			sum, err = s.sum(ctx, fd, f.size)
			found = h.Matches(sum)
		}
		if err != nil && !errors.Is(err, errChanging) {
			return sum, false, err
		}
		before := *f
		after, err2 := look(fd, "")
		if err2 != nil {
			return sum, false, err2
		}
		*f = after
		if err == nil && (found || f.same(&before)) {
			return sum, found, nil
		}
	}
	return sum, false, errChanging
}

// settled reads fd until it has not changed while it was read, or read the same
// twice: then only names or rights change. It returns how the file was before
// the last read.
func (s *summer) settled(ctx context.Context, fd int, f facts) (filehash.Sum, facts, error) {
	var last filehash.Sum
	for range tries {
		sum, err := s.sum(ctx, fd, f.size)
		if err != nil && !errors.Is(err, errChanging) {
			return sum, f, err
		}
		after, err2 := look(fd, "")
		switch {
		case err2 != nil:
			return sum, f, err2
		case err == nil && (after.same(&f) || sum == last):
			return sum, f, nil
		case err == nil:
			last = sum
		}
		f = after
	}
	return filehash.Sum{}, f, errChanging
}

// first computes the one digest of h that decides.
func (s *summer) first(ctx context.Context, fd int, size int64, h filehash.Hash) (bool, error) {
	if h.SHA1.IsZero() {
		var got filehash.SHA256
		err := s.read(ctx, fd, size, s.two)
		s.two.Sum(got[:0])
		return got == h.SHA256, err
	}
	var got filehash.SHA1
	err := s.read(ctx, fd, size, s.one)
	s.one.Sum(got[:0])
	return got == h.SHA1, err
}

// sum computes both digests of the size bytes in fd.
func (s *summer) sum(ctx context.Context, fd int, size int64) (sum filehash.Sum, err error) {
	err = s.read(ctx, fd, size, s.one, s.two)
	s.one.Sum(sum.SHA1[:0])
	s.two.Sum(sum.SHA256[:0])
	sum.Size = size
	return sum, err
}

// read feeds exactly size bytes from the start of fd; a file of another length
// is changing.
func (s *summer) read(ctx context.Context, fd int, size int64, into ...hash.Hash) error {
	for _, h := range into {
		h.Reset()
	}
	if size > sizeLimit {
		return errTooLarge
	}
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := retry(func() (int, error) { return unix.Pread(fd, s.buf, at) })
		switch {
		case err != nil:
			return fmt.Errorf("cannot read: %w", err)
		case n == 0 && at == size:
			return nil
		case n == 0 || at+int64(n) > size:
			return errChanging
		}
		for _, h := range into {
			_, _ = h.Write(s.buf[:n]) // hash.Hash: never returns an error
		}
		at += int64(n)
		s.worked(n)
	}
}

// keep turns a descriptor into a file that blocks, as callers expect.
func keep(fd int, path string) (*os.File, error) {
	if err := unix.SetNonblock(fd, false); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}
