// SPDX-License-Identifier: Apache-2.0

// Package file is what the organisation's devices have met of files: which
// content was seen, run or refused where, first and last. Devices report it; the
// record is theirs to fill and nobody's proof. It knows no HTTP, no SQL and no bus.
package file

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/odata"
)

// Known is what is on record of one content.
type Known struct {
	Sum     filehash.Sum
	Devices int // that met it
	First   time.Time
	Last    time.Time
	Names   []string // file names, the most frequent first, at most five
}

// Sighting is one file on one device.
type Sighting struct {
	Sum      filehash.Sum
	Path     string // printable, as order.Text has it
	Name     string // its last part
	Seen     time.Time
	Executed bool // it ran, or tried to
}

// Scope says which sightings a question is about.
type Scope struct {
	Since  time.Time
	Groups []int64 // device groups; nil: any
}

// Store keeps sightings. Each method is one transaction.
type Store interface {
	// PutSightings adds what one device met to what it met before. What it has
	// not met since old is dropped, and of more than most the oldest.
	PutSightings(ctx context.Context, device string, files []Sighting, old time.Time, most int) error
	// File returns what is on record of a content; ok is false when nothing is.
	File(ctx context.Context, h filehash.Hash, s Scope) (k Known, ok bool, err error)
	// Observed reports whether the device has met the content since then.
	Observed(ctx context.Context, device string, h filehash.Hash, since time.Time) (bool, error)
	// DevicesWith returns a page of the devices that have met the content since
	// then and, when q asks for it, the count of all that match.
	DevicesWith(ctx context.Context, h filehash.Hash, since time.Time, q odata.Query) ([]device.Device, int64, error)
}

// Config is what a Service works with.
type Config struct {
	Store Store            // required
	Now   func() time.Time // nil: time.Now
	// Met is told of every sighting that names a rule, after it was kept. nil: nobody.
	Met func(ctx context.Context, device string, s order.Sighting) error
}

// Service answers about files. Make one with New.
type Service struct{ cfg Config }

const (
	// Window is how far back a file counts as known on a device, and the longest
	// that statistics look back.
	Window = 30 * 24 * time.Hour

	keepFor   = 90 * 24 * time.Hour
	perDevice = 200_000
	maxPath   = 4096 // bytes
	clockSkew = time.Hour
)

