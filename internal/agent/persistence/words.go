// SPDX-License-Identifier: Apache-2.0

package persistence

import "strings"

// A token is a word or an operator of a command.
type token struct {
	text string
	line int
	op   byte // 0 for a word, else one of ; < > (newline and every other separator are ';')
}

// operators end a shell word.
const operators = ";|&()<>`"

// tokens splits shell text into words with their quotes removed. It does not
// parse the shell: what it cannot understand it still cuts into words, and
// text within quotes is looked at again by whoever reads the words.
func tokens(src string, line int) []token {
	var out []token
	var b strings.Builder
	start, in := line, false
	end := func() {
		if in {
			out = append(out, token{text: b.String(), line: start})
			b.Reset()
			in = false
		}
	}
	begin := func() {
		if !in {
			start, in = line, true
		}
	}
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c == '\n':
			end()
			out = append(out, token{line: line, op: ';'})
			line++
		case c == ' ' || c == '\t' || c == '\r':
			end()
		case c == '#' && !in:
			for i+1 < len(src) && src[i+1] != '\n' {
				i++
			}
		case c == '\\':
			if i+1 == len(src) {
				break
			}
			i++
			if src[i] == '\n' {
				line++
				break
			}
			begin()
			b.WriteByte(src[i])
		case c == '\'' || c == '"':
			begin()
			var text string
			text, i = quoted(src, i)
			b.WriteString(text)
			line += strings.Count(text, "\n")
		case strings.IndexByte(operators, c) >= 0:
			end()
			op := byte(';')
			if c == '<' || c == '>' {
				op = c
			}
			out = append(out, token{line: line, op: op})
		default:
			begin()
			b.WriteByte(c)
		}
	}
	end()
	return out
}

// quoted reads the quoted text that begins at src[i] and returns it with the
// index of its last byte. In double quotes a backslash guards the next byte.
func quoted(src string, i int) (string, int) {
	var b strings.Builder
	q := src[i]
	for i++; i < len(src) && src[i] != q; i++ {
		if src[i] == '\\' && q == '"' && i+1 < len(src) && strings.IndexByte("\\\"$`", src[i+1]) >= 0 {
			i++
		}
		b.WriteByte(src[i])
	}
	return b.String(), min(i, len(src)-1)
}

// unitTokens splits a systemd command line (systemd.service(5), "Command
// lines"): quotes and C escapes, no operators but a lone semicolon.
func unitTokens(src string, line int) []token {
	var out []token
	for i := 0; i < len(src); i++ {
		if strings.IndexByte(" \t\r\n", src[i]) >= 0 {
			continue
		}
		var b strings.Builder
		quote := byte(0)
		for ; i < len(src); i++ {
			c := src[i]
			switch {
			case c == '\\':
				n, text := unescape(src[i:])
				b.WriteString(text)
				i += n - 1
				continue
			case quote != 0 && c == quote:
				quote = 0
				continue
			case quote == 0 && (c == '\'' || c == '"'):
				quote = c
				continue
			case quote == 0 && strings.IndexByte(" \t\r\n", c) >= 0:
			default:
				b.WriteByte(c)
				continue
			}
			break
		}
		t := token{text: b.String(), line: line}
		if t.text == ";" {
			t = token{line: line, op: ';'}
		}
		out = append(out, t)
	}
	return out
}

// unescape reads one C escape at the start of s; it returns its length and
// what it stands for.
func unescape(s string) (int, string) {
	if n, ok := octal(s); ok {
		return 4, string([]byte{n})
	}
	if len(s) < 2 {
		return 1, `\`
	}
	if s[1] == 'x' && len(s) >= 4 {
		hi, lo := strings.IndexByte(hexDigits, s[2]|0x20), strings.IndexByte(hexDigits, s[3]|0x20)
		if hi >= 0 && lo >= 0 {
			return 4, string([]byte{byte(hi<<4 | lo)})
		}
	}
	if i := strings.IndexByte(`abfnrtvs`, s[1]); i >= 0 {
		return 2, "\a\b\f\n\r\t\v "[i : i+1]
	}
	return 2, s[1:2]
}

const hexDigits = "0123456789abcdef"
