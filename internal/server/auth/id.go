// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"regexp"
	"strings"
)

var guidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// IsGUID reports whether s is a GUID, of either case.
func IsGUID(s string) bool { return guidForm.MatchString(strings.ToLower(s)) }

// NewGUID returns a random GUID (RFC 9562, version 4).
func NewGUID() string {
	var b [16]byte
	rand.Read(b[:])
	return guid(b, 4)
}

// NameGUID returns the GUID of a name: always the same for the same parts
// (RFC 9562, version 8, of their SHA-256).
func NameGUID(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return guid([16]byte(sum[:16]), 8)
}

func guid(b [16]byte, version byte) string {
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
