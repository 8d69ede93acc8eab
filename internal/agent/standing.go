// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"
	"sync"

	"staunch/internal/agent/process"
	"staunch/internal/filehash"
)

// maxStanding bounds the holds that stand: each costs a look at every program
// that is started and has one of their sizes.
const maxStanding = 64

// standing are the holds that outlast their containments. The gate refuses to
// start a contained content from the file systems it covers; these kill what is
// started where it does not reach: from memory, and from file systems that only
// their processes have mounted. They need the rung that sees every execution,
// and they see it when it has begun: such a program runs for the moment that it
// takes to hash it.
type standing struct {
	holder *process.Holder
	log    *slog.Logger

	mu    sync.Mutex
	holds map[filehash.Hash]*process.Hold // guarded by mu
}

// keep holds a content from now on, until it is released. size is in bytes;
// program says that it is known to be no script, so that not every execution has
// to be looked at.
func (s *standing) keep(h filehash.Hash, size int64, program bool) {
	if rung, _ := s.holder.Rung(); rung != process.RungBPF || size <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds[h] != nil {
		return
	}
	if len(s.holds) >= maxStanding {
		s.log.Warn("too many contents are held; this one is refused by the gate alone", "hash", h.String(), "most", maxStanding)
		return
	}
	d, err := s.holder.Arm(process.Target{Match: newSums(h).match, Sum: h.Matches, Size: size, Program: program, Seen: s.seen})
	if err != nil {
		s.log.Warn("this content is refused by the gate alone", "hash", h.String(), "error", err)
		return
	}
	if s.holds == nil {
		s.holds = map[filehash.Hash]*process.Hold{}
	}
	s.holds[h] = d
}

// seen is told of each process that was killed.
func (s *standing) seen(m process.Match) {
	s.log.Warn("refused", "path", m.Exe, "pid", m.PID, "how", m.How, "killed", m.Killed)
	if m.File != nil {
		_ = m.File.Close() // read only
	}
}

// release lets a content run again.
func (s *standing) release(sum filehash.Sum) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, d := range s.holds {
		if h.Matches(sum) {
			d.Release()
			delete(s.holds, h)
		}
	}
}
