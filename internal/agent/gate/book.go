// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// book is the gate's view of the rules: the slots, mapped, and an index.
type book struct {
	f   *os.File
	mem []byte // the whole file, read only

	mu      sync.RWMutex
	first   map[uint64]int32   // guarded by mu; key → slot
	more    map[uint64][]int32 // guarded by mu; further slots of a key
	free    []int32            // guarded by mu
	used    int32              // guarded by mu; slots ever used
	sizes   map[int64]int32    // guarded by mu; how many contents have the size
	unsized int                // guarded by mu; contents of unknown size
	files   int                // guarded by mu
	hashes  int                // guarded by mu
}

// newBookFile makes an empty book.
func newBookFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("staunch-gate-rules", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make the book of rules: %w", err)
	}
	if err := unix.Ftruncate(fd, maxSlots*slotSize); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("cannot make the book of rules: %w", err)
	}
	return os.NewFile(uintptr(fd), "rules"), nil
}

// openBook maps f and indexes the rules in it. An entry that cannot be read is
// left out and told in bad: the others must hold all the same.
func openBook(f *os.File) (b *book, bad []error, err error) {
	mem, err := unix.Mmap(int(f.Fd()), 0, maxSlots*slotSize, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot map the book of rules: %w", err)
	}
	b = &book{f: f, mem: mem, first: map[uint64]int32{}, more: map[uint64][]int32{}, sizes: map[int64]int32{}}
	b.used = int32(min(max(binary.LittleEndian.Uint32(mem), 1), maxSlots))
	for slot := int32(1); slot < b.used; slot++ {
		if b.slot(slot)[0] == slotFree {
			b.free = append(b.free, slot)
			continue
		}
		e, err := decodeSlot(b.slot(slot))
		if err != nil {
			bad = append(bad, err)
			continue
		}
		b.index(e, slot)
	}
	return b, bad, nil
}

func (b *book) close() error { return unix.Munmap(b.mem) }

func (b *book) slot(i int32) []byte { return b.mem[int(i)*slotSize:][:slotSize] }

// add writes the entry down. An entry with the same content or file and the
// same id is replaced.
func (b *book) add(e entry) error {
	_, err := b.put(e)
	return err
}

// put is add, and tells the slot.
func (b *book) put(e entry) (int32, error) {
	if len(e.id) > MaxID {
		return 0, fmt.Errorf("cannot keep rule: its id has %d bytes, the limit is %d", len(e.id), MaxID)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, had := b.find(e)
	if had {
		was, err := decodeSlot(b.slot(old))
		if err == nil && was == e {
			return old, nil
		}
	}
	slot, err := b.take()
	if err != nil {
		return 0, err
	}
	var buf [slotSize]byte
	e.encode(buf[:])
	at := int64(slot) * slotSize
	if _, err := b.f.WriteAt(buf[1:], at+1); err != nil {
		b.free = append(b.free, slot)
		return 0, fmt.Errorf("cannot keep rule: %w", err)
	}
	if _, err := b.f.WriteAt(buf[:1], at); err != nil {
		b.free = append(b.free, slot)
		return 0, fmt.Errorf("cannot keep rule: %w", err)
	}
	b.index(e, slot)
	if had {
		return slot, b.drop(old)
	}
	return slot, nil
}

// take finds a free slot. b.mu is held.
func (b *book) take() (int32, error) {
	if n := len(b.free); n > 0 {
		slot := b.free[n-1]
		b.free = b.free[:n-1]
		return slot, nil
	}
	if b.used == maxSlots {
		return 0, fmt.Errorf("cannot keep rule: all %d places are taken; lift rules that are no longer needed", maxSlots-1)
	}
	var buf [4]byte
	binary.LittleEndian.PutUint32(buf[:], uint32(b.used+1))
	if _, err := b.f.WriteAt(buf[:], 0); err != nil {
		return 0, fmt.Errorf("cannot keep rule: %w", err)
	}
	b.used++
	return b.used - 1, nil
}

// find returns the slot of the entry with e's subject and id. b.mu is held.
func (b *book) find(e entry) (int32, bool) {
	keys, n := e.keys()
	for _, k := range keys[:n] {
		for slot := range b.under(k) {
			if have, err := decodeSlot(b.slot(slot)); err == nil &&
				have.kind == e.kind && have.id == e.id && have.file == e.file && have.hash == e.hash {
				return slot, true
			}
		}
	}
	return 0, false
}

// under yields the slots of a key. b.mu is held.
func (b *book) under(key uint64) func(func(int32) bool) {
	return func(yield func(int32) bool) {
		slot, ok := b.first[key]
		if !ok || !yield(slot) {
			return
		}
		for _, slot := range b.more[key] {
			if !yield(slot) {
				return
			}
		}
	}
}

// index notes the entry in slot. b.mu is held, or b is not shared yet.
func (b *book) index(e entry, slot int32) {
	keys, n := e.keys()
	for _, k := range keys[:n] {
		if _, taken := b.first[k]; taken {
			b.more[k] = append(b.more[k], slot)
		} else {
			b.first[k] = slot
		}
	}
	b.count(e, 1)
}

// drop erases the slot. b.mu is held.
func (b *book) drop(slot int32) error {
	e, err := decodeSlot(b.slot(slot))
	if err != nil {
		return err
	}
	if _, err := b.f.WriteAt([]byte{slotFree}, int64(slot)*slotSize); err != nil {
		return fmt.Errorf("cannot lift rule: %w", err)
	}
	keys, n := e.keys()
	for _, k := range keys[:n] {
		var rest []int32
		for s := range b.under(k) {
			if s != slot {
				rest = append(rest, s)
			}
		}
		delete(b.first, k)
		delete(b.more, k)
		for i, s := range rest {
			if i == 0 {
				b.first[k] = s
			} else {
				b.more[k] = append(b.more[k], s)
			}
		}
	}
	b.count(e, -1)
	b.free = append(b.free, slot)
	return nil
}

func (b *book) count(e entry, by int) {
	switch {
	case e.kind == slotFile:
		b.files += by
		return
	case e.do == doAllow: // without a rule that refuses, it decides nothing
		return
	case e.size < 0:
		b.unsized += by
	default:
		if b.sizes[e.size] += int32(by); b.sizes[e.size] == 0 {
			delete(b.sizes, e.size)
		}
	}
	b.hashes += by
}
