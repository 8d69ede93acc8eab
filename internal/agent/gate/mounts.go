// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/order"
)

// mount is one line of /proc/self/mountinfo, see proc_pid_mountinfo(5).
type mount struct {
	id     int
	dev    string // "major:minor"
	point  string
	fstype string
}

// parseMounts reads mountinfo. A line it cannot read is an error beside the
// lines it could.
func parseMounts(r io.Reader) (all []mount, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 4096), 1<<20)
	for lines.Scan() {
		m, lineErr := parseMount(lines.Text())
		if lineErr != nil {
			err = errors.Join(err, lineErr)
			continue
		}
		all = append(all, m)
	}
	return all, errors.Join(err, lines.Err())
}

// parseMount reads
//
//	36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
func parseMount(line string) (mount, error) {
	before, after, ok := strings.Cut(line, " - ")
	fields := strings.Split(before, " ")
	if !ok || len(fields) < 6 {
		return mount{}, fmt.Errorf("cannot read mount line %q", line)
	}
	id, err := strconv.Atoi(fields[0])
	if err != nil {
		return mount{}, fmt.Errorf("cannot read mount line %q: %w", line, err)
	}
	fstype, _, _ := strings.Cut(after, " ")
	return mount{id: id, dev: fields[2], point: mountinfo.Unescape(fields[4]), fstype: mountinfo.Unescape(fstype)}, nil
}

// skipped says why a type of file system is not covered; "" where it is.
// Whatever is not known is covered.
func skipped(fstype string) string {
	switch fstype {
	case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "securityfs", "pstore", "bpf",
		"configfs", "autofs", "binfmt_misc", "hugetlbfs", "rpc_pipefs", "nsfs", "efivarfs", "fusectl", "selinuxfs", "smackfs":
		return "holds no files of its own"
	case "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "afs", "9p", "virtiofs", "lustre", "gfs2", "ocfs2", "glusterfs", "beegfs":
		return "is on other machines, which may be slow to answer"
	}
	if fstype == "fuse" || strings.HasPrefix(fstype, "fuse.") {
		return "is served by a process, which the gate could wait for in vain"
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
	fd, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
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
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("cannot list mounts: %w", err)
	}
	defer f.Close() // only read
	mounts, err := parseMounts(f)
	if err != nil {
		c.note(err.Error())
	}
	c.covered, c.not = nil, nil
	done := map[string]bool{}
	hidden := map[string]Filesystem{}
	inScope := c.scope(mounts)
	for _, m := range mounts {
		if !inScope(m) || done[m.dev] {
			continue
		}
		fs := Filesystem{Point: order.TextOf(m.point), Type: m.fstype, Dev: m.dev, ID: m.id}
		if fs.Why = skipped(m.fstype); fs.Why == "" {
			fs.Why = c.cover(m)
		}
		if fs.Why != "" {
			hidden[m.dev] = fs
			continue
		}
		done[m.dev] = true
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
func (c *coverage) scope(mounts []mount) func(mount) bool {
	holding := map[int]bool{} // by the mount's id
	for _, p := range c.under {
		best := -1
		for i, m := range mounts {
			// Of mounts on one point the last is the one that is seen.
			if within(m.point, p) && (best < 0 || len(m.point) >= len(mounts[best].point)) {
				best = i
			}
		}
		if best >= 0 {
			holding[mounts[best].id] = true
		}
	}
	return func(m mount) bool {
		return len(c.under) == 0 || holding[m.id] ||
			slices.ContainsFunc(c.under, func(p string) bool { return within(p, m.point) })
	}
}

// within reports whether p is dir or lies below it.
func within(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// cover marks the file system of m, if its mount point still leads there, and
// returns why it could not.
func (c *coverage) cover(m mount) (why string) {
	fd, err := unix.Open(m.point, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0) // O_PATH asks nobody's permission
	if err != nil {
		return "cannot be reached: " + err.Error()
	}
	defer unix.Close(fd) // only a name
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return "cannot be looked at: " + err.Error()
	}
	if st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id != uint64(m.id) {
		return "is hidden by another mount in the same place"
	}
	if err := c.fan.markFilesystem(fd); err != nil {
		return "cannot be marked: " + err.Error()
	}
	return ""
}
