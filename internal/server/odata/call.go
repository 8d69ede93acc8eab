// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"net/url"
	"strings"
	"time"
)

// Arguments reads what stands in the brackets of a function in a path, as in
// findbyip(ip='10.0.0.2',timestamp=2026-11-01T00:00:00Z): names in lower case,
// and values in single quotes (” for a quote) or bare.
func Arguments(text string) (url.Values, error) {
	values := url.Values{}
	rest := strings.TrimSpace(text)
	if rest == "" {
		return values, nil
	}
	if len(rest) > maxText {
		return nil, invalid("The arguments have %d bytes, more than the %d allowed.", len(rest), maxText)
	}
	for {
		name, after, ok := strings.Cut(rest, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		if !ok || name == "" || strings.ContainsAny(name, ",'") {
			return nil, invalid("The arguments at %q are not of the form name=value, separated by commas.", short(rest))
		}
		value, remaining, err := argument(strings.TrimSpace(after))
		if err != nil {
			return nil, err
		}
		if values.Has(name) {
			return nil, invalid("The argument '%s' was given more than once.", short(name))
		}
		values.Set(name, value)
		if remaining == "" {
			return values, nil
		}
		rest = strings.TrimSpace(remaining[1:])
	}
}

// argument reads one value. What remains is empty or begins with a comma.
func argument(s string) (value, rest string, err error) {
	if !strings.HasPrefix(s, "'") {
		value, rest, more := strings.Cut(s, ",")
		if more {
			rest = "," + rest
		}
		if value = strings.TrimSpace(value); strings.Contains(value, "'") {
			return "", "", invalid("The value at %q has a quote in its middle.", short(value))
		}
		return value, rest, nil
	}
	var b strings.Builder
	for s = s[1:]; ; {
		part, after, ok := strings.Cut(s, "'")
		if !ok {
			return "", "", invalid("The value at %q has no closing quote.", short(s))
		}
		b.WriteString(part)
		if s = after; !strings.HasPrefix(s, "'") {
			break
		}
		b.WriteByte('\'')
		s = s[1:]
	}
	rest = strings.TrimSpace(s)
	if rest != "" && rest[0] != ',' {
		return "", "", invalid("Something stands behind the closing quote: %q.", short(rest))
	}
	return b.String(), rest, nil
}

// ParseTime reads a time in the forms that clients send; see parseTime.
func ParseTime(s string) (time.Time, error) { return parseTime(s) }
