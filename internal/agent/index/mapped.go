// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// mappedForWriting lists the files that processes have mapped shared and
// writable. Of processes that are not ours to read it knows nothing. Every
// process is looked at each time, since no event tells of a mapping.
func mappedForWriting() map[inode.ID]bool {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	names, _ := dir.Readdirnames(-1) // what was read counts
	_ = dir.Close()                  // read only
	found := map[inode.ID]bool{}
	var mu sync.Mutex // guards found
	var at atomic.Int64
	var work sync.WaitGroup
	for range min(4, runtime.GOMAXPROCS(0)) {
		work.Go(func() {
			l := mapsLooker{found: func(id inode.ID) {
				mu.Lock()
				defer mu.Unlock()
				found[id] = true
			}}
			for i := at.Add(1) - 1; i < int64(len(names)); i = at.Add(1) - 1 {
				if n := names[i]; n[0] >= '0' && n[0] <= '9' {
					l.look("/proc/" + n + "/maps")
				}
			}
		})
	}
	work.Wait()
	return found
}

// mapsLooker looks at one process after the other.
type mapsLooker struct {
	found  func(inode.ID)
	asText bool // the kernel cannot be asked for single mappings
	buf    []byte
}

func (l *mapsLooker) look(path string) {
	fd, err := openAt(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return // ended, or not ours
	}
	defer closeFD(fd)
	if !l.asText {
		if l.ask(fd) {
			return
		}
		l.asText = true
	}
	l.read(fd)
}

// mapQuery is struct procmap_query of linux/fs.h, since 6.11.
type mapQuery struct {
	size, flags, addr                        uint64
	start, end, vmaFlags, pageSize, off, ino uint64
	major, minor, nameSize, buildSize        uint32
	nameAddr, buildAddr                      uint64
}

const (
	procmapQuery = 0xc0686611 // _IOWR('f', 17, struct procmap_query)
	// The next mapping from an address on that is writable, shared and of a file.
	nextWritten = 0x02 | 0x08 | 0x10 | 0x20
)

// ask has the kernel pick the mappings. It reports false where it cannot.
func (l *mapsLooker) ask(fd int) bool {
	q := mapQuery{flags: nextWritten}
	for {
		q.size = uint64(unsafe.Sizeof(q))
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), procmapQuery, uintptr(unsafe.Pointer(&q)))
		switch errno {
		case 0:
			if q.ino != 0 {
				l.found(inode.ID{Dev: unix.Mkdev(q.major, q.minor), Ino: q.ino})
			}
			q = mapQuery{flags: nextWritten, addr: q.end}
		case unix.EINTR:
		case unix.ENOENT, unix.ESRCH: // no more, or the process has ended
			return true
		default:
			return false
		}
	}
}

// read looks through the text of all mappings.
func (l *mapsLooker) read(fd int) {
	if l.buf == nil {
		l.buf = make([]byte, 64<<10)
	}
	rest := 0 // bytes of a line that is not complete
	for {
		n, err := retry(func() (int, error) { return unix.Read(fd, l.buf[rest:]) })
		if err != nil || n <= 0 {
			return
		}
		text := l.buf[:rest+n]
		for {
			line, after, ok := bytes.Cut(text, []byte{'\n'})
			if !ok {
				break
			}
			text = after
			if at := bytes.IndexByte(line, ' '); at < 0 || len(line) < at+5 || line[at+4] != 's' {
				continue // spares most of the work
			}
			if id, ok := writableMapping(string(line)); ok {
				l.found(id)
			}
		}
		if rest = copy(l.buf, text); rest == len(l.buf) {
			rest = 0 // no line is that long
		}
	}
}

// writableMapping reads "start-end rw-s offset major:minor inode path".
func writableMapping(line string) (id inode.ID, ok bool) {
	f := strings.Fields(line)
	if len(f) < 5 || len(f[1]) != 4 || f[1][1] != 'w' || f[1][3] != 's' {
		return id, false
	}
	major, minor, _ := strings.Cut(f[3], ":")
	a, err1 := strconv.ParseUint(major, 16, 32)
	b, err2 := strconv.ParseUint(minor, 16, 32)
	ino, err3 := strconv.ParseUint(f[4], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || ino == 0 {
		return id, false
	}
	return inode.ID{Dev: unix.Mkdev(uint32(a), uint32(b)), Ino: ino}, true
}
