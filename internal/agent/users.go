// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/binary"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"staunch/internal/order"
)

// utmp(5), as glibc writes it on 64-bit Linux: records of 384 bytes.
const (
	utmpSize    = 384
	utmpUser    = 44      // offset of ut_user, 32 bytes
	utmpSeconds = 340     // offset of ut_tv.tv_sec, 32 bits
	userProcess = 7       // ut_type of somebody who logged on
	maxWtmp     = 4 << 20 // bytes read, from the end
	maxUsers    = 64
)

// logonUsers are the people who logged on to this device according to
// /var/log/wtmp, the latest first.
func logonUsers() []order.LogonUser {
	f, err := os.Open("/var/log/wtmp")
	if err != nil {
		return nil // many systems keep none
	}
	defer func() { _ = f.Close() }() // read only
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	from := max(0, st.Size()-maxWtmp) / utmpSize * utmpSize
	b := make([]byte, st.Size()-from)
	n, _ := f.ReadAt(b, from) // what was read is whole records and a rest
	return parseWtmp(b[:n])
}

// parseWtmp reads records of utmp(5).
func parseWtmp(b []byte) []order.LogonUser {
	users := map[string]order.LogonUser{}
	for ; len(b) >= utmpSize; b = b[utmpSize:] {
		if binary.LittleEndian.Uint16(b) != userProcess {
			continue
		}
		name, _, _ := bytes.Cut(b[utmpUser:utmpUser+32], []byte{0})
		at := time.Unix(int64(binary.LittleEndian.Uint32(b[utmpSeconds:])), 0).UTC()
		if len(name) == 0 || !utf8.Valid(name) || strings.ContainsFunc(string(name), func(r rune) bool { return !unicode.IsPrint(r) }) {
			continue
		}
		u, ok := users[string(name)]
		if !ok {
			u = order.LogonUser{Name: string(name), First: at, Last: at}
		}
		if at.Before(u.First) {
			u.First = at
		}
		if at.After(u.Last) {
			u.Last = at
		}
		users[string(name)] = u
	}
	list := make([]order.LogonUser, 0, len(users))
	for _, u := range users {
		list = append(list, u)
	}
	slices.SortFunc(list, func(a, b order.LogonUser) int {
		if c := b.Last.Compare(a.Last); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	if len(list) == 0 {
		return nil
	}
	return list[:min(len(list), maxUsers)]
}
