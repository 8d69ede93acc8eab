// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
)

// The book of rules is an anonymous file in memory that the supervisor makes
// and hands to every gate: it outlasts a gate that is killed, needs no disk,
// and ends with the supervisor, whose worker then brings the rules again. It is
// an array of slots of slotSize bytes:
//
//	slot 0    u32 number of slots ever used, slot 0 included
//	slot n    u8 kind (0 free, 1 content, 2 file) · u8 length of id · 6 unused
//	          u64 size, or device
//	          content: 20 SHA-1, 32 SHA-256        file: u64 inode, s64 time of birth
//	          id, padded to MaxID
//
// The kind is written last and erased first, each with one write of one byte:
// a slot is there whole or not at all.
const (
	slotSize = 112
	maxSlots = 1 << 18

	slotFree    = 0
	slotContent = 1
	slotFile    = 2

	idOffset = slotSize - MaxID
)

// entry is what one slot says.
type entry struct {
	kind byte
	file identity      // slotFile
	hash filehash.Hash // slotContent
	size int64         // slotContent; -1: not known
	id   string
}

func (e entry) encode(b []byte) {
	clear(b[:slotSize])
	b[0], b[1] = e.kind, byte(len(e.id))
	copy(b[idOffset:], e.id)
	if e.kind == slotFile {
		binary.LittleEndian.PutUint64(b[8:], e.file.dev)
		binary.LittleEndian.PutUint64(b[16:], e.file.ino)
		binary.LittleEndian.PutUint64(b[24:], uint64(e.file.birth))
		return
	}
	binary.LittleEndian.PutUint64(b[8:], uint64(e.size))
	copy(b[16:], e.hash.SHA1[:])
	copy(b[36:], e.hash.SHA256[:])
}

// decodeSlot reads a slot in use.
func decodeSlot(b []byte) (entry, error) {
	if len(b) != slotSize {
		return entry{}, fmt.Errorf("cannot read rule: %d bytes instead of %d", len(b), slotSize)
	}
	if b[1] > MaxID {
		return entry{}, fmt.Errorf("cannot read rule: its id has %d bytes", b[1])
	}
	e := entry{kind: b[0], id: string(b[idOffset : idOffset+int(b[1])])}
	switch e.kind {
	case slotFile:
		e.file = identity{
			dev:   binary.LittleEndian.Uint64(b[8:]),
			ino:   binary.LittleEndian.Uint64(b[16:]),
			birth: int64(binary.LittleEndian.Uint64(b[24:])),
		}
	case slotContent:
		e.size = int64(binary.LittleEndian.Uint64(b[8:]))
		copy(e.hash.SHA1[:], b[16:])
		copy(e.hash.SHA256[:], b[36:])
		if e.hash.IsZero() || e.size < -1 {
			return entry{}, errors.New("cannot read rule: it names no content")
		}
	default:
		return entry{}, fmt.Errorf("cannot read rule: kind %d is not known", e.kind)
	}
	return e, nil
}

// keys are where the index holds the entry: under each digest, or the file.
func (e entry) keys() (keys [2]uint64, n int) {
	if e.kind == slotFile {
		return [2]uint64{e.file.key()}, 1
	}
	return hashKeys(e.hash)
}

func (f identity) key() uint64 { return f.dev*0x9e3779b97f4a7c15 ^ f.ino }

func hashKeys(h filehash.Hash) (keys [2]uint64, n int) {
	if !h.SHA1.IsZero() {
		keys[n] = binary.LittleEndian.Uint64(h.SHA1[:])
		n++
	}
	if !h.SHA256.IsZero() {
		keys[n] = binary.LittleEndian.Uint64(h.SHA256[:])
		if n == 0 || keys[0] != keys[1] {
			n++
		}
	}
	return keys, n
}

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
	if len(e.id) > MaxID {
		return fmt.Errorf("cannot keep rule: its id has %d bytes, the limit is %d", len(e.id), MaxID)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old, had := b.find(e)
	if had {
		was, err := decodeSlot(b.slot(old))
		if err == nil && was == e {
			return nil
		}
	}
	slot, err := b.take()
	if err != nil {
		return err
	}
	var buf [slotSize]byte
	e.encode(buf[:])
	at := int64(slot) * slotSize
	if _, err := b.f.WriteAt(buf[1:], at+1); err != nil {
		b.free = append(b.free, slot)
		return fmt.Errorf("cannot keep rule: %w", err)
	}
	if _, err := b.f.WriteAt(buf[:1], at); err != nil {
		b.free = append(b.free, slot)
		return fmt.Errorf("cannot keep rule: %w", err)
	}
	b.index(e, slot)
	if had {
		return b.drop(old)
	}
	return nil
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
	case e.size < 0:
		b.unsized += by
	default:
		if b.sizes[e.size] += int32(by); b.sizes[e.size] == 0 {
			delete(b.sizes, e.size)
		}
	}
	b.hashes += by
}
