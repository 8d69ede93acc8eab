// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"staunch/api"
)

type tokenKind int

const (
	end   tokenKind = iota
	word            // a property, operator, function, null, true, false
	text            // '…', already unquoted; or a bare GUID
	bare            // a number or a time
	punct           // ( ) , / :
)

type token struct {
	kind tokenKind
	text string
	pos  int // byte offset
}

// parser reads one option. It is used once.
type parser struct {
	option string
	text   string
	fields []Field

	tok   token // the one looked at
	next  int   // byte offset behind tok
	depth int
	terms int
	args  []any
	spans []Span

	variable string // of the any() or all() that is being read
}

// start checks the text as a whole and reads the first token.
func (p *parser) start() error {
	for i, r := range p.text {
		if r == 0 || (r == utf8.RuneError && !strings.HasPrefix(p.text[i:], "\uFFFD")) {
			return p.fail(i, "There is a byte that is not text")
		}
	}
	return p.advance()
}

var guid = regexp.MustCompile(`^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}`)

var offset = regexp.MustCompile(`^ \d\d:\d\d`)

func (p *parser) advance() error {
	// A plus is a blank that a client encoded twice.
	for p.next < len(p.text) && strings.IndexByte(" +\t\r\n", p.text[p.next]) >= 0 {
		p.next++
	}
	pos := p.next
	rest := p.text[pos:]
	if rest == "" {
		p.tok = token{kind: end, pos: pos}
		return nil
	}
	take := func(kind tokenKind, n int) error {
		p.tok = token{kind: kind, text: rest[:n], pos: pos}
		p.next = pos + n
		return nil
	}
	c := rest[0]
	switch {
	case c == '\'':
		return p.quoted(pos)
	case len(rest) >= 36 && guid.MatchString(rest[:36]):
		return take(text, 36)
	case isLetter(c):
		return take(word, prefix(rest, func(c byte) bool { return isLetter(c) || isDigit(c) }))
	case isDigit(c) || c == '-' && len(rest) > 1 && isDigit(rest[1]):
		n := prefix(rest, func(c byte) bool {
			return isLetter(c) || isDigit(c) || strings.IndexByte("+-.:", c) >= 0
		})
		if m := offset.FindStringIndex(rest[n:]); m != nil && strings.Contains(rest[:n], ":") {
			// The plus of 2026-02-10T00:00:00+01:00 came unencoded, and so as a blank.
			p.tok = token{kind: bare, text: rest[:n] + "+" + rest[n+1:n+m[1]], pos: pos}
			p.next = pos + n + m[1]
			return nil
		}
		return take(bare, n)
	case strings.IndexByte("(),/:", c) >= 0:
		return take(punct, 1)
	}
	r, _ := utf8.DecodeRuneInString(rest)
	return p.fail(pos, "Unexpected character %q", r)
}

// quoted reads a string, in which ” stands for one quote.
func (p *parser) quoted(pos int) error {
	var b strings.Builder
	for i := pos + 1; i < len(p.text); i++ {
		if p.text[i] != '\'' {
			b.WriteByte(p.text[i])
			continue
		}
		if i+1 < len(p.text) && p.text[i+1] == '\'' {
			b.WriteByte('\'')
			i++
			continue
		}
		p.tok = token{kind: text, text: b.String(), pos: pos}
		p.next = i + 1
		return nil
	}
	return p.fail(pos, "The string that begins here has no closing quote")
}

func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' }

func prefix(s string, is func(byte) bool) int {
	n := 0
	for n < len(s) && is(s[n]) {
		n++
	}
	return n
}

// keyword reports whether the token looked at is this word, in any case.
func (p *parser) keyword(w string) bool {
	return p.tok.kind == word && strings.EqualFold(p.tok.text, w)
}

func (p *parser) at(mark string) bool { return p.tok.kind == punct && p.tok.text == mark }

func (p *parser) expect(mark string) error {
	if !p.at(mark) {
		return p.unexpected("'" + mark + "'")
	}
	return p.advance()
}

func (p *parser) unexpected(want string) error {
	switch p.tok.kind {
	case end:
		return p.fail(p.tok.pos, "Expected %s but the text ends", want)
	case text:
		return p.fail(p.tok.pos, "Expected %s but found the string '%s'", want, short(p.tok.text))
	}
	return p.fail(p.tok.pos, "Expected %s but found '%s'", want, short(p.tok.text))
}

// around is how many bytes of text an error shows on either side of the place.
const around = 32

// fail makes the refusal of what stands at byte offset pos.
func (p *parser) fail(pos int, format string, args ...any) error {
	from, to := max(0, pos-around), min(len(p.text), pos+around)
	before, after := p.text[from:pos], p.text[pos:to]
	if from > 0 {
		before = "…" + strings.ToValidUTF8(before, "")
	}
	if to < len(p.text) {
		after = strings.ToValidUTF8(after, "") + "…"
	}
	args = append(args, utf8.RuneCountInString(p.text[:pos])+1, p.option, before, after)
	e := invalid(format+" at position %d in '%s': %s >>> %s", args...)
	e.Message = strings.TrimRight(printable(e.Message), " ")
	return e
}

func invalid(format string, args ...any) *api.Error {
	return api.Errorf(api.ODataError, "The query specified in the URI is not valid. "+format, args...)
}

// short keeps what a client sent from filling the answer.
func short(s string) string {
	s = printable(s)
	if r := []rune(s); len(r) > 64 {
		return string(r[:64]) + "…"
	}
	return s
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
