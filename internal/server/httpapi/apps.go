// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
)

// appRoutes are the administrator's about applications and the keys of their tokens.
func appRoutes() []route {
	admin := access{kind: byAdmin}
	return []route{
		{
			method: "PATCH", path: "/v1/apps/{id}", access: admin, handle: (*Handler).changeApp,
			summary: "Change an application: permissions, secrets, certificates, redirect URIs, on or off", client: "ChangeApp",
			records: audit.ChangeApp, status: 200, body: api.AppChange{}, answers: api.App{},
		},
		{
			method: "POST", path: "/v1/keys/rotate", access: admin, handle: (*Handler).rotateKeys,
			summary: "Make a new key to sign tokens with; those that are out stay valid", client: "RotateKeys",
			records: audit.RotateKeys, status: 201, answers: api.SigningKey{},
		},
	}
}

func (h *Handler) createApp(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.AppRequest
	if err := f.values(map[string]any{
		"name": &r.Name, "permissions": &r.Permissions, "delegated": &r.Delegated, "redirectUris": &r.RedirectURIs, "public": &r.Public, "certificate": &r.Certificate,
		"ordersPerHour": &r.OrdersPerHour, "devicesPerDay": &r.DevicesPerDay, "id": &r.ID,
	}); err != nil {
		return answer{}, err
	}
	ch := issuer.AppChange{Delegated: r.Delegated, RedirectURIs: r.RedirectURIs, AddCertificate: r.Certificate, Reach: issuer.Reach{OrdersPerHour: r.OrdersPerHour, DevicesPerDay: r.DevicesPerDay}, ForeignID: r.ID}
	if r.Public {
		ch.Public = &r.Public
	}
	a, secret, err := h.cfg.Admin.CreateApp(ctx, q.caller, r.Name, r.Permissions, ch)
	if err != nil {
		return answer{}, err
	}
	shown := h.app(a)
	shown.ClientSecret = secret
	return answer{body: shown}, nil
}

func (h *Handler) changeApp(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var r api.AppChange
	if err := f.values(map[string]any{
		"disabled": &r.Disabled, "public": &r.Public, "permissions": &r.Permissions, "delegated": &r.Delegated, "redirectUris": &r.RedirectURIs,
		"addSecret": &r.AddSecret, "removeSecret": &r.RemoveSecret, "addCertificate": &r.AddCertificate, "removeCertificate": &r.RemoveCertificate,
		"ordersPerHour": &r.OrdersPerHour, "devicesPerDay": &r.DevicesPerDay,
	}); err != nil {
		return answer{}, err
	}
	ch := issuer.AppChange{
		Disabled: r.Disabled, Public: r.Public, Permissions: r.Permissions, Delegated: r.Delegated, RedirectURIs: r.RedirectURIs,
		RemoveSecret: r.RemoveSecret, AddCertificate: r.AddCertificate, RemoveCertificate: r.RemoveCertificate,
		Reach: issuer.Reach{OrdersPerHour: r.OrdersPerHour, DevicesPerDay: r.DevicesPerDay},
	}
	if r.AddSecret != "" {
		if ch.AddSecret, err = time.ParseDuration(r.AddSecret); err != nil || ch.AddSecret <= 0 {
			return answer{}, api.Errorf(api.InvalidInput, "addSecret %q is not how long the secret is to be good, as in 4380h", clip(r.AddSecret))
		}
	}
	a, secret, err := h.cfg.Admin.ChangeApp(ctx, q.caller, q.args["id"], ch)
	if err != nil {
		return answer{}, err
	}
	shown := h.app(a)
	shown.ClientSecret = secret
	return answer{body: shown}, nil
}

func (h *Handler) rotateKeys(ctx context.Context, q *request) (answer, error) {
	kid, err := h.cfg.Admin.RotateKeys(ctx, q.caller)
	return answer{body: api.SigningKey{ID: kid}}, err
}

func (h *Handler) apps(ctx context.Context, q *request) (answer, error) {
	found, err := h.cfg.Admin.Apps(ctx, q.caller)
	return page(found, err, h.app)
}

func (h *Handler) app(a issuer.App) api.App {
	shown := api.App{
		TenantID: h.cfg.Admin.Tenant(), ClientID: a.ID, Name: a.Name, Permissions: texts(a.Permissions), Delegated: texts(a.Delegated),
		RedirectURIs: a.RedirectURIs, Public: a.Public, Disabled: a.Disabled, OrdersPerHour: a.Reach.OrdersPerHour, DevicesPerDay: a.Reach.DevicesPerDay,
	}
	for _, s := range a.Secrets {
		shown.Secrets = append(shown.Secrets, api.AppSecret{ID: s.ID, Expires: api.Time{Time: s.Expires}})
	}
	for _, der := range a.Certificates {
		sum := sha256.Sum256(der)
		c := api.AppCertificate{SHA256: hex.EncodeToString(sum[:])}
		if cert, err := x509.ParseCertificate(der); err == nil {
			c.Subject, c.Expires = cert.Subject.String(), api.Time{Time: cert.NotAfter}
		}
		shown.Certificates = append(shown.Certificates, c)
	}
	return shown
}

func texts(permissions []auth.Permission) []string {
	var out []string
	for _, p := range permissions {
		out = append(out, string(p))
	}
	return out
}
