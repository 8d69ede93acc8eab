// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"math/bits"
	"slices"

	"golang.org/x/mod/sumdb/tlog"
)

// Tree is the right edge of the Merkle tree over a log: all that is needed to
// append to it and to know its root. The zero value is the empty tree. A Tree is
// a value: an Append leaves copies made before it as they were, so that
// whoever has to take lines back keeps the Tree from before them.
type Tree struct {
	size int64
	edge []tlog.Hash // the roots of the perfect subtrees, widest (leftmost) first: one per bit set in size
}

// Size is the number of lines.
func (t Tree) Size() int64 { return t.size }

// Append adds a line and returns the hashes that it completes: its own, then
// those of the subtrees that end with it, each twice as wide as the one before.
// They are the line's stored hashes; see HashIndex.
func (t *Tree) Append(leaf []byte) []tlog.Hash { return t.append(tlog.RecordHash(leaf)) }

func (t *Tree) append(h tlog.Hash) []tlog.Hash {
	width := bits.TrailingZeros64(^uint64(t.size)) // trailing ones: the subtrees this line closes
	done := make([]tlog.Hash, 1, width+1)
	done[0] = h
	left := len(t.edge)
	for range width {
		left--
		h = tlog.NodeHash(t.edge[left], h)
		done = append(done, h)
	}
	t.edge = append(slices.Clip(t.edge[:left]), h)
	t.size++
	return done
}

// Root is the hash of the whole tree, as RFC 6962 and tlog define it.
func (t Tree) Root() tlog.Hash {
	if t.size == 0 {
		h, _ := tlog.TreeHash(0, nil) // no error without lines: the reader is not asked
		return h
	}
	root := t.edge[len(t.edge)-1]
	for i := len(t.edge) - 2; i >= 0; i-- {
		root = tlog.NodeHash(t.edge[i], root)
	}
	return root
}

// LoadTree restores the tree of the first size lines from their stored hashes.
func LoadTree(size int64, r tlog.HashReader) (Tree, error) {
	var want []int64
	for lo, rest := int64(0), size; rest > 0; {
		level := bits.Len64(uint64(rest)) - 1
		want = append(want, tlog.StoredHashIndex(level, lo>>level))
		lo, rest = lo+1<<level, rest-1<<level
	}
	if len(want) == 0 {
		return Tree{}, nil
	}
	edge, err := r.ReadHashes(want)
	if err != nil {
		return Tree{}, fmt.Errorf("cannot load the audit log's tree of %d lines: %w", size, err)
	}
	return Tree{size: size, edge: edge}, nil
}

// HashIndex says where tlog's stored hash index lies: the line that it was
// stored with, and its place among that line's stored hashes.
func HashIndex(index int64) (line int64, place int) {
	level, n := tlog.SplitStoredHashIndex(index)
	return (n+1)<<level - 1, level
}
