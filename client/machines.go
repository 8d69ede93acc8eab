// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"

	"staunch/api"
)

// Machines lists machines.
func (c *Client) Machines(ctx context.Context, q Query) (api.List[api.Machine], error) {
	return get[api.List[api.Machine]](c, ctx, call{method: "GET", path: "/api/machines", query: q.values()})
}

// Machine returns one machine by its id, DNS name or Entra device id.
func (c *Client) Machine(ctx context.Context, nameOrID string) (api.Machine, error) {
	return get[api.Machine](c, ctx, call{method: "GET", path: "/api/machines/" + url.PathEscape(nameOrID)})
}

// Enroll makes a device of the machine that holds an enrollment token's secret.
// It needs no access token.
func (c *Client) Enroll(ctx context.Context, r api.EnrollRequest) (api.EnrollResponse, error) {
	return get[api.EnrollResponse](c, ctx, call{method: "POST", path: "/v1/enroll", body: r, open: true})
}
