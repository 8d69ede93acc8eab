// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"

	"staunch/api"
)

// The calls of the server's administrator. They are answered on the admin
// socket alone.

// CreateApp registers an application; its secret is in this answer and nowhere else.
func (c *Client) CreateApp(ctx context.Context, r api.AppRequest) (api.App, error) {
	return get[api.App](c, ctx, call{method: "POST", path: "/v1/apps", body: r})
}

// Apps lists the applications.
func (c *Client) Apps(ctx context.Context) (api.Page[api.App], error) {
	return get[api.Page[api.App]](c, ctx, call{method: "GET", path: "/v1/apps"})
}

// ChangeApp changes an application; a new secret is in this answer and nowhere else.
func (c *Client) ChangeApp(ctx context.Context, id string, r api.AppChange) (api.App, error) {
	return get[api.App](c, ctx, call{method: "PATCH", path: "/v1/apps/" + url.PathEscape(id), body: r})
}

// RotateKeys makes a new key to sign tokens with; those that are out stay valid.
func (c *Client) RotateKeys(ctx context.Context) (api.SigningKey, error) {
	return get[api.SigningKey](c, ctx, call{method: "POST", path: "/v1/keys/rotate"})
}

// CreateEnrollmentToken makes the line that a new device enrolls with.
func (c *Client) CreateEnrollmentToken(ctx context.Context, r api.EnrollmentTokenRequest) (api.EnrollmentToken, error) {
	return get[api.EnrollmentToken](c, ctx, call{method: "POST", path: "/v1/enrollment-tokens", body: r})
}

// ChangeDevice says under which id Entra knows a device.
func (c *Client) ChangeDevice(ctx context.Context, nameOrID string, r api.DeviceChange) (api.Machine, error) {
	return get[api.Machine](c, ctx, call{method: "PATCH", path: "/v1/devices/" + url.PathEscape(nameOrID), body: r})
}

// RevokeDevice shuts a device out for good.
func (c *Client) RevokeDevice(ctx context.Context, nameOrID string) error {
	return c.do(ctx, call{method: "DELETE", path: "/v1/devices/" + url.PathEscape(nameOrID)}, nil)
}

// Setting returns the value of a setting that is in force.
func (c *Client) Setting(ctx context.Context, key string) (api.Setting, error) {
	return get[api.Setting](c, ctx, call{method: "GET", path: "/v1/settings/" + url.PathEscape(key)})
}

// SetSetting changes a setting; it takes effect at once.
func (c *Client) SetSetting(ctx context.Context, key, value string) (api.Setting, error) {
	return get[api.Setting](c, ctx, call{method: "PUT", path: "/v1/settings/" + url.PathEscape(key), body: api.Setting{Value: value}})
}

// Backup writes the embedded database, as it is at one instant, to a new file
// on the server's host.
func (c *Client) Backup(ctx context.Context, r api.BackupRequest) error {
	return c.do(ctx, call{method: "POST", path: "/v1/backup", body: r}, nil)
}
