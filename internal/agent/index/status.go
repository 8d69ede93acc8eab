// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Status is how far the index is.
type Status struct {
	Complete   bool          `json:"complete"`             // all is listed and read, and nothing was missed
	Progress   float64       `json:"progress"`             // 0 to 1; 1 only when Complete
	Files      int64         `json:"files"`                // known
	Unread     int64         `json:"unread"`               // of these, changed and not read again yet
	Bytes      int64         `json:"bytes"`                // in all files known
	Read       int64         `json:"read"`                 // bytes read and hashed since the start
	Lag        time.Duration `json:"lag"`                  // between an event and its row, of the last batch: nanoseconds
	Overflows  int64         `json:"overflows"`            // times that more happened than could be followed
	Covered    []string      `json:"covered"`              // roots
	NotCovered []string      `json:"notCovered,omitempty"` // "path: reason"
	Unwatched  []string      `json:"unwatched,omitempty"`  // "path: reason": no events, so never vouched for without looking at everything
	DBBytes    int64         `json:"dbBytes"`
	Full       bool          `json:"full,omitempty"` // the ceiling is reached: no more rows
}

// Status looks at the rows. Complete is exact; figures that take long to count
// may be some seconds old.
func (x *Index) Status() Status {
	s := Status{Full: x.full.Load(), Read: x.hash.bytes.Load()}
	x.mu.Lock()
	volumes := slices.Clone(x.volumes)
	s.NotCovered = append(slices.Clone(x.gaps), x.remote...)
	gaps := len(x.gaps)
	x.mu.Unlock()
	done, total := 0.0, 0.0
	whole := len(volumes) > 0
	for _, v := range volumes {
		s.Covered = append(s.Covered, v.point)
		s.Overflows += v.overflows.Load()
		s.Lag = max(s.Lag, time.Duration(v.lag.Load()))
		if v.group == nil {
			s.Unwatched = append(s.Unwatched, gap(v.point, v.whyNot))
		}
		if part := v.notCovered(); part != "" {
			s.NotCovered = append(s.NotCovered, part)
			gaps++
		}
		whole = whole && v.ready.Load() && !x.pending(v)
		weight := 1 + float64(v.used())
		total += weight
		done += weight * x.progress(v)
	}
	for _, suffix := range []string{"", "-wal"} {
		if st, err := os.Stat(x.cfg.Path + suffix); err == nil {
			s.DBBytes += st.Size()
		}
	}
	unreadable := x.count(&s, volumes)
	s.Complete = whole && !s.Full && gaps == 0 && unreadable == 0
	switch {
	case s.Complete:
		s.Progress = 1
	case total > 0:
		s.Progress = min(done/total, 0.999)
	}
	return s
}

// count fills in what the rows tell, and returns how many folders cannot be read.
func (x *Index) count(s *Status, volumes []*volume) (unreadable int) {
	d, ctx := x.db.Load(), context.Background()
	if d == nil {
		return 0
	}
	for _, v := range volumes {
		bad := map[int64]string{}
		err := d.rows(ctx, "SELECT id, err FROM dir WHERE fs=? AND err IS NOT NULL LIMIT 100", []any{v.fs}, func(scan func(...any) error) error {
			var dir int64
			var text string
			err := scan(&dir, &text)
			bad[dir] = text
			return err
		})
		if err != nil {
			x.log.Debug("the index cannot count", "error", err)
		}
		for dir, text := range bad {
			names, _ := x.chain(ctx, dir) // the names as last seen; the reason counts
			s.NotCovered = append(s.NotCovered, gap(v.path(names...), text))
		}
		unreadable += len(bad)
		c := x.counts(v)
		s.Files, s.Bytes, s.Unread = s.Files+c.files, s.Bytes+c.bytes, s.Unread+c.unread
	}
	return unreadable
}

// counts are the figures of a volume. To count takes time in proportion to the
// files, so one answer serves for a while.
type counts struct {
	files, bytes, unread int64
	until                time.Time
}

func (x *Index) counts(v *volume) counts {
	v.countMu.Lock()
	defer v.countMu.Unlock()
	d, ctx, began := x.db.Load(), context.Background(), time.Now()
	if d == nil || began.Before(v.count.until) {
		return v.count
	}
	var c counts
	_, err := d.one(ctx, "SELECT COUNT(*), COALESCE(SUM(size), 0) FROM file WHERE fs=?", []any{v.fs}, &c.files, &c.bytes)
	if err == nil {
		_, err = d.one(ctx, "SELECT COUNT(*) FROM file WHERE fs=? AND since IS NOT NULL", []any{v.fs}, &c.unread)
	}
	if err != nil {
		x.log.Debug("the index cannot count", "error", err)
		return v.count
	}
	if cost := time.Since(began); cost > time.Millisecond {
		c.until = began.Add(20 * cost)
	}
	v.count = c
	return c
}

// used is how many inodes the volume's file system has in use, folders included.
func (v *volume) used() uint64 {
	var st unix.Statfs_t
	if unix.Statfs(v.point, &st) != nil || st.Ffree > st.Files {
		return 0
	}
	return st.Files - st.Ffree
}

// progress estimates how much of a volume is read, from 0 to 1.
func (x *Index) progress(v *volume) float64 {
	c := x.counts(v)
	total := float64(c.files)
	if !v.whole.Load() {
		total = max(total, float64(v.used()))
	}
	if total == 0 {
		return 0
	}
	return float64(c.files-c.unread) / total
}

// pending reports whether any file of a volume waits to be read.
func (x *Index) pending(v *volume) bool {
	var one int
	d := x.db.Load()
	if d == nil {
		return true
	}
	ok, err := d.one(context.Background(), "SELECT 1 FROM file WHERE fs=? AND since IS NOT NULL LIMIT 1", []any{v.fs}, &one)
	return ok || err != nil
}
