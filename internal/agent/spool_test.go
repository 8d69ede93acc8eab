// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

// spooled is a spool with a clock, and its file.
type spooled struct {
	*spool
	t    testing.TB
	time time.Time
}

func newSpooled(t testing.TB) *spooled {
	s := &spooled{t: t, time: time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)}
	s.reopen(filepath.Join(t.TempDir(), "sightings.jsonl"))
	return s
}

// reopen reads the file as after a crash: nothing was done in good order.
func (s *spooled) reopen(path string) {
	s.t.Helper()
	p, err := openSpool(path, func() time.Time { return s.time }, slog.New(slog.NewTextHandler(s.t.Output(), nil)))
	if err != nil {
		s.t.Fatal(err)
	}
	s.spool = p
}

func sighting(n int, what, rule string) order.Sighting {
	f := order.Sighting{SHA1: filehash.SHA1{1}, What: what, Blocked: rule, Path: "/bin/x", Seen: time.Date(2026, 11, 25, 0, 0, n%60, 0, time.UTC)}
	binary.BigEndian.PutUint32(f.SHA256[:], uint32(n+1))
	return f
}

// says is a message, short.
func says(of *order.SightingsOf) string {
	if of == nil {
		return ""
	}
	var all []string
	for _, f := range of.Files {
		all = append(all, fmt.Sprintf("%d%s%s×%d", binary.BigEndian.Uint32(f.SHA256[:])-1, f.What[:1], f.Blocked, f.Times))
	}
	return strings.Join(all, " ")
}

func (s *spooled) want(want string) *order.SightingsOf {
	s.t.Helper()
	of := s.take()
	if got := says(of); got != want {
		s.t.Errorf("told %q, want %q", got, want)
	}
	return of
}

// Sightings outlast the process, in order and each once, until the server has them.
func TestSpoolOutlasts(t *testing.T) {
	s := newSpooled(t)
	for _, n := range []int{3, 1, 2, 1} {
		s.add(sighting(n, "executed", ""))
	}
	s.add(sighting(1, "blocked", "31"))
	s.reopen(s.path)
	first := s.want("3e×1 1e×2 2e×1 1b31×1")
	s.want("") // it is on its way
	s.add(sighting(3, "executed", ""))
	s.sync()
	s.reopen(s.path)
	second := s.want("3e×2 1e×2 2e×1 1b31×1")
	if second.Seq != first.Seq {
		t.Errorf("message %d, then %d of another run", first.Seq, second.Seq)
	}
	s.kept(7) // of another link
	s.add(sighting(3, "executed", ""))
	s.add(sighting(4, "found", ""))
	s.kept(second.Seq)
	s.want("4f×1")
	s.time = s.time.Add(repeatEvery)
	s.reopen(s.path)
	s.kept(s.want("3e×1 4f×1").Seq)
	s.reopen(s.path)
	s.want("")
	if b, err := os.ReadFile(s.path); err != nil || len(b) != 0 {
		t.Errorf("the file has %d bytes though nothing waits, %v", len(b), err)
	}
}

// A message that nobody answers is sent again after a time, or on a new link.
func TestSpoolSendsAgain(t *testing.T) {
	s := newSpooled(t)
	s.add(sighting(1, "executed", ""))
	s.want("1e×1")
	s.time = s.time.Add(answerIn - time.Second)
	s.want("")
	s.time = s.time.Add(time.Second)
	old := s.want("1e×1")
	s.again()
	now := s.want("1e×1")
	s.kept(old.Seq)
	if len(s.queue) != 1 {
		t.Error("an old answer took away what is on its way")
	}
	s.kept(now.Seq)
	s.want("")
}

// A program that is refused a thousand times a second is told of once a minute,
// with how often; the file does not grow by it.
func TestSpoolRepeats(t *testing.T) {
	s := newSpooled(t)
	var messages []string
	for range 300 { // seconds
		for range 1000 {
			s.add(sighting(1, "blocked", "31"))
		}
		s.sync()
		if of := s.take(); of != nil {
			messages = append(messages, says(of))
			s.kept(of.Seq)
		}
		s.time = s.time.Add(time.Second)
	}
	if got := strings.Join(messages, " "); got != "1b31×1000 1b31×60000 1b31×60000 1b31×60000 1b31×60000" {
		t.Errorf("told %s", got)
	}
	if fi, err := os.Stat(s.path); err != nil || fi.Size() > 512<<10 {
		t.Errorf("the file is %v, %v", fi.Size(), err)
	}
}

// Of more than there is room for, those go first that no rule is about.
func TestSpoolBounded(t *testing.T) {
	s := newSpooled(t)
	for n := range maxWaiting + 10 {
		s.add(sighting(n, "executed", ""))
	}
	s.add(sighting(9999, "blocked", "31"))
	if len(s.queue) != maxWaiting || len(s.waiting) != maxWaiting || s.dropped != 11 {
		t.Errorf("%d and %d wait, %d dropped", len(s.queue), len(s.waiting), s.dropped)
	}
	s.reopen(s.path)
	n, last := 0, ""
	for of := s.take(); of != nil; of = s.take() {
		if n += len(of.Files); len(of.Files) > order.MaxSightings {
			t.Errorf("%d in one message", len(of.Files))
		}
		last = says(of)
		s.kept(of.Seq)
	}
	if n != maxWaiting || !strings.HasSuffix(last, "9999b31×1") {
		t.Errorf("%d told, the last are …%s", n, last[max(0, len(last)-40):])
	}
}

// FuzzSpool: whatever lies in the file, it is read, and what is read is kept.
func FuzzSpool(f *testing.F) {
	s := newSpooled(f)
	s.add(sighting(1, "executed", ""))
	s.add(sighting(2, "blocked", "31"))
	whole, err := os.ReadFile(s.path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-5])
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add([]byte("\n\n{}\n[]\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSpooled(t)
		if err := os.WriteFile(s.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s.reopen(s.path)
		room := len(s.queue) < maxWaiting
		more := sighting(1_000_000, "executed", "")
		s.add(more)
		s.reopen(s.path)
		if room && s.waiting[keyOf(more)] == nil {
			t.Error("lost behind what was in the file")
		}
	})
}
