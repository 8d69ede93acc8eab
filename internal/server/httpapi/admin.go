// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net/http"
	"time"

	"staunch/api"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/issuer"
)

// Apps is what the routes ask of the register of applications.
type Apps interface {
	CreateApp(ctx context.Context, c auth.Caller, name string, permissions []string) (issuer.App, string, error)
	Apps(ctx context.Context, c auth.Caller) ([]issuer.App, error)
}

// DeviceAdmin is what the administrator's routes ask of devices.
type DeviceAdmin interface {
	CreateToken(ctx context.Context, c auth.Caller, uses int, ttl time.Duration, tags []string) (string, device.Token, error)
	Revoke(ctx context.Context, c auth.Caller, nameOrID string) (device.Device, error)
}

// Settings is what the routes ask of settings.
type Settings interface {
	Get(ctx context.Context, key string) (string, error)
	Set(ctx context.Context, c auth.Caller, key, value string) error
}

// Admin serves the same routes to the administrator: whoever can reach it. It is
// for a socket that only they can open. What it does goes on record as theirs.
func (h *Handler) Admin() http.Handler {
	own := &Handler{cfg: h.cfg, realm: h.realm, routes: h.routes, document: h.document, addresses: h.addresses}
	own.admin = &auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"}
	return own
}

// errAdminOnly is for those who call the administrator's routes by the network.
func errAdminOnly() error {
	return api.Errorf(api.Forbidden, "This is open to the server's administrator only: run staunch admin on the server's own host.")
}

func (h *Handler) createApp(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.AppRequest
	if err := f.values(map[string]any{"name": &r.Name, "permissions": &r.Permissions}); err != nil {
		return answer{}, err
	}
	a, secret, err := h.cfg.Apps.CreateApp(ctx, q.caller, r.Name, r.Permissions)
	if err != nil {
		return answer{}, err
	}
	shown := h.app(a)
	shown.ClientSecret = secret
	return answer{body: shown}, nil
}

func (h *Handler) listApps(ctx context.Context, q *request) (answer, error) {
	apps, err := h.cfg.Apps.Apps(ctx, q.caller)
	if err != nil {
		return answer{}, err
	}
	page := api.Page[api.App]{Value: make([]api.App, len(apps))}
	for i, a := range apps {
		page.Value[i] = h.app(a)
	}
	return answer{body: page}, nil
}

func (h *Handler) app(a issuer.App) api.App {
	shown := api.App{TenantID: h.cfg.Welcome().TenantID, ClientID: a.ID, Name: a.Name}
	for _, p := range a.Permissions {
		shown.Permissions = append(shown.Permissions, string(p))
	}
	return shown
}

func (h *Handler) createToken(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(true)
	if err != nil {
		return answer{}, err
	}
	var r api.EnrollmentTokenRequest
	if err := f.values(map[string]any{"uses": &r.Uses, "ttl": &r.TTL, "tags": &r.Tags}); err != nil {
		return answer{}, err
	}
	var ttl time.Duration
	if r.TTL != "" {
		if ttl, err = time.ParseDuration(r.TTL); err != nil {
			return answer{}, api.Errorf(api.InvalidInput, "ttl %q is not a duration, as in 24h", clip(r.TTL))
		}
	}
	line, t, err := h.cfg.DeviceAdmin.CreateToken(ctx, q.caller, r.Uses, ttl, r.Tags)
	if err != nil {
		return answer{}, err
	}
	return answer{body: api.EnrollmentToken{Token: line, Uses: t.Uses, Expires: api.Time{Time: t.Expires}}}, nil
}

func (h *Handler) revoke(ctx context.Context, q *request) (answer, error) {
	_, err := h.cfg.DeviceAdmin.Revoke(ctx, q.caller, q.args["id"])
	return answer{}, err
}

func (h *Handler) getSetting(ctx context.Context, q *request) (answer, error) {
	key := q.args["key"]
	value, err := h.cfg.Settings.Get(ctx, key)
	return answer{body: api.Setting{Key: key, Value: value}}, err
}

func (h *Handler) setSetting(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	s := api.Setting{Key: q.args["key"]}
	if _, ok := f["value"]; !ok {
		return answer{}, missing("value", "")
	}
	if err := f.values(map[string]any{"value": &s.Value}); err != nil {
		return answer{}, err
	}
	if err := h.cfg.Settings.Set(ctx, q.caller, s.Key, s.Value); err != nil {
		return answer{}, err
	}
	return answer{body: s}, nil
}

func (h *Handler) backup(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.BackupRequest
	if err := f.values(map[string]any{"file": &r.File}); err != nil {
		return answer{}, err
	}
	if err := missing("file", r.File); err != nil {
		return answer{}, err
	}
	return answer{}, h.cfg.Backup(ctx, r.File)
}
