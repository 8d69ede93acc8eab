// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

// hasher reads what is dirty, in the background and, for a Barrier, at once.
type hasher struct {
	x     *Index
	kick  chan struct{}
	bytes atomic.Int64 // read since the start
}

// job is one dirty file and what came of reading it.
type job struct {
	v     *volume
	id    int64
	ino   int64
	size  int64
	heat  int64
	spots []spot
	own   handle // of the file itself, "" when not known

	fd    int   // open until the outcome is stored; -1: could not be opened
	facts facts // before it was read
	warm  bool  // it had not rested: the stamp may not tell the next change
	sum   filehash.Sum
	err   error
}

// spot is one name of a file.
type spot struct {
	dir  dirRow
	name string
}

// batch bounds the files that are open at a time.
const batch = 64

func (h *hasher) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// run hashes what is due until ctx is done. The reading has a thread of its own
// at idle priority, which holds no lock.
func (h *hasher) run(ctx context.Context) {
	jobs, done := make(chan []*job), make(chan struct{})
	go func() {
		defer close(done)
		idle()
		h.read(ctx, jobs, done)
	}()
	h.first(ctx)
	for ctx.Err() == nil {
		todo, err := h.due(ctx)
		if err != nil && ctx.Err() == nil {
			h.trouble(err)
		}
		if len(todo) == 0 {
			h.waitFor(ctx)
			continue
		}
		jobs <- todo
		<-done
		h.store(ctx, todo, 0)
	}
	close(jobs)
	<-done
}

// waitFor waits until more may be due.
func (h *hasher) waitFor(ctx context.Context) {
	t := time.NewTimer(min(time.Second, max(h.x.cfg.Debounce/2, 10*time.Millisecond)))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-h.kick:
	case <-t.C:
	}
}

func (h *hasher) read(ctx context.Context, jobs <-chan []*job, done chan<- struct{}) {
	sum := newSummer()
	pace := pacer{share: h.x.cfg.Share}
	pace.start()
	sum.worked = func(n int) {
		h.bytes.Add(int64(n))
		if time.Since(pace.began) > sliceOf {
			pace.rest(ctx)
			pace.start()
		}
	}
	for todo := range jobs {
		for _, j := range todo {
			h.readIdle(ctx, j, sum)
		}
		sum.worked(0)
		done <- struct{}{}
	}
}

// readIdle reads a job's file unless it was written a moment ago.
func (h *hasher) readIdle(ctx context.Context, j *job, sum *summer) {
	if !h.open(ctx, j) {
		return
	}
	now := time.Now()
	if age := now.Sub(time.Unix(0, j.facts.ctime)); age >= 0 && age < h.x.cfg.Debounce {
		j.err = errStillWarm
		return
	}
	j.hash(ctx, sum)
}

var errStillWarm = errors.New("it was written a moment ago")

// open opens the job's file by any of its names, else by its handle.
func (h *hasher) open(ctx context.Context, j *job) bool {
	j.fd = -1
	mount, err := j.v.open()
	if err != nil {
		j.err = err
		return false
	}
	defer closeFD(mount)
	j.fd, _, j.err = h.x.openFile(ctx, j.v, mount, j.ino, j.spots, j.own)
	if j.err == nil {
		j.facts, j.err = look(j.fd, "")
	}
	return j.err == nil
}

// hash reads the open file. A stamp cannot tell two writes within one tick of
// the clock apart, so the file must have rested for longer than a tick.
func (j *job) hash(ctx context.Context, s *summer) {
	for range tries {
		var rest time.Duration
		if rest, j.warm = j.facts.warm(); !j.warm {
			break
		}
		sleep(ctx, rest)
		if j.facts, j.err = look(j.fd, ""); j.err != nil {
			return
		}
	}
	_, j.warm = j.facts.warm()
	j.sum, j.facts, j.err = s.settled(ctx, j.fd, j.facts)
}

// warm reports whether a file changed so lately that its stamp may not tell the
// next change, and how long it still is.
func (f *facts) warm() (time.Duration, bool) {
	rest := tick - time.Since(time.Unix(0, f.ctime))
	return rest, rest > 0 && rest <= tick // a time in the future is another clock's
}

// tick is longer than any clock that stamps files with (CONFIG_HZ=100), with room.
const tick = 20 * time.Millisecond

const jobColumns = `SELECT f.id, f.fs, f.ino, f.size, f.heat, COALESCE(f.handle, x''), COALESCE(n.name, x''), COALESCE(d.id, 0), COALESCE(d.handle, x''), COALESCE(d.ino, 0)
	FROM file f LEFT JOIN name n ON n.file=f.id LEFT JOIN dir d ON d.id=n.dir `

