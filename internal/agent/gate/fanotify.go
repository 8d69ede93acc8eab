// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// verdict is the kernel's word for an answer.
type verdict uint32

const (
	allow verdict = unix.FAN_ALLOW
	deny  verdict = unix.FAN_DENY
)

const (
	fileMask   = unix.FAN_OPEN_PERM | unix.FAN_OPEN_EXEC_PERM
	standMask  = unix.FAN_OPEN_EXEC_PERM
	permEvents = unix.FAN_OPEN_PERM | unix.FAN_OPEN_EXEC_PERM | unix.FAN_ACCESS_PERM

	// maxFDs is the gate's limit of open files. The kernel matches answers to
	// events by the number of the event's descriptor, so this is also how far
	// a sweep must go.
	maxFDs = 8192
	// maxPending leaves room below maxFDs: out of descriptors the kernel
	// refuses, whatever the setting says.
	maxPending = 4096
)

// group is a fanotify group of class content. Every process that holds its
// descriptor keeps it alive, so only supervisor and gate do.
type group struct {
	fd        int
	unlimited bool
}

// newGroup makes a group, with an unlimited queue where that is permitted: a
// full queue lets events pass unjudged.
func newGroup() (group, error) {
	const must = unix.FAN_CLASS_CONTENT | unix.FAN_CLOEXEC
	const eventFlags = unix.O_RDONLY | unix.O_LARGEFILE | unix.O_CLOEXEC | unix.O_NOATIME
	fd, err := unix.FanotifyInit(must|unix.FAN_UNLIMITED_QUEUE|unix.FAN_UNLIMITED_MARKS, eventFlags)
	if err == nil {
		return group{fd: fd, unlimited: true}, nil
	}
	if fd, err2 := unix.FanotifyInit(must, eventFlags); err2 == nil {
		return group{fd: fd}, nil
	}
	switch {
	case errors.Is(err, unix.EPERM):
		return group{}, fmt.Errorf("%w: the kernel grants permission events only to root with CAP_SYS_ADMIN on the host: %w", ErrOff, err)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
		return group{}, fmt.Errorf("%w: this kernel was built without fanotify permission events: %w", ErrOff, err)
	}
	return group{}, fmt.Errorf("%w: cannot make a fanotify group: %w", ErrOff, err)
}

// answer lets the task behind the event descriptor fd go on.
func (g group) answer(fd int32, v verdict) error {
	var b [8]byte
	binary.NativeEndian.PutUint32(b[:], uint32(fd))
	binary.NativeEndian.PutUint32(b[4:], uint32(v))
	for {
		_, err := unix.Write(g.fd, b[:])
		if err != unix.EINTR {
			return err
		}
	}
}

// sweep answers v to every event that was read and never answered, and returns
// how many there were. No other process may be reading events: a new event
// with an old number would get the answer of the old one.
func (g group) sweep(v verdict) (n int) {
	for fd := range int32(maxFDs) {
		if g.answer(fd, v) == nil {
			n++
		}
	}
	return n
}

// drain answers v to all that comes, until the time is up. No gate may be alive.
func (g group) drain(ctx context.Context, v verdict, d time.Duration) int {
	var n atomic.Int64
	end := time.Now().Add(d)
	r := &readers{
		fan: g, start: time.Now(), refused: func(error) {},
		over: func() bool { return ctx.Err() != nil || !time.Now().Before(end) },
		take: func(e event, _ time.Time, _ *unix.Statx_t) {
			if e.fd >= 0 && g.answer(e.fd, v) == nil {
				n.Add(1)
			}
			closeEvent(e.fd)
		},
	}
	_ = r.read() // a group that fails leaves nobody waiting
	return int(n.Load())
}

// markFile asks for events of the file behind fd, by its inode: names, links
// and mounts do not matter.
func (g group) markFile(fd int) error {
	return g.mark(unix.FAN_MARK_ADD, fileMask, fd)
}

// unmarkFile undoes markFile. A file that has no mark is no error.
func (g group) unmarkFile(fd int) error {
	if err := g.mark(unix.FAN_MARK_REMOVE, fileMask, fd); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// markFilesystem asks for executions on the whole file system that fd is on:
// never on the mount, which a bind mount or another namespace escapes.
func (g group) markFilesystem(fd int) error {
	return g.mark(unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, standMask, fd)
}

// unmarkFilesystems removes all that markFilesystem asked for.
func (g group) unmarkFilesystems() error {
	return unix.FanotifyMark(g.fd, unix.FAN_MARK_FLUSH|unix.FAN_MARK_FILESYSTEM, 0, unix.AT_FDCWD, "/")
}

// ignore never asks about executions of the file at path. The supervisor needs
// this for its own program: while no gate answers, it could not start one.
func (g group) ignore(path string) error {
	const flags = unix.FAN_MARK_ADD | unix.FAN_MARK_IGNORED_MASK | unix.FAN_MARK_IGNORED_SURV_MODIFY
	return unix.FanotifyMark(g.fd, flags, standMask, unix.AT_FDCWD, path)
}

// mark goes through /proc so that descriptors opened with O_PATH serve too.
func (g group) mark(flags uint, mask uint64, fd int) error {
	return unix.FanotifyMark(g.fd, flags, mask, unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd))
}

// event is what the kernel asks.
type event struct {
	mask uint64
	fd   int32 // the file, opened for us; negative: no file
	pid  int32 // the process, as the gate's pid namespace numbers it
}

func (e event) exec() bool { return e.mask&unix.FAN_OPEN_EXEC_PERM != 0 }
func (e event) asks() bool { return e.mask&permEvents != 0 && e.fd >= 0 }

var errEvent = errors.New("cannot read fanotify event")

// nextEvent takes the first event off b, as struct fanotify_event_metadata
// lays it out:
//
//	u32 length · u8 version · u8 reserved · u16 length of this part · u64 mask · s32 descriptor · s32 pid
func nextEvent(b []byte) (e event, rest []byte, err error) {
	if len(b) < unix.FAN_EVENT_METADATA_LEN {
		return event{}, nil, fmt.Errorf("%w: %d bytes are too few", errEvent, len(b))
	}
	size := binary.NativeEndian.Uint32(b)
	switch {
	case b[4] != unix.FANOTIFY_METADATA_VERSION:
		return event{}, nil, fmt.Errorf("%w: the kernel speaks version %d, this program %d", errEvent, b[4], unix.FANOTIFY_METADATA_VERSION)
	case size < unix.FAN_EVENT_METADATA_LEN || uint64(size) > uint64(len(b)):
		return event{}, nil, fmt.Errorf("%w: its length is %d of %d bytes", errEvent, size, len(b))
	}
	return event{
		mask: binary.NativeEndian.Uint64(b[8:]),
		fd:   int32(binary.NativeEndian.Uint32(b[16:])),
		pid:  int32(binary.NativeEndian.Uint32(b[20:])),
	}, b[size:], nil
}
