// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/device"
	"staunch/internal/server/odata"
)

const deviceRow = "seq, id, name, device_key, first_seen, last_seen, last_ip, value, group_id, group_name, revoked, tags, facts, entra_id"

const selectDevice = "SELECT " + deviceRow + " FROM devices "

var deviceList = list{
	table: "devices", columns: deviceRow, only: "devices.revoked IS NULL",
	reach: func(groups []int64) string { return inGroups("devices.group_id", groups) },
}

func scanDevice(scan func(...any) error) (d device.Device, err error) {
	var key []byte
	err = scan(&d.Seq, &d.ID, &d.Name, &key, scanMicros{&d.FirstSeen}, scanMicros{&d.LastSeen}, &d.LastIP, &d.Value, &d.GroupID, &d.GroupName,
		scanMicros{&d.Revoked}, scanJSON{&d.Tags}, scanJSON{&d.Facts}, &d.EntraID)
	d.Key = key
	return d, err
}

// deviceArgs are the columns that may change, in the order of insertDevice and updateDevice.
func deviceArgs(d *device.Device) ([]any, error) {
	facts, err := toJSON("facts", d.Facts)
	if err != nil {
		return nil, err
	}
	tags, err := tagsJSON(d.Tags)
	if err != nil {
		return nil, err
	}
	label, _, _ := strings.Cut(d.Name, ".")
	shown := device.Machine(*d, d.LastSeen) // filters find what the API shows
	ip := ""
	if shown.LastIPAddress != nil {
		ip = *shown.LastIPAddress
	}
	instants(&d.FirstSeen, &d.LastSeen, &d.Revoked)
	return []any{d.Name, label, []byte(d.Key), micros(d.LastSeen), d.LastIP, d.Value, d.GroupID, d.GroupName, micros(d.Revoked),
			shown.OSPlatform, shown.Version, shown.OSArchitecture, shown.AgentVersion, ip, tags, facts, d.EntraID},
		checkTexts(text{"device id", d.ID, maxName}, text{"device name", d.Name, maxName}, text{"last address", d.LastIP, maxName},
			text{"device value", d.Value, maxName}, text{"group name", d.GroupName, maxName},
			text{"platform", shown.OSPlatform, maxName}, text{"OS version", shown.Version, maxName},
			text{"agent version", shown.AgentVersion, maxName}, text{"device address", ip, maxName})
}

func tagsJSON(tags []string) (string, error) {
	if len(tags) > maxTags {
		return "", api.Errorf(api.InvalidInput, "%d tags are more than the %d that a device can have", len(tags), maxTags)
	}
	for _, tag := range tags {
		if err := checkTexts(text{"tag", tag, maxName}); err != nil {
			return "", err
		}
	}
	return toJSON("tags", tags)
}

const insertDevice = `INSERT INTO devices (id, first_seen, name, label, device_key, last_seen, last_ip, value, group_id, group_name, revoked,
	os_platform, os_version, architecture, agent_version, internal_ip, tags, facts, entra_id)
	VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19) ON CONFLICT DO NOTHING RETURNING seq`

// Enroll is device.Store's. It sets d's Seq and Tags.
func (s *Store) Enroll(ctx context.Context, secret [32]byte, d *device.Device, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		err := t.row("UPDATE enroll_tokens SET uses = uses - 1 WHERE secret = $1 AND uses > 0 AND expires > $2 RETURNING tags",
			secret[:], s.now().UnixMicro()).Scan(scanJSON{&d.Tags})
		if errors.Is(err, sql.ErrNoRows) {
			return api.Errorf(api.Forbidden, "the enrollment token is not known, used up or past its date: make a new one with staunch admin enroll-token create")
		}
		if err != nil {
			return fmt.Errorf("cannot use enrollment token: %w", err)
		}
		if err := assign(t, d); err != nil {
			return err
		}
		args, err := deviceArgs(d)
		if err != nil {
			return err
		}
		err = t.row(insertDevice, append([]any{d.ID, micros(d.FirstSeen)}, args...)...).Scan(&d.Seq)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("cannot keep device %s: its id is in use", d.ID)
		}
		if err != nil {
			return fmt.Errorf("cannot keep device %s: %w", d.ID, err)
		}
		if err := indexTags(t, d.ID, nil, d.Tags); err != nil {
			return err
		}
		if err := noteAddresses(t, d); err != nil {
			return err
		}
		return t.record(&e)
	})
}

// indexTags brings device_tags from one set of tags to another.
func indexTags(t *tx, id string, from, to []string) error {
	was := make(map[string]bool, len(from))
	for _, tag := range from {
		was[tag] = true
	}
	for _, tag := range to {
		if !was[tag] {
			if err := t.exec("INSERT INTO device_tags (device, tag) VALUES ($1, $2) ON CONFLICT DO NOTHING", id, tag); err != nil {
				return fmt.Errorf("cannot tag device %s: %w", id, err)
			}
		}
		delete(was, tag)
	}
	for tag := range was {
		if err := t.exec("DELETE FROM device_tags WHERE device = $1 AND tag = $2", id, tag); err != nil {
			return fmt.Errorf("cannot take a tag off device %s: %w", id, err)
		}
	}
	return nil
}

// Device is device.Store's.
func (s *Store) Device(ctx context.Context, id string) (device.Device, error) {
	return readDevice(s.reader(ctx), id)
}

