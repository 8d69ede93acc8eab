// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// finding is why a process matches.
type finding struct {
	how  How
	stat inode.Stat
	file *os.File // what matched, open; nil = it is gone, and only the table has seen it
	pid  int      // the thread through which it was seen: the process's id, except where its leader has left
}

// look is one round of examinations. It remembers, for its own length only,
// what the mapped files and the programs turned out to be.
type look struct {
	h     *Holder
	judge *judge

	mu       sync.Mutex
	mapped   map[mapping]verdict  // guarded by mu; innocent ones only
	families map[inode.ID]*family // guarded by mu; nil where it is no interpreter
	denied   int                  // guarded by mu; processes this user may not look at
	problems []error              // guarded by mu; what could not be judged, at most maxProblems
}

// maxProblems bounds what is kept of the troubles of one look.
const maxProblems = 8

func (h *Holder) newLook(j *judge) *look {
	return &look{h: h, judge: j, mapped: make(map[mapping]verdict), families: make(map[inode.ID]*family)}
}

// examine looks at one process; nil means that it does not match, or could not
// be judged, which is kept. deep looks at its mappings and its script too.
func (l *look) examine(pid int, deep bool) *finding {
	f, err := l.verdict(pid, deep)
	if err == nil {
		return f
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if forbidden(err) && !l.h.proc.root {
		l.denied++
	} else if len(l.problems) < maxProblems {
		l.problems = append(l.problems, fmt.Errorf("cannot examine process %d: %w", pid, err))
	}
	return nil
}

// verdict judges one process; nothing at all means that it does not match.
func (l *look) verdict(pid int, deep bool) (*finding, error) {
	f, err := l.program(pid)
	seen := pid
	if gone(err) {
		if seen = l.h.survivor(pid); seen == 0 {
			return nil, nil // a zombie, a kernel thread, or gone
		}
		f, err = l.program(seen)
	}
	if f == nil && err == nil && deep {
		f, err = l.libraries(seen)
		if f == nil && err == nil {
			f, err = l.script(seen)
		}
	}
	switch {
	case f != nil:
		f.pid = seen
		return f, nil
	case gone(err), forbidden(err) && l.h.spared(pid):
		return nil, nil // init may be out of bounds even for root, where it has more capabilities
	}
	return nil, err
}

// survivor returns a living thread of a process whose leader has left; 0 means
// there is none. Only the leader's own entry is empty then: the process runs on.
func (h *Holder) survivor(pid int) int {
	st, err := h.proc.stat(pid, "task")
	if err != nil || st.Nlink <= 3 { // ".", ".." and the leader itself
		return 0
	}
	tids, err := h.proc.threads(pid)
	if err != nil {
		return 0
	}
	for _, tid := range tids {
		if _, err := h.proc.stat(tid, "exe"); tid != pid && err == nil {
			return tid
		}
	}
	return 0
}

// program judges what the process executes.
func (l *look) program(pid int) (*finding, error) {
	return l.entry(pid, "exe", Executes)
}

// entry judges the file an entry of a process leads to.
func (l *look) entry(pid int, entry string, how How) (*finding, error) {
	st, err := l.h.proc.stat(pid, entry)
	if err != nil {
		return nil, err
	}
	if l.judge.byStat(st) == innocent {
		return nil, nil
	}
	f, err := l.h.proc.open(pid, entry)
	if err != nil {
		return nil, err
	}
	return l.file(f, how)
}

// file judges an open file and closes it unless it matches.
func (l *look) file(f *os.File, how How) (*finding, error) {
	yes, st, err := l.judge.file(f)
	if err != nil || !yes {
		return nil, errors.Join(err, f.Close())
	}
	return &finding{how: how, stat: st, file: f}, nil
}

// libraries judges what the process maps with the right to execute.
func (l *look) libraries(pid int) (*finding, error) {
	// A process may change its mappings between their being listed and being
	// opened; it is then looked at again, a few times.
	const again = 5
	for range again {
		b, err := l.h.proc.read(pid, "maps", 64<<20)
		if err != nil {
			return nil, err
		}
		f, moved, err := l.mappings(pid, parseMaps(b))
		if f != nil || err != nil || !moved {
			return f, err
		}
		if _, err := l.h.proc.stat(pid, "exe"); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("its mappings kept changing while they were read (%d times)", again)
}

// mappings judges each mapping once; moved says that one was not there any more.
func (l *look) mappings(pid int, all []mapping) (f *finding, moved bool, err error) {
	for _, m := range all {
		key := m
		key.at = ""
		l.mu.Lock()
		v := l.mapped[key]
		l.mu.Unlock()
		if v == innocent {
			continue
		}
		f, err := l.mapping(pid, m)
		switch {
		case f != nil:
			return f, false, nil
		case gone(err):
			moved = true
			continue
		case err != nil:
			return nil, false, err
		}
		l.mu.Lock()
		l.mapped[key] = innocent
		l.mu.Unlock()
	}
	return nil, moved, nil
}

// mapping judges one mapped file through its own link, which holds for deleted
// files as well; without the right to follow it, through the path it shows.
func (l *look) mapping(pid int, m mapping) (*finding, error) {
	f, err := l.entry(pid, "map_files/"+m.at, Maps)
	if !forbidden(err) || l.h.proc.root {
		return f, err
	}
	file, err := l.h.within(pid, m.path)
	if err != nil {
		return nil, nil //nolint:nilerr // it has no name of its own any more: reported as not covered for such users
	}
	return l.file(file, Maps)
}

// within opens a regular file by an absolute path as the process sees it.
func (h *Holder) within(pid int, name string) (*os.File, error) {
	root, err := h.proc.handle(pid, "root")
	if err != nil {
		return nil, err
	}
	defer unix.Close(root) //nolint:errcheck // a handle: nothing can be lost
	return openRegular(root, name, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// openRegular opens a regular file for reading; anything else, whose opening
// could block or have an effect, is not opened.
func openRegular(dir int, name string, resolve uint64) (*os.File, error) {
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) //nolint:errcheck // a handle: nothing can be lost
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, unix.ENOENT
	}
	return openFD(fd, name)
}
