// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxReaders bounds how many may be stuck in reading an event at once. The
	// event that frees the first is behind those that came before it, so there
	// must be as many as processes open such a file at the same instant.
	// Beyond, the supervisor answers.
	maxReaders = 512
	// relieveAfter is how long a reader may be in reading an event, which is
	// the kernel opening its file for us, before another reads on.
	relieveAfter = time.Millisecond
	// relievedFor is how long another stays when it is not needed any more.
	relievedFor = 10 * time.Millisecond
)

// readers take up events. There is one, as a rule.
//
// Reading an event opens its file for us, and that alone may raise another
// event: of a file on an overlay the kernel opens the file of the layer as
// well, in the same thread, and if that is marked too it asks us. Whoever reads
// would wait for itself for ever; so somebody else reads on meanwhile.
type readers struct {
	fan   group
	start time.Time
	take  func(e event, at time.Time, st *unix.Statx_t) // answers, now or later; of several readers
	// refused: the kernel could not open an event's file for us and refused the
	// event, for want of descriptors or because the file fails to open.
	refused func(error)
	over    func() bool // nobody reads any more; nil = never

	busy   [maxReaders]atomic.Int64 // since when it is at its events, in ns since start; 0 = at none
	on     [maxReaders]atomic.Bool  // it reads, or is about to
	relief sync.WaitGroup           // all but the first
}

// read takes events until the group fails or all is over. It belongs on a
// thread of its own.
func (r *readers) read() error {
	// A reader that finds nothing must return: another may have taken it, or
	// the process that asked may have been killed.
	if err := unix.SetNonblock(r.fan.fd, true); err != nil {
		return err
	}
	err := r.readAs(0)
	if r.over != nil {
		r.relief.Wait()
	}
	return err
}

// readAs is the nth reader. All but the first end when they are not needed.
func (r *readers) readAs(n int) error {
	help := time.AfterFunc(time.Hour, func() { r.relieve(n) })
	defer help.Stop()
	buf := make([]byte, unix.FAN_EVENT_METADATA_LEN) // one: an event must not wait for the next one's file
	var st unix.Statx_t
	wait := -1
	if n > 0 || r.over != nil {
		wait = int(relievedFor / time.Millisecond)
	}
	for {
		r.busy[n].Store(0)
		p := []unix.PollFd{{Fd: int32(r.fan.fd), Events: unix.POLLIN}}
		ready, err := unix.Poll(p, wait)
		if err != nil && err != unix.EINTR {
			return err
		}
		if ready <= 0 {
			if n > 0 && r.busy[n-1].Load() == 0 || n == 0 && r.over != nil && r.over() {
				return nil
			}
			continue
		}
		at := time.Now()
		r.busy[n].Store(int64(at.Sub(r.start)) + 1)
		help.Reset(relieveAfter)
		size, err := unix.Read(r.fan.fd, buf)
		help.Stop()
		switch err {
		case nil:
		case unix.EINTR, unix.EAGAIN:
			continue
		case unix.EBADF, unix.EINVAL, unix.EFAULT:
			return err
		default: // the event's file cannot be opened for us, and the kernel has refused it
			r.refused(err)
			continue
		}
		for rest := buf[:size]; len(rest) > 0; {
			var e event
			if e, rest, err = nextEvent(rest); err != nil {
				return err
			}
			r.take(e, at, &st)
		}
		if n == 0 && r.over != nil && r.over() {
			return nil
		}
	}
}

// relieve has the next one read on while the nth is stuck. If the last one is
// stuck too, the supervisor notices.
func (r *readers) relieve(n int) {
	if n+1 >= maxReaders || !r.on[n+1].CompareAndSwap(false, true) {
		return
	}
	r.relief.Go(func() {
		_ = r.readAs(n + 1) // an error of the group stops the first one as well
		r.on[n+1].Store(false)
	})
}

// stuck is how long a reader has been at one batch of events.
func (r *readers) stuck() (longest time.Duration) {
	now := int64(time.Since(r.start))
	for n := range r.busy {
		if since := r.busy[n].Load(); since != 0 {
			longest = max(longest, time.Duration(now-since))
		}
	}
	return longest
}
