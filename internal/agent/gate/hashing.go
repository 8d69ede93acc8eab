// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

const (
	bigFile     = 4 << 20 // bytes; above, a file queues with the big ones
	hashersEach = 12      // contents read at once, of either class
	hashBuffer  = 64 << 10

	// writerWait is how long an execution waits for a writer to go, which most
	// do: a child that inherited the descriptor and has not executed yet.
	writerWait = 50 * time.Millisecond
)

// hashing reads contents in goroutines, so that the reader of events goes on.
// Big files wait for big files only: small ones have hashers of their own.
type hashing struct {
	j          *judge
	small, big chan []byte // free buffers; who holds one may read

	mu   sync.Mutex
	jobs map[version]*job // guarded by mu
}

// job is one content being read for all the events that ask about it.
type job struct {
	v       version
	fd      int32      // of the first event
	lease   lease      // on fd
	waiting []*waiting // guarded by hashing.mu
}

// waiting is an event whose time is running.
type waiting struct {
	event
	at       time.Time
	answered atomic.Bool
	timer    *time.Timer
}

func newHashing(j *judge) *hashing {
	h := &hashing{j: j, jobs: map[version]*job{}, small: make(chan []byte, hashersEach), big: make(chan []byte, hashersEach)}
	for range hashersEach {
		h.small <- make([]byte, hashBuffer)
		h.big <- make([]byte, hashBuffer)
	}
	return h
}

// wait starts the event's time; nil where too many wait already, and then the
// event has been answered.
func (h *hashing) wait(e event, at time.Time) *waiting {
	if h.j.pending.Add(1) > maxPending {
		h.j.pending.Add(-1)
		h.j.undecided(e, at)
		return nil
	}
	w := &waiting{event: e, at: at}
	w.timer = time.AfterFunc(h.j.set.Budget, func() {
		if w.answered.CompareAndSwap(false, true) {
			h.j.failOpens.Add(1)
			h.j.answer(w.event, h.j.set.fallback(), w.at)
		}
	})
	return w
}

// first claims the right to answer w.
func (h *hashing) first(w *waiting) bool {
	w.timer.Stop()
	h.j.pending.Add(-1)
	return w.answered.CompareAndSwap(false, true)
}

// waitForWriter is for a file that somebody has open for writing. The kernel
// itself does not execute such a file; but its check comes after our answer,
// and the size seen now says nothing about the size then. So: wait until the
// writer is gone, and refuse if it stays.
func (h *hashing) waitForWriter(e event, v version, at time.Time) {
	w := h.wait(e, at)
	if w == nil {
		return
	}
	go func() {
		l := leaseWriter
		for end := time.Now().Add(writerWait); l == leaseWriter && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
			l = takeLease(int(e.fd))
		}
		if !h.first(w) {
			closeEvent(e.fd)
			return
		}
		var st unix.Statx_t
		v, _, err := look(int(e.fd), &st)
		switch {
		case err != nil:
			h.j.undecided(e, at)
		case l == leaseWriter:
			h.j.writers.Add(1)
			h.j.answer(e, deny, at)
			closeEvent(e.fd)
		default:
			h.j.byContent(e, v, l, at)
		}
	}()
}

// start reads the content of e's file, or joins whoever is reading it.
func (h *hashing) start(e event, v version, l lease, at time.Time) {
	if v.size > h.j.set.MaxSize {
		h.j.undecided(e, at)
		return
	}
	w := h.wait(e, at)
	if w == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if had, ok := h.jobs[v]; ok && l == leaseHeld && had.lease == leaseHeld {
		had.waiting = append(had.waiting, w)
		return
	}
	jb := &job{v: v, fd: e.fd, lease: l, waiting: []*waiting{w}}
	if l == leaseHeld {
		h.jobs[v] = jb
	}
	go h.run(jb)
}

func (h *hashing) run(jb *job) {
	free := h.small
	if jb.v.size > bigFile {
		free = h.big
	}
	buf := <-free
	sum, err := h.read(jb, buf)
	free <- buf
	if err == nil && jb.lease == leaseHeld && jb.v.settled(time.Now()) {
		h.j.sums.put(jb.v, sum)
	}
	h.mu.Lock()
	if h.jobs[jb.v] == jb {
		delete(h.jobs, jb.v)
	}
	all := jb.waiting
	h.mu.Unlock()
	for _, w := range all {
		h.settle(w, sum, err, jb.lease)
	}
}

func (h *hashing) settle(w *waiting, sum filehash.Sum, err error, l lease) {
	if !h.first(w) {
		h.tooLate(w, sum, err)
		return
	}
	switch {
	case err == nil:
		h.j.bySum(w.event, sum, l, w.at)
	case errors.Is(err, errChanged):
		h.j.writers.Add(1)
		h.j.answer(w.event, deny, w.at)
		closeEvent(w.fd)
	default:
		h.j.undecided(w.event, w.at)
	}
}

// tooLate is for an event the setting has answered meanwhile. What runs now and
// should not is reported all the same.
func (h *hashing) tooLate(w *waiting, sum filehash.Sum, err error) {
	if err == nil && !h.j.set.FailClosed {
		if rule, ok := h.j.book.rule(sum); ok {
			audit := rule.do == doAudit
			if !audit {
				h.j.late.Add(1)
			}
			h.j.tell(w.event, Refusal{ID: rule.id, File: sum.Hash(), When: w.at, Late: !audit, Audit: audit})
			return
		}
	}
	closeEvent(w.fd)
}

var errChanged = errors.New("the file changed while it was read")

// read sums up the file. Where there is no lease, the version must be the same
// after it.
func (h *hashing) read(jb *job, buf []byte) (filehash.Sum, error) {
	h.j.hashed.Add(1)
	sum, err := sumFile(int(jb.fd), buf)
	if err != nil || jb.lease == leaseHeld {
		return sum, err
	}
	var st unix.Statx_t
	if v, _, err := look(int(jb.fd), &st); err != nil || v != jb.v {
		return sum, errChanged
	}
	return sum, nil
}

func sumFile(fd int, buf []byte) (filehash.Sum, error) {
	w := filehash.NewWriter()
	for off := int64(0); ; {
		n, err := unix.Pread(fd, buf, off)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return filehash.Sum{}, err
		case n == 0:
			return w.Sum(), nil
		case n < 0:
			return filehash.Sum{}, io.ErrUnexpectedEOF
		}
		off += int64(n)
		if _, err := w.Write(buf[:n]); err != nil {
			return filehash.Sum{}, err
		}
	}
}
