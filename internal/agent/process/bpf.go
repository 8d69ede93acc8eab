// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

// The object is built ahead, so that neither building Staunch nor running it
// needs a compiler for BPF. To build it anew: clang 14 or later, and the
// headers of libbpf (on Debian: clang, llvm, libbpf-dev).
//
//go:generate sh -c "cd bpf && clang -O2 -g -target bpf -Wall -Werror -fdebug-prefix-map=$PWD=. -c hold.c -o hold.bpf.o && llvm-strip -g hold.bpf.o"

//go:embed bpf/hold.bpf.o
var object []byte

// The flags of hold.c.
const (
	hookArmed    = 1
	hookAllExecs = 2
	hookStream   = 4
)

// The kinds of hookEvent.
const (
	kindExec = 1
	kindFork = 2
)

// hookEvent is struct event of hold.c.
type hookEvent struct {
	Ns     uint64 // CLOCK_MONOTONIC
	Inode  uint64 // address of what the process executes
	Start  uint64 // CLOCK_BOOTTIME, ns
	Kind   uint32
	PID    uint32
	Parent uint32
	Killed uint32 // by the hook itself
}

// hookRecord is struct record of hold.c.
type hookRecord struct {
	Inode  uint64
	Size   uint64 // all ones: not known
	Start  uint64
	PID    uint32
	Denied uint32
}

// fileMark is struct mark of hold.c.
type fileMark struct {
	Size      uint64
	MtimeSec  int64
	MtimeNsec uint64
}

// hookAnswer is struct answer of hold.c.
type hookAnswer struct {
	Inode uint64
	Mark  fileMark
	PID   uint64
}

// hooks are the programs in the kernel.
type hooks struct {
	coll    *ebpf.Collection
	links   []link.Link
	iter    *link.Iter
	events  *ringbuf.Reader // kills, and execs that may be of a target; read by reader
	reader  sync.WaitGroup
	onEvent func(hookEvent) // called by the reader; must not block
	child   bool            // the fork hook can kill the child (Linux 6.13)

	asking sync.Mutex // guards the question and answer of inspect

	mu      sync.Mutex
	denials map[uint64]int     // guarded by mu; how many pins hold an address
	watched map[*Hold]int64    // guarded by mu; the size each waits for, -1 = any
	sizes   map[int64]int      // guarded by mu; how many holds wait for a size
	call    link.Link          // guarded by mu; on_call, while armed, where child is false
	streams map[*hookFeed]bool // guarded by mu

	draining sync.Mutex      // guards births and spare
	births   *ringbuf.Reader // forks and execs while there are streams; read by whoever drains
	spare    ringbuf.Record

	flushing sync.Mutex    // one flush at a time
	flushed  chan struct{} // the reader has handed on all there was
}

// loadHooks puts the programs into the kernel and attaches them, disarmed. old
// has them do without what kernels before 6.13 lack.
func loadHooks(onEvent func(hookEvent), old bool) (_ *hooks, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("cannot raise the limit of locked memory: %w", err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, fmt.Errorf("cannot read the embedded object: %w", err)
	}
	k := &hooks{
		onEvent: onEvent, denials: make(map[uint64]int), watched: make(map[*Hold]int64),
		sizes: make(map[int64]int), streams: make(map[*hookFeed]bool), flushed: make(chan struct{}, 1),
	}
	k.child = !old && kernelHas("bpf_send_signal_task")
	if old {
		if err := spec.Variables["old_kernel"].Set(uint32(1)); err != nil {
			return nil, fmt.Errorf("cannot set up the kernel hooks: %w", err)
		}
	}
	if k.coll, err = ebpf.NewCollection(spec); err != nil {
		return nil, fmt.Errorf("cannot load the kernel hooks: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if err := k.coll.Variables["self"].Set(uint32(os.Getpid())); err != nil { //nolint:gosec // pids are small
		return nil, fmt.Errorf("cannot set up the kernel hooks: %w", err)
	}
	for _, name := range []string{"on_exec", "on_fork"} {
		l, err := link.AttachTracing(link.TracingOptions{Program: k.coll.Programs[name]})
		if err != nil {
			return nil, fmt.Errorf("cannot attach the kernel hook %s: %w", name, err)
		}
		k.links = append(k.links, l)
	}
	if k.iter, err = link.AttachIter(link.IterOptions{Program: k.coll.Programs["list"]}); err != nil {
		return nil, fmt.Errorf("cannot attach the task iterator: %w", err)
	}
	if k.events, err = ringbuf.NewReader(k.coll.Maps["events"]); err != nil {
		return nil, fmt.Errorf("cannot read the kernel hooks' events: %w", err)
	}
	if k.births, err = ringbuf.NewReader(k.coll.Maps["births"]); err != nil {
		return nil, fmt.Errorf("cannot read the kernel hooks' events: %w", err)
	}
	k.births.SetDeadline(time.Unix(1, 0)) // never wait
	k.reader.Go(k.read)
	return k, nil
}

// kernelHas reports whether the running kernel offers a function to BPF.
func kernelHas(name string) bool {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return false
	}
	var f *btf.Func
	return kernel.TypeByName(name, &f) == nil
}

func (k *hooks) close() error {
	var errs []error
	if k.events != nil {
		errs = append(errs, k.events.Close())
	}
	k.reader.Wait()
	if k.births != nil {
		errs = append(errs, k.births.Close())
	}
	k.mu.Lock()
	if k.call != nil {
		errs = append(errs, k.call.Close())
	}
	k.mu.Unlock()
	if k.iter != nil {
		errs = append(errs, k.iter.Close())
	}
	for _, l := range k.links {
		errs = append(errs, l.Close())
	}
	if k.coll != nil {
		k.coll.Close()
	}
	return errors.Join(errs...)
}

