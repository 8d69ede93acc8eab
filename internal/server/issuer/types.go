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

	// For people who sign in through it.
	Delegated    []auth.Permission // what it may do for them, if their roles allow it too
	RedirectURIs []string          // where it gets its codes, exactly
	Public       bool              // it runs where a secret could not be kept: codes need PKCE

	// What its orders may reach, in place of the settings.
	Reach Reach

	// Certificates whose keys sign its assertions: DER.
	Certificates [][]byte
}

// Reach is what an app's orders may reach; see action.Reach. nil: as the settings say.
type Reach struct {
	OrdersPerHour *int `json:"ordersPerHour,omitempty"`
	DevicesPerDay *int `json:"devicesPerDay,omitempty"`
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
	// CreateApp refuses a name that another has, in any case, as InvalidInput.
	CreateApp(ctx context.Context, a App, e audit.Entry) error
	// App returns one by client id, or an api.Error ResourceNotFound.
	App(ctx context.Context, id string) (App, error)
	Apps(ctx context.Context) ([]App, error)
	// ChangeApp loads, changes and keeps an app with the entry that change returns.
	ChangeApp(ctx context.Context, id string, change func(*App) (audit.Entry, error)) (App, error)

	// PutGrants keeps grants, all or none: an api.Error ActiveRequestAlreadyExists
	// when one is there already. Those past their date go away by and by.
	PutGrants(ctx context.Context, grants ...Grant) error
	// Grant returns one, or an api.Error ResourceNotFound.
	Grant(ctx context.Context, digest string) (Grant, error)
	// ChangeGrant loads a grant, lets change alter it, and keeps it together
	// with the grant that change returns, if any.
	ChangeGrant(ctx context.Context, digest string, change func(*Grant) (*Grant, error)) error
	// DropGrants takes away all grants of a family.
	DropGrants(ctx context.Context, family string) error
	// Record appends an audit entry that stands alone: a refusal.
	Record(ctx context.Context, e audit.Entry) error
}

// Grant is something that was given out and has to be known again.
type Grant struct {
	Digest  string    // digestOf its kind and value: what a client holds is kept nowhere
	Kind    string    // code, refresh, device, user_code, assertion
	Family  string    // all that goes back to one sign-in
	Data    []byte    // JSON
	Expires time.Time //
	Used    time.Time // zero: not yet
}
