// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// damage is a line that cannot be read.
type damage struct {
	offset int64 // of its first byte
	line   int   // counted from 1
	why    error
}

// scanned is all that reading a journal's bytes tells.
type scanned struct {
	header  header
	named   bool // the header line is sound
	records []Record
	damaged []damage
	end     int64 // offset behind the last line feed: where a torn tail begins
	torn    int64 // bytes behind end
}

// scan reads a journal to its end. Only a failing read is an error; whatever
// the bytes are, it says what they hold. What follows the last line feed is
// what a crash left of a write that was never answered: torn, not damaged.
func scan(r io.Reader) (scanned, error) {
	var s scanned
	b, err := io.ReadAll(r)
	if err != nil {
		return s, err
	}
	for n := 1; ; n++ {
		i := bytes.IndexByte(b[s.end:], '\n')
		if i < 0 {
			s.torn = int64(len(b)) - s.end
			return s, nil
		}
		s.line(n, b[s.end:s.end+int64(i)])
		s.end += int64(i) + 1
	}
}

// foreign is the error of a journal that is whole and not ours to read or mend.
func (s *scanned) foreign() error {
	if len(s.damaged) > 0 && errors.Is(s.damaged[0].why, ErrOtherVersion) {
		return s.damaged[0].why
	}
	return nil
}

func (s *scanned) line(n int, line []byte) {
	var err error
	if n == 1 {
		if s.header, err = decodeHeader(line); err == nil {
			s.named = true
			return
		}
		err = fmt.Errorf("header: %w", err)
	} else {
		var r Record
		if r, err = decodeRecord(line); err == nil {
			s.records = append(s.records, r)
			return
		}
	}
	s.damaged = append(s.damaged, damage{offset: s.end, line: n, why: err})
}
