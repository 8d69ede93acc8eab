// SPDX-License-Identifier: Apache-2.0

// Package order is what server and agent say to each other: orders, receipts,
// and the messages of the link that carries them.
//
// An order is signed by the server's order key and binds one device, one id and
// its dates; a receipt is signed by the device's key and binds the digest of
// the order it answers. Neither trusts the link: TLS keeps others from reading,
// the signatures keep everybody, the server's front end and database included,
// from forging.
package order

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"regexp"
	"time"

	"staunch/internal/filehash"
)

// OrderType is the payload type of an order's envelope.
const OrderType = "application/vnd.staunch.order.v1+json"

// Kind says what an order asks for.
type Kind string

// The kinds of order.
const (
	StopAndQuarantine Kind = "stop-and-quarantine" // File
	Restore           Kind = "restore"             // Item, Destination
	Purge             Kind = "purge"               // Item
	Cancel            Kind = "cancel"              // Target: the id of the order to give up
)

// Order is what a device is asked to do.
type Order struct {
	ID      string    `json:"id"`      // the machine action's GUID; never used twice
	Device  string    `json:"device"`  // the device's id, 40 hex digits
	Kind    Kind      `json:"kind"`    //
	Issued  time.Time `json:"issued"`  //
	Expires time.Time `json:"expires"` // not carried out from this instant on

	File        filehash.Hash `json:"file,omitzero"`        // the content to stop
	Item        string        `json:"item,omitempty"`       // the vault item to restore or purge
	Destination string        `json:"destination,omitzero"` // another path for a restore; empty: where it was
	Target      string        `json:"target,omitempty"`     // the order to cancel
	Force       bool          `json:"force,omitempty"`      // lifts the distribution-package rule, no other
	Comment     string        `json:"comment,omitempty"`    // why, in the requestor's words
	Requestor   string        `json:"requestor,omitempty"`  // who, for the device's own record
}

// MaxClockSkew is how far the server's clock may be ahead of the device's
// before an order counts as not yet valid.
const MaxClockSkew = 5 * time.Minute

// Reasons for which a device refuses an order it was handed.
var (
	ErrOtherDevice = errors.New("the order is for another device")
	ErrExpired     = errors.New("the order is past its date")
	ErrNotYet      = errors.New("the order is dated in the future: check both clocks")
)

var (
	guidForm   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	deviceForm = regexp.MustCompile(`^[0-9a-f]{40}$`)
	itemForm   = regexp.MustCompile(`^[0-9a-f]{32}$`)
)

// ValidID reports whether s is a lower-case GUID, the form of order ids.
func ValidID(s string) bool { return guidForm.MatchString(s) }

// ValidDevice reports whether s has the form of a device id: 40 lower-case hex digits.
func ValidDevice(s string) bool { return deviceForm.MatchString(s) }

// ValidItem reports whether s has the form of a vault item id: 32 lower-case hex digits.
func ValidItem(s string) bool { return itemForm.MatchString(s) }

// Sign seals an order.
func Sign(o Order, key ed25519.PrivateKey) (Envelope, error) {
	if err := o.validate(); err != nil {
		return Envelope{}, fmt.Errorf("cannot sign order: %w", err)
	}
	return seal(OrderType, o, key)
}

// Verify returns the order in e if one of keys signed it, it is for device and
// now lies within its dates. The order is returned beside ErrExpired and
// ErrNotYet too, so that the refusal can name it. Whether it was seen before
// only the journal can tell.
func Verify(e Envelope, device string, now time.Time, keys ...ed25519.PublicKey) (Order, error) {
	var o Order
	if err := open(e, OrderType, &o, keys...); err != nil {
		return Order{}, fmt.Errorf("cannot accept order: %w", err)
	}
	if err := o.validate(); err != nil {
		return Order{}, fmt.Errorf("cannot accept order: %w", err)
	}
	switch {
	case o.Device != device:
		return Order{}, fmt.Errorf("cannot accept order %s: %w", o.ID, ErrOtherDevice)
	case !now.Before(o.Expires):
		return o, fmt.Errorf("cannot accept order %s: %w (%s)", o.ID, ErrExpired, o.Expires.UTC().Format(time.RFC3339))
	case now.Add(MaxClockSkew).Before(o.Issued):
		return o, fmt.Errorf("cannot accept order %s: %w (issued %s)", o.ID, ErrNotYet, o.Issued.UTC().Format(time.RFC3339))
	}
	return o, nil
}

func (o Order) validate() error {
	switch {
	case !ValidID(o.ID):
		return fmt.Errorf("order id %q is not a GUID", o.ID)
	case !ValidDevice(o.Device):
		return fmt.Errorf("device id %q is not 40 hex digits", o.Device)
	case o.Issued.IsZero() || !o.Issued.Before(o.Expires):
		return errors.New("the dates are missing or in the wrong order")
	}
	switch o.Kind {
	case StopAndQuarantine:
		if o.File.IsZero() {
			return errors.New("the file's hash is missing")
		}
	case Restore, Purge:
		if !ValidItem(o.Item) {
			return fmt.Errorf("vault item %q is not 32 hex digits", o.Item)
		}
	case Cancel:
		if !ValidID(o.Target) {
			return fmt.Errorf("the order to cancel, %q, is not a GUID", o.Target)
		}
	default:
		return fmt.Errorf("kind %q is not known to this version", o.Kind)
	}
	return nil
}