func readDevice(q querier, id string) (device.Device, error) {
	err := error(sql.ErrNoRows)
	var d device.Device
	if storable(id) {
		d, err = scanDevice(q.row(selectDevice+"WHERE id = $1", id).Scan)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return device.Device{}, api.Errorf(api.ResourceNotFound, "Machine %.128q was not found", id)
	case err != nil:
		return device.Device{}, fmt.Errorf("cannot read device %s: %w", id, err)
	}
	return d, nil
}

// maxNamesakes bounds the answer of DevicesNamed: a caller wants the one device of that name.
const maxNamesakes = 100

// DeviceOfEntra is device.Store's.
func (s *Store) DeviceOfEntra(ctx context.Context, id string) (device.Device, error) {
	err := error(sql.ErrNoRows)
	var d device.Device
	if id != "" && storable(id) {
		d, err = scanDevice(s.reader(ctx).row(selectDevice+"WHERE lower(nullif(entra_id, '')) = $1 AND revoked IS NULL", odata.Fold(id)).Scan)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return device.Device{}, api.Errorf(api.ResourceNotFound, "Machine %.128q was not found", id)
	case err != nil:
		return device.Device{}, fmt.Errorf("cannot read the device with Entra id %s: %w", id, err)
	}
	return d, nil
}

// DevicesNamed is device.Store's: without regard to case, the newest first, at most 100.
func (s *Store) DevicesNamed(ctx context.Context, name string) ([]device.Device, error) {
	if name == "" || !storable(name) {
		return nil, nil
	}
	rows, err := s.reader(ctx).query(selectDevice+"WHERE lower(name) = $1 OR lower(label) = $1 ORDER BY seq DESC LIMIT $2", odata.Fold(name), maxNamesakes)
	return collect(rows, err, scanDevice)
}

// Devices is device.Store's.
func (s *Store) Devices(ctx context.Context, q odata.Query) ([]device.Device, int64, error) {
	return readPage(ctx, s, deviceList, q, scanDevice)
}

const updateDevice = `UPDATE devices SET name = $2, label = $3, device_key = $4, last_seen = $5, last_ip = $6, value = $7, group_id = $8, group_name = $9,
	revoked = $10, os_platform = $11, os_version = $12, architecture = $13, agent_version = $14, internal_ip = $15, tags = $16, facts = $17, entra_id = $18 WHERE seq = $1`

// ChangeDevice is device.Store's. A device's id and when it was first seen never
// change; its group is what its name, tags and system make it.
func (s *Store) ChangeDevice(ctx context.Context, id string, change func(*device.Device) (*audit.Entry, error)) (d device.Device, err error) {
	err = s.change(ctx, func(t *tx) error {
		if d, err = readDevice(t, id); err != nil {
			return err
		}
		was := d
		was.Tags = append([]string(nil), d.Tags...)
		e, err := change(&d)
		if err != nil {
			return err
		}
		if d.ID != was.ID || d.Seq != was.Seq || !d.FirstSeen.Equal(was.FirstSeen) {
			return fmt.Errorf("cannot change device %s: its id and when it was first seen are fixed", was.ID)
		}
		if err := keepDevice(t, was, &d); err != nil {
			return err
		}
		if e == nil {
			return nil
		}
		return t.record(e)
	})
	if err != nil {
		return device.Device{}, err
	}
	return d, nil
}

func keepDevice(t *tx, was device.Device, d *device.Device) error {
	d.GroupID, d.GroupName = was.GroupID, was.GroupName // follows from the rest
	if regroups(was, *d) {
		if err := assign(t, d); err != nil {
			return err
		}
	}
	if d.EntraID != "" && d.EntraID != was.EntraID && d.Revoked.IsZero() {
		var taken bool
		if err := t.row("SELECT EXISTS (SELECT 1 FROM devices WHERE lower(nullif(entra_id, '')) = $1 AND revoked IS NULL)", odata.Fold(d.EntraID)).Scan(&taken); err != nil {
			return fmt.Errorf("cannot look for a device with that Entra id: %w", err)
		}
		if taken {
			return api.Errorf(api.InvalidInput, "Another device has the Entra device id %s: take it off that one first", d.EntraID)
		}
	}
	args, err := deviceArgs(d)
	if err != nil {
		return err
	}
	if err := t.exec(updateDevice, append([]any{d.Seq}, args...)...); err != nil {
		return fmt.Errorf("cannot keep device %s: %w", d.ID, err)
	}
	if err := noteAddresses(t, d); err != nil {
		return err
	}
	return indexTags(t, d.ID, was.Tags, d.Tags)
}

// CreateToken is device.Store's.
func (s *Store) CreateToken(ctx context.Context, tok device.Token, e audit.Entry) error {
	tags, err := tagsJSON(tok.Tags)
	if err != nil {
		return err
	}
	if err := checkTexts(text{"token id", tok.ID, maxName}); err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		made, err := t.execCount("INSERT INTO enroll_tokens (id, secret, uses, expires, tags) VALUES ($1,$2,$3,$4,$5) ON CONFLICT DO NOTHING",
			tok.ID, tok.Secret[:], tok.Uses, micros(tok.Expires), tags)
		switch {
		case err != nil:
			return fmt.Errorf("cannot keep enrollment token %s: %w", tok.ID, err)
		case made == 0:
			return fmt.Errorf("cannot keep enrollment token %s: its id or secret is in use", tok.ID)
		}
		return t.record(&e)
	})
}
