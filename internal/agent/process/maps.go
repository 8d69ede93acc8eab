// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"strings"
)

// mapping is one executable mapping of a file.
type mapping struct {
	at   string // "start-end" as the folder map_files spells it
	dev  string // "major:minor" as the kernel shows it: not always what stat says
	ino  string
	path string // may carry " (deleted)"
}

// parseMaps returns the executable mappings of files in /proc/PID/maps
// (proc(5)):
//
//	7f1c6a000000-7f1c6a021000 r-xp 00000000 fe:01 1234   /usr/lib/x.so
func parseMaps(b []byte) []mapping {
	var all []mapping
	seen := make(map[mapping]bool)
	for line := range bytes.Lines(b) {
		m, ok := parseMapping(string(bytes.TrimSuffix(line, []byte("\n"))))
		if !ok {
			continue
		}
		key := m
		key.at = ""
		if !seen[key] {
			seen[key] = true
			all = append(all, m)
		}
	}
	return all
}

func parseMapping(line string) (mapping, bool) {
	var m mapping
	at, rest, _ := strings.Cut(line, " ")
	perms, rest, _ := strings.Cut(rest, " ")
	_, rest, _ = strings.Cut(rest, " ")
	m.dev, rest, _ = strings.Cut(rest, " ")
	m.ino, rest, _ = strings.Cut(rest, " ")
	m.path = strings.TrimLeft(rest, " ")
	from, to, ok := strings.Cut(at, "-")
	if !ok || len(perms) != 4 || perms[2] != 'x' || m.ino == "" || m.ino == "0" {
		return mapping{}, false
	}
	m.at = unpad(from) + "-" + unpad(to)
	return m, true
}

// unpad takes leading zeros off: maps has at least eight digits, map_files has
// none to spare.
func unpad(s string) string {
	if t := strings.TrimLeft(s, "0"); t != "" {
		return t
	}
	return "0"
}