// inspect asks the kernel which inode a descriptor of ours names.
func (k *hooks) inspect(fd int) (hookAnswer, error) {
	k.asking.Lock()
	defer k.asking.Unlock()
	if err := k.coll.Variables["asked_fd"].Set(uint32(fd)); err != nil { //nolint:gosec // descriptors are small
		return hookAnswer{}, fmt.Errorf("cannot identify file in the kernel: %w", err)
	}
	if _, err := k.coll.Programs["inspect"].Run(&ebpf.RunOptions{}); err != nil {
		return hookAnswer{}, fmt.Errorf("cannot identify file in the kernel: %w", err)
	}
	var a hookAnswer
	if err := k.coll.Variables["answered"].Get(&a); err != nil {
		return hookAnswer{}, fmt.Errorf("cannot identify file in the kernel: %w", err)
	}
	if a.Inode == 0 {
		return a, errors.New("cannot identify file in the kernel: it found no such descriptor")
	}
	return a, nil
}

// deny has the kernel kill what executes the file. count says whether this is
// one more holder of the address; the caller keeps f open until allow.
func (k *hooks) deny(f *os.File, count func(addr uint64) bool) (addr uint64, err error) {
	a, err := k.inspect(int(f.Fd()))
	if err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.coll.Maps["denied"].Put(a.Inode, a.Mark); err != nil {
		return 0, fmt.Errorf("cannot deny file in the kernel: %w", err)
	}
	if count(a.Inode) {
		k.denials[a.Inode]++
	}
	return a.Inode, nil
}

// allow undoes one deny.
func (k *hooks) allow(addr uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.denials[addr]--; k.denials[addr] > 0 {
		return
	}
	delete(k.denials, addr)
	if err := k.coll.Maps["denied"].Delete(addr); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		// The map is ours and the key is there: this cannot fail. Were it to,
		// a new file at this address would still have to have its size and time.
		return
	}
}

// doom has the kernel kill what a process forks from now on, whatever it
// executes. start is in clock ticks since boot.
func (k *hooks) doom(pid int, start uint64) error {
	if err := k.coll.Maps["doomed"].Put(uint32(pid), start); err != nil { //nolint:gosec // pids are small
		return fmt.Errorf("cannot doom process %d in the kernel: %w", pid, err)
	}
	return nil
}

// pardon undoes doom.
func (k *hooks) pardon(pid int) {
	_ = k.coll.Maps["doomed"].Delete(uint32(pid)) //nolint:gosec // pids are small; gone already is fine
}

// watch has the kernel tell of execs that may be of the hold's target; called
// again, it takes account of what has been learnt of it since.
func (k *hooks) watch(d *Hold) error {
	size := int64(-1)
	if n, ok := d.judge.bytes(); ok && d.judge.program() {
		size = n
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	old, watched := k.watched[d]
	if watched && old == size {
		return nil
	}
	if size >= 0 {
		if err := k.coll.Maps["sizes"].Put(uint64(size), uint32(1)); err != nil { //nolint:gosec // not negative
			size = -1 // the map is full: be told of everything
		}
	}
	k.watched[d] = size
	k.sizes[size]++
	if watched {
		k.forget(old)
	}
	return k.arm()
}

// forget undoes one hold's wait for a size. Called with mu held.
func (k *hooks) forget(size int64) {
	if k.sizes[size]--; k.sizes[size] > 0 {
		return
	}
	delete(k.sizes, size)
	if size >= 0 {
		_ = k.coll.Maps["sizes"].Delete(uint64(size)) // a size too many only costs a look
	}
}

// unwatch undoes watch.
func (k *hooks) unwatch(d *Hold) {
	k.mu.Lock()
	defer k.mu.Unlock()
	size, ok := k.watched[d]
	if !ok {
		return
	}
	delete(k.watched, d)
	k.forget(size)
	_ = k.arm() // disarming cannot fail for want of anything; armed for nothing costs a look
}

// arm sets the flags to what the holds and streams need. Called with mu held.
func (k *hooks) arm() error {
	var flags uint32
	if len(k.watched) > 0 {
		flags |= hookArmed
	}
	if k.sizes[-1] > 0 {
		flags |= hookAllExecs
	}
	if len(k.streams) > 0 {
		flags |= hookStream
	}
	if err := k.coll.Variables["flags"].Set(flags); err != nil {
		return fmt.Errorf("cannot arm the kernel hooks: %w", err)
	}
	if k.child {
		return nil
	}
	switch {
	case flags != 0 && k.call == nil:
		l, err := link.AttachTracing(link.TracingOptions{Program: k.coll.Programs["on_call"]})
		if err != nil {
			return fmt.Errorf("cannot attach the kernel hook on_call: %w", err)
		}
		k.call = l
	case flags == 0 && k.call != nil:
		err := k.call.Close()
		k.call = nil
		return err
	}
	return nil
}

// list runs the task iterator.
func (k *hooks) list() ([]hookRecord, error) {
	it, err := k.iter.Open()
	if err != nil {
		return nil, fmt.Errorf("cannot list processes in the kernel: %w", err)
	}
	b, err := io.ReadAll(it)
	if err := errors.Join(err, it.Close()); err != nil {
		return nil, fmt.Errorf("cannot list processes in the kernel: %w", err)
	}
	const size = int(unsafe.Sizeof(hookRecord{}))
	all := make([]hookRecord, len(b)/size)
	if _, err := binary.Decode(b, binary.NativeEndian, all); err != nil {
		return nil, fmt.Errorf("cannot list processes in the kernel: %w", err)
	}
	return all, nil
}

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
