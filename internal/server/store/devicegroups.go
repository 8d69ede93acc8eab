// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
)

// maxDeviceGroups bounds device groups: each change of a device is held against all of them.
const maxDeviceGroups = 1000

const selectDeviceGroup = "SELECT seq, name, description, rank, rules FROM device_groups "

func scanDeviceGroup(scan func(...any) error) (g device.Group, err error) {
	return g, scan(&g.ID, &g.Name, &g.Description, &g.Rank, scanJSON{&g.Rules})
}

// ranked are the device groups by rank, without their access.
func ranked(q querier) ([]device.Group, error) {
	rows, err := q.query(selectDeviceGroup + "ORDER BY rank, seq")
	groups, err := collect(rows, err, scanDeviceGroup)
	if err != nil {
		return nil, fmt.Errorf("cannot read device groups: %w", err)
	}
	return groups, nil
}

// regroups reports whether a change of a device may move it to another group.
func regroups(was, is device.Device) bool {
	return was.Name != is.Name || !slices.Equal(was.Tags, is.Tags) || was.Facts.OSPlatform != is.Facts.OSPlatform || was.Facts.OS != is.Facts.OS
}

// assign puts a device into its group.
func assign(t *tx, d *device.Device) error {
	groups, err := ranked(t)
	if err != nil {
		return err
	}
	d.Assign(groups)
	return nil
}

// assignAll puts every device into its group after the groups have changed.
func assignAll(t *tx) error {
	groups, err := ranked(t)
	if err != nil {
		return err
	}
	const page = 1000
	for after := int64(0); ; {
		rows, err := t.query(selectDevice+"WHERE seq > $1 ORDER BY seq LIMIT $2", after, page)
		devices, err := collect(rows, err, scanDevice)
		if err != nil {
			return fmt.Errorf("cannot read devices: %w", err)
		}
		for _, d := range devices {
			id, name := d.GroupID, d.GroupName
			if d.Assign(groups); d.GroupID != id || d.GroupName != name {
				if err := t.exec("UPDATE devices SET group_id = $2, group_name = $3 WHERE seq = $1", d.Seq, d.GroupID, d.GroupName); err != nil {
					return fmt.Errorf("cannot move device %s: %w", d.ID, err)
				}
			}
			after = d.Seq
		}
		if len(devices) < page {
			return nil
		}
	}
}

// DeviceIn is device.Store's.
func (s *Store) DeviceIn(ctx context.Context, id string, groups []int64) (bool, error) {
	if !storable(id) {
		return false, nil
	}
	var n int64
	if err := s.reader(ctx).row("SELECT count(*) FROM devices WHERE id = $1 AND "+inGroups("devices.group_id", groups), id).Scan(&n); err != nil {
		return false, fmt.Errorf("cannot look up the group of device %s: %w", id, err)
	}
	return n > 0, nil
}

// inGroups is the condition that a column holds one of these device groups: what
// auth.Caller.Groups means, said in SQL. Numbers need no parameters.
func inGroups(column string, groups []int64) string {
	if len(groups) == 0 {
		return "1 = 0"
	}
	list := make([]string, len(groups))
	for i, g := range groups {
		list[i] = strconv.FormatInt(g, 10)
	}
	return column + " IN (" + strings.Join(list, ",") + ")"
}

// onDevicesOf is the condition that a column names a device, revoked or not, of
// these device groups.
func onDevicesOf(column string, groups []int64) string {
	return "EXISTS (SELECT 1 FROM devices reached WHERE reached.id = " + column + " AND " + inGroups("reached.group_id", groups) + ")"
}

// DeviceGroups is device.Store's.
func (s *Store) DeviceGroups(ctx context.Context) ([]device.Group, error) {
	groups, err := ranked(s.reader(ctx))
	if err != nil {
		return nil, err
	}
	groups = append(groups, device.Group{ID: auth.Ungrouped, Name: device.UngroupedName})
	access, err := s.pairs(ctx, "SELECT CAST(a.device_group AS TEXT), g.name FROM device_group_access a JOIN user_groups g ON g.seq = a.user_group ORDER BY g.folded")
	if err != nil {
		return nil, fmt.Errorf("cannot read device groups: %w", err)
	}
	for i, g := range groups {
		groups[i].Access = append([]string{}, access[strconv.FormatInt(g.ID, 10)]...)
	}
	return groups, nil
}

// CreateDeviceGroup is device.Store's.
func (s *Store) CreateDeviceGroup(ctx context.Context, g *device.Group, e audit.Entry) error {
	rules, err := groupTexts(*g)
	if err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		if err := room(t, "device_groups", "device group", maxDeviceGroups); err != nil {
			return err
		}
		var last int
		if err := t.row("SELECT coalesce(max(rank), 0) FROM device_groups").Scan(&last); err != nil {
			return fmt.Errorf("cannot rank device group %s: %w", g.Name, err)
		}
		if g.Rank == 0 || g.Rank > last {
			g.Rank = last + 1
		}
		if err := t.exec("UPDATE device_groups SET rank = rank + 1 WHERE rank >= $1", g.Rank); err != nil {
			return fmt.Errorf("cannot rank device group %s: %w", g.Name, err)
		}
		made, err := t.execCount("INSERT INTO device_groups (name, folded, description, rank, rules) VALUES ($1,$2,$3,$4,$5) ON CONFLICT DO NOTHING",
			g.Name, fold(g.Name), g.Description, g.Rank, rules)
		switch {
		case err != nil:
			return fmt.Errorf("cannot keep device group %s: %w", g.Name, err)
		case made == 0:
			return nameTaken("device group", g.Name)
		}
		if g.ID, err = named(t, "device_groups", "Device group", g.Name); err != nil {
			return err
		}
		return keepGroup(t, g, &e)
	})
}

