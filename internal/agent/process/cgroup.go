// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
)

// freezer is one hierarchy of control groups that can freeze, by the files of
// its version.
type freezer struct {
	root       string // where it is mounted
	file       string // what is written to
	stop, thaw string // what is written
}

// freezers returns the hierarchies among what is mounted: version 2 (Linux
// 5.2), and the freezer of version 1.
func freezers(mounts []mountinfo.Mount) []freezer {
	var all []freezer
	for _, m := range mounts {
		switch {
		case m.Type == "cgroup2":
			all = append(all, freezer{root: m.Point, file: "cgroup.freeze", stop: "1", thaw: "0"})
		case m.Type == "cgroup" && strings.Contains(","+m.Options+",", ",freezer,"):
			all = append(all, freezer{root: m.Point, file: "freezer.state", stop: "FROZEN", thaw: "THAWED"})
		}
	}
	return all
}

// group is one control group that may be frozen with everything below it.
type group struct {
	dir     string
	freezer freezer
	control *os.File // open before the freeze, so that thawing needs no path
	frozen  time.Time
}

// candidates returns the groups to freeze: the topmost ones that hold no
// process which must run on, have somebody in them, and are not frozen by
// somebody else. The root of a hierarchy cannot be frozen.
func (fz freezer) candidates(spared func(pid int) bool) ([]string, error) {
	var all []string
	_, _, err := fz.walk(fz.root, spared, &all)
	return all, err
}

// walk returns whether the group or one below it holds a spared process, and
// whether it holds anybody; groups that may be frozen are appended to all.
func (fz freezer) walk(dir string, spared func(int) bool, all *[]string) (keep, populated bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return false, false, nil // removed meanwhile: it was empty
	}
	if err != nil {
		return true, false, fmt.Errorf("cannot list control groups: %w", err)
	}
	pids, err := members(dir)
	keep = dir == fz.root || err != nil // a threaded group does not list its processes
	for _, pid := range pids {
		keep = keep || spared(pid)
	}
	populated = len(pids) > 0
	var below []string
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		k, p, err := fz.walk(filepath.Join(dir, e.Name()), spared, &below)
		if err != nil {
			return true, false, err
		}
		keep, populated = keep || k, populated || p
	}
	switch {
	case keep:
		*all = append(*all, below...)
	case populated && fz.free(dir):
		*all = append(*all, dir)
	}
	return keep, populated, nil
}

// free reports whether nobody has frozen the group.
func (fz freezer) free(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, fz.file))
	state := string(bytes.TrimSpace(b))
	return err == nil && (state == "0" || state == "THAWED")
}

// members lists the processes of one group, without those below it.
func members(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var all []int
	for f := range bytes.FieldsSeq(b) {
		if pid, err := strconv.Atoi(string(f)); err == nil {
			all = append(all, pid)
		}
	}
	return all, nil
}

// everybody lists the processes of a group and of all below it.
func everybody(dir string) ([]int, error) {
	var all []int
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		pids, err := members(path)
		all = append(all, pids...)
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil // threaded: its processes are listed above
		}
		return err
	})
	return all, err
}

// openGroup opens the group's control file.
func openGroup(fz freezer, dir string) (*group, error) {
	f, err := os.OpenFile(filepath.Join(dir, fz.file), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot freeze control group: %w", err)
	}
	return &group{dir: dir, freezer: fz, control: f}, nil
}

// freeze begins to freeze the group.
func (g *group) freeze() error {
	g.frozen = time.Now()
	_, err := g.control.WriteAt([]byte(g.freezer.stop), 0)
	return err
}

// thaw lets the group run on. Doing it twice is harmless.
func (g *group) thaw() error {
	_, err := g.control.WriteAt([]byte(g.freezer.thaw), 0)
	if errors.Is(err, unix.ENODEV) {
		return nil // the group is gone, and so is everybody in it
	}
	return err
}

// atRest reports whether everybody in the group has come to rest.
func (g *group) atRest() (bool, error) {
	if g.freezer.file == "freezer.state" {
		b, err := os.ReadFile(filepath.Join(g.dir, g.freezer.file))
		return string(bytes.TrimSpace(b)) == "FROZEN", err
	}
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.events"))
	return bytes.Contains(b, []byte("frozen 1")), err
}

// wait waits until everybody in the group is at rest.
func (g *group) wait(ctx context.Context) error {
	for {
		rest, err := g.atRest()
		if rest || errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot freeze control group %s: %w", g.dir, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("cannot freeze control group %s: a process in it does not come to rest", g.dir)
		}
		time.Sleep(100 * time.Microsecond)
	}
}
