// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// plan says where in a file the bytes lie that its sealed content has.
type plan struct {
	size    int64
	sparse  bool
	extents []Extent
}

func (m *Manifest) plan() plan { return plan{size: m.Size, sparse: m.Sparse, extents: m.Extents} }

// stored is the number of bytes in the sealed content.
func (p plan) stored() (n int64) {
	if !p.sparse {
		return p.size
	}
	for _, e := range p.extents {
		n += e.Len
	}
	return n
}

// Stored is how many of a file's size bytes go into the vault: all but its holes.
func Stored(f *os.File, size int64) int64 { return planOf(f, size).stored() }

// planOf finds the holes of a file. A file of very many pieces gets fewer by
// taking its smaller holes for data.
func planOf(f *os.File, size int64) plan {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 >= size {
		return plan{size: size}
	}
	ext, ok := extents(f, size)
	if !ok {
		return plan{size: size}
	}
	for hole := int64(minHole); len(ext) > maxExtent; hole *= 4 {
		ext = merge(ext, hole)
	}
	if len(ext) == 1 && ext[0].Len == size {
		return plan{size: size}
	}
	return plan{size: size, sparse: true, extents: ext}
}

func extents(f *os.File, size int64) ([]Extent, bool) {
	var ext []Extent
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // only a hole is left
		}
		if err != nil || data < off {
			return nil, false
		}
		hole, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
		if err != nil || hole <= data {
			return nil, false
		}
		if data >= size {
			break
		}
		hole = min(hole, size)
		ext = append(ext, Extent{Off: data, Len: hole - data})
		off = hole
	}
	return ext, true
}

// merge joins extents with less than hole bytes between them.
func merge(ext []Extent, hole int64) []Extent {
	out := ext[:1:1]
	for _, e := range ext[1:] {
		if last := &out[len(out)-1]; e.Off-(last.Off+last.Len) < hole {
			last.Len = e.Off + e.Len - last.Off
		} else {
			out = append(out, e)
		}
	}
	return out
}
