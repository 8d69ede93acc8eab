// SPDX-License-Identifier: Apache-2.0

// Package journal is the agent's memory of its orders: one append-only file of
// checksummed lines. What Append has returned from survives the death of the
// process and of the machine. A crash can only leave a torn last line, which
// was never answered for; it is cut and reported. Anything else that cannot be
// read is damage, and the journal refuses to guess.
package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/durable"
)

// FileName is the journal's name in its folder.
const FileName = "journal.log"

// reserve is how much room on the disk is taken ahead of the records, in
// bytes, so that the outcome of what was begun can be written when others have
// filled the disk meanwhile.
const reserve = 1 << 20

// Reasons for which a journal is not opened or not written to.
var (
	ErrDamaged      = errors.New("the journal is damaged")
	ErrOtherDevice  = errors.New("the journal belongs to another device")
	ErrOtherVersion = errors.New("another version of the agent wrote it: use that one")
	ErrPoisoned     = errors.New("the journal could not be written to the disk, what is there is not known: restart the agent")
	ErrClosed       = errors.New("the journal is closed")
)

// Config is how a journal is opened.
type Config struct {
	// Device is the device's id. Empty: none yet; the journal must then have
	// none either. A journal without one takes the first that it is opened with.
	Device string
	// Log gets what was cut and repaired. Nil: nowhere.
	Log *slog.Logger
	// Now is the clock that dates files moved aside. Nil: time.Now.
	Now func() time.Time
	// AfterAppend is called after every durable Append with the number of them
	// since Open: where a test kills the process. Nil: not called.
	AfterAppend func(n int)
	// Sync makes the file's bytes durable: where a test makes the disk fail.
	// Nil: fdatasync(2).
	Sync func(*os.File) error
}

func (c *Config) defaults() {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sync == nil {
		c.Sync = func(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }
	}
}

// Journal is an open journal. Its methods may be called by several goroutines.
type Journal struct {
	dir    string
	cfg    Config
	unlock func()

	// writing is held by whoever writes the file; a batch's err is written
	// under it and read under it. It is taken before mu.
	writing sync.Mutex
	file    *os.File
	size    int64 // bytes, all of them whole lines
	room    int64 // bytes reserved on the disk, from the file's beginning

	mu       sync.Mutex
	next     *batch // what the next writer takes; nil when nothing waits
	failed   error  // why nothing can be appended any more
	appended int
}

// batch is what goes to the disk with one write and one sync.
type batch struct {
	lines   []byte
	written bool
	err     error
}

// Open opens the journal in dir, making both if need be, and returns all its
// records. The caller holds the only Journal of that folder until Close.
func Open(dir string, cfg Config) (_ *Journal, _ []Record, err error) {
	cfg.defaults()
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot open journal: %w", err)
	}
	unlock, err := durable.Lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, nil, fmt.Errorf("cannot open journal: %w; is another agent running?", err)
	}
	j := &Journal{dir: dir, cfg: cfg, unlock: unlock}
	defer func() {
		if err != nil {
			_ = j.Close() // the first error is the one to report
		}
	}()
	records, err := j.load()
	if err != nil {
		return nil, nil, err
	}
	return j, records, nil
}

func (j *Journal) path() string { return filepath.Join(j.dir, FileName) }

func (j *Journal) load() ([]Record, error) {
	s, err := scanFile(j.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, j.replace(nil)
	case err != nil:
		return nil, fmt.Errorf("cannot open journal: %w", err)
	case s.end == 0 && len(s.damaged) == 0:
		// Not even the header is whole: replace makes it before the name, so
		// this is not of a crash of ours, but no record can have been in it.
		return nil, j.damaged(damage{line: 1, why: errors.New("header: the line is not complete")})
	case s.foreign() != nil:
		return nil, fmt.Errorf("cannot open journal %s: %w", j.path(), s.foreign())
	case len(s.damaged) > 0:
		return nil, j.damaged(s.damaged[0])
	case s.header.Device != j.cfg.Device && s.header.Device != "":
		return nil, fmt.Errorf("cannot open journal %s: %w: it is of %q, this device is %q; to begin a new one move it away, as a new enrollment does",
			j.path(), ErrOtherDevice, s.header.Device, j.cfg.Device)
	}
	if s.header.Device != j.cfg.Device {
		return s.records, j.replace(s.records)
	}
	return s.records, j.resume(s)
}

func (j *Journal) damaged(d damage) error {
	return fmt.Errorf("cannot open journal %s: %w at byte %d, line %d: %w; run staunch-agent fsck --repair, which moves the file aside and keeps every record that can be read",
		j.path(), ErrDamaged, d.offset, d.line, d.why)
}

