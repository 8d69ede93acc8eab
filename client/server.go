// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"
	"strconv"

	"staunch/api"
)

// Audit returns up to limit entries of the audit log, at most 1,000, that come
// behind the entry with index after; -1 begins at the first.
func (c *Client) Audit(ctx context.Context, after int64, limit int) (api.Page[api.AuditEntry], error) {
	v := url.Values{"after": {strconv.FormatInt(after, 10)}, "limit": {strconv.Itoa(limit)}}
	return get[api.Page[api.AuditEntry]](c, ctx, call{method: "GET", path: "/v1/audit", query: v})
}

// Checkpoint returns the signed checkpoint of the audit log, a note as C2SP's
// tlog-checkpoint defines it.
func (c *Client) Checkpoint(ctx context.Context) ([]byte, error) {
	return get[[]byte](c, ctx, call{method: "GET", path: "/v1/audit/checkpoint"})
}

// OpenAPI returns the server's description of its API.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return get[[]byte](c, ctx, call{method: "GET", path: "/v1/openapi.json", open: true})
}

// Healthy returns nil when the server's process answers.
func (c *Client) Healthy(ctx context.Context) error {
	return c.do(ctx, call{method: "GET", path: "/healthz", open: true}, nil)
}

// Ready returns nil when the server can serve. It does not wait for that.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.once(ctx, call{method: "GET", path: "/readyz", open: true}, nil, false)
	return err
}
