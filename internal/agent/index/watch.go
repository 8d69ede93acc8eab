// SPDX-License-Identifier: Apache-2.0

package index

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// What can make a file come to have a content under a name. MODIFY is there for
// files that are written and never closed.
const (
	baseMask = unix.FAN_CREATE | unix.FAN_MOVED_FROM | unix.FAN_MOVED_TO | unix.FAN_DELETE |
		unix.FAN_CLOSE_WRITE | unix.FAN_MODIFY | unix.FAN_ATTRIB | unix.FAN_ONDIR
	fullMask = baseMask | unix.FAN_RENAME // since 5.17: both ends in one event
)

// group is a fanotify group that notifies of one file system. It decides
// nothing and holds nobody up. Its queue is the kernel's default length: what
// does not fit is told as an overflow.
type group struct {
	file *os.File // in the poller, so that a wait can be ended by a deadline
	raw  syscall.RawConn
	// queue is the most events that can be waiting.
	queue int

	mu  sync.Mutex // guards buf and keeps reading and handing on in one step
	buf []byte
}

// newGroup watches the whole file system that holds the folder path.
func newGroup(path string) (*group, error) {
	const flags = unix.FAN_CLASS_NOTIF | unix.FAN_CLOEXEC | unix.FAN_NONBLOCK
	fd, err := unix.FanotifyInit(flags|unix.FAN_REPORT_DFID_NAME_TARGET, unix.O_RDONLY)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.FanotifyInit(flags|unix.FAN_REPORT_DFID_NAME|unix.FAN_REPORT_FID, unix.O_RDONLY)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot have file system events: %w", err)
	}
	const mark = unix.FAN_MARK_ADD | unix.FAN_MARK_FILESYSTEM
	err = unix.FanotifyMark(fd, mark, fullMask, unix.AT_FDCWD, path)
	if errors.Is(err, unix.EINVAL) {
		err = unix.FanotifyMark(fd, mark, baseMask, unix.AT_FDCWD, path)
	}
	if err != nil {
		closeFD(fd)
		return nil, fmt.Errorf("cannot have file system events: %w", err)
	}
	g := &group{file: os.NewFile(uintptr(fd), "fanotify"), queue: queueLength(), buf: make([]byte, 64<<10)}
	if g.raw, err = g.file.SyscallConn(); err != nil {
		_ = g.file.Close() // nothing was read yet
		return nil, fmt.Errorf("cannot have file system events: %w", err)
	}
	return g, nil
}

// wait returns when events may be there, or with an error once the group is closed.
func (g *group) wait() error {
	return g.raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return n > 0 || (err != nil && err != unix.EINTR) //nolint:errorlint // a bare errno from x/sys
	})
}

// drain reads all events that were queued when it was called and hands each to
// take before anybody else can see the queue shorter.
func (g *group) drain(take func(event)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for read := 0; read <= g.queue; { // whoever makes events faster than we read must not hold us here
		var n int
		var err error
		// Control, not Read: that would wait behind whoever waits.
		if cerr := g.raw.Control(func(fd uintptr) { n, err = unix.Read(int(fd), g.buf) }); cerr != nil {
			return cerr
		}
		switch {
		case err == unix.EAGAIN: //nolint:errorlint // a bare errno from x/sys
			return nil
		case err == unix.EINTR: //nolint:errorlint // a bare errno from x/sys
			continue
		case err != nil:
			return fmt.Errorf("cannot read file system events: %w", err)
		}
		list, err := parseEvents(g.buf[:n])
		for _, e := range list {
			take(e)
		}
		read += len(list)
		if err != nil {
			return err
		}
	}
	return nil
}

// queueLength is how many events the kernel keeps for a group.
func queueLength() int {
	const usual = 16384
	b, err := os.ReadFile("/proc/sys/fs/fanotify/max_queued_events")
	if err != nil {
		return usual
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return usual
	}
	return n
}

func (g *group) close() { _ = g.file.Close() } // read only

// watches are the groups of one search.
type watches struct {
	groups []watched
	whole  bool // every root's file system is watched
}

type watched struct {
	*group
	point string
}

func watch(points []string) (w watches) {
	w.whole = len(points) > 0
	for _, p := range points {
		g, err := newGroup(p)
		if err != nil {
			w.whole = false
			continue
		}
		w.groups = append(w.groups, watched{g, p})
	}
	return w
}

func (w *watches) close() {
	for _, g := range w.groups {
		g.close()
	}
}
