// SPDX-License-Identifier: Apache-2.0

// Package people is who may sign in: users with their passwords and second
// factors, the groups they are in, and the roles that give those groups their
// rights. It promises that a password is kept only as a digest that costs an
// attacker memory and time, that guessing at one account does not lock its owner
// out, and that a right taken away is gone within seconds. It knows no HTTP and
// no SQL.
package people

import (
	"context"
	"time"

	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// User is a person who may sign in.
type User struct {
	ID       string // GUID, for good: the oid of their tokens
	UPN      string // as in ana@corp.example, in lower case: the requestor of what they do
	Name     string // for people; "": the UPN
	Password string // PHC string of argon2id; "": cannot sign in by password
	TOTP     []byte // secret of the second factor, sealed; nil: none
	Step     int64  // the last time step whose code was used
	Disabled bool
	Created  time.Time
	Since    time.Time // when password or second factor were last changed
	Issuer   string    // outside, that signs them in; "": this server does
	Subject  string    // who they are to that issuer
	Groups   []string  // names, sorted; not set by the store's ChangeUser
}

// Group is a group of users.
type Group struct {
	ID      int64
	Name    string
	Members []string // UPNs, sorted
	Created time.Time

	Issuer   string // outside, one of whose groups this stands for; "": none
	External string // that group, as the claim groups names it
}

// Role is a set of rights for the groups it is assigned to.
type Role struct {
	ID      int64
	Name    string
	Rights  []auth.Right
	Groups  []string // names, sorted
	Created time.Time
}

// Sealer keeps second factors from who reads the database alone. What is sealed
// for one owner cannot be opened for another.
type Sealer interface {
	Seal(secret []byte, owner string) []byte
	Open(sealed []byte, owner string) ([]byte, error)
}

// Store keeps people. Each method is one transaction. Names of groups and roles,
// and UPNs, are found in any case; what is not there is an api.Error
// ResourceNotFound, a name that is taken an InvalidInput.
type Store interface {
	CreateUser(ctx context.Context, u User, e audit.Entry) error
	// User returns one by id or UPN.
	User(ctx context.Context, id string) (User, error)
	Users(ctx context.Context) ([]User, error)
	// UserOf returns the one whom an issuer outside knows as subject; without their groups.
	UserOf(ctx context.Context, issuer, subject string) (User, error)
	// ChangeUser loads, changes and keeps a user, as action.Store's ChangeAction does.
	ChangeUser(ctx context.Context, id string, change func(*User) (*audit.Entry, error)) (User, error)
	// DeleteUser takes a user out of all groups, and away.
	DeleteUser(ctx context.Context, id string, e audit.Entry) error

	// CreateGroup keeps a group by its Name, Issuer and External.
	CreateGroup(ctx context.Context, g Group, e audit.Entry) error
	Groups(ctx context.Context) ([]Group, error)
	// SetMember brings a user into a group or out of it.
	SetMember(ctx context.Context, group, user string, in bool, e audit.Entry) error
	// DeleteGroup refuses a group that a device group is limited to: without
	// it that would be open to everybody.
	DeleteGroup(ctx context.Context, name string, e audit.Entry) error

	CreateRole(ctx context.Context, name string, rights []auth.Right, e audit.Entry) error
	Roles(ctx context.Context) ([]Role, error)
	// SetRole assigns a role to a group or takes it away.
	SetRole(ctx context.Context, role, group string, assigned bool, e audit.Entry) error
	DeleteRole(ctx context.Context, name string, e audit.Entry) error

	// Access returns the user's groups with the rights of their roles, and who
	// reaches which device group, as at one instant; with them the groups that
	// stand for external ones of the issuer.
	Access(ctx context.Context, userID, issuer string, external []string) ([]auth.UserGroup, []auth.DeviceGroup, error)

	// ChangeTries loads the tries of the names, zero ones where there are none, lets
	// change work on them, and keeps them; zero ones are taken away, and those that
	// are forgotten by now. One name comes once.
	ChangeTries(ctx context.Context, names []string, change func([]Tries)) error

	// Record appends an audit entry that stands alone.
	Record(ctx context.Context, e audit.Entry) error
}
