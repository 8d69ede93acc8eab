// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"time"
)

// Version of the file's format. docs/journal-format.md describes it.
const Version = 1

// MaxRecord bounds one line of the file, in bytes: the largest envelope that is
// accepted from the server, in base64 and JSON, fits.
const MaxRecord = 16 << 20

// Kind says what a record tells.
type Kind string

// The kinds of record.
const (
	Accepted  Kind = "accepted"  // an order was verified and will be carried out; Data is its envelope
	StepDone  Kind = "step"      // Name: the step that ended
	Intent    Kind = "intent"    // Name: the irreversible step that begins now
	Outcome   Kind = "outcome"   // Name: the irreversible step that ended; Data: how
	Receipt   Kind = "receipt"   // Data: the signed receipt
	Kept      Kind = "kept"      // the server has the receipt
	Cancelled Kind = "cancelled" // the order was given up before the point of no return
	Enrolled  Kind = "enrolled"  // the device has a new identity
	Frozen    Kind = "frozen"    // processes were stopped; Data says which, so that they can be thawed
	Thawed    Kind = "thawed"    //
	Gated     Kind = "gated"     // a content may not be started; Data: its hash
	Ungated   Kind = "ungated"   //
)

// known is a function so that nobody can change the set.
func (k Kind) known() bool {
	switch k {
	case Accepted, StepDone, Intent, Outcome, Receipt, Kept, Cancelled, Enrolled, Frozen, Thawed, Gated, Ungated:
		return true
	}
	return false
}

// Record is one entry.
type Record struct {
	Time  time.Time       `json:"time"`
	Kind  Kind            `json:"kind"`
	Order string          `json:"order,omitempty"` // the order's id
	Name  string          `json:"name,omitempty"`  // the step's
	Data  json.RawMessage `json:"data,omitempty"`  // what the kind says
}

// header is the first line of the file.
type header struct {
	Journal int    `json:"journal"` // Version
	Device  string `json:"device"`  // whose orders these are; empty before the first enrollment
}

// encodeLine frames v as one line: CRC-32C of the JSON in 8 hex digits, a
// space, the JSON, a line feed. JSON of encoding/json has no line feed of its own.
func encodeLine(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(b)+10)
	line = fmt.Appendf(line, "%08x ", checksum(b))
	line = append(append(line, b...), '\n')
	if len(line) > MaxRecord {
		return nil, fmt.Errorf("it takes %d bytes, more than the %d allowed", len(line), MaxRecord)
	}
	return line, nil
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// decodeLine undoes encodeLine; line has no line feed.
func decodeLine(line []byte, v any) error {
	if len(line) < 10 || line[8] != ' ' {
		return errors.New("the line does not begin with a checksum")
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	if err != nil {
		return errors.New("the line does not begin with a checksum")
	}
	body := line[9:]
	if have := checksum(body); have != uint32(sum) {
		return fmt.Errorf("the checksum is %08x, the line's content has %08x", sum, have)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("the line is not a record of this version: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the line has something behind its record")
	}
	return nil
}

func decodeRecord(line []byte) (Record, error) {
	var r Record
	if err := decodeLine(line, &r); err != nil {
		return Record{}, err
	}
	return r, r.validate()
}

func (r Record) validate() error {
	if !r.Kind.known() {
		return fmt.Errorf("kind %q is not known to this version", r.Kind)
	}
	if r.Time.IsZero() {
		return errors.New("it has no time")
	}
	return nil
}

func decodeHeader(line []byte) (header, error) {
	var h header
	if err := decodeLine(line, &h); err != nil {
		return header{}, err
	}
	if h.Journal != Version {
		return header{}, fmt.Errorf("%w: its format is version %d, this agent reads version %d", ErrOtherVersion, h.Journal, Version)
	}
	return h, nil
}
