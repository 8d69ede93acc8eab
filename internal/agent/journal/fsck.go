// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"staunch/internal/durable"
)

// Finding is one thing that is not as it should be.
type Finding struct {
	Offset   int64  `json:"offset"` // byte in the file; -1: the file as a whole
	What     string `json:"what"`   // what is wrong
	Do       string `json:"do"`     // what to do about it, or what was done
	Repaired bool   `json:"repaired,omitzero"`
}

// Report is what Fsck found.
type Report struct {
	Path     string    `json:"path"`
	Records  int       `json:"records"` // that can be read
	Bytes    int64     `json:"bytes"`   // of whole lines
	Findings []Finding `json:"findings,omitzero"`
	Aside    string    `json:"aside,omitzero"` // where a damaged file was moved to
}

// OK reports whether nothing is left to do.
func (r Report) OK() bool {
	for _, f := range r.Findings {
		if !f.Repaired {
			return false
		}
	}
	return true
}

// Fsck checks the journal in dir. With repair it moves a damaged file aside,
// to journal.log.damaged-TIME, and keeps every record that can be read; for
// that no agent may be running. Without, it changes nothing.
func Fsck(dir string, repair bool, cfg Config) (Report, error) {
	cfg.defaults()
	r := Report{Path: filepath.Join(dir, FileName)}
	if repair {
		unlock, err := durable.Lock(filepath.Join(dir, "lock"))
		if errors.Is(err, fs.ErrNotExist) {
			return r, nil // no folder: no journal yet
		}
		if err != nil {
			return r, fmt.Errorf("cannot repair journal: %w; stop the agent first", err)
		}
		defer unlock()
	}
	s, err := scanFile(r.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("cannot check journal: %w", err)
	}
	r.Records, r.Bytes = len(s.records), s.end
	r.note(s, cfg.Device)
	if err := r.tighten(repair); err != nil {
		return r, err
	}
	if !repair || s.foreign() != nil || len(s.damaged) == 0 && s.end > 0 {
		return r, nil
	}
	return r, r.repair(s, cfg)
}

func (r *Report) note(s scanned, device string) {
	const run = "run staunch-agent fsck --repair: it moves the file aside and keeps every record that can be read"
	if err := s.foreign(); err != nil {
		r.Findings = append(r.Findings, Finding{Offset: -1, What: err.Error(), Do: "it is left alone; to begin a new one move it away"})
		return
	}
	for _, d := range s.damaged {
		r.Findings = append(r.Findings, Finding{Offset: d.offset, What: fmt.Sprintf("line %d cannot be read: %v", d.line, d.why), Do: run})
	}
	if s.end == 0 {
		r.Findings = append(r.Findings, Finding{Offset: 0, What: "the file has no complete line, not even its header", Do: run})
	} else if s.torn > 0 {
		r.Findings = append(r.Findings, Finding{Offset: s.end, Repaired: true,
			What: fmt.Sprintf("the last line is torn (%d bytes): a crash interrupted its writing, nothing relied on it", s.torn),
			Do:   "nothing: the agent cuts it when it starts"})
	}
	if s.named && s.header.Device != "" && s.header.Device != device {
		r.Findings = append(r.Findings, Finding{Offset: -1, What: fmt.Sprintf("the journal belongs to device %q, this one is %q", s.header.Device, device),
			Do: "move it away if this device was enrolled anew, else bring back the state folder that belongs to it"})
	}
}

// tighten checks that nobody else can read or write the file.
func (r *Report) tighten(repair bool) error {
	fi, err := os.Stat(r.Path)
	if err != nil {
		return fmt.Errorf("cannot check journal: %w", err)
	}
	if fi.Mode().Perm() == 0o600 {
		return nil
	}
	f := Finding{Offset: -1, What: fmt.Sprintf("others may get at the file: its mode is %04o", fi.Mode().Perm()), Do: "run chmod 600 " + r.Path}
	if repair {
		if err := os.Chmod(r.Path, 0o600); err != nil {
			return fmt.Errorf("cannot repair journal: %w", err)
		}
		f.Repaired, f.Do = true, "its mode is 0600 now"
	}
	r.Findings = append(r.Findings, f)
	return nil
}

// repair links the damaged file to a second name before it replaces the first,
// so that a crash in between loses nothing.
func (r *Report) repair(s scanned, cfg Config) error {
	device := cfg.Device
	if s.named {
		device = s.header.Device
	}
	content, err := encode(device, s.records)
	if err != nil {
		return fmt.Errorf("cannot repair journal: %w", err)
	}
	r.Aside, err = aside(r.Path, "damaged", cfg.Now())
	if err != nil {
		return fmt.Errorf("cannot repair journal: %w", err)
	}
	if err := durable.WriteFile(r.Path, content, 0o600); err != nil {
		return fmt.Errorf("cannot repair journal: %w", err)
	}
	for i := range r.Findings {
		if f := &r.Findings[i]; f.Offset >= 0 && !f.Repaired {
			f.Repaired, f.Do = true, fmt.Sprintf("the file was moved to %s; %d records were kept", r.Aside, len(s.records))
		}
	}
	return nil
}

func aside(path, why string, now time.Time) (string, error) {
	base := fmt.Sprintf("%s.%s-%s", path, why, now.UTC().Format("20060102T150405Z"))
	name := base
	for n := 2; ; n++ {
		err := os.Link(path, name)
		if err == nil {
			return name, durable.SyncDir(filepath.Dir(path))
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		name = fmt.Sprintf("%s.%d", base, n)
	}
}

// SetAside moves the journal in dir to journal.log.old-TIME and returns where
// it is now, or "" if there was none: what a new enrollment does, so that
// nothing old is carried out under the new identity. No agent may be running.
func SetAside(dir string, now time.Time) (string, error) {
	path := filepath.Join(dir, FileName)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	unlock, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return "", fmt.Errorf("cannot set the journal aside: %w; stop the agent first", err)
	}
	defer unlock()
	to, err := aside(path, "old", now)
	if err != nil {
		return "", fmt.Errorf("cannot set the journal aside: %w", err)
	}
	return to, durable.Remove(path)
}
