// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"staunch/internal/durable"
)

// Compact leaves exactly the records keep in the journal. A record appended
// after keep was made is lost: callers who append meanwhile use Rewrite.
func (j *Journal) Compact(keep []Record) error {
	return j.Rewrite(func([]Record) []Record { return keep })
}

// Rewrite calls keep with all records and leaves those that it returns. No
// record can be appended meanwhile; Append waits. A crash leaves either all
// records or those kept.
//
//	write(new) fsync rename fsync(dir)
func (j *Journal) Rewrite(keep func([]Record) []Record) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	err := j.failed
	j.mu.Unlock()
	if err != nil {
		return fmt.Errorf("cannot compact journal: %w", err)
	}
	s, err := scanFile(j.path())
	if err != nil {
		return fmt.Errorf("cannot compact journal: %w", err)
	}
	if len(s.damaged) > 0 {
		return j.damaged(s.damaged[0])
	}
	return j.replace(keep(s.records))
}

// replace puts a journal of these records in place of the one that is there.
// It is called with writing held, or before anybody else knows j.
func (j *Journal) replace(records []Record) error {
	content, err := encode(j.cfg.Device, records)
	if err != nil {
		return fmt.Errorf("cannot compact journal: %w", err)
	}
	if err := durable.WriteFile(j.path(), content, 0o600); err != nil {
		if j.file != nil && !j.named() {
			return j.poison(err) // renamed, but not known to be on the disk
		}
		return fmt.Errorf("cannot compact journal: %w", err)
	}
	f, err := os.OpenFile(j.path(), os.O_RDWR, 0)
	if err != nil {
		return j.poison(err) // j.file is now a file without a name
	}
	if j.file != nil {
		_ = j.file.Close() // replaced
	}
	j.file, j.size, j.room = f, int64(len(content)), 0
	j.extend()
	return nil
}

// named reports whether j.file is still what the journal's name stands for.
func (j *Journal) named() bool {
	have, err := j.file.Stat()
	if err != nil {
		return false
	}
	want, err := os.Lstat(j.path())
	return err == nil && os.SameFile(have, want)
}

func encode(device string, records []Record) ([]byte, error) {
	var b bytes.Buffer
	line, err := encodeLine(header{Journal: Version, Device: device})
	if err != nil {
		return nil, err
	}
	b.Write(line)
	for i, r := range records {
		line, err := encodeLine(r)
		if err = errors.Join(err, r.validate()); err != nil {
			return nil, fmt.Errorf("record %d: %w", i, err)
		}
		b.Write(line)
	}
	return b.Bytes(), nil
}
