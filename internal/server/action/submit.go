// SPDX-License-Identifier: Apache-2.0

package action

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// StopRequest asks to stop and quarantine a file on one machine.
type StopRequest struct {
	Comment    string        // required
	File       filehash.Hash // required
	ExternalID string        // "": none
	Source     string        // "": PublicApi
	Force      bool          // lift the distribution-package rule; needs a permission of its own
}

// RestoreRequest asks to put a vault item back.
type RestoreRequest struct {
	Comment     string // "": none
	Destination string // another absolute path; "": where it was
	ExternalID  string // "": none
}

// since is the agent version that first carried out a kind of order, for the
// text that asks to upgrade.
func since(order.Kind) string { return "0.1.0" }

// StopAndQuarantine accepts or refuses a stop-and-quarantine order; both go on
// record. The checks come in the order of the contract's table, cheapest first,
// and the machine is asked last.
func (s *Service) StopAndQuarantine(ctx context.Context, c auth.Caller, machine string, r StopRequest) (Action, error) {
	a, err := s.stopAndQuarantine(ctx, c, machine, r)
	if err != nil {
		return Action{}, s.refused(ctx, c, audit.StopAndQuarantineFile, machine, err)
	}
	return a, nil
}

func (s *Service) stopAndQuarantine(ctx context.Context, c auth.Caller, machine string, r StopRequest) (Action, error) {
	if err := s.mayStop(c, r); err != nil {
		return Action{}, err
	}
	if err := r.check(); err != nil {
		return Action{}, err
	}
	dev, err := s.cfg.Devices.Lookup(ctx, c, machine)
	if err != nil {
		return Action{}, err
	}
	if err := auth.AllowOn(c, dev.Group, auth.ActiveRemediation); err != nil {
		return Action{}, err
	}
	if r.Force {
		if err := auth.AllowOn(c, dev.Group, auth.ManageSecurity); err != nil {
			return Action{}, err
		}
	}
	if err := capable(dev, order.StopAndQuarantine, api.StopAndQuarantineFile); err != nil {
		return Action{}, err
	}
	if r.File.Empty() {
		return Action{}, api.Errorf(api.DisallowedOperation, "%s names the empty file, which countless harmless files are: it cannot be stopped and quarantined.", r.File)
	}
	a := Action{Type: api.StopAndQuarantineFile, Comment: r.Comment, ExternalID: r.ExternalID, Source: r.Source, File: r.File}
	a.MachineID, a.MachineName = dev.ID, dev.Name
	if err := s.free(ctx, a); err != nil {
		return Action{}, err
	}
	if err := s.observed(ctx, dev, r.File); err != nil {
		return Action{}, err
	}
	o := order.Order{Kind: order.StopAndQuarantine, File: r.File, Force: r.Force}
	return s.create(ctx, c, a, o, audit.StopAndQuarantineFile)
}

func (s *Service) mayStop(c auth.Caller, r StopRequest) error {
	if err := need(c, auth.MachineStopAndQuarantine); err != nil {
		return err
	}
	if s.cfg.Settings.RequireMachineRead() {
		all := []auth.Permission{auth.MachineReadAll, auth.MachineReadWriteAll}
		if c.Kind == auth.User {
			all = []auth.Permission{auth.MachineRead, auth.MachineReadWrite}
		}
		if err := need(c, all...); err != nil {
			return err
		}
	}
	if err := auth.AllowRight(c, auth.ActiveRemediation); err != nil {
		return err
	}
	if !r.Force {
		return nil
	}
	if err := need(c, auth.MachineForce); err != nil {
		return err
	}
	return auth.AllowRight(c, auth.ManageSecurity)
}

func (r StopRequest) check() error {
	switch {
	case strings.TrimSpace(r.Comment) == "":
		return api.Errorf(api.MissingRequiredParameter, "Parameter Comment is missing")
	case r.File.IsZero():
		return api.Errorf(api.MissingRequiredParameter, "Parameter Sha1 is missing")
	}
	if err := checkText("Comment", r.Comment, MaxComment); err != nil {
		return err
	}
	return checkText("ExternalId", r.ExternalID, 256)
}

