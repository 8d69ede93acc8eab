// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"staunch/internal/agent/mountinfo"
	"staunch/internal/order"
)

// maxForeign bounds how many file systems of others a receipt lists.
const maxForeign = 20

// foreign lists the file systems that other processes have mounted and we have
// not: what lies there is seen only while it runs.
func foreign() (list []string) {
	own, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{"file systems of other mount namespaces: " + err.Error()}
	}
	seen := map[string]bool{} // devices, and namespaces looked at
	for dev := range mountedDevices(own) {
		seen[dev] = true
	}
	spaces, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	if err != nil {
		return nil // the pattern is valid
	}
	more := 0
	for _, link := range spaces {
		space, err := os.Readlink(link)
		if err != nil || seen[space] {
			continue // gone, or not ours to see: a process that may not be looked at is told of elsewhere
		}
		seen[space] = true
		proc := filepath.Dir(filepath.Dir(link))
		b, err := os.ReadFile(proc + "/mountinfo")
		if err != nil {
			continue // gone
		}
		for dev, m := range mountedDevices(b) {
			switch {
			case seen[dev]:
			case len(list) == maxForeign:
				more++
			default:
				list = append(list, fmt.Sprintf("%s: %s that only process %s and others in its mount namespace have mounted: what lies there is seen while it runs",
					order.TextOf(m.point), m.fstype, filepath.Base(proc)))
			}
			seen[dev] = true
		}
	}
	slices.Sort(list)
	if more > 0 {
		list = append(list, fmt.Sprintf("and %d more file systems of other mount namespaces", more))
	}
	return list
}

type foreignMount struct{ point, fstype string }

// mountedDevices reads proc_pid_mountinfo(5) and returns the file systems in it
// that can hold a program, by device number.
func mountedDevices(table []byte) map[string]foreignMount {
	all := map[string]foreignMount{}
	for line := range bytes.Lines(table) {
		before, after, ok := strings.Cut(string(line), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) == 0 {
			continue
		}
		switch g[0] {
		case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "nsfs", "securityfs", "debugfs", "tracefs", "bpf", "pstore":
			continue
		}
		if _, known := all[f[2]]; !known {
			all[f[2]] = foreignMount{mountinfo.Unescape(f[4]), g[0]}
		}
	}
	return all
}
