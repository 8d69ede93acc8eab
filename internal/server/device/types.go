// SPDX-License-Identifier: Apache-2.0

// Package device is what the server knows of devices: how they come in
// (enrollment by token), how they prove who they are, what they say of
// themselves, and how they are shut out. It knows no HTTP, no SQL and no bus.
package device

import (
	"context"
	"crypto/ed25519"
	"time"

	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/odata"
)

// Device is one enrolled machine.
type Device struct {
	ID        string // 40 hex digits, made at enrollment
	Seq       int64  // rises with enrollment: the tie-breaker of every list
	Name      string // DNS name in lower case: the FQDN the agent reports, else the host name
	Key       ed25519.PublicKey
	FirstSeen time.Time
	LastSeen  time.Time // last connect or report; written at most every few minutes
	LastIP    string    // the address its link came from
	Facts     order.Facts
	Tags      []string
	EntraID   string // GUID in lower case; "": none is known
	Value     string // Normal, Low, High
	GroupID   int64  // device group; 0 = none
	GroupName string
	Revoked   time.Time // zero: not revoked
}

// Token is an enrollment token, without its secret.
type Token struct {
	ID      string
	Secret  [32]byte // SHA-256 of the secret
	Uses    int      // how many enrollments are left
	Expires time.Time
	Tags    []string // given to each device that uses it
}

// Store keeps devices and enrollment tokens. Each method is one transaction.
type Store interface {
	CreateToken(ctx context.Context, t Token, e audit.Entry) error
	// Enroll takes one use off the token with that secret digest and keeps d
	// with the token's tags. It returns an api.Error Forbidden when there is no
	// such token, it is used up or past its date.
	Enroll(ctx context.Context, secret [32]byte, d *Device, e audit.Entry) error
	// Device returns one by id, or an api.Error ResourceNotFound.
	Device(ctx context.Context, id string) (Device, error)
	// DeviceOfEntra returns the one that is not revoked with that Entra device
	// id, of which there is at most one, or an api.Error ResourceNotFound.
	DeviceOfEntra(ctx context.Context, id string) (Device, error)
	// DevicesNamed returns those with that DNS name: the whole name, or the
	// first label of it.
	DevicesNamed(ctx context.Context, name string) ([]Device, error)
	// Devices returns a page of those that are not revoked and, when q asks for
	// it, the count of all that match.
	Devices(ctx context.Context, q odata.Query) ([]Device, int64, error)
	// DevicesAt returns a page of the devices that had the address at some time
	// between the two and, when q asks for it, the count of all that match.
	DevicesAt(ctx context.Context, ip string, from, to time.Time, q odata.Query) ([]Device, int64, error)
	// ChangeDevice loads, changes and keeps a device, as action.Store's ChangeAction does.
	ChangeDevice(ctx context.Context, id string, change func(*Device) (*audit.Entry, error)) (Device, error)
	// DeviceIn reports whether the device, revoked or not, is in one of the groups.
	DeviceIn(ctx context.Context, id string, groups []int64) (bool, error)

	// CreateDeviceGroup keeps g, setting its ID and Rank, and moves devices into
	// it. Groups of that rank and below go one down. Every device is in the
	// group that Assign says, at every instant that can be read, whatever
	// changes: the device, the group, or both at once.
	CreateDeviceGroup(ctx context.Context, g *Group, e audit.Entry) error
	// DeviceGroups lists them by rank; last comes UngroupedName.
	DeviceGroups(ctx context.Context) ([]Group, error)
	// ChangeDeviceGroup loads, changes and keeps a group and moves devices; a
	// new rank is made room for. UngroupedName can be changed too.
	ChangeDeviceGroup(ctx context.Context, name string, e audit.Entry, change func(*Group) error) (Group, error)
	DeleteDeviceGroup(ctx context.Context, name string, e audit.Entry) error
	// Record appends an entry that stands alone: a refusal.
	Record(ctx context.Context, e audit.Entry) error
}
