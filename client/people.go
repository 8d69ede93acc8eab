// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"net/url"

	"staunch/api"
)

// The administrator's calls about people and what they may reach.

// CreateUser makes a user who signs in by password, or by an issuer outside.
func (c *Client) CreateUser(ctx context.Context, r api.UserRequest) (api.User, error) {
	return get[api.User](c, ctx, call{method: "POST", path: "/v1/users", body: r})
}

// Users lists the people.
func (c *Client) Users(ctx context.Context) (api.Page[api.User], error) {
	return get[api.Page[api.User]](c, ctx, call{method: "GET", path: "/v1/users"})
}

// ChangeUser changes a user: password, name, second factor, whether they may sign in.
func (c *Client) ChangeUser(ctx context.Context, upn string, r api.UserChange) (api.User, error) {
	return get[api.User](c, ctx, call{method: "PATCH", path: "/v1/users/" + url.PathEscape(upn), body: r})
}

// DeleteUser takes a user away.
func (c *Client) DeleteUser(ctx context.Context, upn string) error {
	return c.do(ctx, call{method: "DELETE", path: "/v1/users/" + url.PathEscape(upn)}, nil)
}

// CreateGroup makes a group of users, or one that stands for a group of an issuer outside.
func (c *Client) CreateGroup(ctx context.Context, r api.GroupRequest) (api.Group, error) {
	return get[api.Group](c, ctx, call{method: "POST", path: "/v1/groups", body: r})
}

// Groups lists the groups of users.
func (c *Client) Groups(ctx context.Context) (api.Page[api.Group], error) {
	return get[api.Page[api.Group]](c, ctx, call{method: "GET", path: "/v1/groups"})
}

// DeleteGroup takes a group of users away.
func (c *Client) DeleteGroup(ctx context.Context, name string) error {
	return c.do(ctx, call{method: "DELETE", path: "/v1/groups/" + url.PathEscape(name)}, nil)
}

// AddMember brings a user into a group.
func (c *Client) AddMember(ctx context.Context, group, upn string) error {
	return c.do(ctx, call{method: "PUT", path: "/v1/groups/" + url.PathEscape(group) + "/members/" + url.PathEscape(upn)}, nil)
}

// RemoveMember takes a user out of a group.
func (c *Client) RemoveMember(ctx context.Context, group, upn string) error {
	return c.do(ctx, call{method: "DELETE", path: "/v1/groups/" + url.PathEscape(group) + "/members/" + url.PathEscape(upn)}, nil)
}

// CreateRole makes a role.
func (c *Client) CreateRole(ctx context.Context, r api.RoleRequest) (api.Role, error) {
	return get[api.Role](c, ctx, call{method: "POST", path: "/v1/roles", body: r})
}

// Roles lists the roles.
func (c *Client) Roles(ctx context.Context) (api.Page[api.Role], error) {
	return get[api.Page[api.Role]](c, ctx, call{method: "GET", path: "/v1/roles"})
}

// DeleteRole takes a role away from everybody.
func (c *Client) DeleteRole(ctx context.Context, name string) error {
	return c.do(ctx, call{method: "DELETE", path: "/v1/roles/" + url.PathEscape(name)}, nil)
}

// AssignRole gives a role to a group of users.
func (c *Client) AssignRole(ctx context.Context, role, group string) error {
	return c.do(ctx, call{method: "PUT", path: "/v1/roles/" + url.PathEscape(role) + "/groups/" + url.PathEscape(group)}, nil)
}

// UnassignRole takes a role from a group of users.
func (c *Client) UnassignRole(ctx context.Context, role, group string) error {
	return c.do(ctx, call{method: "DELETE", path: "/v1/roles/" + url.PathEscape(role) + "/groups/" + url.PathEscape(group)}, nil)
}

// CreateDeviceGroup makes a device group and puts the devices it matches into it.
func (c *Client) CreateDeviceGroup(ctx context.Context, r api.DeviceGroupRequest) (api.DeviceGroup, error) {
	return get[api.DeviceGroup](c, ctx, call{method: "POST", path: "/v1/device-groups", body: r})
}

// DeviceGroups lists the device groups by rank, the ungrouped devices last.
func (c *Client) DeviceGroups(ctx context.Context) (api.Page[api.DeviceGroup], error) {
	return get[api.Page[api.DeviceGroup]](c, ctx, call{method: "GET", path: "/v1/device-groups"})
}

// ChangeDeviceGroup changes a device group's rules, rank or access.
func (c *Client) ChangeDeviceGroup(ctx context.Context, name string, r api.DeviceGroupChange) (api.DeviceGroup, error) {
	return get[api.DeviceGroup](c, ctx, call{method: "PATCH", path: "/v1/device-groups/" + url.PathEscape(name), body: r})
}

// DeleteDeviceGroup takes a device group away; its devices go where they match next.
func (c *Client) DeleteDeviceGroup(ctx context.Context, name string) error {
	return c.do(ctx, call{method: "DELETE", path: "/v1/device-groups/" + url.PathEscape(name)}, nil)
}
