// SPDX-License-Identifier: Apache-2.0

package gate

import "staunch/internal/filehash"

// counts returns how many files and contents are denied.
func (b *book) counts() (files, hashes int) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.files, b.hashes
}

// sizeCounts reports whether a content of this size may be denied.
func (b *book) sizeCounts(size int64) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.unsized > 0 || b.sizes[size] > 0
}

// deniesFile looks for a rule against a file. The event of a file with a mark
// of its own is enough to be sure of the inode (sure); otherwise the number
// may have come to another file since, and only the time of birth tells.
func (b *book) deniesFile(f identity, sure bool) (entry, bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.files == 0 {
		return entry{}, false
	}
	for slot := range b.under(f.key()) {
		e, err := decodeSlot(b.slot(slot))
		if err != nil || e.kind != slotFile || e.file.dev != f.dev || e.file.ino != f.ino {
			continue
		}
		if sure || (f.birth != 0 && e.file.birth == f.birth) {
			return e, true
		}
	}
	return entry{}, false
}

// liftFile drops every rule against the file.
func (b *book) liftFile(f identity) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lift(f.key(), func(e entry) bool {
		return e.kind == slotFile && e.file.dev == f.dev && e.file.ino == f.ino
	})
}

// liftHash drops every rule by itself that names the same content: they share
// a digest and contradict each other in none. Rules of a set stand.
func (b *book) liftHash(h filehash.Hash) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	keys, n := hashKeys(h)
	for _, k := range keys[:n] {
		if err := b.lift(k, func(e entry) bool { return e.kind == slotContent && e.do == doAlone && sameContent(e.hash, h) }); err != nil {
			return err
		}
	}
	return nil
}

func sameContent(a, b filehash.Hash) bool {
	both1 := !a.SHA1.IsZero() && !b.SHA1.IsZero()
	both256 := !a.SHA256.IsZero() && !b.SHA256.IsZero()
	return (both1 || both256) && (!both1 || a.SHA1 == b.SHA1) && (!both256 || a.SHA256 == b.SHA256)
}

// liftID drops every rule with the id.
func (b *book) liftID(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for slot := int32(1); slot < b.used; slot++ {
		if b.slot(slot)[0] == slotFree {
			continue
		}
		if e, err := decodeSlot(b.slot(slot)); err == nil && e.id == id {
			if err := b.drop(slot); err != nil {
				return err
			}
		}
	}
	return nil
}

// lift drops the entries under key that match. b.mu is held.
func (b *book) lift(key uint64, match func(entry) bool) error {
	var slots []int32
	for slot := range b.under(key) {
		if e, err := decodeSlot(b.slot(slot)); err == nil && match(e) {
			slots = append(slots, slot)
		}
	}
	for _, slot := range slots {
		if err := b.drop(slot); err != nil {
			return err
		}
	}
	return nil
}
