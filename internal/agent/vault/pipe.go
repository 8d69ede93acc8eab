// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/sha1" //nolint:gosec // see hashFile
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"staunch/internal/filehash"
)

const (
	blockSize = 256 << 10 // bytes read at once
	blocks    = 16        // in flight
	holeStep  = 16 << 20  // bytes of a hole handled at once
	minHole   = 4 << 10   // bytes; smaller ones are data
	maxExtent = 4096      // extents an item may have
)

// block is a piece of a file: bytes, or hole zeros that take no room.
type block struct {
	off  int64
	data []byte
	hole int64
}

// each calls emit for every piece of the file in order; get gives it a buffer
// of blockSize and read fills it with what lies at off.
func (p plan) each(ctx context.Context, get func() ([]byte, error), read func([]byte, int64) error, emit func(block)) error {
	ext := p.extents
	if !p.sparse {
		ext = []Extent{{Len: p.size}}
	}
	at := int64(0)
	for _, e := range append(ext[:len(ext):len(ext)], Extent{Off: p.size}) {
		for at < e.Off {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := min(e.Off-at, holeStep)
			emit(block{off: at, hole: n})
			at += n
		}
		for end := e.Off + e.Len; at < end; {
			buf, err := get()
			if err != nil {
				return err
			}
			buf = buf[:min(blockSize, end-at)]
			if err := read(buf, at); err != nil {
				return err
			}
			emit(block{off: at, data: buf})
			at += int64(len(buf))
		}
	}
	return nil
}

// run passes the file's pieces to every sink. In a file of more than one block
// reading and every sink run side by side.
func (p plan) run(ctx context.Context, read func([]byte, int64) error, sinks ...func(block) error) error {
	if p.stored() <= blockSize {
		return p.runSmall(ctx, read, sinks)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	free := make(chan []byte, blocks)
	for range blocks {
		free <- make([]byte, blockSize)
	}
	type shared struct {
		block
		users atomic.Int32
	}
	queues := make([]chan *shared, len(sinks))
	var done sync.WaitGroup
	for i, sink := range sinks {
		queues[i] = make(chan *shared, blocks)
		done.Go(func() {
			for s := range queues[i] {
				if ctx.Err() == nil {
					if err := sink(s.block); err != nil {
						cancel(err)
					}
				}
				if s.users.Add(-1) == 0 && s.data != nil {
					free <- s.data[:blockSize] // never blocks: there are no more of them than it holds
				}
			}
		})
	}
	get := func() ([]byte, error) {
		select {
		case b := <-free:
			return b, ctx.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	err := p.each(ctx, get, read, func(b block) {
		s := &shared{block: b}
		s.users.Store(int32(len(sinks)))
		for _, q := range queues {
			q <- s // its sink takes it, even after an error
		}
	})
	for _, q := range queues {
		close(q)
	}
	done.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause // what stopped the others, not that they were stopped
	}
	return err
}

func (p plan) runSmall(ctx context.Context, read func([]byte, int64) error, sinks []func(block) error) error {
	var failed error
	buf := make([]byte, min(blockSize, max(p.stored(), 1)))
	get := func() ([]byte, error) { return buf[:cap(buf)], errors.Join(failed, ctx.Err()) }
	err := p.each(ctx, get, read, func(b block) {
		for _, sink := range sinks {
			if failed == nil {
				failed = sink(b)
			}
		}
	})
	return errors.Join(failed, err)
}

// readAt reads exactly what is asked for: a file that has become shorter has changed.
func readAt(f io.ReaderAt) func([]byte, int64) error {
	return func(p []byte, off int64) error {
		n, err := f.ReadAt(p, off)
		if n == len(p) {
			return nil
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: it is shorter", ErrChanged)
		}
		return err
	}
}

// readNext reads from a stream that holds the extents one behind the other.
func readNext(r io.Reader) func([]byte, int64) error {
	return func(p []byte, _ int64) error {
		_, err := io.ReadFull(r, p)
		return err
	}
}

// summing returns a sink that writes what the file holds, zeros included, to w.
func summing(w io.Writer) func(block) error {
	var zeros []byte
	return func(b block) error {
		if b.hole > 0 && zeros == nil {
			zeros = make([]byte, blockSize)
		}
		for n := b.hole; n > 0; n -= blockSize {
			if _, err := w.Write(zeros[:min(n, blockSize)]); err != nil {
				return err
			}
		}
		_, err := w.Write(b.data)
		return err
	}
}

// storing returns a sink that writes only what takes room to w.
func storing(w io.Writer) func(block) error {
	return func(b block) error {
		_, err := w.Write(b.data)
		return err
	}
}

// hashFile sums up size bytes of f, the two digests side by side where it is large.
func hashFile(ctx context.Context, f *os.File, size int64) (filehash.Sum, error) {
	one, two := sha1.New(), sha256.New() //nolint:gosec // as filehash, which computes them one behind the other
	if err := planOf(f, size).run(ctx, readAt(f), summing(one), summing(two)); err != nil {
		return filehash.Sum{}, err
	}
	s := filehash.Sum{Size: size}
	one.Sum(s.SHA1[:0])
	two.Sum(s.SHA256[:0])
	return s, nil
}

// sha256of returns a sink that computes only the digest that decides, and the result.
func sha256of() (func(block) error, func() filehash.SHA256) {
	h := sha256.New()
	return summing(h), func() (d filehash.SHA256) {
		h.Sum(d[:0])
		return d
	}
}
