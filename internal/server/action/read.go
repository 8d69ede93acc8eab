// SPDX-License-Identifier: Apache-2.0

package action

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

// Get returns one action.
func (s *Service) Get(ctx context.Context, c auth.Caller, id string) (Action, error) {
	if err := need(c, machineRead()...); err != nil {
		return Action{}, err
	}
	return s.visible(ctx, c, id)
}

// Downloadable returns an action for who may download what it left: an
// application that may read actions, or a person who may do what makes such a
// download, with one of the rights on its machine.
func (s *Service) Downloadable(ctx context.Context, c auth.Caller, id string, rights ...auth.Right) (Action, error) {
	permissions := []auth.Permission{auth.MachineReadAll, auth.MachineReadWriteAll}
	if c.Kind == auth.User {
		permissions = []auth.Permission{auth.MachineCollectForensics, auth.MachineLiveResponse}
	}
	if err := need(c, permissions...); err != nil {
		return Action{}, err
	}
	a, err := s.visible(ctx, c, id)
	if err != nil || c.Kind != auth.User {
		return a, err
	}
	dev, err := s.cfg.Devices.Lookup(ctx, c, a.MachineID)
	if err != nil {
		return Action{}, err
	}
	return a, auth.AllowOn(c, dev.Group, rights...)
}

// List returns a page of actions and, when q asks for it, the count of all.
func (s *Service) List(ctx context.Context, c auth.Caller, q odata.Query) ([]Action, int64, error) {
	if err := need(c, machineRead()...); err != nil {
		return nil, 0, err
	}
	q.Groups = c.Groups(auth.ViewData)
	return s.cfg.Store.Actions(ctx, q)
}

// visible returns an action that c may know of. An id that is no id, an action
// that is not there and one on a machine that c cannot see are all one.
func (s *Service) visible(ctx context.Context, c auth.Caller, id string) (Action, error) {
	notFound := api.Errorf(api.ResourceNotFound, "Machine action %s was not found", clip(id, 128))
	id = strings.ToLower(id)
	if !order.ValidID(id) {
		return Action{}, notFound
	}
	a, err := s.cfg.Store.Action(ctx, id)
	if api.CodeOf(err) == api.ResourceNotFound {
		return Action{}, notFound
	}
	if err != nil {
		return Action{}, err
	}
	if ok, err := s.cfg.Devices.Visible(ctx, c, a.MachineID); err != nil || !ok {
		return Action{}, cmp.Or(err, error(notFound))
	}
	return a, nil
}

// Evidence returns the device's signed receipt with what it takes to check it.
func (s *Service) Evidence(ctx context.Context, c auth.Caller, id string) (api.Evidence, error) {
	a, err := s.Get(ctx, c, id)
	if err != nil {
		return api.Evidence{}, err
	}
	if len(a.Receipt) == 0 {
		return api.Evidence{}, api.Errorf(api.ResourceNotFound, "Machine action %s has no receipt yet: it is %s", a.ID, a.Status)
	}
	var env order.Envelope
	if err := json.Unmarshal(a.Receipt, &env); err != nil {
		return api.Evidence{}, fmt.Errorf("cannot read the kept receipt of action %s: %w", a.ID, err)
	}
	dev, err := s.cfg.Devices.Lookup(ctx, c, a.MachineID)
	if err != nil {
		return api.Evidence{}, err
	}
	return api.Evidence{ActionID: a.ID, Receipt: env.Payload, Envelope: a.Receipt, Order: a.Order, DeviceKey: order.FormatKey(dev.Key)}, nil
}

// Items lists what lies in the devices' vaults, with the cursor of the next page.
func (s *Service) Items(ctx context.Context, c auth.Caller, f ItemFilter) ([]Item, string, error) {
	if err := need(c, machineRead()...); err != nil {
		return nil, "", err
	}
	if f.Limit == 0 {
		f.Limit = 100
	}
	if f.Limit < 1 || f.Limit > 1000 {
		return nil, "", api.Errorf(api.InvalidInput, "limit must be from 1 to 1000")
	}
	f.Groups = c.Groups(auth.ViewData)
	return s.cfg.Store.Items(ctx, f)
}

// Item returns one vault item.
func (s *Service) Item(ctx context.Context, c auth.Caller, id string) (Item, error) {
	if err := need(c, machineRead()...); err != nil {
		return Item{}, err
	}
	return s.item(ctx, c, id)
}

func (s *Service) item(ctx context.Context, c auth.Caller, id string) (Item, error) {
	notFound := api.Errorf(api.ResourceNotFound, "Quarantine item %s was not found", clip(id, 128))
	id = strings.ToLower(id)
	if !order.ValidItem(id) {
		return Item{}, notFound
	}
	it, err := s.cfg.Store.Item(ctx, id)
	if api.CodeOf(err) == api.ResourceNotFound {
		return Item{}, notFound
	}
	if err != nil {
		return Item{}, err
	}
	if ok, err := s.cfg.Devices.Visible(ctx, c, it.MachineID); err != nil || !ok {
		return Item{}, cmp.Or(err, error(notFound))
	}
	return it, nil
}
