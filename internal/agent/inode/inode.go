// SPDX-License-Identifier: Apache-2.0

// Package inode names files by identity. Paths are for people; every decision
// of the agent rests on descriptors and on the identities read through them.
package inode

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ID is a file on this machine: the device number stat(2) reports and the
// inode number. An inode number is used again after the file is gone, so an ID
// means something only while a descriptor, a mark or a mapping holds the file.
type ID struct {
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// String returns "major:minor:inode".
func (id ID) String() string {
	return fmt.Sprintf("%d:%d:%d", unix.Major(id.Dev), unix.Minor(id.Dev), id.Ino)
}

// Stat is what fstat(2) says of a file: its identity and what changes when its
// content does.
type Stat struct {
	ID
	Size  int64
	Mode  uint32 // as in st_mode, file type included
	Nlink uint64
	UID   uint32
	GID   uint32
	Atime time.Time
	Mtime time.Time
	Ctime time.Time
}

// Of reads the identity of an open file.
func Of(f *os.File) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return Stat{}, fmt.Errorf("cannot stat %s: %w", f.Name(), err)
	}
	return FromStat(&st), nil
}

// FromStat converts what a stat call filled in.
func FromStat(st *unix.Stat_t) Stat {
	return Stat{
		ID:    ID{Dev: st.Dev, Ino: st.Ino},
		Size:  st.Size,
		Mode:  st.Mode,
		Nlink: uint64(st.Nlink),
		UID:   st.Uid,
		GID:   st.Gid,
		Atime: time.Unix(st.Atim.Unix()),
		Mtime: time.Unix(st.Mtim.Unix()),
		Ctime: time.Unix(st.Ctim.Unix()),
	}
}

// Regular reports whether the file is a regular file.
func (s Stat) Regular() bool { return s.Mode&unix.S_IFMT == unix.S_IFREG }

// Same reports whether t describes the same file with the same content, as far
// as stat can tell: a shared memory mapping may have written without trace.
func (s Stat) Same(t Stat) bool {
	return s.ID == t.ID && s.Size == t.Size && s.Mtime.Equal(t.Mtime) && s.Ctime.Equal(t.Ctime)
}
