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
	for line := range bytes.Lines(b) {
		m, ok := parseMapping(bytes.TrimSuffix(line, []byte("\n")))
		// The parts of one file follow each other.
		if n := len(all); ok && (n == 0 || !m.sameFile(all[n-1])) {
			all = append(all, m)
		}
	}
	return all
}

func (m mapping) sameFile(o mapping) bool {
	return m.dev == o.dev && m.ino == o.ino && m.path == o.path
}

func parseMapping(line []byte) (mapping, bool) {
	at, rest, _ := bytes.Cut(line, []byte(" "))
	perms, rest, _ := bytes.Cut(rest, []byte(" "))
	if len(perms) != 4 || perms[2] != 'x' {
		return mapping{}, false
	}
	_, rest, _ = bytes.Cut(rest, []byte(" "))
	dev, rest, _ := bytes.Cut(rest, []byte(" "))
	ino, rest, _ := bytes.Cut(rest, []byte(" "))
	from, to, ok := bytes.Cut(at, []byte("-"))
	if !ok || len(ino) == 0 || string(ino) == "0" {
		return mapping{}, false
	}
	return mapping{
		at: unpad(string(from)) + "-" + unpad(string(to)), dev: string(dev), ino: string(ino),
		path: string(bytes.TrimLeft(rest, " ")),
	}, true
}

// unpad takes leading zeros off: maps has at least eight digits, map_files has
// none to spare.
func unpad(s string) string {
	if t := strings.TrimLeft(s, "0"); t != "" {
		return t
	}
	return "0"
}
