// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"staunch/internal/durable"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

const (
	maxWaiting  = 5000             // different sightings that wait for the server
	maxTold     = 4096             // meetings whose time is remembered
	repeatEvery = time.Minute      // what happens again and again is told of so often, with how often
	answerIn    = 30 * time.Second // then a message is sent again
)

// spool is what the device has to tell the server of files it met, until the
// server says that it is on record: each once, in the order in which they were
// first met, in a file of a line of JSON each (order.Sighting; of two about the
// same, the later holds), so that neither a day offline nor a crash loses them.
//
// A meeting that recurs, as of a program that is refused and started again a
// thousand times a second, is one line with a number.
//
// It is bounded: of more than maxWaiting those that no rule is about go first,
// then the newest, counted. An attacker who writes there makes the device lie,
// which takes its root.
type spool struct {
	path string // "": in memory only
	log  *slog.Logger
	now  func() time.Time

	mu      sync.Mutex
	queue   []met                   // guarded by mu, like all that follows
	waiting map[met]*order.Sighting //
	changed map[met]bool            // and not in the file as they are
	lines   int                     // of the file
	told    map[met]time.Time       // when the server had it
	flying  map[met]int64           // on the way, with how often each
	seq     int64                   // of that message
	sent    time.Time               //
	dropped int
}

// met is what makes two sightings one.
type met struct {
	file filehash.SHA256
	what string
	rule string
}

func keyOf(f order.Sighting) met { return met{f.SHA256, f.What, f.Blocked} }

// openSpool reads what an earlier run left. What cannot be read is left out: a
// crash may have torn the last line.
func openSpool(path string, now func() time.Time, log *slog.Logger) (*spool, error) {
	s := &spool{path: path, log: log, now: now, waiting: map[met]*order.Sighting{}, changed: map[met]bool{}, told: map[met]time.Time{}}
	if path == "" {
		return s, nil
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read sightings: %w", err)
	}
	for line := range bytes.Lines(b) {
		s.lines++
		var f order.Sighting
		if json.Unmarshal(line, &f) == nil && !f.SHA1.IsZero() && !f.SHA256.IsZero() {
			s.put(f)
		}
	}
	if len(b) > 0 && b[len(b)-1] != '\n' {
		s.rewrite() // nothing may be written behind half a line
	}
	return s, nil
}

// spoolPath is the file of this enrollment: what was met under another one is
// nobody's business. An agent that is not enrolled keeps none.
func (a *Agent) spoolPath() string {
	if a.deviceID() == "" {
		return ""
	}
	return a.state.path("sightings-" + a.deviceID() + ".jsonl")
}

// put takes f in the place of the one before it. It returns whether there is
// room. s.mu is held, or s is not shared yet.
func (s *spool) put(f order.Sighting) bool {
	k := keyOf(f)
	if _, ok := s.waiting[k]; !ok {
		if len(s.queue) >= maxWaiting && !s.makeRoom(k.rule != "") {
			return false
		}
		s.queue = append(s.queue, k)
	}
	s.waiting[k] = &f
	return true
}

// makeRoom drops the newest that no rule is about, for one that a rule is about.
func (s *spool) makeRoom(forRule bool) bool {
	s.dropped++
	if !forRule {
		return false
	}
	for i, k := range slices.Backward(s.queue) {
		if _, flies := s.flying[k]; k.rule == "" && !flies {
			s.queue = slices.Delete(s.queue, i, i+1)
			delete(s.waiting, k)
			delete(s.changed, k)
			return true
		}
	}
	return false
}

// add takes a sighting in. The first of its kind is in the file when it returns.
func (s *spool) add(f order.Sighting) {
	if f.SHA1.IsZero() || f.SHA256.IsZero() {
		return // an open of a gated file, whose order's receipt names it
	}
	f.Times = max(f.Times, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	k := keyOf(f)
	if have := s.waiting[k]; have != nil {
		have.Times += f.Times
		have.Seen, have.Path = f.Seen, f.Path
		s.changed[k] = true
		return
	}
	if !s.put(f) {
		return
	}
	s.changed[k] = true
	s.append()
}

// append writes what changed to the end of the file. s.mu is held.
func (s *spool) append() {
	if s.path == "" || len(s.changed) == 0 {
		clear(s.changed)
		return
	}
	if s.lines > 2*len(s.queue)+1000 {
		s.rewrite()
		return
	}
	var b bytes.Buffer
	for k := range s.changed {
		s.line(&b, k)
		s.lines++
	}
	f, err := os.OpenFile(s.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(b.Bytes())
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.log.Error("cannot keep sightings", "error", err) // they wait in memory
		return
	}
	clear(s.changed)
}

func (s *spool) line(b *bytes.Buffer, k met) {
	line, err := json.Marshal(s.waiting[k])
	if err != nil { // strings, numbers and times always encode
		s.log.Error("cannot keep a sighting", "error", err)
		return
	}
	b.Write(line)
	b.WriteByte('\n')
}

// rewrite makes the file what waits. s.mu is held.
func (s *spool) rewrite() {
	if s.path == "" {
		return
	}
	var b bytes.Buffer
	for _, k := range s.queue {
		s.line(&b, k)
	}
	if err := durable.WriteFile(s.path, b.Bytes(), 0o600); err != nil {
		s.log.Error("cannot keep sightings", "error", err)
		return
	}
	s.lines = len(s.queue)
	clear(s.changed)
}

// sync makes sure that what has come outlasts the machine's fall.
func (s *spool) sync() {
	s.mu.Lock()
	s.append()
	if s.dropped > 0 {
		s.log.Warn("sightings were dropped", "count", s.dropped)
		s.dropped = 0
	}
	path, some := s.path, len(s.queue) > 0
	s.mu.Unlock()
	if path == "" || !some {
		return
	}
	f, err := os.Open(path)
	if err == nil {
		err = errors.Join(f.Sync(), f.Close())
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Error("cannot keep sightings", "error", err)
	}
}

// take returns the next message, the oldest first; nil when there is none, or
// one is on its way.
func (s *spool) take() *order.SightingsOf {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if len(s.flying) > 0 && now.Sub(s.sent) < answerIn {
		return nil
	}
	s.flying = map[met]int64{}
	of := &order.SightingsOf{Seq: s.seq + 1}
	for _, k := range s.queue {
		if told, ok := s.told[k]; ok && now.Sub(told) < repeatEvery {
			continue
		}
		f := *s.waiting[k]
		of.Files = append(of.Files, f)
		s.flying[k] = f.Times
		if len(of.Files) == order.MaxSightings {
			break
		}
	}
	if len(of.Files) == 0 {
		return nil
	}
	s.seq++
	s.sent = now
	return of
}

// kept drops what the server has.
func (s *spool) kept(seq int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq != s.seq || len(s.flying) == 0 {
		return // an answer to one that was sent again since
	}
	if len(s.told) > maxTold {
		clear(s.told)
	}
	for k, times := range s.flying {
		f := s.waiting[k]
		if f == nil {
			continue
		}
		s.told[k] = s.now()
		if f.Times -= times; f.Times <= 0 {
			delete(s.waiting, k)
		}
	}
	s.queue = slices.DeleteFunc(s.queue, func(k met) bool { return s.waiting[k] == nil })
	s.flying = nil
	s.rewrite()
}

// again has what was on its way sent once more: the link is another one.
func (s *spool) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.flying = nil
}
