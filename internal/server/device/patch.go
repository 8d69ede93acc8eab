// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

// Update puts tags and value in the place of those a device has; nil leaves
// them as they are.
func (s *Service) Update(ctx context.Context, c auth.Caller, nameOrID string, tags *[]string, value *string) (Device, error) {
	return s.change(ctx, c, audit.UpdateDevice, nameOrID, taggers(c), func(d *Device) (any, error) {
		detail := map[string]any{}
		if tags != nil {
			clean, err := checkTags(*tags)
			if err != nil {
				return nil, err
			}
			if !slices.Equal(clean, d.Tags) {
				d.Tags, detail["tags"] = clean, clean
			}
		}
		if value != nil {
			v, err := checkValue(*value)
			if err != nil {
				return nil, err
			}
			if v != firstOf(d.Value, "Normal") {
				d.Value, detail["deviceValue"] = v, v
			}
		}
		if len(detail) == 0 {
			return nil, errUnchanged
		}
		return detail, nil
	})
}

// SetEntraID says under which id Entra knows a device, of which clients then
// take it for the device's id; "" says that it does not. An administrator says
// so and not the device: who could name itself would be named in another's place.
func (s *Service) SetEntraID(ctx context.Context, c auth.Caller, nameOrID, id string) (Device, error) {
	if c.Kind != auth.Admin {
		return Device{}, api.Errorf(api.Forbidden, "Only an administrator may do this: use staunch admin on the server's own host.")
	}
	id = strings.ToLower(strings.Trim(strings.TrimSpace(id), "{}"))
	if id != "" && !auth.IsGUID(id) {
		return Device{}, api.Errorf(api.InvalidInput, "Invalid input %s for aadDeviceId: want a GUID, or nothing", shown(id))
	}
	return s.change(ctx, c, audit.UpdateDevice, nameOrID, taggers(c), func(d *Device) (any, error) {
		if d.EntraID == id {
			return nil, errUnchanged
		}
		d.EntraID = id
		return map[string]string{"aadDeviceId": id}, nil
	})
}

func checkValue(value string) (string, error) {
	for _, v := range []string{"Normal", "Low", "High"} {
		if strings.EqualFold(v, value) {
			return v, nil
		}
	}
	return "", api.Errorf(api.InvalidInput, "Invalid input %s for deviceValue: want one of Normal, Low, High", shown(value))
}

// MaxMachines is how many devices one call of TagMany may name.
const MaxMachines = 500

// TagMany is Tag for many devices. All are looked up first: when one is not
// there, none is changed.
func (s *Service) TagMany(ctx context.Context, c auth.Caller, ids []string, value string, add bool) ([]Device, error) {
	if len(ids) > MaxMachines {
		return nil, api.Errorf(api.MaximumBatchSizeExceeded, "Maximum batch size exceeded. Received: %d, allowed: %d", len(ids), MaxMachines)
	}
	if err := auth.Allow(c, taggers(c)); err != nil {
		return nil, s.refused(ctx, c, audit.TagDevice, "many", nil, err)
	}
	if _, err := checkTags([]string{value}); err != nil {
		return nil, err
	}
	var found []string
	for _, id := range ids {
		d, err := s.Find(ctx, c, id)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(found, d.ID) {
			found = append(found, d.ID)
		}
	}
	// Side by side, so that the store can keep them together.
	const atOnce = 32
	devices, errs := make([]Device, len(found)), make([]error, len(found))
	var group sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for i, id := range found {
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			devices[i], errs[i] = s.Tag(ctx, c, id, value, add)
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return devices, nil
}

// Bounds of At.
const (
	around   = 15 * time.Minute
	farthest = 30 * 24 * time.Hour
)

// At lists the devices that had the address within 15 minutes of an instant of
// the last 30 days.
func (s *Service) At(ctx context.Context, c auth.Caller, address string, at time.Time, q odata.Query) ([]Device, int64, error) {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return nil, 0, api.Errorf(api.InvalidIPAddress, "IP address %s is invalid.", shown(address))
	}
	if s.cfg.Now().Sub(at) > farthest {
		return nil, 0, api.Errorf(api.BadRequest, "The timestamp %s is more than 30 days back", at.UTC().Format(time.RFC3339))
	}
	q.Groups = c.Groups(auth.ViewData)
	return s.cfg.Store.DevicesAt(ctx, ip.WithZone("").String(), at.Add(-around), at.Add(around), q)
}
