// SPDX-License-Identifier: Apache-2.0

package action

import (
	"context"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Cancel gives an action up.
//
// A Pending one is Cancelled at once. Its order may be on the way all the same,
// so a signed cancel order follows it: the device drops the order if it comes
// later, undoes it if the point of no return is not passed, and else finishes
// it; the receipt of that is kept as evidence. An InProgress one stays so until
// the device answers, and the true outcome wins.
func (s *Service) Cancel(ctx context.Context, c auth.Caller, id, comment string) (Action, error) {
	a, err := s.cancel(ctx, c, id, comment)
	if err != nil {
		return Action{}, s.refused(ctx, c, audit.CancelMachineAction, id, err)
	}
	s.ring(a.MachineID)
	s.changed(a)
	return a, nil
}

func (s *Service) cancel(ctx context.Context, c auth.Caller, id, comment string) (Action, error) {
	if err := need(c, actionPermissions()...); err != nil {
		return Action{}, err
	}
	if err := checkText("Comment", comment, MaxComment); err != nil {
		return Action{}, err
	}
	a, err := s.visible(ctx, c, id)
	if err != nil {
		return Action{}, err
	}
	if !s.cfg.Settings.CancelAnyOf() {
		if err := need(c, permissionOf(a.Type)); err != nil {
			return Action{}, err
		}
	}
	if c.Kind == auth.User { // applications are not limited to device groups
		dev, err := s.cfg.Devices.Lookup(ctx, c, a.MachineID)
		if err != nil {
			return Action{}, err
		}
		if err := auth.AllowOn(c, dev.Group, rightOf(a.Type)); err != nil {
			return Action{}, err
		}
	}
	return s.cfg.Store.ChangeAction(ctx, a.ID, func(a *Action) (*audit.Entry, error) {
		return s.giveUp(a, c, comment)
	})
}

// giveUp is the change of a cancel.
func (s *Service) giveUp(a *Action, c auth.Caller, comment string) (*audit.Entry, error) {
	now := s.now()
	switch {
	case api.Final(a.Status):
		return nil, api.Errorf(api.BadRequest, "Machine action %s is %s already and cannot be cancelled", a.ID, a.Status)
	case !now.Before(a.Expires):
		return nil, api.Errorf(api.BadRequest, "Machine action %s is past its date and cannot be cancelled", a.ID)
	}
	e := audit.By(c, audit.CancelMachineAction, a.ID, "accepted")
	e.Detail = detail(map[string]any{"machine": a.MachineID, "comment": comment})
	if len(a.CancelOrder) > 0 { // asked for before: on record, nothing else to do
		return &e, nil
	}
	signed, err := s.sign(order.Order{
		ID: cancelID(a.ID), Device: a.MachineID, Kind: order.Cancel, Issued: now, Expires: a.Expires,
		Target: a.ID, Comment: comment, Requestor: c.Name,
	})
	if err != nil {
		return nil, err
	}
	a.CancelOrder = signed
	a.Acknowledged = false
	a.CancelledBy = Requestor{Kind: c.Kind, ID: c.ID, Name: c.Name}
	a.CancelComment = comment
	a.CancelRequested, a.Updated = now, now
	if a.Status == api.Pending {
		a.Status = api.Cancelled
		a.ErrorHResult = hrAbort
	}
	return &e, nil
}

// permissionOf is the permission that made an action of this type, and so the
// one that cancels it.
func permissionOf(actionType string) auth.Permission {
	switch actionType {
	case "Isolate", "Unisolate":
		return auth.MachineIsolate
	case "RestrictCodeExecution", "UnrestrictCodeExecution":
		return auth.MachineRestrictExecution
	case "RunAntiVirusScan":
		return auth.MachineScan
	case "CollectInvestigationPackage":
		return auth.MachineCollectForensics
	case "Offboard":
		return auth.MachineOffboard
	case "LiveResponse":
		return auth.MachineLiveResponse
	}
	return auth.MachineStopAndQuarantine
}

// rightOf is the right of a person that goes with it.
func rightOf(actionType string) auth.Right {
	switch actionType {
	case "CollectInvestigationPackage":
		return auth.AlertsInvestigation
	case "Offboard":
		return auth.ManageSecurity
	case "LiveResponse":
		return auth.LiveResponseBasic
	}
	return auth.ActiveRemediation
}

func actionPermissions() []auth.Permission {
	return []auth.Permission{
		auth.MachineCollectForensics, auth.MachineIsolate, auth.MachineRestrictExecution, auth.MachineScan,
		auth.MachineOffboard, auth.MachineStopAndQuarantine, auth.MachineLiveResponse,
	}
}
