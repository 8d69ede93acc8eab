// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
)

// DeviceGroups is what the administrator's routes ask of device groups.
type DeviceGroups interface {
	Groups(ctx context.Context) ([]device.Group, error)
	CreateGroup(ctx context.Context, c auth.Caller, g device.Group) (device.Group, error)
	ChangeGroup(ctx context.Context, c auth.Caller, name string, ch device.GroupChange) (device.Group, error)
	DeleteGroup(ctx context.Context, c auth.Caller, name string) error
}

func deviceGroupRoutes() []route {
	admin := access{kind: byAdmin}
	return []route{
		{
			method: "POST", path: "/v1/device-groups", access: admin, handle: (*Handler).createDeviceGroup,
			summary: "Make a device group and put the devices it matches into it", client: "CreateDeviceGroup",
			records: audit.CreateDeviceGroup, status: 201, body: api.DeviceGroupRequest{Name: "Finance", Rules: []string{"tag=finance"}, Access: []string{"responders"}}, needs: []string{"name", "rules"}, answers: api.DeviceGroup{},
		},
		{
			method: "GET", path: "/v1/device-groups", access: admin, handle: (*Handler).deviceGroups,
			summary: "List the device groups by rank, the ungrouped devices last", client: "DeviceGroups",
			status: 200, answers: api.Page[api.DeviceGroup]{},
		},
		{
			method: "PATCH", path: "/v1/device-groups/{id}", access: admin, handle: (*Handler).changeDeviceGroup,
			summary: "Change a device group's rules, rank or access", client: "ChangeDeviceGroup",
			records: audit.ChangeDeviceGroup, status: 200, body: api.DeviceGroupChange{}, answers: api.DeviceGroup{},
		},
		{
			method: "DELETE", path: "/v1/device-groups/{id}", access: admin, handle: (*Handler).deleteDeviceGroup,
			summary: "Take a device group away; its devices go where they match next", client: "DeleteDeviceGroup",
			records: audit.DeleteDeviceGroup, status: 204,
		},
	}
}

func (h *Handler) createDeviceGroup(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.DeviceGroupRequest
	if err := f.values(map[string]any{"name": &r.Name, "description": &r.Description, "rank": &r.Rank, "rules": &r.Rules, "access": &r.Access}); err != nil {
		return answer{}, err
	}
	g := device.Group{Name: r.Name, Description: r.Description, Rank: r.Rank, Access: r.Access}
	if g.Rules, err = parseRules(r.Rules); err != nil {
		return answer{}, err
	}
	if g, err = h.cfg.Devices.CreateGroup(ctx, q.caller, g); err != nil {
		return answer{}, err
	}
	return answer{body: deviceGroup(g)}, nil
}

func (h *Handler) deviceGroups(ctx context.Context, _ *request) (answer, error) {
	found, err := h.cfg.Devices.Groups(ctx)
	return page(found, err, deviceGroup)
}

func (h *Handler) changeDeviceGroup(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.DeviceGroupChange
	if err := f.values(map[string]any{"description": &r.Description, "rank": &r.Rank, "rules": &r.Rules, "access": &r.Access}); err != nil {
		return answer{}, err
	}
	ch := device.GroupChange{Description: r.Description, Rank: r.Rank}
	if r.Access != nil {
		ch.Access = append([]string{}, *r.Access...)
	}
	if r.Rules != nil {
		if ch.Rules, err = parseRules(*r.Rules); err != nil {
			return answer{}, err
		}
	}
	g, err := h.cfg.Devices.ChangeGroup(ctx, q.caller, q.args["id"], ch)
	if err != nil {
		return answer{}, err
	}
	return answer{body: deviceGroup(g)}, nil
}

func (h *Handler) deleteDeviceGroup(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.Devices.DeleteGroup(ctx, q.caller, q.args["id"])
}

func parseRules(texts []string) ([]device.Rule, error) {
	rules := make([]device.Rule, len(texts))
	for i, s := range texts {
		var err error
		if rules[i], err = device.ParseRule(s); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

func deviceGroup(g device.Group) api.DeviceGroup {
	shown := api.DeviceGroup{
		ID: g.ID, Name: g.Name, Description: g.Description, Rank: g.Rank, Rules: make([]string, len(g.Rules)), Access: append([]string{}, g.Access...),
	}
	for i, r := range g.Rules {
		shown.Rules[i] = r.String()
	}
	return shown
}
