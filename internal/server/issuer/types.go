// SPDX-License-Identifier: Apache-2.0

// Package issuer is the token service: an OAuth 2.0 authorization server in the
// shape of Microsoft Entra's v1 and v2 endpoints (RFC 6749, OpenID Connect
// Discovery 1.0), so that clients written for Entra get their tokens here by a
// change of host name alone.
package issuer

import (
	"context"
	"time"

	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// App is a registered application.
type App struct {
	ID          string // client id, a GUID
	Name        string // display name: the requestor of what it does
	Permissions []auth.Permission
	Secrets     []Secret
	Created     time.Time
	Disabled    bool
}

// Secret is one of an app's client secrets. The secret itself is 32 random
// bytes, shown once; a plain digest of that much chance needs no slow hash.
type Secret struct {
	ID      string
	Digest  [32]byte // SHA-256
	Expires time.Time
}

// Store keeps apps. Each method is one transaction.
type Store interface {
	CreateApp(ctx context.Context, a App, e audit.Entry) error
	// App returns one by client id, or an api.Error ResourceNotFound.
	App(ctx context.Context, id string) (App, error)
	Apps(ctx context.Context) ([]App, error)
	// Record appends an audit entry that stands alone: a refusal.
	Record(ctx context.Context, e audit.Entry) error
}
