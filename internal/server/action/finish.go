// SPDX-License-Identifier: Apache-2.0

package action

import (
	"context"
	"encoding/json"
	"fmt"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Finish keeps the device's receipt of an order and ends the action by it. It
// returns nil once the receipt is kept, or was before: then the device may
// forget it. The receipt of an action that has ended otherwise meanwhile, by
// cancel or by its date, is kept as evidence beside the status that stands.
//
// A receipt that is forged, foreign or for another order is refused with an
// api.Error, and the refusal is on record.
func (s *Service) Finish(ctx context.Context, device string, r order.ReceiptOf) error {
	err := s.finish(ctx, device, r)
	if err != nil {
		c := auth.Caller{Kind: auth.Device, ID: device}
		return s.refused(ctx, c, audit.FinishMachineAction, r.Order, err)
	}
	return nil
}

func (s *Service) finish(ctx context.Context, device string, r order.ReceiptOf) error {
	notFound := api.Errorf(api.ResourceNotFound, "Order %s was not found", clip(r.Order, 128))
	id, isCancel, ok := splitID(r.Order)
	if !ok {
		return notFound
	}
	a, err := s.cfg.Store.Action(ctx, id)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound:
		return notFound
	case err != nil:
		return err
	case a.MachineID != device: // the same words: a device learns nothing of others' orders
		return notFound
	}
	ord := a.Order
	if isCancel {
		ord = a.CancelOrder
	}
	rec, err := s.verify(ctx, device, r, ord)
	if err != nil {
		return err
	}
	if isCancel { // says no more than an acknowledgement does
		return s.change(ctx, id, cancelDelivered)
	}
	if len(a.Receipt) > 0 {
		return nil
	}
	// The items first: who reads Succeeded finds them.
	if err := s.noteItems(ctx, a, rec); err != nil {
		return err
	}
	raw, err := json.Marshal(r.Envelope)
	if err != nil {
		return fmt.Errorf("cannot encode receipt of order %s: %w", id, err)
	}
	return s.change(ctx, id, func(a *Action) (*audit.Entry, error) { return s.end(a, rec, raw) })
}

// verify checks a receipt against the order as it was sent and the device's key.
func (s *Service) verify(ctx context.Context, device string, r order.ReceiptOf, ord []byte) (order.Receipt, error) {
	if len(ord) == 0 {
		return order.Receipt{}, api.Errorf(api.ResourceNotFound, "Order %s was not found", r.Order)
	}
	var env order.Envelope
	if err := json.Unmarshal(ord, &env); err != nil {
		return order.Receipt{}, fmt.Errorf("cannot read the kept order %s: %w", r.Order, err)
	}
	dev, err := s.cfg.Devices.Lookup(ctx, auth.Caller{Kind: auth.System, ID: "system"}, device)
	if err != nil {
		return order.Receipt{}, err
	}
	rec, err := order.VerifyReceipt(r.Envelope, env, device, dev.Key)
	if err != nil {
		return order.Receipt{}, api.Errorf(api.Forbidden, "%s", clip(err.Error(), 300))
	}
	if rec.Order != r.Order {
		return order.Receipt{}, api.Errorf(api.Forbidden, "cannot accept receipt of order %s: it names order %q", r.Order, clip(rec.Order, 64))
	}
	return rec, nil
}

// end is the change of a receipt.
func (s *Service) end(a *Action, rec order.Receipt, raw []byte) (*audit.Entry, error) {
	if len(a.Receipt) > 0 {
		return nil, errUnchanged
	}
	status, hresult, info := outcome(rec)
	what := status
	switch {
	case !api.Final(a.Status):
		a.Status, a.ErrorHResult, a.TroubleshootInfo = status, hresult, info
	case rec.Outcome == order.Cancelled: // as the server has it already
		what = "late: " + status
	default:
		what = "late: " + status
		a.TroubleshootInfo = lateInfo(status, info)
	}
	a.Receipt = raw
	a.Acknowledged = true // the device is done with the order: a cancel is moot
	a.Updated = s.now()
	e := audit.By(deviceCaller(*a), audit.FinishMachineAction, a.ID, what)
	e.Detail = detail(map[string]any{
		"machine": a.MachineID, "outcome": clip(string(rec.Outcome), 64), "code": clip(string(rec.Code), 64),
		"info": a.TroubleshootInfo, "copies": len(rec.Copies), "matches": len(rec.Matches),
	})
	return &e, nil
}

// lateInfo tells in the action that the device did the work all the same.
func lateInfo(status, info string) string {
	text := "The device had carried the order out all the same: " + status
	if info != "" {
		text += " (" + info + ")"
	}
	return text + ". See the evidence."
}

// noteItems makes what a receipt says of vault items known at once, without
// waiting for the device's next inventory. What is known already is newer than
// any receipt and stays.
func (s *Service) noteItems(ctx context.Context, a Action, r order.Receipt) error {
	var items []order.Item
	for _, c := range r.Copies {
		if c.State != order.Sealed || c.Item == "" {
			continue
		}
		it := order.Item{
			ID: c.Item, Order: a.ID, SHA1: c.SHA1, SHA256: c.SHA256, Size: c.Size, Paths: c.Paths,
			UID: c.UID, GID: c.GID, Mode: c.Mode, Sealed: r.Finished, State: "sealed", Comment: a.Comment,
		}
		if err := checkItem(it); err != nil {
			return err
		}
		switch _, err := s.cfg.Store.Item(ctx, it.ID); {
		case api.CodeOf(err) == api.ResourceNotFound:
			items = append(items, it)
		case err != nil:
			return fmt.Errorf("cannot look up vault item %s: %w", it.ID, err)
		}
	}
	if state := stateAfter(a.Type); state != "" && r.Outcome == order.Proven {
		it, err := s.cfg.Store.Item(ctx, a.Item)
		switch {
		case err == nil && it.MachineID == a.MachineID:
			it.State = state
			items = append(items, it.Item)
		case err != nil && api.CodeOf(err) != api.ResourceNotFound:
			return fmt.Errorf("cannot look up vault item %s: %w", a.Item, err)
		}
	}
	if len(items) == 0 {
		return nil
	}
	if err := s.cfg.Store.PutItems(ctx, a.MachineID, items, false); err != nil {
		return fmt.Errorf("cannot keep the items of order %s: %w", a.ID, err)
	}
	return nil
}

// stateAfter is the state of the item of an action of that type once it is done.
func stateAfter(actionType string) string {
	switch actionType {
	case api.RestoreFile:
		return "restored"
	case api.PurgeFile:
		return "purged"
	}
	return ""
}
