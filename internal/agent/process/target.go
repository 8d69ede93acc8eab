// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// Target is one content that must not run.
type Target struct {
	// Copies are the files known to have it. They speed the hold up; what they
	// leave out is found by content.
	Copies []Copy
	// Size of the content in bytes; 0 = that of the first copy, or not known.
	// A known size spares hashing nearly every file that is looked at.
	Size int64
	// Program says that the content is known to be no script; false = a copy will tell.
	Program bool
	// Match reads f from its start and says whether its content is the
	// target's. Required. It is called from several goroutines.
	Match func(f *os.File) (bool, error)
	// Sum says the same of digests that are known already; nil = all is read.
	Sum func(filehash.Sum) bool
	// Seen is told of matches that the hooks met and killed after Stop had
	// returned, from a goroutine of the holder; nil = nobody is told. The
	// match's Exe is the callee's to close.
	Seen func(Match)
}

// Copy is an open file and what fstat said of it when its content was found to
// be the target's.
type Copy struct {
	File *os.File // open for reading; the hold opens its own
	Stat inode.Stat
}

// verdict is what is known of a file.
type verdict int

const (
	unknown verdict = iota
	innocent
	guilty
)

// judge answers whether a file is the target, reading each content once.
type judge struct {
	match func(*os.File) (bool, error)
	sum   func(filehash.Sum) bool // nil = not to be had
	table *table                  // nil = there is none

	mu    sync.Mutex
	size  int64 // -1 = not known
	cache map[inode.ID]judged
	elf   bool // the content is not a script, as far as is known
}

type judged struct {
	stat    inode.Stat
	verdict verdict
}

// maxJudged bounds the memory of verdicts; beyond it they are forgotten, and
// files are read again.
const maxJudged = 1 << 16

// settled is how old a change must be before a verdict is remembered: on
// kernels whose file times advance in ticks, two changes within one tick leave
// the same time.
const settled = 20 * time.Millisecond

func newJudge(t Target, known *table) *judge {
	j := &judge{match: t.Match, sum: t.Sum, table: known, size: -1, cache: make(map[inode.ID]judged)}
	if t.Size > 0 {
		j.size, j.elf = t.Size, t.Program
	}
	return j
}

// byStat answers from what stat says alone.
func (j *judge) byStat(st inode.Stat) verdict {
	if !st.Regular() {
		return innocent
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.size >= 0 && st.Size != j.size {
		return innocent
	}
	if k, ok := j.cache[st.ID]; ok && k.stat.Same(st) {
		return k.verdict
	}
	// What the table says to be guilty is read all the same.
	if j.sum != nil {
		if sum, ok := j.table.sum(st); ok && !j.sum(sum) {
			return innocent
		}
	}
	return unknown
}

// file answers for an open file, reading it where it must.
func (j *judge) file(f *os.File) (bool, inode.Stat, error) {
	st, err := inode.Of(f)
	if err != nil {
		return false, st, err
	}
	if v := j.byStat(st); v != unknown {
		return v == guilty, st, nil
	}
	began := time.Now()
	yes, err := j.match(f)
	if err != nil {
		return false, st, fmt.Errorf("cannot read %s: %w", f.Name(), err)
	}
	after, err := inode.Of(f)
	if err != nil {
		return false, st, err
	}
	if after.Same(st) && began.Sub(st.Ctime) > settled {
		j.remember(st, yes)
	}
	if yes {
		j.learn(f, st)
	}
	return yes, st, nil
}

func (j *judge) remember(st inode.Stat, yes bool) {
	v := innocent
	if yes {
		v = guilty
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.cache) >= maxJudged {
		clear(j.cache)
	}
	j.cache[st.ID] = judged{stat: st, verdict: v}
}

// learn takes size and kind of the content from a file that has it.
func (j *judge) learn(f *os.File, st inode.Stat) {
	var head [4]byte
	n, err := f.ReadAt(head[:], 0)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.size = st.Size
	if err == nil || errors.Is(err, io.EOF) {
		j.elf = bytes.Equal(head[:n], []byte("\x7fELF"))
	}
}

// bytes returns the size of the content and whether it is known.
func (j *judge) bytes() (int64, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size, j.size >= 0
}

// program reports whether the content is known to be a program or a library,
// so that an exec of another file cannot be the target given to an interpreter.
func (j *judge) program() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.size >= 0 && j.elf
}

// reopen opens the file behind a descriptor anew for reading, without touching
// its access time where that is allowed.
func reopen(f *os.File) (*os.File, error) {
	return openFD(int(f.Fd()), f.Name())
}

// refer returns a descriptor that keeps the file's inode and opens nothing: no
// gate is asked about it.
func refer(f *os.File) (*os.File, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func openFD(fd int, name string) (*os.File, error) {
	return openQuiet(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), name)
}

// openQuiet opens for reading; it does not wait for the other end of a pipe
// and leaves the access time alone.
func openQuiet(dir int, path, name string) (*os.File, error) {
	const how = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	fd, err := unix.Openat(dir, path, how|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		fd, err = unix.Openat(dir, path, how, 0)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
