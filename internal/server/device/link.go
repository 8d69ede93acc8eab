// SPDX-License-Identifier: Apache-2.0

package device

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
)

// seenEvery is how often LastSeen is written while nothing else changes: every
// device of a fleet is heard all the time, and a write each time would be the
// server's main work.
const seenEvery = 5 * time.Minute

// errStranger is the one answer to a device that is not let in. Which of the
// reasons it was is in the log: to the outside they must look the same, so that
// nobody can ask which ids exist.
func errStranger() error {
	return api.Errorf(api.Unauthorized, "This server does not know the device or its key: enroll it again")
}

// Authenticate returns the device that answered the challenge, having kept the
// facts of its hello.
func (s *Service) Authenticate(ctx context.Context, h order.Hello, ch order.Challenge, ip string) (Device, error) {
	if !order.ValidDevice(h.Device) {
		s.cfg.Log.Warn("device_refused", "reason", "malformed id", "remote", ip)
		return Device{}, errStranger()
	}
	d, err := s.cfg.Store.Device(ctx, h.Device)
	reason := ""
	switch {
	case api.CodeOf(err) == api.ResourceNotFound:
		reason = "unknown"
	case err != nil:
		return Device{}, fmt.Errorf("cannot look up device: %w", err)
	case !d.Revoked.IsZero():
		reason = "revoked"
	case !h.Proves(ch, d.Key):
		reason = "bad signature"
	}
	if reason != "" {
		s.cfg.Log.Warn("device_refused", "reason", reason, "device", h.Device, "remote", ip)
		return Device{}, errStranger()
	}
	return s.seen(ctx, d, ip, &h.Facts)
}

// Seen keeps what the device says of itself and the address of its link ("":
// not known). It writes when something changed, else at most every five minutes.
func (s *Service) Seen(ctx context.Context, id, ip string, facts order.Facts) error {
	d, err := s.live(ctx, id)
	if err != nil {
		return err
	}
	_, err = s.seen(ctx, d, ip, &facts)
	return err
}

// Still returns nil if a connected device may stay, and keeps that it was heard
// from, at most every five minutes.
func (s *Service) Still(ctx context.Context, id string) error {
	d, err := s.live(ctx, id)
	if err == nil {
		_, err = s.seen(ctx, d, "", nil)
	}
	if api.CodeOf(err) == api.ResourceNotFound {
		s.cfg.Log.Warn("device_refused", "reason", "revoked", "device", id)
		return errStranger()
	}
	return err
}

// live returns the device if it is not revoked.
func (s *Service) live(ctx context.Context, id string) (Device, error) {
	d, err := s.cfg.Store.Device(ctx, id)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound:
		return Device{}, notFound(id)
	case err != nil:
		return Device{}, fmt.Errorf("cannot look up device: %w", err)
	case !d.Revoked.IsZero():
		return Device{}, notFound(id)
	}
	return d, nil
}

func (s *Service) seen(ctx context.Context, d Device, ip string, facts *order.Facts) (Device, error) {
	if facts != nil {
		f, err := checkFacts(*facts)
		if err != nil {
			return Device{}, err
		}
		facts = &f
	}
	now := s.cfg.Now()
	if !hear(&d, now, ip, facts) {
		return d, nil
	}
	was, group := d.Name, d.GroupID
	d, err := s.cfg.Store.ChangeDevice(ctx, d.ID, func(kept *Device) (*audit.Entry, error) {
		if !kept.Revoked.IsZero() {
			return nil, notFound(kept.ID)
		}
		was, group = kept.Name, kept.GroupID
		if !hear(kept, now, ip, facts) {
			d = *kept
			return nil, errUnchanged
		}
		return nil, nil
	})
	switch {
	case errors.Is(err, errUnchanged):
		return s.live(ctx, d.ID)
	case err != nil:
		return Device{}, fmt.Errorf("cannot keep what device says of itself: %w", err)
	}
	if group != d.GroupID {
		s.cfg.Regrouped(d.ID)
	}
	if was != d.Name {
		s.cfg.Log.Info("device_renamed", "device", d.ID, "from", was, "to", d.Name)
	}
	return d, nil
}

// hear brings d up to date and reports whether that is worth a write.
func hear(d *Device, now time.Time, ip string, facts *order.Facts) bool {
	changed := now.Sub(d.LastSeen) >= seenEvery
	if ip != "" && ip != d.LastIP {
		d.LastIP, changed = ip, true
	}
	if facts != nil && !sameFacts(d.Facts, *facts) {
		d.Facts, d.Name, changed = *facts, nameOf(*facts), true
	}
	if changed && now.After(d.LastSeen) {
		d.LastSeen = now
	}
	return changed
}

// sameFacts compares as they are kept: in JSON.
func sameFacts(a, b order.Facts) bool {
	x, errA := json.Marshal(a)
	y, errB := json.Marshal(b)
	return errA == nil && errB == nil && bytes.Equal(x, y)
}
