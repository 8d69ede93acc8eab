// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"staunch/internal/order"
)

// Undo is what Enable needs to put back what Disable changed. It is written to
// a journal as JSON before its change is made (see Plan).
type Undo struct {
	File   order.Text `json:"file"` // links resolved
	Base   order.Text `json:"base"`
	Line   int        `json:"line,omitzero"`
	Before []byte     `json:"before"`         // the lines, or where the link pointed
	After  []byte     `json:"after,omitzero"` // the lines as they are now
	Link   bool       `json:"link,omitzero"`  // a symbolic link was removed
	UID    int        `json:"uid,omitzero"`   // of the link
	GID    int        `json:"gid,omitzero"`   //
}

// ErrChanged says that a file is no longer as it was when the finding or the
// change was made; nothing was done.
var ErrChanged = errors.New("it has changed since")

// ErrByHand says that a finding cannot be disabled safely; the text says why.
var ErrByHand = errors.New("it must be changed by hand")

// mark stands before a line that was made a comment.
const mark = "# staunch-disabled: "

// Plan says what Disable would change, without changing it. Journal it, then
// call Apply; a crash between leaves either the old file or the new one, and
// Enable of a plan that was not applied says ErrChanged.
func Plan(cfg Config, n Finding) (Undo, error) {
	u := Undo{File: order.TextOf(n.File), Base: order.TextOf(orBase(n.Base)), Line: n.Line, Before: []byte(n.Text)}
	switch n.Edit {
	case Link:
		return planLink(cfg, n, u)
	case Comment, Null, Word:
	default:
		return Undo{}, byHand(n, "it is not a line of a file")
	}
	file, err := readPlain(cfg, u)
	if err != nil {
		return Undo{}, fmt.Errorf("cannot disable %q: %w", n.Where, err)
	}
	line := textOf(file, n.Line, n.Line+strings.Count(n.Text, "\n"))
	switch n.Edit {
	case Word:
		after, ok := withoutWord(textOf(file, n.Line, n.Line), n.Text)
		if !ok {
			return Undo{}, fmt.Errorf("cannot disable %q line %d: %w", n.Where, n.Line, ErrChanged)
		}
		u.Before, u.After = []byte(textOf(file, n.Line, n.Line)), []byte(after)
		return u, nil
	case Null:
		if err := whole(n, file); err != nil {
			return Undo{}, err
		}
	}
	if line != n.Text {
		return Undo{}, fmt.Errorf("cannot disable %q line %d: %w", n.Where, n.Line, ErrChanged)
	}
	if n.Kind == PAM && bytes.Contains(pamJumps(file), []byte("=")) {
		return Undo{}, byHand(n, "the stack counts its lines to jump, and one less would change who may log in")
	}
	u.After = []byte(commented(n))
	return u, nil
}

func byHand(n Finding, why string) error {
	return fmt.Errorf("cannot disable %q: %s: %w", n.Where, why, ErrByHand)
}

// commented is the finding's text with every line a comment. In shell text the
// first becomes the null command, so that what it stood in stays whole.
func commented(n Finding) string {
	all := strings.Split(n.Text, "\n")
	for i, l := range all {
		all[i] = mark + l
	}
	if n.Edit == Null {
		all[0] = ": " + all[0]
	}
	return strings.Join(all, "\n")
}

// pamJumps returns the [value=N] controls whose action is a number.
func pamJumps(file []byte) []byte {
	var out []byte
	for _, l := range bytes.Split(file, []byte("\n")) {
		open, end := bytes.IndexByte(l, '['), bytes.IndexByte(l, ']')
		if open < 0 || end < open || bytes.HasPrefix(bytes.TrimSpace(l), []byte("#")) {
			continue
		}
		for _, w := range bytes.Fields(l[open+1 : end]) {
			if _, action, ok := bytes.Cut(w, []byte("=")); ok && len(action) > 0 && action[0] >= '0' && action[0] <= '9' {
				out = append(out, w...)
			}
		}
	}
	return out
}

// control are words that make a line of shell text part of something larger.
var control = strings.Fields(`if then else elif fi for while until do done case esac in { } function select ;; [[ ]]
	begin end switch endif endsw foreach`)

