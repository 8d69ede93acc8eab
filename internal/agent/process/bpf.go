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
