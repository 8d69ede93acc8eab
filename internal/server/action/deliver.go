// SPDX-License-Identifier: Apache-2.0

package action

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// PendingBatch is how many orders Pending returns at most.
const PendingBatch = 64

// Delivery is one order to send: its id, which the device acknowledges, and the
// signed order.
type Delivery struct {
	ID       string
	Envelope order.Envelope
}

// errUnchanged makes the store keep an action as it is.
var errUnchanged = errors.New("nothing to change")

// change is Store.ChangeAction with errUnchanged taken for success, and tells
// who listens.
func (s *Service) change(ctx context.Context, id string, f func(*Action) (*audit.Entry, error)) error {
	a, err := s.cfg.Store.ChangeAction(ctx, id, f)
	if errors.Is(err, errUnchanged) {
		return nil
	}
	if err == nil {
		s.changed(a)
	}
	return err
}

// Pending returns the oldest orders and cancel orders that the device has not
// acknowledged and that are not past their date. What is past it is settled on
// the way, so that it never keeps the rest waiting.
func (s *Service) Pending(ctx context.Context, device string) ([]Delivery, error) {
	for range 100 { // a device's past-date orders are settled in one go or two; the bound is for a store gone wrong
		waiting, err := s.cfg.Store.Undelivered(ctx, device, PendingBatch)
		if err != nil {
			return nil, fmt.Errorf("cannot read the orders of device %s: %w", device, err)
		}
		var out []Delivery
		settled := 0
		for _, a := range waiting {
			d, ok := s.delivery(a)
			if ok {
				out = append(out, d)
				continue
			}
			if err := s.settle(ctx, a.ID); err != nil {
				return nil, err
			}
			settled++
		}
		if len(out) > 0 || settled < PendingBatch {
			return out, nil
		}
	}
	return nil, fmt.Errorf("cannot read the orders of device %s: past-date ones do not end", device)
}

// delivery is what is to be sent for an action, if anything is.
func (s *Service) delivery(a Action) (Delivery, bool) {
	d, raw := Delivery{ID: a.ID}, a.Order
	if len(a.CancelOrder) > 0 {
		d.ID, raw = cancelID(a.ID), a.CancelOrder
	} else if api.Final(a.Status) {
		return d, false
	}
	if !s.now().Before(a.Expires) {
		return d, false
	}
	if err := json.Unmarshal(raw, &d.Envelope); err != nil {
		s.cfg.Log.Error("kept order is unreadable", "action", a.ID, "error", err)
		return d, false
	}
	return d, true
}

// settle ends an action that is past its date, or marks one that has ended as
// having nothing to send any more.
func (s *Service) settle(ctx context.Context, id string) error {
	err := s.change(ctx, id, func(a *Action) (*audit.Entry, error) {
		switch {
		case a.Acknowledged:
			return nil, errUnchanged
		case api.Final(a.Status):
			a.Acknowledged = true
			return nil, nil
		case s.now().Before(a.Expires): // its order is unreadable: logged, and left to its date
			return nil, errUnchanged
		}
		return s.timeOut(a), nil
	})
	if err != nil {
		return fmt.Errorf("cannot settle action %s: %w", id, err)
	}
	return nil
}

// Acknowledge notes that the device has journalled an order or a cancel order,
// or will not accept it.
func (s *Service) Acknowledge(ctx context.Context, device string, ack order.Ack) error {
	id, isCancel, ok := splitID(ack.Order)
	if !ok {
		return api.Errorf(api.ResourceNotFound, "Order %s was not found", clip(ack.Order, 128))
	}
	return s.change(ctx, id, func(a *Action) (*audit.Entry, error) {
		if a.MachineID != device {
			return nil, api.Errorf(api.ResourceNotFound, "Order %s was not found", ack.Order)
		}
		if isCancel {
			return cancelDelivered(a)
		}
		return s.delivered(a, ack.Refused)
	})
}

func cancelDelivered(a *Action) (*audit.Entry, error) {
	if len(a.CancelOrder) == 0 || a.Acknowledged {
		return nil, errUnchanged
	}
	a.Acknowledged = true
	return nil, nil
}

func (s *Service) delivered(a *Action, refused string) (*audit.Entry, error) {
	now := s.now()
	switch {
	case api.Final(a.Status):
		return nil, errUnchanged // cancelled meanwhile: the cancel order says the rest
	case refused != "":
		a.Status, a.ErrorHResult, a.Updated = api.Failed, hrUnspecified, now
		a.TroubleshootInfo = "Refused by the device: " + clip(refused, 500)
		a.Acknowledged = true
		e := audit.By(deviceCaller(*a), audit.FinishMachineAction, a.ID, a.Status)
		e.Detail = detail(map[string]any{"machine": a.MachineID, "info": a.TroubleshootInfo})
		return &e, nil
	case a.Status == api.InProgress:
		return nil, errUnchanged
	}
	a.Status, a.Updated = api.InProgress, now
	a.Acknowledged = true
	// The order's own date has done its work: the device has the order in
	// hand. It gets as long again for the receipt.
	a.Expires = now.Add(s.cfg.Settings.Expiry())
	return nil, nil
}

func deviceCaller(a Action) auth.Caller {
	return auth.Caller{Kind: auth.Device, ID: a.MachineID, Name: a.MachineName}
}

// Inventory makes items all that is known of the device's vault.
func (s *Service) Inventory(ctx context.Context, device string, items []order.Item) error {
	for _, it := range items {
		if err := checkItem(it); err != nil {
			return err
		}
	}
	if err := s.cfg.Store.PutItems(ctx, device, items, true); err != nil {
		return fmt.Errorf("cannot keep the inventory of device %s: %w", device, err)
	}
	return nil
}

// checkItem refuses what no sound vault says of an item.
func checkItem(it order.Item) error {
	bad := func(what string) error {
		return api.Errorf(api.InvalidInput, "vault item %q: %s", clip(it.ID, 64), what)
	}
	switch {
	case !order.ValidItem(it.ID):
		return bad("the id is not 32 hex digits")
	case it.Order != "" && !order.ValidID(it.Order):
		return bad("the order's id is not a GUID")
	case it.State != "sealed" && it.State != "restored" && it.State != "purged":
		return bad("the state is not known")
	case it.Size < 0:
		return bad("the size is negative")
	case strings.ContainsRune(it.Comment, 0):
		return bad("the comment contains NUL")
	}
	for _, p := range it.Paths {
		if strings.ContainsRune(string(p), 0) {
			return bad("a path contains a bare NUL")
		}
	}
	return nil
}
