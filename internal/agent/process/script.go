// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
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
	runs   string   // those of values whose value is a file that is run first
	module string   // the one of inline whose value is a module
	multi  bool     // one binary that is many programs
	named  bool     // the script comes with an option of file only
}

// families lists the interpreters that are known. A copy of an installed one
// under another name is recognised by its content; see Holder.familyOf.
func families() []family {
	return []family{
		{names: []string{"sh", "bash", "rbash", "dash", "ash", "zsh", "ksh", "ksh93", "mksh", "lksh", "yash"},
			values: "oO", long: []string{"--rcfile", "--init-file"}, inline: "c", stdin: "s", shell: true},
		{names: []string{"busybox", "toybox"}, multi: true},
		{names: []string{"python", "pypy"}, values: "WX", long: []string{"--check-hash-based-pycs"}, inline: "cm", module: "m"},
		{names: []string{"perl"}, values: "I", inline: "eE"},
		{names: []string{"ruby"}, values: "IrCEK", inline: "e", runs: "r"},
		{names: []string{"node", "nodejs", "deno", "bun"}, values: "rC", long: []string{"--require", "--import", "--loader"}, inline: "ep", runs: "r"},
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
	if err != nil {
		return nil, err
	}
	b, err := l.h.proc.read(pid, "cmdline", 1<<20)
	if err != nil {
		return nil, err
	}
	args := arguments(b)
	if fam, args = fam.applet(args); fam == nil {
		return l.declared(pid, args, nil, false)
	}
	began := l.startedWith(pid)
	names, stdin := fam.given(args)
	for _, name := range names {
		f := l.named(pid, name)
		if f != nil && began.replacedBy(l.judge, name, f.stat) {
			closeFile(f.file)
			f = nil
		}
		if f != nil {
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
	if began != nil && l.judge.sum != nil && l.judge.sum(began.sum) {
		return &finding{how: Interprets, stat: began.stat}, nil
	}
	return l.declared(pid, args, names, true)
}

// given returns what an interpreter runs by its arguments: the names of files,
// or its standard input.
func (f *family) given(args []string) (names []string, stdin bool) {
	name, none := f.scriptOf(args)
	if name != "" {
		names = append(names, name)
	}
	names = append(names, f.sourced(args)...)
	return append(names, f.besides(args)...), name == "" && !none && !f.named
}

// applet returns the family of the program that one binary is under many
// names, and its arguments; nil if that is no interpreter.
func (f *family) applet(args []string) (*family, []string) {
	if f == nil || !f.multi {
		return f, args
	}
	for len(args) > 0 {
		sub := familyOf(strings.TrimPrefix(args[0], "-"))
		if sub == nil || !sub.multi {
			return sub, args
		}
		args = args[1:] // busybox sh, in place of a link of that name
	}
	return nil, nil
}

// besides returns the files that an interpreter runs before its script: those
// that options name, and what "python -m" may find in its folder.
func (f *family) besides(args []string) (names []string) {
	for rest := args[min(1, len(args)):]; len(rest) > 0; {
		a := rest[0]
		rest = rest[1:]
		if len(a) < 2 || a[0] != '-' || a == "--" {
			return names
		}
		if a[1] == '-' {
			option, value, attached := strings.Cut(a, "=")
			takes := slices.Contains(f.long, option)
			if takes && !attached && len(rest) > 0 {
				value, rest = rest[0], rest[1:]
			}
			if takes && value != "" {
				names = append(names, value)
			}
			continue
		}
		i := strings.IndexFunc(a[1:], func(c rune) bool { return strings.ContainsRune(f.inline+f.file+f.values+f.stdin, c) }) + 1
		if i == 0 {
			continue
		}
		value := a[i+1:]
		if value == "" && len(rest) > 0 {
			value, rest = rest[0], rest[1:]
		}
		switch c := a[i : i+1]; {
		case c == f.module:
			if strings.ContainsAny(a[:i], "IP") {
				return names // then it does not look into its folder
			}
			path := strings.ReplaceAll(value, ".", "/")
			return append(names, path+".py", path+"/__main__.py")
		case !strings.Contains(f.values, c):
			return names
		case strings.Contains(f.runs, c):
			names = append(names, value)
		}
	}
	return names
}

// startedWith returns what the standing table has seen the process to be
// started with; nil where it does not know.
func (l *look) startedWith(pid int) *script {
	l.h.table.catchUp()
	s, ok := l.h.table.script(pid)
	if !ok {
		return nil
	}
	v, err := l.h.proc.vital(pid)
	if err != nil || v.start != s.start {
		return nil
	}
	if exe, err := l.h.proc.stat(pid, "exe"); err != nil || exe.ID != s.exe {
		return nil
	}
	return &s
}

// replacedBy reports whether the process was started with another content, and
// the file that has the name now has come there since. One that was changed in
// its place may be read on.
func (s *script) replacedBy(j *judge, name string, now inode.Stat) bool {
	return s != nil && s.name == name && j.sum != nil && !j.sum(s.sum) && s.stat.ID != now.ID
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
	if fam, err = l.h.familyOf(pid, st); err != nil {
		return nil, err
	}
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