// due returns the next files to read.
func (h *hasher) due(ctx context.Context) ([]*job, error) {
	return h.jobs(ctx, jobColumns+"WHERE f.since IS NOT NULL AND f.due<=? ORDER BY f.due, f.id LIMIT ?",
		h.x.now().UnixMilli(), batch)
}

// jobs reads what jobColumns tell. Files of file systems that are away are put off.
func (h *hasher) jobs(ctx context.Context, query string, args ...any) (list []*job, err error) {
	d := h.x.db.Load()
	if d == nil {
		return nil, nil
	}
	active := h.x.active()
	var away []int64
	err = d.rows(ctx, query, args, func(scan func(...any) error) error {
		var fs int64
		var own, name, dir []byte
		j := &job{fd: -1}
		var s spot
		if err := scan(&j.id, &fs, &j.ino, &j.size, &j.heat, &own, &name, &s.dir.id, &dir, &s.dir.ino); err != nil {
			return err
		}
		if j.v = active[fs]; j.v == nil {
			away = append(away, j.id)
			return nil
		}
		if n := len(list); n > 0 && list[n-1].id == j.id {
			j = list[n-1]
		} else {
			list = append(list, j)
		}
		j.own = handle(own)
		if s.dir.id != 0 {
			s.dir.handle, s.name = handle(dir), string(name)
			j.spots = append(j.spots, s)
		}
		return nil
	})
	if err == nil && len(away) > 0 {
		err = d.update(func(t tx) error {
			for _, id := range away {
				if err := t.putOff(id, nil, h.x.now(), time.Hour, 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return list, err
}

// store writes what came of the jobs and closes their files. With a barrier's
// epoch, what was read whole but changed again since counts as changed after it.
func (h *hasher) store(ctx context.Context, all []*job, barrier int64) {
	byVolume := map[*volume][]*job{}
	for _, j := range all {
		byVolume[j.v] = append(byVolume[j.v], j)
	}
	for v, jobs := range byVolume {
		v.mu.Lock() // no event is taken in meanwhile: what look says now is newer than any row
		err := h.x.update(func(t tx) error {
			for _, j := range jobs {
				if err := h.outcome(t, j, barrier); err != nil {
					return err
				}
			}
			return nil
		})
		v.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			h.trouble(err)
		}
	}
	for _, j := range all {
		if j.fd < 0 {
			continue
		}
		closeFD(j.fd)
		if j.err == nil && h.x.cfg.Read != nil {
			h.x.cfg.Read(j.sum)
		}
	}
}

func (h *hasher) outcome(t tx, j *job, barrier int64) error {
	now := h.x.now()
	wait := max(h.x.cfg.Debounce, 10*time.Millisecond) << j.heat
	if errors.Is(j.err, context.Canceled) || errors.Is(j.err, context.DeadlineExceeded) {
		return nil // given up, which says nothing of the file
	}
	if j.fd < 0 {
		if gone(j.err) || errors.Is(j.err, unix.ESTALE) {
			j.err = nil // an event will tell
		}
		return t.putOff(j.id, j.err, now, wait, 1)
	}
	is, err := look(j.fd, "")
	if err != nil {
		return t.putOff(j.id, err, now, wait, 1)
	}
	if _, err := t.exec("UPDATE file SET size=?, mtime=?, ctime=? WHERE id=? AND ino=?", is.size, is.mtime, is.ctime, j.id, j.ino); err != nil {
		return err
	}
	switch {
	case j.err == nil && !j.warm && is.same(&j.facts):
		return t.hashed(j.id, &j.sum, now)
	case j.err == nil:
		return t.examined(j.id, &j.sum, now, wait, barrier)
	case errors.Is(j.err, errStillWarm):
		return t.putOff(j.id, nil, now, h.x.cfg.Debounce, 0)
	default:
		return t.putOff(j.id, j.err, now, wait, 1)
	}
}

func (h *hasher) trouble(err error) {
	h.x.fail("", fmt.Errorf("cannot store hashes: %w", err))
}

// first puts what Config.First names at the head of the queue.
func (h *hasher) first(ctx context.Context) {
	if h.x.cfg.First == nil {
		return
	}
	for _, path := range h.x.cfg.First() {
		if ctx.Err() != nil {
			return
		}
		if err := h.x.ahead(path); err != nil {
			h.x.log.Debug("an executable is not hashed first", "path", path, "error", err)
		}
	}
}
