// SPDX-License-Identifier: Apache-2.0

// Package pin keeps denying marked files in the kernel itself, by programs of
// the BPF security module that are pinned in the BPF file system: they go on
// when every process of the agent is dead. It adds to the gate and replaces
// nothing of it, and is there only where the kernel obeys such programs, which
// Open finds out by having a harmless file refused. See docs/gate.md.
package pin

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
)

// The object is built ahead: see internal/agent/process/bpf.go.
//
//go:generate sh -c "cd bpf && clang -O2 -g -target bpf -Wall -Werror -fdebug-prefix-map=$PWD=. -c pin.c -o pin.bpf.o && llvm-strip -g pin.bpf.o"

//go:embed bpf/pin.bpf.o
var object []byte

// ErrOff says that nothing can be pinned here; the error that wraps it says why
// and what would help.
var ErrOff = errors.New("nothing outlives the agent's gate")

// Root is where the BPF file system is mounted.
const Root = "/sys/fs/bpf"

// Config is for Open.
type Config struct {
	State string // the agent's folder; agents with different ones do not meet. Required
	// Supervisor is the process whose children may open what is marked, beside
	// this one: the gate opens whatever it is asked about.
	Supervisor int
	Refused    func(Refusal) // called for each refusal while this is open; must not block
	Log        *slog.Logger  // required
}

// Refusal is one open or execution that the kernel refused for a mark.
type Refusal struct {
	PID  int
	ID   string // of the rule
	Exec bool   // execution or mapping; else open, with which an execution begins
}

// Status is what stands.
type Status struct {
	Dir     string `json:"dir"`     // of the pins; it is there while marks are
	Marks   int    `json:"marks"`   // files refused also without the agent
	Refused uint64 `json:"refused"` // opens and executions so far, of these marks
}

// Pins are the marks of one agent. Its methods may be called from many
// goroutines.
type Pins struct {
	dir    string
	log    *slog.Logger
	coll   *ebpf.Collection
	reader *ringbuf.Reader
	ended  chan struct{} // the reader's goroutine has returned

	mu    sync.Mutex
	links []link.Link // guarded by mu; empty: nothing is attached
}

// The kernel's view, of which pin.c has the other half.
type (
	key struct {
		Ino        uint64
		Dev        uint32
		Generation uint32
	}
	mark struct {
		ID      [idSize]byte
		Refused uint64
	}
	exemption struct{ Start, Kind uint64 }
	answer    struct {
		Key         key
		TGID, Found uint32
	}
	event struct {
		ID        [idSize]byte
		TGID, Exe uint32
	}
)

const (
	idSize = 48 // bytes of a rule's id, zeros after it

	exemptSelf     = 1
	exemptChildren = 2
)

func programs() []string { return []string{"on_open", "on_exec", "on_map", "on_protect"} }

func maps() []string { return []string{"marks", "exempt", "events"} }

// Dir is where the pins of an agent lie while it has marks.
func Dir(state string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(state)))
	return filepath.Join(Root, fmt.Sprintf("staunch-%x", sum[:8]))
}

// Open takes over what an earlier agent with this folder pinned, with programs
// of its own in place of the old ones. An error matches ErrOff.
func Open(cfg Config) (_ *Pins, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrOff, err)
		}
	}()
	if err := possible(); err != nil {
		return nil, err
	}
	p := &Pins{dir: Dir(cfg.State), log: cfg.Log, ended: make(chan struct{})}
	had, err := p.load()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.closeKernel()
		}
	}()
	if err := p.exempt(cfg.Supervisor); err != nil {
		return nil, err
	}
	if p.links, err = p.attach(); err != nil {
		return nil, err
	}
	if err := p.try(cfg.State); err != nil {
		return nil, err
	}
	if p.reader, err = ringbuf.NewReader(p.coll.Maps["events"]); err != nil {
		return nil, fmt.Errorf("cannot read what the kernel refused: %w", err)
	}
	if had {
		err = p.pin()
	} else {
		p.detach()
	}
	if err != nil {
		return nil, err
	}
	go p.read(cfg.Refused)
	return p, p.settle()
}

// possible says what is missing before anything is tried.
func possible() error {
	const list = "/sys/kernel/security/lsm"
	b, err := os.ReadFile(list)
	if err != nil {
		return fmt.Errorf("cannot read which security modules are active: %w; mount -t securityfs securityfs /sys/kernel/security", err)
	}
	active := strings.Split(strings.TrimSpace(string(b)), ",")
	if !slices.Contains(active, "bpf") {
		return fmt.Errorf("bpf is not among the active security modules (%s): start the kernel with lsm=%s,bpf", strings.Join(active, ","), strings.Join(active, ","))
	}
	if !isBPF(Root) {
		return fmt.Errorf("no BPF file system is mounted: mount -t bpf bpf %s", Root)
	}
	return nil
}

// load reads the object and puts it into the kernel, with the maps that are
// pinned already, if they are.
func (p *Pins) load() (had bool, err error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return false, fmt.Errorf("cannot raise the limit of locked memory: %w", err)
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return false, fmt.Errorf("cannot read the embedded object: %w", err)
	}
	old := p.pinned()
	defer func() {
		for _, m := range old {
			_ = m.Close() // the collection has its own duplicates
		}
	}()
	p.coll, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: old})
	if errors.Is(err, ebpf.ErrMapIncompatible) {
		p.log.Warn("the pinned marks are of another version of the agent and are dropped", "dir", p.dir)
		if err := unpin(p.dir); err != nil {
			return false, err
		}
		p.coll, err = ebpf.NewCollection(spec)
		return false, wrap(err, "cannot load the kernel's programs")
	}
	return len(old) > 0, wrap(err, "cannot load the kernel's programs")
}

// pinned are the maps of an earlier agent; nil unless all are there.
func (p *Pins) pinned() map[string]*ebpf.Map {
	all := map[string]*ebpf.Map{}
	for _, name := range maps() {
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, name), nil)
		if err != nil {
			for _, m := range all {
				_ = m.Close() // only looked at
			}
			return nil
		}
		all[name] = m
	}
	return all
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Close leaves the pins in place and ends what this process does with them.
func (p *Pins) Close() error {
	err := p.reader.Close()
	<-p.ended
	p.closeKernel()
	return err
}

func (p *Pins) closeKernel() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.detach()
	p.coll.Close()
	if p.reader != nil {
		_ = p.reader.Close() // again, or nobody has begun to read
	}
}

// detach lets go of the programs: those that are pinned go on. p.mu is held, or
// p is not shared.
func (p *Pins) detach() {
	for _, l := range p.links {
		_ = l.Close() // only a descriptor
	}
	p.links = nil
}

// read tells of refusals until the reader is closed.
func (p *Pins) read(tell func(Refusal)) {
	defer close(p.ended)
	var r ringbuf.Record
	for {
		if err := p.reader.ReadInto(&r); err != nil {
			return
		}
		if e, ok := decodeEvent(r.RawSample); ok && tell != nil && e.ID != "" { // not the one of try
			tell(e)
		}
	}
}
