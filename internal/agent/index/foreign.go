// SPDX-License-Identifier: Apache-2.0

package index

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
)

// theirs lists what other mount namespaces have mounted and we have not. Each
// point is a path that leads there from here, through the root of the process
// with the lowest number in the namespace. Only those at or below the roots, in
// the namespace's own view, count if roots are given. Namespaces that cannot be
// read are gaps.
func theirs(own []mount, roots []string) (all []mount, gaps []string) {
	ours := map[uint64]bool{}
	for _, m := range own {
		ours[m.Dev] = true
	}
	known := map[uint64]bool{} // mounts: ids are one for all namespaces
	for _, pid := range namespaces() {
		proc := fmt.Sprintf("/proc/%d", pid)
		mounts, err := mountinfo.Read(proc + "/mountinfo")
		if err != nil && !gone(err) {
			gaps = append(gaps, gap(proc+"/root", err.Error()))
		}
		for _, m := range mounts {
			if ours[m.Dev] || known[m.ID] {
				continue
			}
			known[m.ID] = true
			if len(roots) > 0 && !slices.ContainsFunc(roots, func(r string) bool { return within(m.Point, filepath.Clean(r)) }) {
				continue
			}
			m.Point = path.Join(proc, "root", m.Point)
			all = append(all, m)
		}
	}
	return all, gaps
}

// namespaces returns one process of each mount namespace but ours.
func namespaces() (pids []int) {
	own, _ := os.Readlink("/proc/self/ns/mnt") // if that fails, ours is one of theirs and adds nothing
	seen := map[string]bool{own: true}
	links, _ := filepath.Glob("/proc/[0-9]*/ns/mnt") // the pattern is valid
	slices.SortFunc(links, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
	for _, link := range links {
		space, err := os.Readlink(link)
		if err != nil || seen[space] {
			continue // gone, or not ours to see: a process that may not be looked at is told of elsewhere
		}
		seen[space] = true
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link)))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// foreign makes roots of what only others have mounted.
func (s *search) foreign() {
	own := s.mounts
	s.mounts, s.gaps = theirs(own, s.cfg.Roots)
	s.layers = overlays(s.mounts)
	picked, remotes, skipped := sources(s.mounts, own...)
	s.gaps, s.res.Skipped = append(s.gaps, remotes...), skipped
	for i := range picked {
		if err := s.root(picked[i].Point, &picked[i]); err != nil && !gone(err) {
			s.problem(picked[i].Point, err)
		}
	}
}

// isRoot knows the one link that is meant to be followed: the root folder of
// another process.
func isRoot(name string) bool {
	if len(name) > len("/proc/4194304/root") || !strings.HasPrefix(name, "/proc/") {
		return false // at once: this is asked of every name
	}
	ok, _ := path.Match("/proc/[0-9]*/root", name) // the pattern is valid
	return ok
}

// Reachable reports whether anybody can still get at names on the mount that
// an open file was opened through: because a namespace has it, or because a
// process stands in it or holds a folder or file of it open. Of what it cannot
// look at it says that they can.
func Reachable(f *os.File) bool {
	at, err := look(int(f.Fd()), "")
	if err != nil || at.mountID == 0 {
		return true
	}
	own, err := readMounts()
	if err != nil {
		return true
	}
	others, gaps := theirs(nil, nil)
	if len(gaps) > 0 || slices.ContainsFunc(slices.Concat(own, others), func(m mount) bool { return m.ID == at.mountID }) {
		return true
	}
	self := fmt.Sprintf("/proc/%d/", os.Getpid())
	for _, pattern := range []string{"/proc/[0-9]*/cwd", "/proc/[0-9]*/root", "/proc/[0-9]*/fd/*"} {
		links, _ := filepath.Glob(pattern) // the pattern is valid
		for _, link := range links {
			var st unix.Statx_t
			err := unix.Statx(unix.AT_FDCWD, link, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st)
			if err == nil && st.Mnt_id == at.mountID && !strings.HasPrefix(link, self) {
				return true
			}
		}
	}
	return false
}