// New checks the configuration.
func New(c Config) (*Service, error) {
	if c.Store == nil {
		return nil, errors.New("cannot make the file service: no store")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Service{cfg: c}, nil
}

// Met keeps what a device reports. What no sound agent says is refused.
func (s *Service) Met(ctx context.Context, device string, files []order.Sighting) error {
	if len(files) > order.MaxSightings {
		return api.Errorf(api.InvalidInput, "%d sightings in one message are more than the %d allowed", len(files), order.MaxSightings)
	}
	now := s.cfg.Now()
	kept := make([]Sighting, 0, len(files))
	for _, f := range files {
		k, err := check(f, now)
		if err != nil {
			return err
		}
		kept = append(kept, k)
	}
	if len(kept) == 0 {
		return nil
	}
	if err := s.cfg.Store.PutSightings(ctx, device, kept, now.Add(-keepFor), perDevice); err != nil {
		return fmt.Errorf("cannot keep what device %s met: %w", device, err)
	}
	if s.cfg.Met == nil {
		return nil
	}
	for _, f := range files {
		if f.Blocked == "" {
			continue
		}
		if err := s.cfg.Met(ctx, device, f); err != nil {
			return err
		}
	}
	return nil
}

func check(f order.Sighting, now time.Time) (Sighting, error) {
	bad := func(what string) (Sighting, error) {
		return Sighting{}, api.Errorf(api.InvalidInput, "sighting: %s", what)
	}
	seen := f.Seen
	switch {
	case f.SHA1.IsZero() || f.SHA256.IsZero():
		return bad("a digest is missing")
	case f.Size < 0:
		return bad("the size is negative")
	case f.Times < 0:
		return bad("how often is negative")
	case f.What != "executed" && f.What != "blocked" && f.What != "found":
		return bad("what happened is not known")
	case strings.ContainsRune(string(f.Path), 0):
		return bad("the path contains a bare NUL")
	case len(f.Blocked) > 19:
		return bad("the rule's id is too long")
	}
	// A device's clock may be wrong; what it met it met by now.
	if seen.After(now.Add(clockSkew)) || seen.Before(now.Add(-keepFor)) {
		seen = now
	}
	p := string(f.Path)
	if len(p) > maxPath {
		p = strings.ToValidUTF8(p[:maxPath], "")
	}
	return Sighting{
		Sum:  filehash.Sum{SHA1: f.SHA1, SHA256: f.SHA256, Size: f.Size},
		Path: p, Name: name(p), Seen: seen, Executed: f.What != "found",
	}, nil
}

// name is the last part of a path, short enough for an answer.
func name(p string) string {
	n := path.Base(p)
	if n == "." || n == "/" {
		return ""
	}
	if len(n) > 255 {
		n = strings.ToValidUTF8(n[:255], "")
	}
	return n
}

// Sealed keeps that files lie in a device's vault: they were met there.
func (s *Service) Sealed(ctx context.Context, device string, items []order.Item) error {
	for batch := range slices.Chunk(items, order.MaxSightings) {
		var files []order.Sighting
		for _, it := range batch {
			if it.SHA1.IsZero() || it.SHA256.IsZero() || it.State != "sealed" {
				continue
			}
			f := order.Sighting{SHA1: it.SHA1, SHA256: it.SHA256, Size: it.Size, Seen: it.Sealed, What: "found"}
			if len(it.Paths) > 0 {
				f.Path = it.Paths[0]
			}
			files = append(files, f)
		}
		if err := s.Met(ctx, device, files); err != nil {
			return err
		}
	}
	return nil
}

// Observed reports whether the device has met the file within the Window.
func (s *Service) Observed(ctx context.Context, device string, h filehash.Hash) (bool, error) {
	return s.cfg.Store.Observed(ctx, device, h, s.cfg.Now().Add(-Window))
}

// reads are the permissions that open files for reading.
func reads() []auth.Permission { return []auth.Permission{auth.FileReadAll} }

// Info returns what is on record of a file, whenever it was met.
func (s *Service) Info(ctx context.Context, c auth.Caller, h filehash.Hash) (Known, error) {
	if err := auth.Allow(c, reads()); err != nil {
		return Known{}, err
	}
	k, ok, err := s.cfg.Store.File(ctx, h, Scope{Groups: c.Groups(auth.ViewData)})
	switch {
	case err != nil:
		return k, fmt.Errorf("cannot look up file: %w", err)
	case !ok:
		return k, api.Errorf(api.ResourceNotFound, "File %s was not found", h)
	}
	return k, nil
}

// Stats returns what the last hours tell of a file that is on record; zero: 720.
func (s *Service) Stats(ctx context.Context, c auth.Caller, h filehash.Hash, hours int) (Known, error) {
	if hours == 0 {
		hours = int(Window / time.Hour)
	}
	if hours < 1 || hours > int(Window/time.Hour) {
		return Known{}, api.Errorf(api.InvalidInput, "Invalid input %d for lookBackHours: want a number from 1 to %d", hours, int(Window/time.Hour))
	}
	all, err := s.Info(ctx, c, h)
	if err != nil {
		return all, err
	}
	scope := Scope{Since: s.cfg.Now().Add(-time.Duration(hours) * time.Hour), Groups: c.Groups(auth.ViewData)}
	k, _, err := s.cfg.Store.File(ctx, h, scope)
	if err != nil {
		return k, fmt.Errorf("cannot look up file: %w", err)
	}
	k.Sum = all.Sum
	return k, nil
}

// Machines returns the devices that met the file within the Window.
func (s *Service) Machines(ctx context.Context, c auth.Caller, h filehash.Hash, q odata.Query) ([]device.Device, int64, error) {
	if err := auth.Allow(c, []auth.Permission{auth.MachineReadAll, auth.MachineReadWriteAll, auth.MachineRead, auth.MachineReadWrite}); err != nil {
		return nil, 0, err
	}
	q.Groups = c.Groups(auth.ViewData)
	return s.cfg.Store.DevicesWith(ctx, h, s.cfg.Now().Add(-Window), q)
}
