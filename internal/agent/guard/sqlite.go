// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// A database reads one table of an SQLite file (sqlite.org/fileformat2.html)
// with what its write-ahead log holds. It is read by hand because a driver
// would write beside it (the -shm file) and take locks that stop the package
// manager; the guard must do neither.
//
//	page 1:   100 bytes of header, then the root of the schema's tree
//	a page:   kind (13 leaf, 5 inner), …, count of cells (2), …, then an array of 2-byte offsets
//	a leaf's cell:  payload size (varint), row id (varint), payload, [page of overflow (4)]
//	an inner cell:  child page (4), row id (varint); the last child stands in the header
type database struct {
	file   io.ReaderAt
	size   int64 // bytes of a page
	usable int   // of them for content
	pages  int64
	wal    map[uint32]int64 // page → offset of its newest content in the log
	log    io.ReaderAt
}

// errDamaged says that a database is not what the format says.
var errDamaged = errors.New("it is damaged, or was written to while it was read")

// maxDepth and maxPayload bound what a damaged file can ask for.
const (
	maxDepth   = 20
	maxPayload = 256 << 20
)

// openDatabase opens the file and its log; close both when done.
func openDatabase(path string) (_ *database, done func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	files := []*os.File{f}
	closeAll := func() {
		for _, f := range files {
			_ = f.Close() // read only
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	d := &database{file: f}
	if err := d.header(fi.Size()); err != nil {
		return nil, nil, err
	}
	l, err := os.Open(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) {
		return d, closeAll, nil
	}
	if err != nil {
		return nil, nil, err
	}
	files = append(files, l)
	if fi, err = l.Stat(); err != nil {
		return nil, nil, err
	}
	return d, closeAll, d.readLog(l, fi.Size())
}

func (d *database) header(size int64) error {
	var h [100]byte
	if _, err := d.file.ReadAt(h[:], 0); err != nil {
		return err
	}
	if string(h[:16]) != "SQLite format 3\x00" {
		return errDamaged
	}
	d.size = int64(binary.BigEndian.Uint16(h[16:]))
	if d.size == 1 {
		d.size = 65536
	}
	d.usable = int(d.size) - int(h[20])
	if d.size < 512 || d.size&(d.size-1) != 0 || d.usable < 480 {
		return errDamaged
	}
	d.pages = size / d.size
	return nil
}

// readLog finds the newest committed content of each page in a write-ahead log:
// 32 bytes of header, then frames of 24 bytes and a page. Each carries the
// log's salts and a running checksum; the first that does not fit ends it.
func (d *database) readLog(l io.ReaderAt, size int64) error {
	h := make([]byte, 32)
	if size < int64(len(h)) {
		return nil
	}
	if _, err := l.ReadAt(h, 0); err != nil {
		return err
	}
	magic := binary.BigEndian.Uint32(h)
	if magic&^1 != 0x377f0682 || int64(binary.BigEndian.Uint32(h[8:])) != d.size {
		return nil // left over from another time
	}
	var order binary.ByteOrder = binary.LittleEndian
	if magic&1 == 1 {
		order = binary.BigEndian
	}
	sum := checksum(order, [2]uint32{}, h[:24])
	if sum != [2]uint32{binary.BigEndian.Uint32(h[24:]), binary.BigEndian.Uint32(h[28:])} {
		return nil
	}
	d.log, d.wal = l, map[uint32]int64{}
	open := map[uint32]int64{} // of the transaction that is being read
	frame := make([]byte, 24+d.size)
	for at := int64(32); at+int64(len(frame)) <= size; at += int64(len(frame)) {
		if _, err := l.ReadAt(frame, at); err != nil {
			return err
		}
		sum = checksum(order, checksum(order, sum, frame[:8]), frame[24:])
		if string(frame[8:16]) != string(h[16:24]) || sum != [2]uint32{binary.BigEndian.Uint32(frame[16:]), binary.BigEndian.Uint32(frame[20:])} {
			return nil
		}
		open[binary.BigEndian.Uint32(frame)] = at + 24
		if n := binary.BigEndian.Uint32(frame[4:]); n != 0 { // the last of a transaction
			d.pages = int64(n)
			for page, at := range open {
				d.wal[page] = at
			}
			clear(open)
		}
	}
	return nil
}

func checksum(order binary.ByteOrder, s [2]uint32, b []byte) [2]uint32 {
	for ; len(b) >= 8; b = b[8:] {
		s[0] += order.Uint32(b) + s[1]
		s[1] += order.Uint32(b[4:]) + s[0]
	}
	return s
}

func (d *database) page(n uint32) ([]byte, error) {
	if n == 0 || int64(n) > d.pages {
		return nil, errDamaged
	}
	b := make([]byte, d.size)
	if at, ok := d.wal[n]; ok {
		_, err := d.log.ReadAt(b, at)
		return b, err
	}
	_, err := d.file.ReadAt(b, (int64(n)-1)*d.size)
	if errors.Is(err, io.EOF) {
		err = errDamaged
	}
	return b, err
}

// rows calls row with the record of each row of the tree at root.
func (d *database) rows(root uint32, row func([]byte) error) error {
	left := d.pages
	return d.walk(root, maxDepth, &left, row)
}

// walk visits a page and those below. left is how many pages may still be
// visited: a damaged tree can hold itself.
func (d *database) walk(n uint32, depth int, left *int64, row func([]byte) error) error {
	if *left--; depth == 0 || *left < 0 {
		return errDamaged
	}
	page, err := d.page(n)
	if err != nil {
		return err
	}
	head := 0
	if n == 1 {
		head = 100
	}
	kind, cells := page[head], int(binary.BigEndian.Uint16(page[head+3:]))
	array := head + 8
	if kind == 5 {
		array += 4
	}
	if kind != 5 && kind != 13 || array+2*cells > len(page) {
		return errDamaged
	}
	for i := range cells {
		at := int(binary.BigEndian.Uint16(page[array+2*i:]))
		if at+4 > d.usable {
			return errDamaged
		}
		if kind == 5 {
			err = d.walk(binary.BigEndian.Uint32(page[at:]), depth-1, left, row)
		} else if payload, perr := d.payload(page[at:d.usable], left); perr != nil {
			err = perr
		} else {
			err = row(payload)
		}
		if err != nil {
			return err
		}
	}
	if kind == 5 {
		return d.walk(binary.BigEndian.Uint32(page[head+8:]), depth-1, left, row)
	}
	return nil
}

// payload gathers a leaf cell's record, also from its overflow pages.
func (d *database) payload(cell []byte, left *int64) ([]byte, error) {
	size, n := varint(cell)
	_, m := varint(cell[min(n, len(cell)):])
	if n == 0 || m == 0 || size > maxPayload {
		return nil, errDamaged
	}
	cell = cell[n+m:]
	local := int(size)
	if most := d.usable - 35; local > most {
		least := (d.usable-12)*32/255 - 23
		if local = least + (int(size)-least)%(d.usable-4); local > most {
			local = least
		}
	}
	if local > len(cell) {
		return nil, errDamaged
	}
	out := append(make([]byte, 0, min(int(size), 1<<20)), cell[:local]...)
	if local == int(size) {
		return out, nil
	}
	if len(cell) < local+4 {
		return nil, errDamaged
	}
	for next := binary.BigEndian.Uint32(cell[local:]); len(out) < int(size); {
		if *left--; *left < 0 {
			return nil, errDamaged
		}
		page, err := d.page(next)
		if err != nil {
			return nil, err
		}
		out = append(out, page[4:min(d.usable, 4+int(size)-len(out))]...)
		next = binary.BigEndian.Uint32(page)
	}
	return out, nil
}

// varint reads SQLite's number of one to nine bytes; n is 0 when it is cut.
func varint(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 8 {
			return v<<8 | uint64(c), 9
		}
		v = v<<7 | uint64(c&0x7f)
		if c&0x80 == 0 {
			return v, i + 1
		}
	}
	return 0, 0
}

// columns splits a record into the bytes of its columns; a number's bytes are
// big-endian, as they are stored.
func columns(record []byte) ([][]byte, error) {
	size, n := varint(record)
	if n == 0 || size < uint64(n) || size > uint64(len(record)) {
		return nil, errDamaged
	}
	types, body := record[n:size], record[size:]
	var out [][]byte
	for len(types) > 0 {
		t, n := varint(types)
		if n == 0 {
			return nil, errDamaged
		}
		types = types[n:]
		var length uint64
		switch {
		case t <= 4:
			length = t
		case t == 5:
			length = 6
		case t == 6 || t == 7:
			length = 8
		case t >= 12:
			length = (t - 12) / 2
		}
		if length > uint64(len(body)) {
			return nil, errDamaged
		}
		out = append(out, body[:length])
		body = body[length:]
	}
	return out, nil
}

// table calls row with the columns of each row of the named table.
func (d *database) table(name string, row func([][]byte) error) error {
	root := uint32(0)
	err := d.rows(1, func(record []byte) error {
		c, err := columns(record) // type, name, table, root page, SQL
		if err == nil && len(c) >= 4 && string(c[0]) == "table" && string(c[1]) == name {
			for _, b := range c[3] {
				root = root<<8 | uint32(b)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return fmt.Errorf("it has no table %s", name)
	}
	return d.rows(root, func(record []byte) error {
		c, err := columns(record)
		if err != nil {
			return err
		}
		return row(c)
	})
}
