// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// MaxDetail bounds an entry's detail, in bytes.
const MaxDetail = 64 << 10

// Leaf encodes an entry as the bytes that the log keeps and hashes: one line of
// JSON, its properties in the order of Entry, without blanks, characters outside
// ASCII as they are; the time in UTC, cut to microseconds; in the detail, the
// properties of every object sorted by name and numbers as they were written.
// Equal entries have equal leaves.
func Leaf(e Entry) ([]byte, error) {
	e.Time = Instant(e.Time)
	detail, err := canonical(e.Detail)
	if err != nil {
		return nil, fmt.Errorf("cannot encode the detail of an audit entry: %w", err)
	}
	e.Detail = detail
	return encode(e)
}

// Instant is t as an entry holds it: UTC, cut to microseconds.
func Instant(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// ParseLeaf reads what Leaf wrote. It ignores properties that it does not know,
// so that an older program can verify a newer log.
func ParseLeaf(leaf []byte) (Entry, error) {
	var e struct {
		Index *int64 `json:"index"`
		Entry
	}
	if err := json.Unmarshal(leaf, &e); err != nil {
		return Entry{}, err
	}
	if e.Index == nil {
		return Entry{}, errors.New("it has no index")
	}
	e.Entry.Index = *e.Index
	return e.Entry, nil
}

func canonical(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	if len(raw) > MaxDetail {
		return nil, fmt.Errorf("%d bytes are more than the %d allowed", len(raw), MaxDetail)
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, errors.New("more than one JSON value")
	}
	return encode(v)
}

// encode is json.Marshal without the escapes that only HTML needs.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	w := json.NewEncoder(&b)
	w.SetEscapeHTML(false)
	if err := w.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
