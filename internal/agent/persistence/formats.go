// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"bytes"
	"path"
	"strings"
)

// A statement is a piece of a file that may run something, with the lines it
// takes. The parsers below read bytes and never fail: what they do not
// understand they leave out.
type statement struct {
	line, end int    // first and last line, from 1
	text      string // what is run
	script    bool   // text is a whole script and its words know their lines
	user      string // who runs it; "" for the owner of the place
	path      string // PATH, when the file sets it
	dir       string // working folder, when the file sets it
	wants     string // a unit that this starts
}

// A logical line is one or more lines joined by a backslash at their ends.
type logical struct {
	text      string
	line, end int
}

// lines splits a file; with joined, a backslash at the end of a line joins the
// next. skip says which lines are comments: they do not interrupt joined lines,
// as systemd.syntax(7) has it.
func lines(data []byte, joined bool, comment string) []logical {
	var out []logical
	var text strings.Builder // of the line that is still open
	first, n := 0, 0         // first is 0 when none is
	for line := range strings.SplitSeq(string(data), "\n") {
		n++
		line = strings.TrimSuffix(line, "\r")
		trimmed := strings.TrimLeft(line, " \t")
		if trimmed != "" && strings.IndexByte(comment, trimmed[0]) >= 0 {
			continue
		}
		if first == 0 {
			first = n
		}
		if joined && strings.HasSuffix(line, `\`) {
			text.WriteString(strings.TrimSuffix(line, `\`) + " ")
			continue
		}
		text.WriteString(line)
		out = append(out, logical{text.String(), first, n})
		text.Reset()
		first = 0
	}
	if first != 0 {
		out = append(out, logical{text.String(), first, n})
	}
	return out
}

// script is a whole file for a shell, or for whatever its first line says.
func script(data []byte) []statement {
	if bytes.IndexByte(data[:min(len(data), 1024)], 0) >= 0 {
		return nil // a program
	}
	return []statement{{line: 1, text: string(data), script: true}}
}

// environment reads NAME=value lines as environment.d(5) and pam_env(8) have
// them, commands as well.
func environment(data []byte) []statement { return script(data) }

// crontab reads crontab(5); user says that a user's name stands before the command.
func crontab(user bool) func([]byte) []statement {
	return func(data []byte) []statement {
		var out []statement
		env := statement{}
		for _, l := range lines(data, false, "#") {
			text := strings.TrimSpace(l.text)
			if name, value, ok := cronVariable(text); ok {
				if name == "PATH" {
					env.path = value
				}
				out = append(out, statement{line: l.line, end: l.end, text: name + "='" + value + "'"})
				continue
			}
			skip := 5
			if strings.HasPrefix(text, "@") {
				skip = 1
			}
			s := statement{line: l.line, end: l.end, path: env.path}
			if user {
				fields := strings.Fields(text)
				if len(fields) <= skip {
					continue
				}
				s.user = fields[skip]
				skip++
			}
			s.text = after(text, skip)
			if i := unguarded(s.text, '%'); i >= 0 {
				s.text = s.text[:i] + "\n" + s.text[i+1:] // the rest is the command's input
			}
			if s.text != "" {
				out = append(out, s)
			}
		}
		return out
	}
}

// cronVariable reads "NAME = value", quotes removed.
func cronVariable(text string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(text, "=")
	name = strings.Trim(name, " \t\"'")
	if !ok || name == "" || identifier(name) != len(name) {
		return "", "", false
	}
	return name, strings.ReplaceAll(strings.Trim(strings.TrimSpace(value), `"'`), "'", ""), true
}

// after returns what follows n words.
func after(text string, n int) string {
	for range n {
		text = strings.TrimLeft(text, " \t")
		i := strings.IndexAny(text, " \t")
		if i < 0 {
			return ""
		}
		text = text[i:]
	}
	return strings.TrimSpace(text)
}

// unguarded is the index of the first c without a backslash before it.
func unguarded(s string, c byte) int {
	for i := range len(s) {
		if s[i] == c && (i == 0 || s[i-1] != '\\') {
			return i
		}
	}
	return -1
}

// anacrontab reads anacrontab(5): period, delay, name, command.
func anacrontab(data []byte) []statement {
	var out []statement
	for _, l := range lines(data, true, "#") {
		if _, _, ok := cronVariable(l.text); ok {
			continue
		}
		if text := after(l.text, 3); text != "" {
			out = append(out, statement{line: l.line, end: l.end, text: text})
		}
	}
	return out
}

// A setting is one Key=value of a section.
type setting struct {
	section, key, value string
	line, end           int
}

// settings reads the ini files of systemd.syntax(7), the Desktop Entry
// Specification, D-Bus services and supervisor.
func settings(data []byte, comment string) []setting {
	var out []setting
	section := ""
	for _, l := range lines(data, true, comment) {
		text := strings.TrimSpace(l.text)
		if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
			section = text[1 : len(text)-1]
			continue
		}
		if key, value, ok := strings.Cut(text, "="); ok {
			out = append(out, setting{section, strings.TrimSpace(key), strings.TrimSpace(value), l.line, l.end})
		}
	}
	return out
}

// desktop reads an autostart entry or a D-Bus service.
func desktop(data []byte) []statement {
	var out []statement
	dir := ""
	all := settings(data, "#")
	for _, s := range all {
		switch {
		case s.key == "Hidden" && s.value == "true", s.key == "X-GNOME-Autostart-enabled" && s.value == "false":
			return nil
		case s.key == "Path":
			dir = s.value
		}
	}
	for _, s := range all {
		switch s.key {
		case "Exec", "X-KDE-autostart-condition":
			out = append(out, statement{line: s.line, end: s.end, text: s.value, dir: dir})
		case "SystemdService":
			out = append(out, statement{line: s.line, end: s.end, wants: s.value})
		}
	}
	return out
}

// supervisor reads the program sections of supervisord.conf.
func supervisor(data []byte) []statement {
	var out []statement
	dirs := map[string]string{}
	all := settings(data, "#;")
	for _, s := range all {
		if s.key == "directory" {
			dirs[s.section] = s.value
		}
	}
	for _, s := range all {
		if s.key == "command" || s.key == "environment" {
			out = append(out, statement{line: s.line, end: s.end, text: s.value, dir: dirs[s.section]})
		}
	}
	return out
}

// preload reads /etc/ld.so.preload: paths between blanks and colons, comments
// from # to the end of the line (ld.so(8)).
func preload(data []byte) []statement {
	var out []statement
	for _, l := range lines(data, false, "#") {
		text, _, _ := strings.Cut(l.text, "#")
		for _, p := range strings.FieldsFunc(text, preloadGap) {
			out = append(out, statement{line: l.line, end: l.end, text: p})
		}
	}
	return out
}

func preloadGap(r rune) bool { return r == ' ' || r == '\t' || r == ':' || r == '\r' }

// udev reads the rules of udev(7) that run a program or start a unit.
func udev(data []byte) []statement {
	var out []statement
	for _, l := range lines(data, true, "#") {
		rest := l.text
		for rest != "" {
			var key, value string
			key, value, rest = udevPair(rest)
			switch name, _, _ := strings.Cut(key, "{"); {
			case name == "RUN" && !strings.HasPrefix(key, "RUN{builtin}"), name == "PROGRAM", key == "IMPORT{program}":
				out = append(out, statement{line: l.line, end: l.end, text: value, dir: "/usr/lib/udev"})
			case key == "ENV{SYSTEMD_WANTS}", key == "ENV{SYSTEMD_USER_WANTS}":
				for w := range strings.FieldsSeq(value) {
					out = append(out, statement{line: l.line, end: l.end, wants: w})
				}
			}
		}
	}
	return out
}

// udevPair takes one KEY="value" off the front of a rule.
func udevPair(s string) (key, value, rest string) {
	s = strings.TrimLeft(s, ", \t")
	i := strings.IndexByte(s, '"')
	if i < 0 {
		return "", "", ""
	}
	key = strings.TrimRight(s[:i], " \t=+-:!e")
	for j := i + 1; j < len(s); j++ {
		if s[j] == '\\' && j+1 < len(s) && s[j+1] == '"' {
			j++
		} else if s[j] == '"' {
			return key, strings.ReplaceAll(s[i+1:j], `\"`, `"`), s[j+1:]
		}
	}
	return key, s[i+1:], ""
}

// modprobe reads the install and remove commands of modprobe.d(5).
func modprobe(data []byte) []statement {
	var out []statement
	for _, l := range lines(data, true, "#") {
		if f := strings.Fields(l.text); len(f) > 2 && (f[0] == "install" || f[0] == "remove") {
			out = append(out, statement{line: l.line, end: l.end, text: after(l.text, 2)})
		}
	}
	return out
}

// inittab reads inittab(5): id:levels:action:process.
func inittab(data []byte) []statement {
	var out []statement
	for _, l := range lines(data, false, "#") {
		if f := strings.SplitN(l.text, ":", 4); len(f) == 4 && f[2] != "off" {
			out = append(out, statement{line: l.line, end: l.end, text: strings.TrimPrefix(f[3], "-")})
		}
	}
	return out
}

// pam reads pam.conf(5) and pam.d(5): the module's name is looked up in the
// folders of modules; pam_exec's arguments are a command.
func pam(data []byte) []statement {
	var out []statement
	for _, l := range lines(data, true, "#") {
		text := l.text
		if i := strings.IndexByte(text, '['); i >= 0 { // [success=1 default=ignore]
			if j := strings.IndexByte(text[i:], ']'); j >= 0 {
				text = text[:i] + "control" + text[i+j+1:]
			}
		}
		fields := strings.Fields(text)
		for i, w := range fields {
			if i < 2 || !strings.Contains(path.Base(w), ".so") {
				continue
			}
			s := statement{line: l.line, end: l.end, path: pamFolders, text: w}
			if path.Base(w) == "pam_exec.so" {
				s.text = w + "; exec " + pamCommand(fields[i+1:])
			}
			out = append(out, s)
			break
		}
	}
	return out
}

// pamFolders are where modules without a slash in their names lie.
const pamFolders = "/lib/x86_64-linux-gnu/security:/usr/lib/x86_64-linux-gnu/security:/lib/aarch64-linux-gnu/security:/usr/lib/aarch64-linux-gnu/security:/lib64/security:/usr/lib64/security:/lib/security:/usr/lib/security"

// pamCommand leaves out pam_exec's own options, which stand first.
func pamCommand(args []string) string {
	for len(args) > 0 && !strings.HasPrefix(args[0], "/") {
		args = args[1:]
	}
	return strings.Join(args, " ")
}
