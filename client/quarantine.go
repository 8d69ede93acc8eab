// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"
	"strconv"

	"staunch/api"
)

// QuarantineQuery selects vault items; zero values are left out.
type QuarantineQuery struct {
	MachineID string // id, DNS name or Entra device id
	ActionID  string // the action that sealed them
	Hash      string // SHA-1 or SHA-256
	State     string // sealed, restored, purged
	Limit     int    // of one page, at most 1,000
}

// Quarantine lists what lies in the devices' vaults, latest first. Follow leads
// on from a NextLink.
func (c *Client) Quarantine(ctx context.Context, q QuarantineQuery) (api.Page[api.QuarantineItem], error) {
	v := url.Values{}
	for name, value := range map[string]string{"machineId": q.MachineID, "actionId": q.ActionID, "hash": q.Hash, "state": q.State} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return get[api.Page[api.QuarantineItem]](c, ctx, call{method: "GET", path: "/v1/quarantine", query: v})
}

// QuarantineItem returns one vault item.
func (c *Client) QuarantineItem(ctx context.Context, item string) (api.QuarantineItem, error) {
	return get[api.QuarantineItem](c, ctx, call{method: "GET", path: "/v1/quarantine/" + url.PathEscape(item)})
}

// Restore orders the item's device to put the file back.
func (c *Client) Restore(ctx context.Context, item string, r api.RestoreRequest) (api.MachineAction, error) {
	return get[api.MachineAction](c, ctx, call{method: "POST", path: "/v1/quarantine/" + url.PathEscape(item) + "/restore", body: r})
}

// Purge orders the item's device to delete it for good.
func (c *Client) Purge(ctx context.Context, item, comment string) (api.MachineAction, error) {
	q := call{method: "DELETE", path: "/v1/quarantine/" + url.PathEscape(item)}
	if comment != "" {
		q.query = url.Values{"comment": {comment}}
	}
	return get[api.MachineAction](c, ctx, q)
}

// RecoveryCode orders a restore that a person carries to the device.
func (c *Client) RecoveryCode(ctx context.Context, item string, r api.RestoreRequest) (api.RecoveryCode, error) {
	return get[api.RecoveryCode](c, ctx, call{method: "POST", path: "/v1/quarantine/" + url.PathEscape(item) + "/recovery-code", body: r})
}