// capable refuses what the device's agent does not do: an upgrade helps when it
// is older than the first version that did, nothing helps otherwise.
func capable(d Device, k order.Kind, action string) error {
	switch {
	case slices.Contains(d.Can, k):
		return nil
	case older(d.Version, since(k)):
		return api.Errorf(api.ClientVersionNotSupported, "%s is supported on client version %s and above.", action, since(k))
	}
	return api.Errorf(api.OSPlatformNotSupported, "OS Platform %s isn't supported for this action.", d.Platform)
}

// older compares dotted versions number by number; what is no number is not older.
func older(v, than string) bool {
	a, b := strings.Split(v, "."), strings.Split(than, ".")
	for i := range min(len(a), len(b)) {
		x, errX := strconv.Atoi(a[i])
		y, errY := strconv.Atoi(b[i])
		if errX != nil || errY != nil {
			return false
		}
		if x != y {
			return x < y
		}
	}
	return len(a) < len(b)
}

// free refuses a second action of the same key. The store refuses it again in
// the transaction that would create it; here it is told before the device is
// asked, who may have taken the file away by now.
func (s *Service) free(ctx context.Context, a Action) error {
	id, err := s.cfg.Store.ActiveAction(ctx, a.Key())
	if err != nil {
		return fmt.Errorf("cannot look for a running action: %w", err)
	}
	if id != "" {
		return api.Errorf(api.ActiveRequestAlreadyExists, "Action is already in progress")
	}
	return nil
}

// observed refuses a file that the device surely has not got. A file that lies
// in its vault counts as seen: the order will say AlreadyQuarantined.
func (s *Service) observed(ctx context.Context, d Device, file filehash.Hash) error {
	mode := s.cfg.Settings.RequireObserved()
	if mode == "off" {
		return nil
	}
	var answer order.Answer
	connected := false
	if s.cfg.Asker != nil {
		askCtx, cancel := context.WithTimeout(ctx, askTimeout)
		answer, connected = s.cfg.Asker.Ask(askCtx, d.ID, file)
		cancel()
	}
	switch {
	case connected && answer.Has == "yes":
		return nil
	case mode != "strict" && (!connected || answer.Has != "no"):
		return nil
	}
	if mode == "strict" && (!connected || answer.Has != "no") && s.cfg.Observed != nil {
		seen, err := s.cfg.Observed(ctx, d.ID, file)
		if err != nil {
			return fmt.Errorf("cannot look up sightings: %w", err)
		}
		if seen {
			return nil
		}
	}
	sealed, _, err := s.cfg.Store.Items(ctx, ItemFilter{Device: d.ID, File: file, State: "sealed", Limit: 1})
	if err != nil {
		return fmt.Errorf("cannot look up the vault's items: %w", err)
	}
	if len(sealed) > 0 {
		return nil
	}
	kind := "Sha1"
	if file.SHA1.IsZero() {
		kind = "Sha256"
	}
	return api.Errorf(api.ResourceNotFound, "%s %s was not found in machine %s", kind, file, d.ID)
}

// create signs the order, keeps the action with its record, and rings.
func (s *Service) create(ctx context.Context, c auth.Caller, a Action, o order.Order, op audit.Operation) (Action, error) {
	now := s.now()
	a.ID = newID()
	a.Status = api.Pending
	a.Requestor = Requestor{Kind: c.Kind, ID: c.ID, Name: c.Name}
	a.Created, a.Updated, a.Expires = now, now, now.Add(s.cfg.Settings.Expiry())
	if a.Source == "" {
		a.Source = "PublicApi"
	}
	o.ID, o.Device, o.Issued, o.Expires = a.ID, a.MachineID, now, a.Expires
	o.Comment, o.Requestor = a.Comment, c.Name
	signed, err := s.sign(o)
	if err != nil {
		return Action{}, err
	}
	a.Order = signed
	e := audit.By(c, op, a.MachineID, "accepted")
	e.Detail = detail(map[string]any{
		"action": a.ID, "file": a.File.String(), "item": a.Item, "destination": o.Destination,
		"comment": a.Comment, "externalId": a.ExternalID, "force": o.Force,
	})
	if err := s.keep(ctx, c, &a, e); err != nil {
		return Action{}, err
	}
	s.ring(a.MachineID)
	s.changed(a)
	return a, nil
}

