// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"fmt"
	"strings"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

// Find returns the device of an id (40 hex digits), of an Entra device id (a
// GUID), of a DNS name, or of the first label of one, all without regard to case. A revoked device is not found.
// A name that several devices have is not found either: an order must never go
// to whichever came first, nor to a device that took another's name on purpose.
// What the caller may not see is not there, and makes no name ambiguous.
func (s *Service) Find(ctx context.Context, c auth.Caller, nameOrID string) (Device, error) {
	name := strings.ToLower(strings.TrimSpace(nameOrID))
	switch {
	case name == "" || len(name) > maxText:
		return Device{}, notFound(nameOrID)
	case order.ValidDevice(name) || auth.IsGUID(name):
		look := s.live
		if auth.IsGUID(name) {
			look = s.cfg.Store.DeviceOfEntra
		}
		d, err := look(ctx, name)
		if api.CodeOf(err) == api.ResourceNotFound || err == nil && !c.Can(auth.ViewData, d.GroupID) {
			return Device{}, notFound(nameOrID)
		}
		return d, err
	}
	all, err := s.cfg.Store.DevicesNamed(ctx, name)
	if err != nil {
		return Device{}, fmt.Errorf("cannot look up device: %w", err)
	}
	var found []Device
	for _, d := range all {
		if d.Revoked.IsZero() && matches(d.Name, name) && c.Can(auth.ViewData, d.GroupID) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return Device{}, notFound(nameOrID)
	case 1:
		return found[0], nil
	}
	return Device{}, ambiguous(nameOrID, found)
}

// matches tells whether a device of that DNS name goes by asked: by the whole
// name, or, where asked is a single label, by its first label.
func matches(name, asked string) bool {
	label, _, _ := strings.Cut(name, ".")
	return name == asked || label == asked
}

func ambiguous(asked string, found []Device) error {
	var ids []string
	for _, d := range found[:min(len(found), 3)] {
		ids = append(ids, d.ID)
	}
	more := ""
	if len(found) > len(ids) {
		more = ", …"
	}
	return api.Errorf(api.ResourceNotFound, "Machine %s was not found: %d devices have that name, use the id of one (%s%s)",
		asked, len(found), strings.Join(ids, ", "), more)
}

// Lookup is Find for package action.
func (s *Service) Lookup(ctx context.Context, c auth.Caller, nameOrID string) (action.Device, error) {
	d, err := s.Find(ctx, c, nameOrID)
	if err != nil {
		return action.Device{}, err
	}
	return action.Device{
		ID: d.ID, Name: d.Name, Platform: d.Facts.OSPlatform, Version: d.Facts.AgentVersion, Key: d.Key, Can: d.Facts.Can, Group: d.GroupID,
	}, nil
}

// Visible reports whether the caller may know of the device with that id, be it revoked.
func (s *Service) Visible(ctx context.Context, c auth.Caller, id string) (bool, error) {
	groups := c.Groups(auth.ViewData)
	if groups == nil {
		return true, nil
	}
	return s.cfg.Store.DeviceIn(ctx, id, groups)
}

// Machines lists the devices that the caller may see.
func (s *Service) Machines(ctx context.Context, c auth.Caller, q odata.Query) ([]Device, int64, error) {
	q.Groups = c.Groups(auth.ViewData)
	return s.cfg.Store.Devices(ctx, q)
}
