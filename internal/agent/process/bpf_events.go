// SPDX-License-Identifier: Apache-2.0

package process

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"
)

// hookFeed is one subscriber's share of the events.
type hookFeed struct {
	k *hooks

	mu   sync.Mutex
	all  []event // guarded by mu
	lost bool    // guarded by mu
	kmis uint64  // the kernel's count of lost events at the last drain
}

// maxFeed bounds the events that wait for one subscriber.
const maxFeed = 1 << 16

// stream opens a feed of all execs and forks.
func (k *hooks) stream() (*hookFeed, error) {
	f := &hookFeed{k: k, kmis: k.missed()}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.streams[f] = true
	if err := k.arm(); err != nil {
		delete(k.streams, f)
		return nil, err
	}
	return f, nil
}

func (f *hookFeed) close() error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	delete(f.k.streams, f)
	return f.k.arm()
}

// drain returns everything that had happened by the time of the call. The
// kernel writes an event before the process it is about runs on.
func (f *hookFeed) drain() ([]event, bool, error) {
	if err := f.k.pump(); err != nil {
		return nil, false, err
	}
	missed := f.k.missed()
	f.mu.Lock()
	defer f.mu.Unlock()
	all, lost := f.all, f.lost || missed != f.kmis
	f.all, f.lost, f.kmis = nil, false, missed
	return all, lost, nil
}

// await implements stream. Somebody else may read the ring meanwhile: then this
// waits for as long as it may, and what was meant for us is there.
func (f *hookFeed) await(most time.Duration) error {
	return readable(f.k.coll.Maps["births"].FD(), most)
}

// pump shares out what the kernel has written.
func (k *hooks) pump() error {
	k.draining.Lock()
	defer k.draining.Unlock()
	for {
		err := k.births.ReadInto(&k.spare)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read the kernel hooks' events: %w", err)
		}
		e, ok := parseHookEvent(k.spare.RawSample)
		if !ok {
			continue
		}
		out := event{ns: int64(e.Ns), pid: int(e.PID), exec: e.Kind == kindExec} //nolint:gosec // a clock
		if e.Kind == kindFork {
			out.parent = int(e.Parent)
		}
		k.mu.Lock()
		for f := range k.streams {
			f.push(out)
		}
		k.mu.Unlock()
	}
}

func (f *hookFeed) push(e event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) >= maxFeed {
		f.lost = true
		return
	}
	f.all = append(f.all, e)
}

// missed returns how many events the kernel could not write.
func (k *hooks) missed() uint64 {
	var n uint64
	if err := k.coll.Variables["lost"].Get(&n); err != nil {
		return ^uint64(0)
	}
	return n
}

// flush returns when the reader has handed on everything written before.
func (k *hooks) flush() error {
	k.flushing.Lock()
	defer k.flushing.Unlock()
	if err := k.events.Flush(); err != nil {
		return fmt.Errorf("cannot read the kernel hooks' events: %w", err)
	}
	select {
	case <-k.flushed:
		return nil
	case <-time.After(5 * time.Second):
		return errors.New("cannot read the kernel hooks' events: the reader hangs")
	}
}

// read hands events on until the reader is closed.
func (k *hooks) read() {
	var rec ringbuf.Record
	for {
		err := k.events.ReadInto(&rec)
		switch {
		case errors.Is(err, ringbuf.ErrFlushed):
			select {
			case k.flushed <- struct{}{}:
			default:
			}
			continue
		case err != nil:
			return
		}
		if e, ok := parseHookEvent(rec.RawSample); ok {
			k.onEvent(e)
		}
	}
}

func parseHookEvent(b []byte) (e hookEvent, ok bool) {
	if len(b) < int(unsafe.Sizeof(e)) {
		return e, false
	}
	ne := binary.NativeEndian
	return hookEvent{
		Ns: ne.Uint64(b), Inode: ne.Uint64(b[8:]), Start: ne.Uint64(b[16:]), Kind: ne.Uint32(b[24:]),
		PID: ne.Uint32(b[28:]), Parent: ne.Uint32(b[32:]), Killed: ne.Uint32(b[36:]),
	}, true
}
