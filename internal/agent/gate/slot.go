// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/binary"
	"errors"
	"fmt"

	"staunch/internal/filehash"
)

// The book of rules is an anonymous file in memory that the supervisor makes
// and hands to every gate: it outlasts a gate that is killed, needs no disk,
// and ends with the supervisor, whose worker then brings the rules again. It is
// an array of slots of slotSize bytes:
//
//	slot 0    u32 number of slots ever used, slot 0 included
//	slot n    u8 kind (0 free, 1 content, 2 file) · u8 length of id · u8 what to do · 5 unused
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

// What a rule wants done: by itself, or as one of a set, the more decisive first.
const (
	doAlone = iota
	doDeny
	doAllow
	doAudit
)

// entry is what one slot says.
type entry struct {
	kind byte
	file identity      // slotFile
	hash filehash.Hash // slotContent
	size int64         // slotContent; -1: not known
	id   string
	do   byte
}

func (e entry) encode(b []byte) {
	clear(b[:slotSize])
	b[0], b[1], b[2] = e.kind, byte(len(e.id)), e.do
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
	if b[2] > doAudit {
		return entry{}, fmt.Errorf("cannot read rule: %d is nothing to do", b[2])
	}
	e := entry{kind: b[0], do: b[2], id: string(b[idOffset : idOffset+int(b[1])])}
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
