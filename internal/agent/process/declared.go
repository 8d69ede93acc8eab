// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// maxDeclared is how many arguments may precede a script: the kernel follows
// scripts that are interpreted by scripts four deep, each with an option.
const maxDeclared = 8

// declared judges what any program was given: a script runs if its first line
// names as its interpreter the program itself, whatever that is called, or a
// script that was given before it. That is how the kernel starts scripts; a
// program that merely reads one is not named in it. Of a known interpreter it is
// known what it runs: the names in ran.
func (l *look) declared(pid int, args, ran []string, known bool) (*finding, error) {
	for i := 1; i < min(len(args), maxDeclared); i++ {
		st, err := l.h.statAs(pid, args[i])
		if err != nil || l.judge.byStat(st) == innocent {
			continue
		}
		f := l.named(pid, args[i])
		if f == nil {
			continue
		}
		if !known {
			ran = args[1:i]
		}
		if l.interprets(pid, interpreterOf(f.file), ran, known) {
			return f, nil
		}
		closeFile(f.file)
	}
	return nil, nil
}

// interprets reports whether the words of a first line lead to what the process
// executes, unless that is known to run something else, or to one of the files
// it was given.
func (l *look) interprets(pid int, words, given []string, known bool) bool {
	if len(words) == 0 {
		return false
	}
	if filepath.Base(words[0]) == "env" && !known {
		exe, err := l.h.proc.link(pid, "exe")
		for _, w := range words[1:] {
			if strings.HasPrefix(w, "-") || strings.Contains(w, "=") {
				continue
			}
			return err == nil && filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == filepath.Base(w)
		}
		return false
	}
	named, err := l.h.statAs(pid, words[0])
	if err != nil {
		return false
	}
	if exe, err := l.h.proc.stat(pid, "exe"); err == nil && exe.ID == named.ID && !known {
		return true
	}
	for _, name := range given {
		if st, err := l.h.statAs(pid, name); err == nil && st.ID == named.ID {
			return true
		}
	}
	return false
}

// interpreterOf returns the words of the first line of a script after "#!".
func interpreterOf(f *os.File) []string {
	head := make([]byte, 256) // BINPRM_BUF_SIZE
	n, err := f.ReadAt(head, 0)
	if err != nil && n == 0 {
		return nil
	}
	line, ok := bytes.CutPrefix(head[:n], []byte("#!"))
	if !ok {
		return nil
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	return strings.Fields(string(line))
}

// openAs opens a regular file by the name a process has for it.
func (h *Holder) openAs(pid int, name string) (*os.File, error) {
	if entry := descriptor(name); entry != "" {
		st, err := h.proc.stat(pid, entry)
		if err == nil && !st.Regular() {
			err = unix.ENOENT
		}
		if err != nil {
			return nil, err
		}
		return h.proc.open(pid, entry)
	}
	if filepath.IsAbs(name) {
		return h.within(pid, name)
	}
	cwd, err := h.proc.handle(pid, "cwd")
	if err != nil {
		return nil, err
	}
	defer unix.Close(cwd) //nolint:errcheck // a handle: nothing can be lost
	return openRegular(cwd, name, unix.RESOLVE_NO_MAGICLINKS)
}

// descriptor returns the entry of a process for a name that leads to one of
// its own descriptors: the kernel gives scripts such names that were executed
// by descriptor.
func descriptor(name string) string {
	if name == "/dev/stdin" {
		return "fd/0"
	}
	for _, dir := range []string{"/dev/fd/", "/proc/self/fd/"} {
		n, ok := strings.CutPrefix(name, dir)
		if ok && n != "" && len(n) < 10 && strings.Trim(n, "0123456789") == "" {
			return "fd/" + n
		}
	}
	return ""
}

// statAs follows the name a process has for a file, without opening that.
func (h *Holder) statAs(pid int, name string) (inode.Stat, error) {
	if name == "" || name[0] == '-' {
		return inode.Stat{}, unix.ENOENT
	}
	if entry := descriptor(name); entry != "" {
		return h.proc.stat(pid, entry)
	}
	from, resolve := "cwd", uint64(unix.RESOLVE_NO_MAGICLINKS)
	if filepath.IsAbs(name) {
		from, resolve = "root", resolve|unix.RESOLVE_IN_ROOT
	}
	dir, err := h.proc.handle(pid, from)
	if err != nil {
		return inode.Stat{}, err
	}
	defer unix.Close(dir) //nolint:errcheck // a handle: nothing can be lost
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolve})
	if err != nil {
		return inode.Stat{}, err
	}
	defer unix.Close(fd) //nolint:errcheck // the same
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return inode.Stat{}, err
	}
	return inode.FromStat(&st), nil
}
