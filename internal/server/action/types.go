// SPDX-License-Identifier: Apache-2.0

// Package action is the life of a machine action: who may ask for it, whether
// the device can do it, the order made of it, its delivery, and how it ends.
//
//	          submit                 device journals it            receipt
//	(201) ──────────────▶ Pending ───────────────▶ InProgress ───────────────▶ Succeeded | Failed
//	                        │  │                       │
//	           cancel       │  │ expiry                │ cancel, if the device had not passed
//	                        ▼  ▼                       ▼ the point of no return
//	                 Cancelled  TimeOut             Cancelled
//
// It promises that an action it has answered is kept, is sent to its device
// until that acknowledges it, and ends exactly once. It knows no HTTP, no SQL
// and no bus.
package action

import (
	"context"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

// Action is a machine action with what the API does not show.
type Action struct {
	ID          string // GUID
	Seq         int64  // rises with creation; the stable tie-breaker of every list
	Type        string // api.StopAndQuarantineFile, …
	Requestor   Requestor
	Comment     string
	Status      string // api.Pending, …
	MachineID   string
	MachineName string
	Created     time.Time
	Updated     time.Time
	Expires     time.Time // TimeOut from here on

	CancelledBy     Requestor // zero: nobody asked
	CancelComment   string
	CancelRequested time.Time

	ErrorHResult     int32
	TroubleshootInfo string
	ExternalID       string
	Source           string // PublicApi, Portal

	File filehash.Hash // of file actions; of restore and purge, the item's
	Item string        // of restore and purge: the vault item

	Order        []byte // the signed order, an order.Envelope in JSON
	CancelOrder  []byte // the signed cancel, once asked for: the device may have Order already
	Receipt      []byte // the device's signed receipt
	Acknowledged bool   // nothing to send: the device has journalled Order and CancelOrder, or neither matters any more
}

// Requestor is who asked.
type Requestor struct {
	Kind auth.Kind
	ID   string
	Name string
}

// Key is what at most one active action may have: machine, type and what it is
// about, the vault item or else the file.
func (a Action) Key() string {
	switch {
	case a.Item != "":
		return a.MachineID + " " + a.Type + " " + a.Item
	case !a.File.IsZero():
		return a.MachineID + " " + a.Type + " " + a.File.String()
	}
	return a.MachineID + " " + a.Type
}

// Store keeps actions. Each method is one transaction.
type Store interface {
	// CreateAction keeps a, setting its Seq, with its audit entry. It returns
	// an api.Error ActiveRequestAlreadyExists, and keeps nothing, when an
	// action that is Pending or InProgress has a's Key.
	CreateAction(ctx context.Context, a *Action, e audit.Entry) error
	// CreateActionWithin is CreateAction for one more order of its Requestor: of
	// the types in Reaching, those of the last hour and the devices of the last
	// day, but for a's own, are put to within.Check, whose error it returns.
	CreateActionWithin(ctx context.Context, a *Action, e audit.Entry, within Reach) error
	// ChangeAction loads an action, lets change alter it, and keeps the result
	// with the audit entry that change returns (nil: none). An error of change
	// is returned as it is and nothing is kept. api.ResourceNotFound if there
	// is no such action.
	ChangeAction(ctx context.Context, id string, change func(*Action) (*audit.Entry, error)) (Action, error)
	// Action returns one action, or an api.Error ResourceNotFound.
	Action(ctx context.Context, id string) (Action, error)
	// Actions returns a page and, when q asks for it, the count of all that match.
	Actions(ctx context.Context, q odata.Query) ([]Action, int64, error)
	// ActiveAction returns the id of the action that is Pending or InProgress
	// with that Key, or "".
	ActiveAction(ctx context.Context, key string) (string, error)
	// Undelivered returns up to limit actions of the device that are not
	// Acknowledged, oldest first, whatever their status: a Cancelled one waits
	// until its cancel order is delivered. Device "" means any device.
	Undelivered(ctx context.Context, device string, limit int) ([]Action, error)
	// Waiting returns up to limit ids, rising, greater than after, of devices
	// that have actions which are not Acknowledged.
	Waiting(ctx context.Context, after string, limit int) ([]string, error)
	// Overdue returns ids of up to limit actions that are not final and whose
	// Expires is at or before now.
	Overdue(ctx context.Context, now time.Time, limit int) ([]string, error)
	// Record appends an entry that stands alone: a refusal.
	Record(ctx context.Context, e audit.Entry) error

	// PutItems makes items what is known of the device's vault. Items of it
	// that are not listed are dropped when all is set, kept otherwise. An item
	// id that another device has is left alone: no device speaks for another.
	PutItems(ctx context.Context, device string, items []order.Item, all bool) error
	// Items lists items by descending sealing time after the cursor; device "" means any.
	Items(ctx context.Context, filter ItemFilter) ([]Item, string, error)
	// Item returns one item, or an api.Error ResourceNotFound.
	Item(ctx context.Context, id string) (Item, error)
}

// Item is a vault item with the device it lies on.
type Item struct {
	order.Item
	MachineID   string
	MachineName string
}

// ItemFilter selects vault items.
type ItemFilter struct {
	Device string        // "" any
	Order  string        // "" any
	File   filehash.Hash // zero: any
	State  string        // "" any
	Groups []int64       // of devices; nil: any
	After  string        // opaque, from the page before
	Limit  int           // 1 to 1000
}

// Devices is what an action has to know of devices.
type Devices interface {
	// Lookup finds a device by id, DNS name or Entra device id for this caller,
	// or returns an api.Error ResourceNotFound "Machine X was not found".
	Lookup(ctx context.Context, c auth.Caller, nameOrID string) (Device, error)
	// Visible reports whether the caller may know of the device with that id,
	// be it revoked: what it did stays on record.
	Visible(ctx context.Context, c auth.Caller, id string) (bool, error)
}

// Device is what an action has to know of one device.
type Device struct {
	ID       string
	Name     string // DNS name
	Platform string // as in osPlatform
	Version  string // of the agent
	Key      []byte // its Ed25519 public key
	Can      []order.Kind
	Group    int64 // the device group it is in
}

// Bell tells the replica that holds a device's link that there is something to
// fetch. It may be lost: nothing depends on it but speed.
type Bell interface {
	Ring(device string)
}

// Asker asks a connected device whether it has a file. ok is false when the
// device is not connected or did not answer in time.
type Asker interface {
	Ask(ctx context.Context, device string, file filehash.Hash) (a order.Answer, ok bool)
}
