// SPDX-License-Identifier: Apache-2.0

package device

import "strings"

// glob matches in any case: * is any run of characters, ? any one. Its time is
// bounded by the product of both lengths.
func glob(pattern, s string) bool {
	p, text := []rune(strings.ToLower(pattern)), []rune(strings.ToLower(s))
	i, j, star, from := 0, 0, -1, 0
	for j < len(text) {
		switch {
		case i < len(p) && p[i] == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == text[j]):
			i++
			j++
		case star >= 0: // let the last * take one more
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
