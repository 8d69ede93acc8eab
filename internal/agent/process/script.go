// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// family says how the interpreters of one kind are given their script.
type family struct {
	names  []string // of the program, without a version
	values string   // short options that take a value: attached, or the next argument
	long   []string // long options whose value is the next argument
	inline string   // short options after which no script follows: the text itself, a module
	stdin  string   // short options after which the script is standard input
	file   string   // short options whose value is the script
	shell  bool     // keeps its script open on descriptor 255 or from 10 up
	named  bool     // the script comes with an option of file only
}

// families lists the interpreters that are known. One under another name is
// not recognised; a process table fed at exec would not help with that either.
func families() []family {
	return []family{
		{names: []string{"sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "ksh93", "mksh", "lksh", "yash", "busybox"},
			values: "oO", long: []string{"--rcfile", "--init-file"}, inline: "c", stdin: "s", shell: true},
		{names: []string{"python", "pypy"}, values: "WX", long: []string{"--check-hash-based-pycs"}, inline: "cm"},
		{names: []string{"perl"}, values: "I", inline: "eE"},
		{names: []string{"ruby"}, values: "IrCEK", inline: "e"},
		{names: []string{"node", "nodejs", "deno", "bun"}, values: "rC", long: []string{"--require", "--import", "--loader"}, inline: "ep"},
		{names: []string{"php", "php-cgi"}, values: "dcz", inline: "rBR", file: "fF"},
		{names: []string{"lua", "luajit", "texlua"}, values: "el"},
		{names: []string{"tclsh", "wish", "expect", "guile", "rscript", "pwsh", "osascript", "fish"}, inline: "c"},
		{names: []string{"awk", "gawk", "mawk", "nawk"}, values: "Fv", file: "f", named: true},
	}
}

// familyOf finds the family of a program by its name, "python3.11" being
// "python".
func familyOf(exe string) *family {
	name := strings.ToLower(filepath.Base(strings.TrimSuffix(exe, " (deleted)")))
	bare := strings.TrimRight(name, "0123456789.-")
	for _, f := range families() {
		for _, n := range f.names {
			if n == name || n == bare {
				return &f
			}
		}
	}
	return nil
}

// scriptOf returns the script among the arguments of an interpreter; none
// means that it runs something else: a text, a module, its standard input.
func (f *family) scriptOf(args []string) (script string, none bool) {
	if len(args) == 0 {
		return "", false
	}
	args = args[1:]
	for len(args) > 0 {
		a := args[0]
		args = args[1:]
		switch {
		case a == "--":
			if len(args) == 0 || f.named {
				return "", false
			}
			return args[0], false
		case a == "-" || a == "":
			return "", a == ""
		case strings.HasPrefix(a, "--"):
			for _, l := range f.long {
				if a == l && len(args) > 0 {
					args = args[1:]
				}
			}
		case a[0] == '-' || a[0] == '+' && f.shell:
			next, script, none, done := f.options(a[1:], args)
			if done {
				return script, none
			}
			args = next
		case f.named:
			return "", true
		default:
			return a, false
		}
	}
	return "", false
}

// options reads one cluster of short options and what it takes of the rest;
// done says that it settles the matter.
func (f *family) options(cluster string, rest []string) (next []string, script string, none, done bool) {
	for i, c := range cluster {
		switch {
		case strings.ContainsRune(f.inline, c):
			return rest, "", true, true
		case strings.ContainsRune(f.stdin, c):
			return rest, "", false, true
		case strings.ContainsRune(f.file, c), strings.ContainsRune(f.values, c):
			value := cluster[i+1:]
			if value == "" && len(rest) > 0 {
				value, rest = rest[0], rest[1:]
			}
			script := strings.ContainsRune(f.file, c)
			if !script {
				value = ""
			}
			return rest, value, false, script
		}
	}
	return rest, "", false, false
}

// sourced returns the file that a text given to a shell reads into itself
// before anything else, so that it has been begun: sh -c '. FILE; …'.
func (f *family) sourced(args []string) []string {
	if !f.shell || len(args) == 0 {
		return nil
	}
	text := false
	for args = args[1:]; len(args) > 0; args = args[1:] {
		a := args[0]
		if len(a) > 1 && (a[0] == '-' || a[0] == '+') {
			text = text || a[0] == '-' && a[1] != '-' && strings.Contains(a, "c")
			continue
		}
		break
	}
	if !text || len(args) == 0 {
		return nil
	}
	words := strings.FieldsFunc(args[0], func(r rune) bool { return strings.ContainsRune(" \t\n;&|", r) })
	if len(words) < 2 || words[0] != "." && words[0] != "source" {
		return nil
	}
	return []string{strings.Trim(words[1], `"'`)}
}

// arguments splits /proc/PID/cmdline.
func arguments(b []byte) []string {
	b = bytes.TrimSuffix(b, []byte{0})
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\x00")
}

// script judges what an interpreter was given to run.
func (l *look) script(pid int) (*finding, error) {
	if l.judge.program() {
		return nil, nil // an ELF file is no script
	}
	fam, err := l.family(pid)
	if fam == nil || err != nil {
		return nil, err
	}
	b, err := l.h.proc.read(pid, "cmdline", 1<<20)
	if err != nil {
		return nil, err
	}
	names, stdin := fam.given(arguments(b))
	for _, name := range names {
		if f := l.named(pid, name); f != nil {
			return f, nil
		}
	}
	if fam.shell {
		if f, err := l.kept(pid, names); f != nil || err != nil {
			return f, err
		}
	}
	if stdin {
		f, err := l.entry(pid, "fd/0", Interprets)
		if err != nil && !gone(err) && !forbidden(err) || f != nil {
			return f, err
		}
	}
	return l.recorded(pid)
}

// given returns what an interpreter runs by its arguments: the names of files,
// or its standard input.
func (f *family) given(args []string) (names []string, stdin bool) {
	if len(args) > 1 && filepath.Base(args[0]) == "busybox" {
		args = args[1:]
	}
	name, none := f.scriptOf(args)
	if name != "" {
		names = append(names, name)
	}
	return append(names, f.sourced(args)...), name == "" && !none && !f.named
}

// recorded judges the script that the standing table has seen the process to
// be started with. The file may be gone: then there is none to show.
func (l *look) recorded(pid int) (*finding, error) {
	l.h.table.catchUp()
	s, ok := l.h.table.script(pid)
	if !ok || l.judge.sum == nil || !l.judge.sum(s.sum) {
		return nil, nil
	}
	v, err := l.h.proc.vital(pid)
	if err != nil || v.start != s.start {
		return nil, err
	}
	if exe, err := l.h.proc.stat(pid, "exe"); err != nil || exe.ID != s.exe {
		return nil, err
	}
	return &finding{how: Interprets, stat: s.stat}, nil
}

// family tells whether the process's program is an interpreter.
func (l *look) family(pid int) (*family, error) {
	st, err := l.h.proc.stat(pid, "exe")
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	fam, ok := l.families[st.ID]
	l.mu.Unlock()
	if ok {
		return fam, nil
	}
	exe, err := l.h.proc.link(pid, "exe")
	if err != nil {
		return nil, err
	}
	fam = familyOf(exe)
	l.mu.Lock()
	l.families[st.ID] = fam
	l.mu.Unlock()
	return fam, nil
}

// named judges a script by the name the process was given, as it sees it. A
// name that leads nowhere is no finding and no trouble: the script may be gone
// or the process may have changed its folder.
func (l *look) named(pid int, name string) *finding {
	f, err := l.h.openAs(pid, name)
	if err != nil {
		return nil
	}
	found, err := l.file(f, Interprets)
	if err != nil {
		return nil
	}
	return found
}

// openAs opens a regular file by the name a process has for it.
func (h *Holder) openAs(pid int, name string) (*os.File, error) {
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

// kept judges the script a shell keeps open for itself: bash on descriptor
// 255, the others on the first free one from 10 up, both to be closed on exec.
// From 10 up a shell also puts aside what a redirection replaces, standard
// input given as data among it: there the name must be that of the script.
func (l *look) kept(pid int, names []string) (*finding, error) {
	fds, err := l.h.proc.numbers(path(pid, "fd"))
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if fd < 10 {
			continue
		}
		entry := "fd/" + strconv.Itoa(fd)
		st, err := l.h.proc.stat(pid, entry)
		if err != nil || l.judge.byStat(st) == innocent || !l.private(pid, fd) {
			continue
		}
		if fd != 255 {
			link, err := l.h.proc.link(pid, entry)
			if err != nil || !slices.ContainsFunc(names, func(n string) bool {
				return filepath.Base(strings.TrimSuffix(link, " (deleted)")) == filepath.Base(n)
			}) {
				continue
			}
		}
		if f, err := l.entry(pid, entry, Interprets); f != nil || err != nil && !gone(err) {
			return f, err
		}
	}
	return nil, nil
}

// private reports whether a descriptor is closed on exec.
func (l *look) private(pid, fd int) bool {
	b, err := l.h.proc.read(pid, "fdinfo/"+strconv.Itoa(fd), 4096)
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("flags:")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(rest)), 8, 64)
			return err == nil && n&unix.O_CLOEXEC != 0
		}
	}
	return false
}
