// SPDX-License-Identifier: Apache-2.0

package pin

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
)

// Deny refuses to everybody but the agent to open, execute or map the file,
// also when the agent is dead, until Allow or Release. f may have been opened
// with O_PATH.
func (p *Pins) Deny(f *os.File, id string) error {
	if len(id) > idSize {
		return fmt.Errorf("cannot mark file in the kernel: the rule's id has %d bytes, the limit is %d", len(id), idSize)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.inspect(f)
	switch {
	case err != nil:
		return err
	case a.Key.Generation == 0:
		return errors.New("cannot mark file in the kernel: its file system keeps no generations, so another file could come by the mark")
	}
	if err := p.stand(); err != nil {
		return err
	}
	m := mark{}
	copy(m.ID[:], id)
	if err := p.coll.Maps["marks"].Put(a.Key, m); err != nil {
		return fmt.Errorf("cannot mark file in the kernel: %w", err)
	}
	return nil
}

// Allow lifts the mark of a file, if it has one.
func (p *Pins) Allow(f *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.inspect(f)
	if err != nil {
		return err
	}
	if err := p.lift(a.Key); err != nil {
		return err
	}
	return p.settle()
}

func (p *Pins) lift(k key) error {
	if err := p.coll.Maps["marks"].Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("cannot lift mark in the kernel: %w", err)
	}
	return nil
}

// Release lifts every mark whose rule is one of those.
func (p *Pins) Release(those func(id string) bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var gone []key
	if err := p.each(func(k key, m mark) {
		if those(text(m.ID)) {
			gone = append(gone, k)
		}
	}); err != nil {
		return err
	}
	for _, k := range gone {
		if err := p.lift(k); err != nil {
			return err
		}
	}
	return p.settle()
}

// Status counts.
func (p *Pins) Status() (Status, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{Dir: p.dir}
	return s, p.each(func(_ key, m mark) {
		s.Marks++
		s.Refused += m.Refused
	})
}

func (p *Pins) each(do func(key, mark)) error {
	var k key
	var m mark
	all := p.coll.Maps["marks"].Iterate()
	for all.Next(&k, &m) {
		do(k, m)
	}
	if err := all.Err(); err != nil {
		return fmt.Errorf("cannot list marks in the kernel: %w", err)
	}
	return nil
}

// inspect asks the kernel for the key of an open file. p.mu is held, or p is not shared.
func (p *Pins) inspect(f *os.File) (a answer, err error) {
	if err = p.coll.Variables["asked_fd"].Set(uint32(f.Fd())); err == nil { //nolint:gosec // descriptors are small
		_, err = p.coll.Programs["inspect"].Run(&ebpf.RunOptions{})
	}
	if err == nil {
		err = p.coll.Variables["answered"].Get(&a)
	}
	if err == nil && a.Found == 0 {
		err = errors.New("it found no such descriptor")
	}
	return a, wrap(err, "cannot identify file in the kernel")
}

// exempt lets this process open what is marked, and the supervisor and its
// children.
func (p *Pins) exempt(supervisor int) error {
	m := p.coll.Maps["exempt"]
	var pid uint32
	var x exemption
	var old []uint32
	for all := m.Iterate(); all.Next(&pid, &x); {
		old = append(old, pid)
	}
	for _, pid := range old { // of agents that are dead
		_ = m.Delete(pid) // another process with the number has another start
	}
	kinds := map[int]uint64{os.Getpid(): exemptSelf}
	if supervisor > 1 {
		kinds[supervisor] |= exemptSelf | exemptChildren
	}
	for pid, kind := range kinds {
		start, err := startOf(pid)
		if err == nil {
			err = m.Put(uint32(pid), exemption{start, kind}) //nolint:gosec // pids are small
		}
		if err != nil {
			return fmt.Errorf("cannot exempt the agent itself: %w", err)
		}
	}
	return nil
}

// startOf reads field 22 of /proc/PID/stat: when the process began, in ticks
// since boot.
func startOf(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields after the name", pid, len(f))
	}
	return strconv.ParseUint(f[19], 10, 64)
}

func text(id [idSize]byte) string { return string(bytes.TrimRight(id[:], "\x00")) }

func decodeEvent(b []byte) (Refusal, bool) {
	var e event
	if _, err := binary.Decode(b, binary.NativeEndian, &e); err != nil {
		return Refusal{}, false
	}
	return Refusal{PID: int(e.TGID), ID: text(e.ID), Exec: e.Exe != 0}, true
}
