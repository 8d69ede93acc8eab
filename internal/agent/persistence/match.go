// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// A scope is what a command's words mean where it runs.
type scope struct {
	home  string            // what ~ and $HOME stand for; "" when nobody knows
	dir   string            // working folder; "" when nobody knows
	path  []string          // where bare command names are looked up
	vars  map[string]string // variables with a known value
	unit  bool              // systemd's rules for %h and quoting
	base  string            // what links must not lead out of when a file is opened
	depth int               // of quotes within quotes
	bare  bool              // a word without a slash may be a file of the working folder
}

// maxDepth bounds how often text within quotes is taken apart again.
const maxDepth = 3

// A hit is a word that stands for a target.
type hit struct {
	line int
	why  string
	name string // the variable that carries it
	link string // the word, when a list of paths holds it
}

// maxHits bounds what is reported of one file.
const maxHits = 50

// A matcher knows the targets.
type matcher struct {
	tree    *tree
	targets Targets
	paths   map[string]bool   // as given, and with the links of their folders resolved
	dirs    map[string]bool   // the folders they lie in, resolved
	seen    map[string]bool   // files asked for their content
	names   map[string]string // bare command names looked up, with the folders
}

func newMatcher(t *tree, targets Targets) *matcher {
	m := &matcher{tree: t, targets: targets, paths: map[string]bool{}, dirs: map[string]bool{}, seen: map[string]bool{}, names: map[string]string{}}
	for _, p := range targets.Paths {
		dir := t.resolve(path.Dir(p))
		m.paths[path.Clean(p)] = true
		m.paths[path.Join(dir, path.Base(p))] = true
		m.dirs[dir] = true
	}
	return m
}

// is reports whether an absolute path leads to a target, and how.
func (m *matcher) is(p string) (how string, ok bool) {
	clean := path.Clean(p)
	if m.paths[clean] {
		return "", true
	}
	real := m.tree.resolve(clean)
	if m.paths[real] {
		return fmt.Sprintf(", a link to %s", real), true
	}
	if m.content(real) {
		return ", which has the same content", true
	}
	return "", false
}

// content reports whether the file at a resolved path has the content, by
// whatever name it was not known.
func (m *matcher) content(real string) bool {
	if m.targets.Match == nil || m.targets.Size <= 0 || below("/proc", real) {
		return false
	}
	if is, known := m.seen[real]; known {
		return is
	}
	m.seen[real] = false
	fi, err := os.Lstat(m.tree.outside(real))
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != m.targets.Size || m.tree.isSlow(real) {
		return false
	}
	f, _, err := m.tree.open("/", real)
	if err != nil {
		return false
	}
	defer f.Close() // read only
	m.seen[real] = m.targets.Match(f)
	return m.seen[real]
}

// found looks a bare command name up as exec does: the first folder that has
// it wins.
func (m *matcher) found(name string, dirs []string) (string, bool) {
	key := name + "\x00" + strings.Join(dirs, ":")
	p, known := m.names[key]
	if !known {
		p = m.lookup(name, dirs)
		if len(m.names) < 50_000 {
			m.names[key] = p
		}
	}
	return p, p != ""
}

func (m *matcher) lookup(name string, dirs []string) string {
	for i, d := range dirs {
		p := path.Join(d, name)
		if _, ok := m.is(p); !ok || !path.IsAbs(p) {
			continue
		}
		for _, earlier := range dirs[:i] {
			real := m.tree.resolve(path.Join(earlier, name))
			if fi, err := os.Lstat(m.tree.outside(real)); err == nil && fi.Mode().IsRegular() && !m.tree.isSlow(real) {
				return ""
			}
		}
		return p
	}
	return ""
}

// wrappers are commands, and words of the shell, after which a command may follow.
var wrappers = strings.Fields(`exec nohup env nice ionice setsid sudo time command builtin timeout stdbuf flock doas chronic
	busybox then do else elif if while until ! { eval start-stop-daemon xargs systemd-run systemd-cat daemonize chrt taskset unshare nsenter`)

// readers take a file to run as an argument without a slash in it.
var readers = strings.Fields(`sh bash dash ash zsh ksh mksh csh tcsh fish python perl ruby node php lua tclsh java . source`)

// harmless commands name a file without starting or making it.
var harmless = strings.Fields(`rm unlink rmdir ls stat test [ [[ echo printf chmod chown chgrp touch logger kill pkill pgrep killall
	file md5sum sha1sum sha256sum cat grep wc which type true false :`)

// exports set variables given as arguments.
var exports = strings.Fields(`export declare typeset env set setenv readonly local`)

