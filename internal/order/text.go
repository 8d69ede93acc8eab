// SPDX-License-Identifier: Apache-2.0

package order

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// TextOf makes a Text of the bytes of a name.
func TextOf(name string) Text {
	if plain(name) {
		return Text(name)
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		switch {
		case r == '\\':
			b.WriteString(`\\`)
		case r == utf8.RuneError && n == 1, !printable(r):
			for _, c := range []byte(name[i : i+n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		default:
			b.WriteString(name[i : i+n])
		}
		i += n
	}
	return Text(b.String())
}

// Bytes turns a Text back into the name it was made of.
func (t Text) Bytes() (string, error) {
	s := string(t)
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		switch {
		case s[i] != '\\':
			b.WriteByte(s[i])
			i++
		case strings.HasPrefix(s[i:], `\\`):
			b.WriteByte('\\')
			i += 2
		case strings.HasPrefix(s[i:], `\x`) && len(s) >= i+4:
			c, err := strconv.ParseUint(s[i+2:i+4], 16, 8)
			if err != nil {
				return "", fmt.Errorf("cannot read name %q: %w", s, err)
			}
			b.WriteByte(byte(c))
			i += 4
		default:
			return "", fmt.Errorf("cannot read name %q: a lone backslash at byte %d", s, i)
		}
	}
	return b.String(), nil
}

func plain(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r == '\\' || !printable(r) {
			return false
		}
	}
	return true
}

// printable also keeps out U+FFFD, so that a mangled name never looks like a
// sound one, and the marks that turn the direction of writing.
func printable(r rune) bool { return unicode.IsPrint(r) && r != utf8.RuneError }