// whole reports whether the finding's line is a command of its own: taking
// half a sentence out of a shell script breaks all of the script.
func whole(n Finding, file []byte) error {
	open := false
	if n.Line > 1 {
		prev := strings.TrimSpace(textOf(file, n.Line-1, n.Line-1))
		open = strings.HasSuffix(prev, `\`) || strings.HasSuffix(prev, "|") || strings.HasSuffix(prev, "&&")
	}
	quote := byte(0) // left open by the text before
	for _, part := range []string{textOf(file, 1, n.Line-1), n.Text} {
		if n.Line == 1 && part != n.Text {
			continue
		}
		if part == n.Text && quote != 0 {
			open = true
		}
		quote = openQuote(part, quote)
	}
	text := strings.TrimSpace(n.Text)
	for _, t := range tokens(n.Text, 1) {
		open = open || t.op == 0 && slices.Contains(control, t.text)
	}
	open = open || quote != 0 || strings.Contains(string(file), "<<") ||
		strings.Count(text, "(") != strings.Count(text, ")") || strings.Count(text, "`")%2 != 0 ||
		strings.HasSuffix(text, `\`) || strings.HasSuffix(text, "|") || strings.HasSuffix(text, "&&") ||
		strings.HasPrefix(text, "|") || strings.HasPrefix(text, "&&") || strings.HasPrefix(text, "#!")
	if open {
		return byHand(n, fmt.Sprintf("line %d is part of a larger construct", n.Line))
	}
	return nil
}

// openQuote is the quote that shell text leaves open, having begun within one.
func openQuote(s string, quote byte) byte {
	word := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
		case c == '\'' || c == '"':
			quote = c
		case c == '#' && !word:
			for i+1 < len(s) && s[i+1] != '\n' {
				i++
			}
		}
		word = i < len(s) && strings.IndexByte(" \t\n;|&()", s[i]) < 0
	}
	return quote
}

// withoutWord takes one path out of a list of paths.
func withoutWord(line, word string) (string, bool) {
	for i := 0; i+len(word) <= len(line); i++ {
		if line[i:i+len(word)] != word || i > 0 && !preloadGap(rune(line[i-1])) || i+len(word) < len(line) && !preloadGap(rune(line[i+len(word)])) {
			continue
		}
		return line[:i] + strings.Repeat(" ", len(word)) + line[i+len(word):], true
	}
	return "", false
}

func planLink(cfg Config, n Finding, u Undo) (Undo, error) {
	r, rel, err := at(cfg, u)
	if err != nil {
		return Undo{}, fmt.Errorf("cannot disable %q: %w", n.Where, err)
	}
	defer r.Close() // nothing was written
	to, err := r.Readlink(rel)
	if err != nil || to != n.Text {
		return Undo{}, fmt.Errorf("cannot disable %q: %w", n.Where, ErrChanged)
	}
	fi, err := r.Lstat(rel)
	if err != nil {
		return Undo{}, err
	}
	u.Link, u.Line = true, 0
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		u.UID, u.GID = int(st.Uid), int(st.Gid)
	}
	return u, nil
}

// Disable makes one finding harmless and returns how to undo it. It is Plan
// and Apply for those who keep no journal. A manager that has the old text in
// its memory keeps to it until it reads again (systemctl daemon-reload).
func Disable(ctx context.Context, cfg Config, n Finding) (Undo, error) {
	u, err := Plan(cfg, n)
	if err != nil {
		return Undo{}, err
	}
	return u, Apply(ctx, cfg, u)
}

// Apply makes the change that was planned. Applying it twice changes nothing.
func Apply(ctx context.Context, cfg Config, u Undo) error {
	return change(ctx, cfg, u, "disable", u.Before, u.After)
}

// Enable puts back what Apply changed: the bytes, the owner, the mode and the
// extended attributes are as they were. Enabling twice changes nothing.
func Enable(ctx context.Context, cfg Config, u Undo) error {
	return change(ctx, cfg, u, "enable", u.After, u.Before)
}

func change(ctx context.Context, cfg Config, u Undo, verb string, from, to []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	r, rel, err := at(cfg, u)
	if err != nil {
		return fmt.Errorf("cannot %s %q: %w", verb, u.File, err)
	}
	defer r.Close() // what was written is synced below
	if u.Link {
		err = changeLink(r, rel, u, verb == "enable")
	} else {
		err = changeLines(r, rel, u, from, to)
	}
	if err != nil {
		return fmt.Errorf("cannot %s %q: %w", verb, u.File, err)
	}
	return nil
}

// changeLines replaces lines where they were, or where they are now if the
// file got longer or shorter above them.
func changeLines(r *os.Root, rel string, u Undo, from, to []byte) error {
	f, err := openPlain(r, rel)
	if err != nil {
		return err
	}
	defer f.Close() // read only
	data, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	all := bytes.Split(data, []byte("\n"))
	if _, ok := findLines(all, to, u.Line); ok {
		if _, both := findLines(all, from, u.Line); !both {
			return nil // done already
		}
	}
	i, ok := findLines(all, from, u.Line)
	if !ok {
		return ErrChanged
	}
	n := bytes.Count(from, []byte("\n")) + 1
	all = slices.Replace(all, i, i+n, to)
	return replace(r, rel, f, bytes.Join(all, []byte("\n")))
}

// findLines is the index of the lines: at their place, else the only place.
func findLines(all [][]byte, want []byte, line int) (int, bool) {
	n := bytes.Count(want, []byte("\n")) + 1
	is := func(i int) bool {
		return i >= 0 && i+n <= len(all) && bytes.Equal(bytes.Join(all[i:i+n], []byte("\n")), want)
	}
	if is(line - 1) {
		return line - 1, true
	}
	at, count := 0, 0
	for i := range all {
		if is(i) {
			at, count = i, count+1
		}
	}
	return at, count == 1
}

func changeLink(r *os.Root, rel string, u Undo, back bool) error {
	to, err := r.Readlink(rel)
	switch {
	case err == nil && to == string(u.Before):
		if back {
			return nil
		}
		if err := r.Remove(rel); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return ErrChanged
	case !back:
		return nil
	default:
		if err := r.Symlink(string(u.Before), rel); err != nil {
			return err
		}
		if err := r.Lchown(rel, u.UID, u.GID); err != nil {
			return errors.Join(err, r.Remove(rel))
		}
	}
	return syncDir(r, path.Dir(rel))
}

// at opens the folder that no link may lead out of, and returns the file's
// path below it. Names are followed by os.Root alone: a folder of a hostile
// home exchanged for a link meanwhile leads nowhere else.
func at(cfg Config, u Undo) (*os.Root, string, error) {
	base, err := u.Base.Bytes()
	if err != nil {
		return nil, "", err
	}
	file, err := u.File.Bytes()
	if err != nil {
		return nil, "", err
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	t := newTree(context.Background(), cfg)
	home := t.resolve(base)
	if !below(home, file) || home == file {
		return nil, "", fmt.Errorf("it lies outside %s", base)
	}
	if t.isSlow(file) {
		return nil, "", errors.New("it lies on a file system that may not answer")
	}
	r, err := os.OpenRoot(t.outside(home))
	return r, strings.TrimPrefix(strings.TrimPrefix(file, home), "/"), err
}

func readPlain(cfg Config, u Undo) ([]byte, error) {
	r, rel, err := at(cfg, u)
	if err != nil {
		return nil, err
	}
	defer r.Close() // read only
	f, err := openPlain(r, rel)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	return io.ReadAll(f)
}

// openPlain opens a regular file with one name and a sane size.
func openPlain(r *os.Root, rel string) (*os.File, error) {
	fi, err := r.Lstat(rel)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, ErrChanged
	}
	f, err := r.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	switch err := unix.Fstat(int(f.Fd()), &st); {
	case err != nil, st.Mode&unix.S_IFMT != unix.S_IFREG, st.Size > 8<<20:
		err = errors.Join(err, ErrChanged)
		return nil, errors.Join(err, f.Close())
	case st.Nlink > 1:
		return nil, errors.Join(fmt.Errorf("it has %d names: %w", st.Nlink, ErrByHand), f.Close())
	}
	return f, nil
}
