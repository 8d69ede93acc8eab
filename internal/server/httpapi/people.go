// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/people"
)

// People is what the administrator's routes ask of users, groups and roles.
type People interface {
	Users(ctx context.Context) ([]people.User, error)
	CreateUser(ctx context.Context, c auth.Caller, upn, name, password string, of people.Outside) (people.User, error)
	ChangeUser(ctx context.Context, c auth.Caller, id string, ch people.UserChange) (people.User, string, error)
	DeleteUser(ctx context.Context, c auth.Caller, id string) error
	Groups(ctx context.Context) ([]people.Group, error)
	CreateGroup(ctx context.Context, c auth.Caller, name string, of people.Outside) (people.Group, error)
	SetMember(ctx context.Context, c auth.Caller, group, upn string, in bool) error
	DeleteGroup(ctx context.Context, c auth.Caller, name string) error
	Roles(ctx context.Context) ([]people.Role, error)
	CreateRole(ctx context.Context, c auth.Caller, name string, rights []string) (people.Role, error)
	SetRole(ctx context.Context, c auth.Caller, role, group string, assigned bool) error
	DeleteRole(ctx context.Context, c auth.Caller, name string) error
}

// peopleRoutes are the administrator's about people.
func peopleRoutes() []route {
	admin := access{kind: byAdmin}
	return []route{
		{
			method: "POST", path: "/v1/users", access: admin, handle: (*Handler).createUser,
			summary: "Make a user who signs in by password, or by an issuer outside", client: "CreateUser",
			records: audit.CreateUser, status: 201, body: api.UserRequest{UPN: "ana@corp.example", Name: "Ana", Password: "correct horse battery staple"}, needs: []string{"upn"}, answers: api.User{},
		},
		{
			method: "GET", path: "/v1/users", access: admin, handle: (*Handler).users,
			summary: "List the users", client: "Users", status: 200, answers: api.Page[api.User]{},
		},
		{
			method: "PATCH", path: "/v1/users/{id}", access: admin, handle: (*Handler).changeUser,
			summary: "Change a user: password, name, second factor, on or off", client: "ChangeUser",
			records: audit.ChangeUser, status: 200, body: api.UserChange{}, answers: api.User{},
		},
		{
			method: "DELETE", path: "/v1/users/{id}", access: admin, handle: (*Handler).deleteUser,
			summary: "Take a user away; their tokens end within seconds", client: "DeleteUser", records: audit.DeleteUser, status: 204,
		},
		{
			method: "POST", path: "/v1/groups", access: admin, handle: (*Handler).createGroup,
			summary: "Make a group of users", client: "CreateGroup",
			records: audit.CreateGroup, status: 201, body: api.GroupRequest{Name: "responders"}, needs: []string{"name"}, answers: api.Group{},
		},
		{
			method: "GET", path: "/v1/groups", access: admin, handle: (*Handler).groups,
			summary: "List the groups of users", client: "Groups", status: 200, answers: api.Page[api.Group]{},
		},
		{
			method: "DELETE", path: "/v1/groups/{id}", access: admin, handle: (*Handler).deleteGroup,
			summary: "Take a group of users away", client: "DeleteGroup", records: audit.DeleteGroup, status: 204,
		},
		{
			method: "PUT", path: "/v1/groups/{id}/members/{user}", access: admin, handle: (*Handler).setMember,
			summary: "Bring a user into a group", client: "AddMember", records: audit.ChangeGroup, status: 204,
		},
		{
			method: "DELETE", path: "/v1/groups/{id}/members/{user}", access: admin, handle: (*Handler).setMember,
			summary: "Take a user out of a group", client: "RemoveMember", records: audit.ChangeGroup, status: 204,
		},
		{
			method: "POST", path: "/v1/roles", access: admin, handle: (*Handler).createRole,
			summary: "Make a role of role permissions", client: "CreateRole",
			records: audit.CreateRole, status: 201, body: api.RoleRequest{Name: "Respond", Permissions: []string{"Active remediation actions"}}, needs: []string{"name", "permissions"}, answers: api.Role{},
		},
		{
			method: "GET", path: "/v1/roles", access: admin, handle: (*Handler).roles,
			summary: "List the roles", client: "Roles", status: 200, answers: api.Page[api.Role]{},
		},
		{
			method: "DELETE", path: "/v1/roles/{id}", access: admin, handle: (*Handler).deleteRole,
			summary: "Take a role away from everybody", client: "DeleteRole", records: audit.DeleteRole, status: 204,
		},
		{
			method: "PUT", path: "/v1/roles/{id}/groups/{group}", access: admin, handle: (*Handler).setRole,
			summary: "Give a role to a group of users", client: "AssignRole", records: audit.AssignRole, status: 204,
		},
		{
			method: "DELETE", path: "/v1/roles/{id}/groups/{group}", access: admin, handle: (*Handler).setRole,
			summary: "Take a role from a group of users", client: "UnassignRole", records: audit.AssignRole, status: 204,
		},
	}
}