func (s *Service) sign(o order.Order) ([]byte, error) {
	env, err := order.Sign(o, s.cfg.OrderKey)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(env)
	if err != nil {
		return nil, fmt.Errorf("cannot encode order: %w", err)
	}
	return b, nil
}

// Restore asks the device that holds the item to put the file back.
func (s *Service) Restore(ctx context.Context, c auth.Caller, itemID string, r RestoreRequest) (Action, error) {
	a, err := s.restore(ctx, c, itemID, r)
	if err != nil {
		return Action{}, s.refused(ctx, c, audit.ReleaseFromQuarantine, itemID, err)
	}
	return a, nil
}

func (s *Service) restore(ctx context.Context, c auth.Caller, itemID string, r RestoreRequest) (Action, error) {
	if err := checkText("externalId", r.ExternalID, 256); err != nil {
		return Action{}, err
	}
	switch {
	case r.Destination == "":
	case !path.IsAbs(r.Destination), len(r.Destination) >= 4096, strings.ContainsRune(r.Destination, 0):
		return Action{}, api.Errorf(api.InvalidInput, "destination must be an absolute path of fewer than 4096 bytes, without NUL")
	}
	a := Action{Type: api.RestoreFile, Comment: r.Comment, ExternalID: r.ExternalID}
	o := order.Order{Kind: order.Restore, Destination: r.Destination}
	return s.aboutItem(ctx, c, itemID, a, o, audit.ReleaseFromQuarantine)
}

// Purge asks the device that holds the item to destroy it for good.
func (s *Service) Purge(ctx context.Context, c auth.Caller, itemID, comment string) (Action, error) {
	a := Action{Type: api.PurgeFile, Comment: comment}
	a, err := s.aboutItem(ctx, c, itemID, a, order.Order{Kind: order.Purge}, audit.DeleteFromQuarantine)
	if err != nil {
		return Action{}, s.refused(ctx, c, audit.DeleteFromQuarantine, itemID, err)
	}
	return a, nil
}

// aboutItem makes an action on one sealed item.
func (s *Service) aboutItem(ctx context.Context, c auth.Caller, itemID string, a Action, o order.Order, op audit.Operation) (Action, error) {
	if err := need(c, auth.MachineStopAndQuarantine); err != nil {
		return Action{}, err
	}
	if err := auth.AllowRight(c, auth.ActiveRemediation); err != nil {
		return Action{}, err
	}
	if err := checkText("comment", a.Comment, MaxComment); err != nil {
		return Action{}, err
	}
	it, err := s.item(ctx, c, itemID)
	if err != nil {
		return Action{}, err
	}
	dev, err := s.cfg.Devices.Lookup(ctx, c, it.MachineID)
	if err != nil {
		return Action{}, err
	}
	if err := auth.AllowOn(c, dev.Group, auth.ActiveRemediation); err != nil {
		return Action{}, err
	}
	if err := capable(dev, o.Kind, a.Type); err != nil {
		return Action{}, err
	}
	if it.State != "sealed" {
		return Action{}, api.Errorf(api.BadRequest, "Quarantine item %s is %s already: only a sealed one can be restored or purged", it.ID, it.State)
	}
	a.MachineID, a.MachineName = dev.ID, dev.Name
	a.Item, a.File = it.ID, filehash.Hash{SHA1: it.SHA1, SHA256: it.SHA256}
	o.Item = it.ID
	return s.create(ctx, c, a, o, op)
}
