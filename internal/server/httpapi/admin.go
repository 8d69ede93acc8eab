// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/issuer"
)

// Admin is what the administrator's routes ask.
type Admin interface {
	Tenant() string
	CreateApp(ctx context.Context, c auth.Caller, name string, permissions []string, more ...issuer.AppChange) (issuer.App, string, error)
	ChangeApp(ctx context.Context, c auth.Caller, id string, ch issuer.AppChange) (issuer.App, string, error)
	RotateKeys(ctx context.Context, c auth.Caller) (kid string, err error)
	Apps(ctx context.Context, c auth.Caller) ([]issuer.App, error)
	CreateToken(ctx context.Context, c auth.Caller, uses int, ttl time.Duration, tags []string) (string, device.Token, error)
	Revoke(ctx context.Context, c auth.Caller, device string) error
	Setting(ctx context.Context, key string) (string, error)
	SetSetting(ctx context.Context, c auth.Caller, key, value string) error
	Backup(ctx context.Context, c auth.Caller, file string) error
}

// adminRoutes are the administrator's.
func adminRoutes() []route {
	admin := access{kind: byAdmin}
	return []route{
		{
			method: "POST", path: "/v1/apps", access: admin, handle: (*Handler).createApp,
			summary: "Register an application; its secret is shown once", client: "CreateApp",
			records: audit.CreateApp, status: 201, body: api.AppRequest{Name: "soc-automation", Permissions: []string{"Machine.Read.All", "Machine.StopAndQuarantine"}}, needs: []string{"name", "permissions"}, answers: api.App{},
		},
		{
			method: "GET", path: "/v1/apps", access: admin, handle: (*Handler).apps,
			summary: "List the applications", client: "Apps", status: 200, answers: api.Page[api.App]{},
		},
		{
			method: "POST", path: "/v1/enrollment-tokens", access: admin, handle: (*Handler).createToken,
			summary: "Make an enrollment token; it is shown once", client: "CreateEnrollmentToken",
			records: audit.CreateEnrollmentToken, status: 201, body: api.EnrollmentTokenRequest{Uses: 10, TTL: "24h", Tags: []string{"finance"}}, answers: api.EnrollmentToken{},
		},
		{
			method: "PATCH", path: "/v1/devices/{id}", access: admin, handle: (*Handler).changeDevice,
			summary: "Say under which id Entra knows a device", client: "ChangeDevice",
			records: audit.UpdateDevice, status: 200, body: api.DeviceChange{AadDeviceID: "1c3b7a52-9d7e-4a6b-8c11-2e5f60a4d913"}, needs: []string{"aadDeviceId"}, answers: api.Machine{},
		},
		{
			method: "DELETE", path: "/v1/devices/{id}", access: admin, handle: (*Handler).revoke,
			summary: "Shut a device out for good", client: "RevokeDevice", records: audit.RevokeDevice, status: 204,
		},
		{
			method: "GET", path: "/v1/settings/{key}", access: admin, handle: (*Handler).setting,
			summary: "The value of a setting in force", client: "Setting", status: 200, answers: api.Setting{},
		},
		{
			method: "PUT", path: "/v1/settings/{key}", access: admin, handle: (*Handler).setSetting,
			summary: "Change a setting, at once", client: "SetSetting",
			records: audit.ChangeSetting, status: 200, body: api.Setting{Value: "24h"}, needs: []string{"value"}, answers: api.Setting{},
		},
		{
			method: "POST", path: "/v1/backup", access: admin, handle: (*Handler).backup,
			summary: "Copy the embedded database to a new file on the server's host", client: "Backup",
			records: audit.BackUp, status: 204, body: api.BackupRequest{}, needs: []string{"file"},
		},
	}
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
	line, t, err := h.cfg.Admin.CreateToken(ctx, q.caller, r.Uses, ttl, r.Tags)
	if err != nil {
		return answer{}, err
	}
	return answer{body: api.EnrollmentToken{Token: line, Uses: t.Uses, Expires: api.Time{Time: t.Expires}}}, nil
}

func (h *Handler) revoke(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.Admin.Revoke(ctx, q.caller, q.args["id"])
}

func (h *Handler) changeDevice(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	if _, ok := f["aadDeviceId"]; !ok {
		return answer{}, missing("aadDeviceId", "")
	}
	var r api.DeviceChange
	if err := f.texts(map[string]*string{"aadDeviceId": &r.AadDeviceID}); err != nil {
		return answer{}, err
	}
	d, err := h.cfg.Devices.SetEntraID(ctx, q.caller, q.args["id"], r.AadDeviceID)
	return answer{body: device.Machine(d, h.cfg.Now())}, err
}

func (h *Handler) setting(ctx context.Context, q *request) (answer, error) {
	key := q.args["key"]
	value, err := h.cfg.Admin.Setting(ctx, key)
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
	if err := h.cfg.Admin.SetSetting(ctx, q.caller, s.Key, s.Value); err != nil {
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
	return answer{}, h.cfg.Admin.Backup(ctx, q.caller, r.File)
}
