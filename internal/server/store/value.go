// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/server/audit"
)

// Bounds, in bytes, of what is kept. They keep one row from harming the others;
// the API's own limits are narrower and are checked where it is read.
const (
	maxName = 512      // names and ids; indexed, and PostgreSQL indexes at most 2.7 kB
	maxText = 64 << 10 // comments, reasons, settings
	maxJSON = 1 << 20  // facts, the paths of an item
	maxTags = 200      // of a device
)

// text is a string on its way into the database.
type text struct {
	field string // as the caller knows it
	value string
	most  int // bytes
}

// checkTexts refuses text that one of the databases cannot keep, or that is too long.
func checkTexts(texts ...text) error {
	for _, t := range texts {
		switch {
		case len(t.value) > t.most:
			return api.Errorf(api.InvalidInput, "%s is %d bytes long, at most %d can be kept", t.field, len(t.value), t.most)
		case strings.ContainsRune(t.value, 0):
			return api.Errorf(api.InvalidInput, "%s contains a NUL character, which cannot be kept: leave it out", t.field)
		case !utf8.ValidString(t.value):
			return api.Errorf(api.InvalidInput, "%s is not valid UTF-8: encode it as UTF-8", t.field)
		}
	}
	return nil
}

// storable reports whether a key can be in the database at all. What cannot is
// simply not found: PostgreSQL would fail on it.
func storable(key string) bool { return len(key) <= maxName && clean(key) }

// clean reports whether both databases take s.
func clean(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

func checkEntry(e *audit.Entry) error {
	if err := checkTexts(
		text{"audit actor kind", string(e.Kind), maxName},
		text{"audit actor id", e.ActorID, maxName},
		text{"audit actor", e.Actor, maxName},
		text{"audit operation", string(e.Operation), maxName},
		text{"audit target", e.Target, maxText},
		text{"audit outcome", e.Outcome, maxText},
		text{"audit detail", string(e.Detail), audit.MaxDetail},
	); err != nil {
		return err
	}
	if len(e.Detail) > 0 && !json.Valid(e.Detail) {
		return fmt.Errorf("audit detail %q is not JSON", e.Detail)
	}
	return nil
}

// micros is how a time is kept: microseconds since 1970 UTC, NULL for the zero time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// scanMicros reads what micros wrote.
type scanMicros struct{ t *time.Time }

func (s scanMicros) Scan(src any) error {
	switch v := src.(type) {
	case nil:
		*s.t = time.Time{}
	case int64:
		*s.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("cannot read a time from %T", src)
	}
	return nil
}

// instants cuts times to what the database keeps, in place, so that what a
// caller goes on with is what others read.
func instants(times ...*time.Time) {
	for _, t := range times {
		if !t.IsZero() {
			*t = audit.Instant(*t)
		}
	}
}

// scanHash reads the digests of a file from hex.
type scanHash struct {
	h interface{ UnmarshalText([]byte) error }
}

func (s scanHash) Scan(src any) error {
	switch v := src.(type) {
	case string:
		return s.h.UnmarshalText([]byte(v))
	case []byte:
		return s.h.UnmarshalText(v)
	}
	return fmt.Errorf("cannot read a hash from %T", src)
}

// scanJSON reads a JSON column.
type scanJSON struct{ v any }

func (s scanJSON) Scan(src any) error {
	switch v := src.(type) {
	case string:
		return json.Unmarshal([]byte(v), s.v)
	case []byte:
		return json.Unmarshal(v, s.v)
	}
	return fmt.Errorf("cannot read JSON from %T", src)
}

// toJSON encodes v for a JSON column.
func toJSON(field string, v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("cannot encode %s: %w", field, err)
	}
	// JSON encoders replace invalid UTF-8 and escape NUL: what is left to check is the length.
	return string(b), checkTexts(text{field, string(b), maxJSON})
}

// tuples writes rows × columns parameters: ($1,$2),($3,$4).
func tuples(rows, columns int) string {
	var b strings.Builder
	for i := range rows * columns {
		switch {
		case i == 0:
			b.WriteByte('(')
		case i%columns == 0:
			b.WriteString("),(")
		default:
			b.WriteByte(',')
		}
		b.WriteByte('$')
		b.WriteString(strconv.Itoa(i + 1))
	}
	b.WriteByte(')')
	return b.String()
}
