// SPDX-License-Identifier: Apache-2.0

// Package mountinfo reads what the kernel writes into /proc/PID/mountinfo: see
// proc_pid_mountinfo(5).
package mountinfo

import (
	"strconv"
	"strings"
)

// Unescape undoes the \ooo by which the kernel writes space, tab, newline and
// backslash in a name. What is no such thing stays as it is.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
