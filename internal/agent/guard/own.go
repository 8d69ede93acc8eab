// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// unitFolders are where the agent's service may be described.
var unitFolders = []string{"etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"}

// ownUnits match the agent's units, and what changes them, in such a folder.
var ownUnits = []string{"staunch-agent*", "staunch-agent*.d/*", "*.wants/staunch-agent*"}

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

// processes lists the agent's processes: this one, its supervisor, and its
// supervisor's other children. After an update they need not run from one file.
func processes() []int {
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
	return family
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
