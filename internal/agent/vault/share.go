// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// Copies of one file that one order takes have one sealed content: the first is
// encrypted and verified, the items of the others are further names of its
// content. Each item can be purged by itself; the last one takes the bytes with it.

// shareKey is what copies must have in common.
type shareKey struct {
	order string
	sum   filehash.Sum
}

// share is the first of them; all but ready is written before that is closed.
type share struct {
	ready  chan struct{}
	id     string // of the item; empty: it could not be sealed
	plan   plan
	stored int64       // bytes
	was    sealedBytes // when it was verified
}

// sealedBytes tells whether a sealed content is the one that was verified: whoever
// writes to it changes one of these.
type sealedBytes struct {
	ino   uint64
	size  int64
	mtime unix.Timespec
}

func bytesOf(path string) (sealedBytes, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return sealedBytes{st.Ino, st.Size, st.Mtim}, err
}

// maxShares bounds what is remembered.
const maxShares = 64

// sharing returns the first copy's share; mine says that this is the first,
// and the caller then closes ready.
func (v *Vault) sharing(m *Manifest) (s *share, mine bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k := shareKey{m.Order, m.sum()}
	if s := v.shared[k]; s != nil {
		return s, false
	}
	if len(v.shared) >= maxShares {
		clear(v.shared) // who waits for one has it
	}
	s = &share{ready: make(chan struct{})}
	v.shared[k] = s
	return s, true
}

// storeAlike is store for one of many copies of an order.
func (v *Vault) storeAlike(ctx context.Context, src *os.File, m *Manifest, unchanged func(context.Context) error) error {
	s, mine := v.sharing(m)
	if mine {
		defer close(s.ready)
		if err := v.store(ctx, src, m, unchanged); err != nil {
			return err
		}
		if was, err := bytesOf(v.contentPath(m.ID)); err == nil {
			s.id, s.plan, s.stored, s.was = m.ID, m.plan(), m.Stored, was
		}
		return nil
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p := planOf(src, m.Size); s.id != "" && p.sparse == s.plan.sparse && slices.Equal(p.extents, s.plan.extents) {
		m.Sparse, m.Extents, m.Stored = p.sparse, p.extents, s.stored
		if linked, err := v.link(ctx, s, m, unchanged); linked {
			return err
		} else if err != nil {
			return err
		}
	}
	return v.store(ctx, src, m, unchanged)
}

// link makes an item of a content that is sealed and verified. linked is false
// if that content cannot have another name: it was put back or written to
// meanwhile, has too many, or the file system has no links.
func (v *Vault) link(ctx context.Context, s *share, m *Manifest, unchanged func(context.Context) error) (linked bool, err error) {
	if err := os.Link(v.contentPath(s.id), v.contentPath(m.ID)); err != nil {
		return false, nil
	}
	if is, err := bytesOf(v.contentPath(m.ID)); err != nil || is != s.was {
		return false, v.drop(m.ID)
	}
	v.cfg.Step("seal:content")
	err = unchanged(ctx)
	if err == nil {
		err = v.writeManifest(m)
	}
	if err != nil {
		err = errors.Join(full(err), v.drop(m.ID))
	}
	return true, err
}

// unlinkContent removes a name of sealed content, and counts its bytes as free
// if it was the last.
func (v *Vault) unlinkContent(id string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var st unix.Stat_t
	err := unix.Lstat(v.contentPath(id), &st)
	if err == nil {
		err = os.Remove(v.contentPath(id))
	}
	if err == nil && st.Nlink == 1 {
		v.used -= st.Size
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// measure adds up the sealed content, once what has several names.
func (v *Vault) measure() (n int64, err error) {
	ids, err := v.ids("items", ".age")
	seen := map[inode.ID]bool{}
	for _, id := range ids {
		var st unix.Stat_t
		at := inode.ID{}
		if unix.Lstat(v.contentPath(id), &st) == nil {
			at = inode.ID{Dev: st.Dev, Ino: st.Ino}
		}
		if !seen[at] {
			n += st.Size
		}
		seen[at] = true
	}
	return n, err
}
