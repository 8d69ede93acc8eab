// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bufio"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// unitFolders are where the agent's service may be described.
var unitFolders = []string{"etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"}

// serviceFiles are the agent's units that are there, and what changes them.
func (g *Guard) serviceFiles() []string {
	var all []string
	for _, dir := range unitFolders {
		for _, pattern := range []string{"staunch-agent*", "staunch-agent*.d/*", "*.wants/staunch-agent*"} {
			found, _ := filepath.Glob(g.path(dir, pattern)) // the patterns are ours
			all = append(all, found...)
		}
	}
	return all
}

// isService reports whether a path is one of them, by name.
func (g *Guard) isService(p string) bool {
	for _, dir := range unitFolders {
		rest, ok := strings.CutPrefix(p, g.path(dir)+"/")
		if !ok {
			continue
		}
		top, _, _ := strings.Cut(rest, "/")
		if strings.HasPrefix(top, "staunch-agent") || strings.HasPrefix(path.Base(rest), "staunch-agent") {
			return true
		}
	}
	return false
}

// maxFamily bounds the processes looked at.
const maxFamily = 64

// processes lists, as links of /proc that lead to the files themselves, what
// the agent's processes run from and map to execute: its own, its supervisor's
// and those of its supervisor's other children. After an update they need not
// be one file. What cannot be read is left out: it may have ended.
func processes() []string {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return nil
	}
	name := program(self)
	family := []int{os.Getpid()}
	for pid := os.Getppid(); pid > 1 && len(family) < maxFamily; pid = parentOf(pid) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || program(exe) != name {
			break
		}
		family = append(family, pid)
	}
	for _, pid := range family[:] {
		for _, child := range childrenOf(pid) {
			exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child))
			if err == nil && program(exe) == name && len(family) < maxFamily {
				family = append(family, child)
			}
		}
	}
	var all []string
	for _, pid := range family {
		all = append(all, fmt.Sprintf("/proc/%d/exe", pid))
		all = append(all, executedBy(pid)...)
	}
	return all
}

// program is the name of an executable, also of one that was replaced.
func program(exe string) string { return path.Base(strings.TrimSuffix(exe, " (deleted)")) }

func parentOf(pid int) int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	ppid, _ := strconv.Atoi(fields[1]) // 0 ends the way up
	return ppid
}

// childrenOf reads the children that any thread of a process has started.
func childrenOf(pid int) []int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is ours
	var all []int
	for _, l := range lists {
		b, _ := os.ReadFile(l) // the thread may have ended
		for w := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(w); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// executedBy lists what a process maps to execute. What it maps to read is not
// in it: that may be the very file that is being taken.
func executedBy(pid int) []string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil
	}
	defer f.Close() // read only
	var all []string
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		fields := strings.Fields(s.Text()) // range, permissions, offset, device, inode, path
		if len(fields) >= 6 && len(fields[1]) == 4 && fields[1][2] == 'x' && strings.HasPrefix(fields[5], "/") {
			all = append(all, fmt.Sprintf("/proc/%d/map_files/%s", pid, fields[0]))
		}
	}
	return all
}
