// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"time"

	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/issuer"
)

// admin does what the routes of administration ask.
type admin struct {
	*Server
	tenant string
}

func (a admin) Tenant() string { return a.tenant }

func (a admin) CreateApp(ctx context.Context, c auth.Caller, name string, permissions []string, more ...issuer.AppChange) (issuer.App, string, error) {
	return a.issuer.CreateApp(ctx, c, name, permissions, more...)
}

func (a admin) ChangeApp(ctx context.Context, c auth.Caller, id string, ch issuer.AppChange) (issuer.App, string, error) {
	return a.issuer.ChangeApp(ctx, c, id, ch)
}

func (a admin) RotateKeys(ctx context.Context, c auth.Caller) (string, error) {
	return a.issuer.RotateKeys(ctx, c)
}

func (a admin) Apps(ctx context.Context, c auth.Caller) ([]issuer.App, error) {
	return a.issuer.Apps(ctx, c)
}

func (a admin) CreateToken(ctx context.Context, c auth.Caller, uses int, ttl time.Duration, tags []string) (string, device.Token, error) {
	return a.devices.CreateToken(ctx, c, uses, ttl, tags)
}

func (a admin) Revoke(ctx context.Context, c auth.Caller, id string) error {
	_, err := a.devices.Revoke(ctx, c, id)
	return err
}

func (a admin) Setting(ctx context.Context, key string) (string, error) {
	return a.settings.Get(ctx, key)
}

func (a admin) SetSetting(ctx context.Context, c auth.Caller, key, value string) error {
	return a.settings.Set(ctx, c, key, value)
}

func (a admin) Backup(ctx context.Context, c auth.Caller, file string) error {
	if err := a.store.Backup(ctx, file); err != nil {
		return err
	}
	return a.store.Record(ctx, audit.By(c, audit.BackUp, file, "accepted"))
}
