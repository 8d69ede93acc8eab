// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Bounds of tags.
const (
	maxTag  = 200 // characters
	maxTags = 100 // of one device
)

// Revoke shuts a device out for good: its key opens no link any more, its id and
// name are not found, and what it still has to do ends by its date.
func (s *Service) Revoke(ctx context.Context, c auth.Caller, nameOrID string) (Device, error) {
	d, err := s.change(ctx, c, audit.RevokeDevice, nameOrID, []auth.Permission{auth.MachineOffboard}, func(d *Device) (any, error) {
		d.Revoked = s.cfg.Now()
		return nil, nil
	})
	if err != nil {
		return Device{}, err
	}
	s.cfg.Log.Info("device_revoked", "device", d.ID, "name", d.Name, "by", c.ID)
	if s.cfg.Revoked != nil {
		s.cfg.Revoked(d.ID)
	}
	return d, nil
}

// Tag adds a tag to a device or takes it away. Adding one that is there, or
// taking away one that is not, changes nothing and is no error.
func (s *Service) Tag(ctx context.Context, c auth.Caller, nameOrID, value string, add bool) (Device, error) {
	return s.change(ctx, c, audit.TagDevice, nameOrID, taggers(c), func(d *Device) (any, error) {
		tags, err := checkTags([]string{value})
		if err != nil {
			return nil, err
		}
		tag := tags[0]
		switch has := slices.Contains(d.Tags, tag); {
		case has == add:
			return nil, errUnchanged
		case !add:
			d.Tags = slices.DeleteFunc(slices.Clone(d.Tags), func(t string) bool { return t == tag })
			return map[string]string{"remove": tag}, nil
		case len(d.Tags) >= maxTags:
			return nil, tooManyTags(len(d.Tags) + 1)
		}
		d.Tags = append(slices.Clone(d.Tags), tag)
		return map[string]string{"add": tag}, nil
	})
}

// SetTags puts tags in the place of those a device has.
func (s *Service) SetTags(ctx context.Context, c auth.Caller, nameOrID string, tags []string) (Device, error) {
	return s.change(ctx, c, audit.TagDevice, nameOrID, taggers(c), func(d *Device) (any, error) {
		clean, err := checkTags(tags)
		if err != nil {
			return nil, err
		}
		if slices.Equal(clean, d.Tags) {
			return nil, errUnchanged
		}
		d.Tags = clean
		return map[string][]string{"set": clean}, nil
	})
}

// taggers are the permissions to tag: of an application, and of a person's token.
func taggers(c auth.Caller) []auth.Permission {
	if c.Kind == auth.User {
		return []auth.Permission{auth.MachineReadWrite}
	}
	return []auth.Permission{auth.MachineReadWriteAll}
}

// rightsTo are the rights of a person of which an operation takes one.
func rightsTo(op audit.Operation) []auth.Right {
	if op == audit.RevokeDevice {
		return []auth.Right{auth.ManageSecurity}
	}
	return []auth.Right{auth.AlertsInvestigation, auth.ManageSecurity} // tags: the pages of that API say one or the other
}

// change decides, changes and records in one place. alter returns what the audit
// line is to say beside who and what, or errUnchanged.
func (s *Service) change(ctx context.Context, c auth.Caller, op audit.Operation, nameOrID string, anyOf []auth.Permission, alter func(*Device) (any, error)) (Device, error) {
	if err := auth.Allow(c, anyOf); err != nil {
		return Device{}, s.refused(ctx, c, op, shown(nameOrID), nil, err)
	}
	rights := rightsTo(op)
	if err := auth.AllowRight(c, rights...); err != nil {
		return Device{}, s.refused(ctx, c, op, shown(nameOrID), nil, err)
	}
	d, err := s.Find(ctx, c, nameOrID)
	if err != nil {
		return Device{}, err
	}
	if err := auth.AllowOn(c, d.GroupID, rights...); err != nil {
		return Device{}, s.refused(ctx, c, op, d.ID, nil, err)
	}
	unchanged := d
	d, err = s.cfg.Store.ChangeDevice(ctx, d.ID, func(d *Device) (*audit.Entry, error) {
		if !d.Revoked.IsZero() {
			return nil, notFound(nameOrID)
		}
		unchanged = *d
		detail, err := alter(d)
		if err != nil {
			return nil, err
		}
		e := audit.By(c, op, d.ID, "accepted")
		if detail != nil {
			e.Detail = mustJSON(detail)
		}
		return &e, nil
	})
	switch {
	case errors.Is(err, errUnchanged):
		return unchanged, nil
	case err != nil:
		return Device{}, fmt.Errorf("cannot change device: %w", err)
	}
	if d.GroupID != unchanged.GroupID {
		s.cfg.Regrouped(d.ID)
	}
	return d, nil
}

// checkTags returns the tags trimmed and each once, in their order.
func checkTags(tags []string) ([]string, error) {
	var clean []string
	for _, t := range tags {
		t = strings.TrimSpace(t)
		switch n := utf8.RuneCountInString(t); {
		case t == "":
			return nil, api.Errorf(api.InvalidInput, "A tag is empty")
		case n > maxTag:
			return nil, api.Errorf(api.InvalidInput, "A tag has %d characters, %d are allowed", n, maxTag)
		case !utf8.ValidString(t), strings.ContainsFunc(t, func(r rune) bool { return !unicode.IsPrint(r) }):
			return nil, api.Errorf(api.InvalidInput, "The tag %s holds characters that cannot be printed", shown(t))
		}
		if !slices.Contains(clean, t) {
			clean = append(clean, t)
		}
		if len(clean) > maxTags {
			return nil, tooManyTags(len(tags))
		}
	}
	return clean, nil
}

func tooManyTags(n int) error {
	return api.Errorf(api.InvalidInput, "%d tags are more than the %d that a device can have", n, maxTags)
}