// words reads the words of commands and returns those that stand for a target.
func (m *matcher) words(toks []token, sc scope) []hit {
	if sc.vars == nil {
		sc.vars = map[string]string{}
	}
	var hits []hit
	cmd, first, redirect := "", true, false
	for _, t := range toks {
		if m.tree.ctx.Err() != nil || len(hits) >= maxHits {
			break // Find says that it was cut
		}
		switch {
		case t.op == ';':
			cmd, first, redirect = "", true, false
			continue
		case t.op != 0:
			redirect = true
			continue
		}
		if sc.depth < maxDepth && !sc.unit && strings.ContainsAny(t.text, " \t\n'\"`;|&()<>") || sc.unit && strings.ContainsAny(t.text, " \n;|&<>`") {
			inner := sc
			inner.unit, inner.vars, inner.depth = false, maps.Clone(sc.vars), sc.depth+1
			if slices.Contains(harmless, cmd) {
				inner.path, inner.dir = nil, ""
			} else {
				hits = append(hits, m.words(tokens(t.text, t.line), inner)...)
			}
		}
		text := sc.expand(t.text)
		name, value, assigned := assignment(text)
		if assigned && (first || slices.Contains(exports, cmd)) {
			if len(sc.vars) < 1000 && len(value) < 4096 {
				sc.vars[name] = value
				if name == "PATH" {
					sc.path = strings.Split(value, ":")
				}
			}
			if h, ok := m.argument(t, value, fmt.Sprintf("the value of %s", name), sc); ok {
				h.name = name
				hits = append(hits, h)
			}
			continue
		}
		switch {
		case redirect:
			if h, ok := m.argument(t, text, "what a redirection reads or writes", sc); ok {
				hits = append(hits, h)
			}
			redirect = false
		case first && slices.Contains(wrappers, path.Base(text)):
			cmd = path.Base(text)
			if how, ok := m.is(text); path.IsAbs(text) && ok { // a target that took a wrapper's name
				hits = append(hits, hit{line: t.line, why: "the command" + how})
			}
		case first && slices.Contains(wrappers, cmd) && (strings.HasPrefix(text, "-") || text != "" && text[0] >= '0' && text[0] <= '9'):
			if h, ok := m.argument(t, text, fmt.Sprintf("an argument of %s", cmd), sc); ok {
				hits = append(hits, h)
			}
		case first:
			first, cmd = false, path.Base(text)
			if h, ok := m.commandWord(t, text, sc); ok {
				hits = append(hits, h)
			}
		case cmd == "cd":
			sc.dir, cmd = sc.join(text), ":"
		case slices.Contains(harmless, cmd):
		default:
			if cmd == "run-parts" && m.dirs[m.tree.resolve(sc.join(text))] {
				hits = append(hits, hit{line: t.line, why: "run-parts runs all of " + text})
			}
			if h, ok := m.argument(t, text, fmt.Sprintf("an argument of %s", cmd), sc.reading(cmd)); ok {
				hits = append(hits, h)
			}
		}
	}
	return hits
}

// commandWord matches the word that names the program.
func (m *matcher) commandWord(t token, text string, sc scope) (hit, bool) {
	if sc.unit {
		text = strings.TrimLeft(text, "@-:+!|")
	}
	if !strings.Contains(text, "/") {
		if p, ok := m.found(text, sc.path); ok {
			return hit{line: t.line, why: fmt.Sprintf("the command %s is found as %s", text, p)}, true
		}
		return hit{}, false
	}
	return m.argument(t, text, "the command", sc)
}

// reading lets a word without a slash be a file of the working folder, for
// commands that read what they run.
func (sc scope) reading(cmd string) scope {
	if v := strings.TrimRight(cmd, "0123456789."); v != "" {
		cmd = v // python3.11
	}
	sc.bare = slices.Contains(readers, cmd)
	return sc
}

// argument matches a word that may be a path, or hold one.
func (m *matcher) argument(t token, text, what string, sc scope) (hit, bool) {
	try := []string{text}
	if strings.ContainsAny(text, pathSigns) {
		try = append(try, strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(pathSigns, r) })...)
	}
	for i, w := range try {
		if w == "" || len(w) > 8192 || !strings.Contains(w, "/") && (i > 0 || !sc.bare) {
			continue
		}
		p := sc.join(w)
		if p == "" {
			continue
		}
		how, ok := m.is(p)
		if !ok && strings.ContainsAny(w, "*?[") {
			how, ok = m.pattern(p)
		}
		if !ok {
			continue
		}
		if !path.IsAbs(w) {
			how = fmt.Sprintf(" (%s in %s)%s", w, sc.dir, how)
		}
		return hit{line: t.line, why: what + how, link: w}, true
	}
	return hit{}, false
}

// pathSigns may stand beside a path within one word.
const pathSigns = "=:,[]{}'\"@"

func (m *matcher) pattern(p string) (string, bool) {
	for target := range m.paths {
		if ok, err := path.Match(p, target); ok && err == nil {
			return ", by the pattern " + p, true
		}
	}
	return "", false
}

// join makes a word absolute, or returns "" when that cannot be known.
func (sc scope) join(w string) string {
	switch {
	case path.IsAbs(w):
		return w
	case w == "~" || strings.HasPrefix(w, "~/"):
		if sc.home == "" {
			return ""
		}
		return path.Join(sc.home, w[1:])
	case sc.dir == "":
		return ""
	}
	return path.Join(sc.dir, w)
}

// expand puts in the variables that are known.
func (sc scope) expand(w string) string {
	if sc.unit && sc.home != "" {
		w = strings.ReplaceAll(w, "%h", sc.home)
	}
	if !strings.Contains(w, "$") {
		return w
	}
	var b strings.Builder
	for i := 0; i < len(w) && b.Len() < 16<<10; i++ {
		if w[i] != '$' {
			b.WriteByte(w[i])
			continue
		}
		rest := w[i+1:]
		brace := strings.HasPrefix(rest, "{")
		if brace {
			rest = rest[1:]
		}
		n := identifier(rest)
		value, known := sc.vars[rest[:n]]
		if rest[:n] == "HOME" && !known {
			value, known = sc.home, sc.home != ""
		}
		if !known || brace && !strings.HasPrefix(rest[n:], "}") {
			b.WriteByte('$')
			continue
		}
		b.WriteString(value)
		i += n
		if brace {
			i += 2
		}
	}
	return b.String()
}

// identifier is the length of the variable name that s begins with.
func identifier(s string) int {
	n := 0
	for n < len(s) && (s[n] == '_' || s[n]|0x20 >= 'a' && s[n]|0x20 <= 'z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	return n
}

func assignment(w string) (name, value string, ok bool) {
	n := identifier(w)
	if n == 0 {
		return "", "", false
	}
	rest := strings.TrimPrefix(w[n:], "+")
	if !strings.HasPrefix(rest, "=") {
		return "", "", false
	}
	return w[:n], rest[1:], true
}
