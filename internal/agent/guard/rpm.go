// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
)

// rpmDatabases are where rpm keeps its records since 4.16. Fedora moved them
// below /usr; a link may lead from one to the other.
var rpmDatabases = []string{"usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite"}

// otherRPM are databases of rpm that are not read: ndb of openSUSE, and the
// Berkeley DB of before 4.16.
var otherRPM = []string{"usr/lib/sysimage/rpm/Packages.db", "var/lib/rpm/Packages.db", "var/lib/rpm/Packages"}

// Unread lists package records that are on this machine and that the Package
// rule does not know how to read: what they vouch for is not spared.
func (g *Guard) Unread() []string {
	var all []string
	for _, p := range otherRPM {
		if fi, err := os.Stat(g.path(p)); err == nil && fi.Mode().IsRegular() {
			all = append(all, g.path(p))
		}
	}
	return all
}

// rpm reads rpm's records: one header a package, with the digest of each file.
func (g *Guard) rpm(ctx context.Context, r scan) error {
	for _, db := range rpmDatabases {
		var err error
		for range 3 { // rpm may be writing
			if err = readRPM(ctx, g.path(db), r); !errors.Is(err, errDamaged) {
				break
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return recordsError("rpm in "+g.path(db), err)
		}
	}
	return nil
}

func readRPM(ctx context.Context, file string, r scan) error {
	r.note(file)
	r.note(file + "-wal")
	d, done, err := openDatabase(file)
	if err != nil {
		return err
	}
	defer done()
	return d.table("Packages", func(c [][]byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(c) < 2 {
			return nil
		}
		if may, err := r.mentions(c[1]); err != nil || !may {
			return err
		}
		h, err := parseHeader(c[1])
		if err != nil {
			return err
		}
		return h.check(r)
	})
}

// The tags of a header that are read (rpm's include/rpm/rpmtag.h).
const (
	tagName        = 1000
	tagVersion     = 1001
	tagRelease     = 1002
	tagFileDigests = 1035
	tagDirIndexes  = 1116
	tagBaseNames   = 1117
	tagDirNames    = 1118
	tagDigestAlgo  = 5011
)

// A header is rpm's record of one package: a count of entries and a size of
// data (4 bytes each, big-endian as all), entries of 16 bytes (tag, type,
// offset, count), data.
type header struct {
	entries map[uint32]entry
	data    []byte
}

type entry struct{ offset, count uint32 }

// maxEntries is rpm's own bound.
const maxEntries = 0xffff

func parseHeader(b []byte) (header, error) {
	if len(b) < 8 {
		return header{}, errDamaged
	}
	n, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if n > maxEntries || uint64(len(b)) < 8+16*uint64(n)+uint64(size) {
		return header{}, errDamaged
	}
	h := header{entries: make(map[uint32]entry, n), data: b[8+16*n:][:size]}
	for i := range n {
		e := b[8+16*i:]
		h.entries[binary.BigEndian.Uint32(e)] = entry{binary.BigEndian.Uint32(e[8:]), binary.BigEndian.Uint32(e[12:])}
	}
	return h, nil
}

// strings reads an array of strings, each ending in NUL.
func (h header) strings(tag uint32) ([]string, error) {
	e := h.entries[tag]
	if uint64(e.offset) > uint64(len(h.data)) || uint64(e.count) > uint64(len(h.data)) {
		return nil, errDamaged
	}
	rest := h.data[e.offset:]
	out := make([]string, 0, e.count)
	for range e.count {
		i := bytes.IndexByte(rest, 0)
		if i < 0 {
			return nil, errDamaged
		}
		out = append(out, string(rest[:i]))
		rest = rest[i+1:]
	}
	return out, nil
}

func (h header) numbers(tag uint32) ([]uint32, error) {
	e := h.entries[tag]
	if uint64(e.offset)+4*uint64(e.count) > uint64(len(h.data)) {
		return nil, errDamaged
	}
	out := make([]uint32, 0, e.count)
	for i := range e.count {
		out = append(out, binary.BigEndian.Uint32(h.data[e.offset+4*i:]))
	}
	return out, nil
}

// check goes through the package's files.
func (h header) check(r scan) error {
	dirs, err1 := h.strings(tagDirNames)
	bases, err2 := h.strings(tagBaseNames)
	in, err3 := h.numbers(tagDirIndexes)
	sums, err4 := h.strings(tagFileDigests)
	algo, err5 := h.numbers(tagDigestAlgo)
	if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
		return err
	}
	if len(bases) == 0 || len(sums) == 0 {
		return nil // a package without files
	}
	if len(in) != len(bases) || len(sums) != len(bases) {
		return errDamaged
	}
	alg := md5Sum // when nothing is said
	if len(algo) == 1 {
		alg = map[uint32]algorithm{1: md5Sum, 2: sha1Sum, 8: sha256Sum, 9: sha384Sum, 10: sha512Sum}[algo[0]] // RFC 4880, 9.4
	}
	for i, base := range bases {
		if int64(in[i]) >= int64(len(dirs)) {
			return errDamaged
		}
		if sums[i] == "" {
			continue // a folder or a link
		}
		if err := r.each(alg, sums[i], path.Join(dirs[in[i]], base), h.name()); err != nil {
			return err
		}
	}
	return nil
}

func (h header) name() string {
	part := func(tag uint32) string {
		if s, err := h.strings(tag); err == nil && len(s) == 1 {
			return s[0]
		}
		return "?"
	}
	return fmt.Sprintf("%s-%s-%s", part(tagName), part(tagVersion), part(tagRelease))
}
