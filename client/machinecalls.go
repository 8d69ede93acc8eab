// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"staunch/api"
)

func machinePath(nameOrID, rest string) string {
	return "/api/machines/" + url.PathEscape(nameOrID) + rest
}

// quoted is s as an OData string literal in a path.
func quoted(s string) string { return url.PathEscape("'" + strings.ReplaceAll(s, "'", "''") + "'") }

// UpdateMachine sets a machine's tags, its value, or both.
func (c *Client) UpdateMachine(ctx context.Context, nameOrID string, r api.MachineUpdate) (api.Machine, error) {
	return get[api.Machine](c, ctx, call{method: "PATCH", path: machinePath(nameOrID, ""), body: r})
}

// TagMachine adds a tag to a machine or takes it away.
func (c *Client) TagMachine(ctx context.Context, nameOrID string, r api.TagRequest) (api.Machine, error) {
	return get[api.Machine](c, ctx, call{method: "POST", path: machinePath(nameOrID, "/tags"), body: r})
}

// TagMachines does so for many machines, which it returns.
func (c *Client) TagMachines(ctx context.Context, r api.TagManyRequest) (api.List[api.Machine], error) {
	return get[api.List[api.Machine]](c, ctx, call{method: "POST", path: "/api/machines/AddOrRemoveTagForMultipleMachines", body: r})
}

// MachinesByIP lists the machines that had an internal address around an instant.
func (c *Client) MachinesByIP(ctx context.Context, ip string, at time.Time, q Query) (api.List[api.Machine], error) {
	path := "/api/machines/findbyip(ip=" + quoted(ip) + ",timestamp=" + at.UTC().Format(time.RFC3339) + ")"
	return get[api.List[api.Machine]](c, ctx, call{method: "GET", path: path, query: q.values()})
}

// MachinesByTag lists the machines with a tag, or with one that begins so.
func (c *Client) MachinesByTag(ctx context.Context, tag string, prefix bool, q Query) (api.List[api.Machine], error) {
	v := q.values()
	v.Set("tag", tag)
	v.Set("useStartsWithFilter", strconv.FormatBool(prefix))
	return get[api.List[api.Machine]](c, ctx, call{method: "GET", path: "/api/machines/findbytag", query: v})
}

// ActionsOfMachine lists the actions of a machine, newest first.
func (c *Client) ActionsOfMachine(ctx context.Context, nameOrID string, q Query) (api.List[api.MachineAction], error) {
	return get[api.List[api.MachineAction]](c, ctx, call{method: "GET", path: machinePath(nameOrID, "/machineactions"), query: q.values()})
}

// AvailableActions tells which actions a machine can carry out.
func (c *Client) AvailableActions(ctx context.Context, nameOrID string) (api.List[api.AvailableAction], error) {
	return get[api.List[api.AvailableAction]](c, ctx, call{method: "GET", path: machinePath(nameOrID, "/availableMachineActions")})
}

// LogonUsers lists who has logged on to a machine.
func (c *Client) LogonUsers(ctx context.Context, nameOrID string) (api.List[api.LogonUser], error) {
	return get[api.List[api.LogonUser]](c, ctx, call{method: "GET", path: machinePath(nameOrID, "/logonusers")})
}

// Count returns how many a list holds; of names it by its path below /api, as
// in "machines" or "machines/NAME/alerts".
func (c *Client) Count(ctx context.Context, of, filter string) (int64, error) {
	return get[int64](c, ctx, call{method: "GET", path: "/api/" + of + "/$count", query: Query{Filter: filter}.values()})
}

// Metadata returns the CSDL document of the entities under /api, in XML.
func (c *Client) Metadata(ctx context.Context) ([]byte, error) {
	return get[[]byte](c, ctx, call{method: "GET", path: "/api/$metadata"})
}
