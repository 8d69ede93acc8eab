// SPDX-License-Identifier: Apache-2.0

// Package bus carries doorbells and questions between the replicas of a server:
// NATS core, in process by default (no port), an external cluster where a URL is
// given. The database is the truth; losing every message on the bus loses
// nothing but speed, and nobody on the bus can forge an order or a receipt.
package bus

import (
	"errors"

	"staunch/internal/order"
)

// ErrOffline says that no replica holds a link of the device now.
var ErrOffline = errors.New("the device is not connected")

// Handler is one device's link on this replica. Its methods are called from a
// few workers that serve every link, so they must not block; for one device
// they are called in the order of the messages.
type Handler interface {
	// Ring says that there is something to fetch for the device.
	Ring()
	// Kick closes the link unless keep is its connection id.
	Kick(keep string)
	// Ask asks the device; reply may be called later, from anywhere, at most once.
	Ask(a order.Ask, reply func(order.Answer))
}

// Event is a small piece of news for whoever watches: a name of what happened
// and ids to look the rest up by.
type Event struct {
	Type   string `json:"type"`             // action, device, item
	ID     string `json:"id"`               // of what it is about
	Device string `json:"device,omitempty"` //
	Status string `json:"status,omitempty"` //
}

// note is one message to the replica that holds a device; one field is set.
type note struct {
	Ring bool       `json:"ring,omitempty"`
	Kick *kick      `json:"kick,omitempty"`
	Ask  *order.Ask `json:"ask,omitempty"`
}

type kick struct {
	Keep string `json:"keep"`
}