func (h *Handler) createUser(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.UserRequest
	if err := f.texts(map[string]*string{"upn": &r.UPN, "name": &r.Name, "password": &r.Password, "issuer": &r.Issuer, "subject": &r.Subject}); err != nil {
		return answer{}, err
	}
	u, err := h.cfg.People.CreateUser(ctx, q.caller, r.UPN, r.Name, r.Password, people.Outside{Issuer: r.Issuer, Name: r.Subject})
	if err != nil {
		return answer{}, err
	}
	return answer{body: user(u)}, nil
}

func (h *Handler) users(ctx context.Context, _ *request) (answer, error) {
	found, err := h.cfg.People.Users(ctx)
	return page(found, err, user)
}

func (h *Handler) changeUser(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.UserChange
	if err := f.values(map[string]any{"name": &r.Name, "password": &r.Password, "disabled": &r.Disabled, "secondFactor": &r.SecondFactor}); err != nil {
		return answer{}, err
	}
	u, uri, err := h.cfg.People.ChangeUser(ctx, q.caller, q.args["id"], people.UserChange{Name: r.Name, Password: r.Password, Disabled: r.Disabled, TOTP: r.SecondFactor})
	if err != nil {
		return answer{}, err
	}
	shown := user(u)
	shown.SecondFactorURI = uri
	return answer{body: shown}, nil
}

func (h *Handler) deleteUser(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.People.DeleteUser(ctx, q.caller, q.args["id"])
}

func user(u people.User) api.User {
	return api.User{
		ID: u.ID, UPN: u.UPN, Name: u.Name, Disabled: u.Disabled, SecondFactor: len(u.TOTP) > 0,
		Groups: append([]string{}, u.Groups...), Created: api.Time{Time: u.Created}, Issuer: u.Issuer, Subject: u.Subject,
	}
}

func (h *Handler) createGroup(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.GroupRequest
	if err := f.texts(map[string]*string{"name": &r.Name, "issuer": &r.Issuer, "external": &r.External}); err != nil {
		return answer{}, err
	}
	g, err := h.cfg.People.CreateGroup(ctx, q.caller, r.Name, people.Outside{Issuer: r.Issuer, Name: r.External})
	if err != nil {
		return answer{}, err
	}
	return answer{body: group(g)}, nil
}

func (h *Handler) groups(ctx context.Context, _ *request) (answer, error) {
	found, err := h.cfg.People.Groups(ctx)
	return page(found, err, group)
}

func (h *Handler) deleteGroup(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.People.DeleteGroup(ctx, q.caller, q.args["id"])
}

func (h *Handler) setMember(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.People.SetMember(ctx, q.caller, q.args["id"], q.args["user"], q.route.method == "PUT")
}

func group(g people.Group) api.Group {
	return api.Group{Name: g.Name, Members: append([]string{}, g.Members...), Issuer: g.Issuer, External: g.External}
}

func (h *Handler) createRole(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.RoleRequest
	if err := f.values(map[string]any{"name": &r.Name, "permissions": &r.Permissions}); err != nil {
		return answer{}, err
	}
	made, err := h.cfg.People.CreateRole(ctx, q.caller, r.Name, r.Permissions)
	if err != nil {
		return answer{}, err
	}
	return answer{body: role(made)}, nil
}

func (h *Handler) roles(ctx context.Context, _ *request) (answer, error) {
	found, err := h.cfg.People.Roles(ctx)
	return page(found, err, role)
}

func (h *Handler) deleteRole(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.People.DeleteRole(ctx, q.caller, q.args["id"])
}

func (h *Handler) setRole(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.People.SetRole(ctx, q.caller, q.args["id"], q.args["group"], q.route.method == "PUT")
}

func role(r people.Role) api.Role {
	shown := api.Role{Name: r.Name, Permissions: make([]string, len(r.Rights)), Groups: append([]string{}, r.Groups...)}
	for i, right := range r.Rights {
		shown.Permissions[i] = string(right)
	}
	return shown
}

// page shows a list that is bounded where it is kept, and so comes whole.
func page[T, R any](found []R, err error, show func(R) T) (answer, error) {
	if err != nil {
		return answer{}, err
	}
	p := api.Page[T]{Value: make([]T, len(found))}
	for i, r := range found {
		p.Value[i] = show(r)
	}
	return answer{body: p}, nil
}
