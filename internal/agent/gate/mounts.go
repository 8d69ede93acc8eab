// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/order"
)

// skipped says why a type of file system is not covered; "" where it is.
// Whatever is not known is covered.
func skipped(m mountinfo.Mount) string {
	switch {
	case m.Kind() == mountinfo.Pseudo:
		return "holds no files of its own"
	case m.Type == "fuse", strings.HasPrefix(m.Type, "fuse."):
		return "is served by a process, which the gate could wait for in vain"
	case m.Kind() == mountinfo.Remote:
		return "is on other machines, which may be slow to answer"
	}
	return ""
}

// coverage keeps the standing gate on every local file system while it is
// wanted, new mounts included.
type coverage struct {
	fan   group
	under []string
	note  func(string)

	mu      sync.Mutex // also orders marks against their removal
	wanted  bool       // guarded by mu
	covered []Filesystem
	not     []Filesystem
}

// settle turns the standing gate on or off, as wanted says once nobody else is
// turning it. When it returns without error while wanted, all that can be
// covered is marked.
func (c *coverage) settle(wanted func() bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch on := wanted(); {
	case on == c.wanted:
		return nil
	case !on:
		c.wanted, c.covered, c.not = false, nil, nil
		if err := c.fan.unmarkFilesystems(); err != nil {
			return fmt.Errorf("cannot end the standing gate: %w", err)
		}
		return nil
	}
	if err := c.scan(); err != nil {
		return err
	}
	c.wanted = true
	return nil
}

func (c *coverage) lists() (covered, not []Filesystem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.covered, c.not
}

// watch marks again whenever something was mounted. Marking twice is harmless,
// and it is the only way to be sure: numbers of devices and mounts come back.
func (c *coverage) watch() error {
	// Not os.Open: the runtime's own poller would see the change first and the
	// kernel tells it only once for each open file.
	fd, err := unix.Open(mountinfo.Self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot watch mounts: %w", err)
	}
	defer unix.Close(fd) // only read
	for {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}
		if _, err := unix.Poll(p, -1); err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot watch mounts: %w", err)
		}
		c.mu.Lock()
		if c.wanted {
			if err := c.scan(); err != nil {
				c.note(err.Error())
			}
		}
		c.mu.Unlock()
		time.Sleep(2 * time.Millisecond) // a storm of mounts must not keep a core busy
	}
}

// scan marks every file system that is to be covered. c.mu is held.
func (c *coverage) scan() error {
	mounts, err := mountinfo.Read(mountinfo.Self)
	if len(mounts) == 0 {
		return err
	}
	if err != nil {
		c.note(err.Error())
	}
	c.covered, c.not = nil, nil
	done := map[uint64]bool{}
	hidden := map[uint64]Filesystem{}
	inScope := c.scope(mounts)
	for _, m := range mounts {
		if !inScope(m) || done[m.Dev] {
			continue
		}
		fs := Filesystem{Point: order.TextOf(m.Point), Type: m.Type, Dev: m.Device(), ID: int(m.ID)} //nolint:gosec // mount ids are small
		if fs.Why = skipped(m); fs.Why == "" {
			fs.Why = c.cover(m)
		}
		if fs.Why != "" {
			hidden[m.Dev] = fs
			continue
		}
		done[m.Dev] = true
		c.covered = append(c.covered, fs)
	}
	for dev, fs := range hidden {
		if !done[dev] {
			c.not = append(c.not, fs)
		}
	}
	if len(c.covered) == 0 {
		return errors.New("cannot begin the standing gate: no file system could be covered")
	}
	return nil
}

// scope returns what says whether a mount is to be covered: those that the
// folders lie on, and those below the folders.
func (c *coverage) scope(mounts []mountinfo.Mount) func(mountinfo.Mount) bool {
	holding := map[uint64]bool{} // by the mount's id
	for _, p := range c.under {
		best := -1
		for i, m := range mounts {
			// Of mounts on one point the last is the one that is seen.
			if within(m.Point, p) && (best < 0 || len(m.Point) >= len(mounts[best].Point)) {
				best = i
			}
		}
		if best >= 0 {
			holding[mounts[best].ID] = true
		}
	}
	return func(m mountinfo.Mount) bool {
		return len(c.under) == 0 || holding[m.ID] ||
			slices.ContainsFunc(c.under, func(p string) bool { return within(p, m.Point) })
	}
}

// within reports whether p is dir or lies below it.
func within(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// cover marks the file system of m, if its mount point still leads there, and
// returns why it could not.
func (c *coverage) cover(m mountinfo.Mount) (why string) {
	fd, err := unix.Open(m.Point, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) // O_PATH asks nobody's permission
	if err != nil {
		return "cannot be reached: " + err.Error()
	}
	defer unix.Close(fd) // only a name
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return "cannot be looked at: " + err.Error()
	}
	if st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id != m.ID {
		return "is hidden by another mount in the same place"
	}
	if err := c.fan.markFilesystem(fd); err != nil {
		return "cannot be marked: " + err.Error()
	}
	return ""
}
