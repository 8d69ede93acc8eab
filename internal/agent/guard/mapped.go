// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// mappings remembers which files processes map. To ask the kernel for their
// identities takes long, to read its list does not: as long as the list is the
// same, so are they, because what is mapped keeps its inode number.
type mappings struct {
	mu   sync.Mutex
	list map[int]mapped // by process; guarded by mu
}

type mapped struct {
	text string
	ids  []inode.ID
}

// maxMappings bounds what is remembered.
const maxMappings = 2 * maxFamily

// of lists the files that a process maps, or only those it maps to execute.
func (m *mappings) of(pid int, executed bool) ([]inode.ID, error) {
	ranges, text, err := readMaps(pid, executed)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.list[pid]; ok && known.text == text {
		return known.ids, nil
	}
	var ids []inode.ID
	for path, span := range ranges {
		var st unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/map_files/%s", pid, span), &st) == nil ||
			unix.Stat(fmt.Sprintf("/proc/%d/root%s", pid, path.name), &st) == nil { // the former needs more than root has in a container
			ids = append(ids, inode.FromStat(&st).ID)
		}
	}
	if m.list == nil || len(m.list) >= maxMappings {
		m.list = map[int]mapped{}
	}
	m.list[pid] = mapped{text, ids}
	return ids, nil
}

// file is one that a process maps, as its list of mappings says.
type file struct{ dev, ino, name string }

// readMaps reads proc_pid_maps(5): "start-end perms offset major:minor inode
// path". It returns a range of each file, and the lines it made use of.
func readMaps(pid int, executed bool) (ranges map[file]string, text string, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, "", err
	}
	defer f.Close() // read only
	ranges = map[file]string{}
	var lines strings.Builder
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		l, ok := parseMapping(s.Text())
		if !ok || executed && !l.executed {
			continue
		}
		ranges[l.file] = l.span
		lines.WriteString(s.Text() + "\n")
	}
	return ranges, lines.String(), s.Err()
}

type mapping struct {
	file
	span     string // of addresses, as map_files names it
	executed bool
}

// parseMapping reads one line; ok is false for memory that no file is behind.
func parseMapping(line string) (m mapping, ok bool) {
	f := strings.SplitN(line, " ", 6)
	if len(f) < 6 || len(f[1]) != 4 || f[4] == "0" {
		return m, false
	}
	name := strings.TrimLeft(f[5], " ")
	return mapping{file{f[3], f[4], name}, f[0], f[1][2] == 'x'}, strings.HasPrefix(name, "/")
}
