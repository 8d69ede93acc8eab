// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"os"
	"sync"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// sums answers "has this open file the content?" for one containment and
// remembers the answers: an executable that runs a thousand times is hashed once.
// It is safe for concurrent use.
type sums struct {
	want filehash.Hash

	mu   sync.Mutex
	seen map[inode.ID]seenSum // guarded by mu
}

type seenSum struct {
	stat inode.Stat
	sum  filehash.Sum
}

func newSums(want filehash.Hash) *sums {
	return &sums{want: want, seen: map[inode.ID]seenSum{}}
}

// of returns the digests of an open file, whatever its offset is.
func (s *sums) of(f *os.File) (filehash.Sum, error) {
	st, err := inode.Of(f)
	if err != nil {
		return filehash.Sum{}, err
	}
	s.mu.Lock()
	known, ok := s.seen[st.ID]
	s.mu.Unlock()
	if ok && known.stat.Same(st) {
		return known.sum, nil
	}
	sum, err := filehash.Compute(io.NewSectionReader(f, 0, 1<<62))
	if err != nil {
		return filehash.Sum{}, err
	}
	s.mu.Lock()
	s.seen[st.ID] = seenSum{st, sum}
	s.mu.Unlock()
	return sum, nil
}

// match is of for those who only ask whether it is the one.
func (s *sums) match(f *os.File) (bool, error) {
	sum, err := s.of(f)
	return err == nil && s.want.Matches(sum), err
}
