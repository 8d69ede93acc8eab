// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"sync"

	"staunch/internal/filehash"
)

// sums remembers the digests of file versions, the least recently used one
// forgotten first. It holds digests and not verdicts, so that a change of the
// rules makes nothing in it wrong. All its memory is taken at the start.
type sums struct {
	mu    sync.Mutex
	index map[version]int32
	nodes []sumNode // a ring through next and prev; nodes[0] is its anchor
	used  int32
}

type sumNode struct {
	next, prev int32
	key        version
	sum        filehash.Sum
}

func newSums(capacity int) *sums {
	return &sums{index: make(map[version]int32, capacity), nodes: make([]sumNode, capacity+1)}
}

func (s *sums) get(v version) (filehash.Sum, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.index[v]
	if !ok {
		return filehash.Sum{}, false
	}
	s.unlink(i)
	s.front(i)
	return s.nodes[i].sum, true
}

func (s *sums) put(v version, sum filehash.Sum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.index[v]
	switch {
	case ok:
		s.unlink(i)
	case int(s.used) < len(s.nodes)-1:
		s.used++
		i = s.used
	default:
		i = s.nodes[0].prev
		s.unlink(i)
		delete(s.index, s.nodes[i].key)
	}
	s.nodes[i].key, s.nodes[i].sum = v, sum
	s.index[v] = i
	s.front(i)
}

func (s *sums) unlink(i int32) {
	n := s.nodes[i]
	s.nodes[n.prev].next, s.nodes[n.next].prev = n.next, n.prev
}

func (s *sums) front(i int32) {
	first := s.nodes[0].next
	s.nodes[i].prev, s.nodes[i].next = 0, first
	s.nodes[first].prev, s.nodes[0].next = i, i
}