func groupTexts(g device.Group) (rules string, err error) {
	if rules, err = toJSON("rules", g.Rules); err != nil {
		return "", err
	}
	return rules, checkTexts(text{"device group name", g.Name, maxName}, text{"device group name", fold(g.Name), maxName}, text{"description", g.Description, maxText})
}

// keepGroup keeps what create and change have in common.
func keepGroup(t *tx, g *device.Group, e *audit.Entry) error {
	if err := t.exec("DELETE FROM device_group_access WHERE device_group = $1", g.ID); err != nil {
		return fmt.Errorf("cannot keep who reaches device group %s: %w", g.Name, err)
	}
	for _, name := range g.Access {
		userGroup, err := named(t, "user_groups", "Group", name)
		if err != nil {
			return err
		}
		if err := t.exec("INSERT INTO device_group_access (device_group, user_group) VALUES ($1,$2) ON CONFLICT DO NOTHING", g.ID, userGroup); err != nil {
			return fmt.Errorf("cannot keep who reaches device group %s: %w", g.Name, err)
		}
	}
	e.Detail = g.Detail()
	if err := t.record(e); err != nil {
		return err
	}
	return assignAll(t)
}

// readGroup reads one group by name, UngroupedName too, with its access.
func readGroup(t *tx, name string) (g device.Group, err error) {
	if strings.EqualFold(strings.TrimSpace(name), device.UngroupedName) {
		g = device.Group{ID: auth.Ungrouped, Name: device.UngroupedName}
	} else {
		id, err := named(t, "device_groups", "Device group", name)
		if err != nil {
			return g, err
		}
		if g, err = scanDeviceGroup(t.row(selectDeviceGroup+"WHERE seq = $1", id).Scan); err != nil {
			return g, fmt.Errorf("cannot read device group %s: %w", name, err)
		}
	}
	rows, err := t.query("SELECT g.name FROM device_group_access a JOIN user_groups g ON g.seq = a.user_group WHERE a.device_group = $1 ORDER BY g.folded", g.ID)
	if g.Access, err = collect(rows, err, scanString); err != nil {
		return g, fmt.Errorf("cannot read who reaches device group %s: %w", name, err)
	}
	return g, nil
}

// ChangeDeviceGroup is device.Store's.
func (s *Store) ChangeDeviceGroup(ctx context.Context, name string, e audit.Entry, change func(*device.Group) error) (g device.Group, err error) {
	err = s.change(ctx, func(t *tx) error {
		if g, err = readGroup(t, name); err != nil {
			return err
		}
		was := g
		if err := change(&g); err != nil {
			return err
		}
		if g.ID != was.ID || g.Name != was.Name {
			return fmt.Errorf("cannot change device group %s: id and name are fixed", was.Name)
		}
		if g.ID == auth.Ungrouped {
			return keepGroup(t, &g, &e)
		}
		rules, err := groupTexts(g)
		if err != nil {
			return err
		}
		if g.Rank != was.Rank {
			if err := t.exec("UPDATE device_groups SET rank = rank + 1 WHERE rank >= $1 AND seq <> $2", g.Rank, g.ID); err != nil {
				return fmt.Errorf("cannot rank device group %s: %w", g.Name, err)
			}
		}
		if err := t.exec("UPDATE device_groups SET description = $2, rank = $3, rules = $4 WHERE seq = $1", g.ID, g.Description, g.Rank, rules); err != nil {
			return fmt.Errorf("cannot keep device group %s: %w", g.Name, err)
		}
		return keepGroup(t, &g, &e)
	})
	if err != nil {
		return device.Group{}, err
	}
	return g, nil
}

// DeleteDeviceGroup is device.Store's.
func (s *Store) DeleteDeviceGroup(ctx context.Context, name string, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		g, err := readGroup(t, name)
		if err != nil {
			return err
		}
		if g.ID == auth.Ungrouped {
			return api.Errorf(api.InvalidInput, "The ungrouped devices are no group that could be deleted")
		}
		for _, text := range []string{"DELETE FROM device_group_access WHERE device_group = $1", "DELETE FROM device_groups WHERE seq = $1"} {
			if err := t.exec(text, g.ID); err != nil {
				return fmt.Errorf("cannot delete device group %s: %w", name, err)
			}
		}
		e.Detail = g.Detail()
		if err := t.record(&e); err != nil {
			return err
		}
		return assignAll(t)
	})
}
