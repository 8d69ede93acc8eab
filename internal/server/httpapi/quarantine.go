// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"fmt"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
)

func (h *Handler) items(ctx context.Context, q *request) (answer, error) {
	values, err := q.options()
	if err != nil {
		return answer{}, err
	}
	f := action.ItemFilter{Order: values.Get("actionId"), State: values.Get("state"), After: values.Get("after")}
	if f.Limit, err = q.limit(values, 100, 1000); err != nil {
		return answer{}, err
	}
	if s := values.Get("hash"); s != "" {
		if f.File, err = filehash.Parse(s); err != nil {
			return answer{}, invalidHash(s)
		}
	}
	if s := values.Get("machineId"); s != "" {
		d, err := h.cfg.Devices.Lookup(ctx, q.caller, s)
		if err != nil {
			return answer{}, err
		}
		f.Device = d.ID
	}
	found, next, err := h.cfg.Actions.Items(ctx, q.caller, f)
	if err != nil {
		return answer{}, err
	}
	page := api.Page[api.QuarantineItem]{Value: make([]api.QuarantineItem, len(found))}
	for i, it := range found {
		page.Value[i] = quarantineItem(it)
	}
	if next != "" {
		page.NextLink = q.nextLink("after", next)
	}
	return answer{body: page}, nil
}

func (h *Handler) item(ctx context.Context, q *request) (answer, error) {
	it, err := h.cfg.Actions.Item(ctx, q.caller, q.args["item"])
	if err != nil {
		return answer{}, err
	}
	return answer{body: quarantineItem(it)}, nil
}

func (h *Handler) restore(ctx context.Context, q *request) (answer, error) {
	a, err := h.makeRestore(ctx, q)
	if err != nil {
		return answer{}, err
	}
	return q.created(a), nil
}

// recoveryCode is restore for a device that cannot be reached: the same order,
// for a person to carry.
func (h *Handler) recoveryCode(ctx context.Context, q *request) (answer, error) {
	a, err := h.makeRestore(ctx, q)
	if err != nil {
		return answer{}, err
	}
	var e order.Envelope
	if err := json.Unmarshal(a.Order, &e); err != nil {
		return answer{}, fmt.Errorf("cannot read the order of action %s: %w", a.ID, err)
	}
	code, err := order.RecoveryCode(e)
	if err != nil {
		return answer{}, err
	}
	return answer{body: api.RecoveryCode{ActionID: a.ID, Code: code, Expires: api.Time{Time: a.Expires}}}, nil
}

func (h *Handler) makeRestore(ctx context.Context, q *request) (action.Action, error) {
	f, err := q.object(true)
	if err != nil {
		return action.Action{}, err
	}
	var r action.RestoreRequest
	if err := f.texts(map[string]*string{"comment": &r.Comment, "destination": &r.Destination, "externalId": &r.ExternalID}); err != nil {
		return action.Action{}, err
	}
	return h.cfg.Actions.Restore(ctx, q.caller, q.args["item"], r)
}

// purge takes its comment from the query: clients send no body with DELETE, and
// some send a Content-Type without one.
func (h *Handler) purge(ctx context.Context, q *request) (answer, error) {
	values, err := q.options()
	if err != nil {
		return answer{}, err
	}
	a, err := h.cfg.Actions.Purge(ctx, q.caller, q.args["item"], values.Get("comment"))
	if err != nil {
		return answer{}, err
	}
	return q.created(a), nil
}

func quarantineItem(it action.Item) api.QuarantineItem {
	shown := api.QuarantineItem{
		ID:              it.ID,
		MachineID:       it.MachineID,
		ComputerDNSName: it.MachineName,
		ActionID:        it.Order,
		SHA1:            it.SHA1.String(),
		SHA256:          it.SHA256.String(),
		Size:            it.Size,
		Paths:           make([]string, len(it.Paths)),
		UID:             it.UID,
		GID:             it.GID,
		Mode:            fmt.Sprintf("%04o", it.Mode&0o7777),
		Sealed:          api.Time{Time: it.Sealed},
		State:           it.State,
		Comment:         it.Comment,
	}
	for i, p := range it.Paths {
		shown.Paths[i] = string(p)
	}
	return shown
}
