// SPDX-License-Identifier: Apache-2.0

// Package filehash holds the digests that name a file's content: as types, so
// that a SHA-1 is never mistaken for a SHA-256 and nothing unparsed travels
// further than the edge. It computes both in one pass over the content.
package filehash

import (
	"crypto/sha1" //nolint:gosec // the API we keep names files by SHA-1; SHA-256 decides wherever both are known
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
)

// SHA1 is a SHA-1 digest. The zero value means "not known".
type SHA1 [sha1.Size]byte

// SHA256 is a SHA-256 digest. The zero value means "not known".
type SHA256 [sha256.Size]byte

// ParseSHA1 reads exactly 40 hex digits of either case.
func ParseSHA1(s string) (SHA1, error) {
	var h SHA1
	return h, decode(h[:], s, "SHA-1")
}

// ParseSHA256 reads exactly 64 hex digits of either case.
func ParseSHA256(s string) (SHA256, error) {
	var h SHA256
	return h, decode(h[:], s, "SHA-256")
}

func decode(dst []byte, s, kind string) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("cannot read %s: want %d hex digits, have %d characters", kind, 2*len(dst), len(s))
	}
	if _, err := hex.Decode(dst, []byte(s)); err != nil {
		clear(dst)
		return fmt.Errorf("cannot read %s: %w", kind, err)
	}
	for _, b := range dst {
		if b != 0 {
			return nil
		}
	}
	// No content is known to have it, and it means "not known" here.
	return fmt.Errorf("cannot read %s: all zeros name no content", kind)
}

// IsZero reports whether the digest is not known.
func (h SHA1) IsZero() bool { return h == SHA1{} }

// IsZero reports whether the digest is not known.
func (h SHA256) IsZero() bool { return h == SHA256{} }

// String returns lower-case hex, or "" when the digest is not known.
func (h SHA1) String() string {
	if h.IsZero() {
		return ""
	}
	return hex.EncodeToString(h[:])
}

// String returns lower-case hex, or "" when the digest is not known.
func (h SHA256) String() string {
	if h.IsZero() {
		return ""
	}
	return hex.EncodeToString(h[:])
}

// MarshalText writes what String returns.
func (h SHA1) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// MarshalText writes what String returns.
func (h SHA256) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText writes; empty text is the zero value.
func (h *SHA1) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*h = SHA1{}
		return nil
	}
	*h, err = ParseSHA1(string(b))
	return err
}

// UnmarshalText reads what MarshalText writes; empty text is the zero value.
func (h *SHA256) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*h = SHA256{}
		return nil
	}
	*h, err = ParseSHA256(string(b))
	return err
}

// Hash names a content by SHA-1, by SHA-256 or by both. At least one is known
// in any Hash that came through Parse or Valid.
type Hash struct {
	SHA1   SHA1   `json:"sha1,omitzero"`
	SHA256 SHA256 `json:"sha256,omitzero"`
}

// Parse reads a SHA-1 (40 hex digits) or a SHA-256 (64 hex digits).
func Parse(s string) (h Hash, err error) {
	switch len(s) {
	case 2 * sha1.Size:
		h.SHA1, err = ParseSHA1(s)
	case 2 * sha256.Size:
		h.SHA256, err = ParseSHA256(s)
	default:
		err = fmt.Errorf("cannot read hash: want 40 hex digits (SHA-1) or 64 (SHA-256), have %d characters", len(s))
	}
	return h, err
}

// IsZero reports whether the hash names nothing.
func (h Hash) IsZero() bool { return h.SHA1.IsZero() && h.SHA256.IsZero() }

// String returns the SHA-1 if known, else the SHA-256, in lower-case hex.
func (h Hash) String() string {
	if !h.SHA1.IsZero() {
		return h.SHA1.String()
	}
	return h.SHA256.String()
}

// Matches reports whether the content summed up by s is the one h names: every
// digest that h knows must agree. A zero Hash matches nothing.
func (h Hash) Matches(s Sum) bool {
	if h.IsZero() {
		return false
	}
	return (h.SHA1.IsZero() || h.SHA1 == s.SHA1) && (h.SHA256.IsZero() || h.SHA256 == s.SHA256)
}

// Empty reports whether h names the empty content, which countless harmless
// files share.
func (h Hash) Empty() bool {
	return h.Matches(Sum{SHA1: sha1.Sum(nil), SHA256: sha256.Sum256(nil)})
}

// Sum is what one pass over a content tells.
type Sum struct {
	SHA1   SHA1   `json:"sha1"`
	SHA256 SHA256 `json:"sha256"`
	Size   int64  `json:"size"` // bytes
}

// Hash returns the name made of both digests.
func (s Sum) Hash() Hash { return Hash{SHA1: s.SHA1, SHA256: s.SHA256} }

// Compute reads r to its end.
func Compute(r io.Reader) (Sum, error) {
	w := NewWriter()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 128<<10)); err != nil {
		return Sum{}, err
	}
	return w.Sum(), nil
}

// Writer sums up what is written to it. Make one with NewWriter.
type Writer struct {
	sha1, sha256 hasher
	size         int64
}

type hasher interface {
	io.Writer
	Sum([]byte) []byte
}

// NewWriter returns an empty Writer.
func NewWriter() *Writer { return &Writer{sha1: sha1.New(), sha256: sha256.New()} } //nolint:gosec // see import

// Write never fails.
func (w *Writer) Write(p []byte) (int, error) {
	_, _ = w.sha1.Write(p)   // hash.Hash: never returns an error
	_, _ = w.sha256.Write(p) // hash.Hash: never returns an error
	w.size += int64(len(p))
	return len(p), nil
}

// Sum returns the digests and the size of all that was written so far.
func (w *Writer) Sum() (s Sum) {
	w.sha1.Sum(s.SHA1[:0])
	w.sha256.Sum(s.SHA256[:0])
	s.Size = w.size
	return s
}