// resume takes the file as it is, without the torn tail.
//
//	open ftruncate fdatasync
func (j *Journal) resume(s scanned) error {
	f, err := os.OpenFile(j.path(), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot open journal: %w", err)
	}
	j.file, j.size = f, s.end
	if s.torn > 0 {
		if err := f.Truncate(s.end); err != nil {
			return fmt.Errorf("cannot cut the torn end of %s: %w", j.path(), err)
		}
		j.cfg.Log.Warn("cut a torn record off the journal: a crash interrupted its writing, nothing relied on it",
			"path", j.path(), "offset", s.end, "bytes", s.torn)
	}
	// Also what an earlier process wrote and did not live to sync: records
	// that are acted on now must not be lost later.
	if err := j.cfg.Sync(f); err != nil {
		return fmt.Errorf("cannot open journal: cannot sync %s: %w", j.path(), err)
	}
	j.extend()
	return nil
}

// Append adds a record and returns once it is on the disk. Records of
// goroutines that append at the same time share one write and one sync.
//
//	write fdatasync
func (j *Journal) Append(r Record) error {
	if err := r.validate(); err != nil {
		return fmt.Errorf("cannot append to journal: %w", err)
	}
	line, err := encodeLine(r)
	if err != nil {
		return fmt.Errorf("cannot append to journal: %w", err)
	}
	b, err := j.join(line)
	if err != nil {
		return err
	}
	if err := j.flush(b); err != nil {
		return err
	}
	if j.cfg.AfterAppend != nil {
		j.mu.Lock()
		j.appended++
		n := j.appended
		j.mu.Unlock()
		j.cfg.AfterAppend(n)
	}
	return nil
}

// join puts a line into the batch that is written next.
func (j *Journal) join(line []byte) (*batch, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed != nil {
		return nil, fmt.Errorf("cannot append to journal: %w", j.failed)
	}
	if j.next == nil {
		j.next = &batch{}
	}
	j.next.lines = append(j.next.lines, line...)
	return j.next, nil
}

// flush returns when b is written. While one goroutine writes, others join the
// next batch and queue here; the first of them writes it for all.
func (j *Journal) flush(b *batch) error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if b.written {
		return b.err
	}
	j.mu.Lock()
	j.next = nil
	err := j.failed
	j.mu.Unlock()
	b.written = true
	if err != nil {
		b.err = fmt.Errorf("cannot append to journal: %w", err)
		return b.err
	}
	b.err = j.write(b.lines)
	return b.err
}

// write is called with writing held.
func (j *Journal) write(lines []byte) error {
	if _, err := j.file.WriteAt(lines, j.size); err != nil {
		// Take back what got in, so that the next line does not follow half a one.
		if cut := j.file.Truncate(j.size); cut != nil {
			return j.poison(errors.Join(err, cut))
		}
		return fmt.Errorf("cannot append to journal: %w", err)
	}
	if err := j.cfg.Sync(j.file); err != nil {
		return j.poison(err)
	}
	j.size += int64(len(lines))
	j.extend()
	return nil
}

// poison ends all writing: after a failed sync the kernel may have dropped
// what it could not write and report success the next time.
func (j *Journal) poison(cause error) error {
	err := fmt.Errorf("%w: %w", ErrPoisoned, cause)
	j.mu.Lock()
	j.failed = err
	j.mu.Unlock()
	j.cfg.Log.Error("the journal cannot be written any more", "path", j.path(), "error", cause)
	return fmt.Errorf("cannot append to journal: %w", err)
}

// extend keeps room on the disk ahead of the records. A file system that
// cannot, or is full, is no error: the room is a precaution.
func (j *Journal) extend() {
	if j.room-j.size >= reserve/2 {
		return
	}
	j.room = j.size + reserve
	const keepSize = unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(j.file.Fd()), keepSize, j.size, reserve); err != nil {
		j.cfg.Log.Debug("no room reserved for the journal", "error", err)
	}
}

// Size returns the size of the file in bytes: when to compact is the caller's choice.
func (j *Journal) Size() int64 {
	j.writing.Lock()
	defer j.writing.Unlock()
	return j.size
}

// Close ends the use of the journal. Nothing that Append returned from is lost
// without it.
func (j *Journal) Close() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	j.mu.Lock()
	closed := errors.Is(j.failed, ErrClosed)
	j.failed = ErrClosed
	j.mu.Unlock()
	if closed {
		return nil
	}
	var err error
	if j.file != nil {
		err = j.file.Close()
	}
	j.unlock()
	return err
}

// Read returns the records of the journal in dir for looking at, while another
// process may be appending to it. It changes nothing.
func Read(dir string) ([]Record, error) {
	s, err := scanFile(filepath.Join(dir, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read journal: %w", err)
	}
	if len(s.damaged) > 0 {
		return s.records, (&Journal{dir: dir}).damaged(s.damaged[0])
	}
	return s.records, nil
}

func scanFile(path string) (scanned, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return scanned{}, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() { // reading a pipe would wait for ever
		return scanned{}, errors.Join(err, fmt.Errorf("%s is not a regular file: move it away", path), f.Close())
	}
	s, err := scan(io.Reader(f))
	return s, errors.Join(err, f.Close())
}
