// SPDX-License-Identifier: Apache-2.0

package action

import (
	"context"
	"fmt"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Reach bounds how much harm the orders of one caller can do: what an app's secret
// is worth to who steals it. A zero number is no bound.
type Reach struct {
	OrdersPerHour int // orders that take files away or destroy them
	DevicesPerDay int // devices that these are for, in 24 hours
}

// Reaching are the types of action that Reach is about. What is put back is not.
func Reaching() []string { return []string{api.StopAndQuarantineFile, api.PurgeFile} }

// Check refuses one more order of a caller who gave so many in the last hour, to so
// many other devices in the last day.
func (r Reach) Check(orders, devices int) error {
	const raise = "An administrator of the server can raise the limit, for this caller if it is an app, or for all."
	switch {
	case r.OrdersPerHour > 0 && orders >= r.OrdersPerHour:
		return api.Errorf(api.DisallowedOperation, "The caller gave %d orders in the last hour, %d are allowed (limits.ordersPerHour). %s", orders, r.OrdersPerHour, raise)
	case r.DevicesPerDay > 0 && devices >= r.DevicesPerDay:
		return api.Errorf(api.DisallowedOperation, "The caller gave orders to %d devices in the last 24 hours, %d are allowed, and this would be another one (limits.devicesPerDay). %s", devices, r.DevicesPerDay, raise)
	}
	return nil
}

// keep keeps a new action, within the caller's reach.
func (s *Service) keep(ctx context.Context, c auth.Caller, a *Action, e audit.Entry) error {
	if s.cfg.Reach == nil || c.Kind != auth.App && c.Kind != auth.User {
		return s.cfg.Store.CreateAction(ctx, a, e)
	}
	reach, err := s.cfg.Reach(ctx, c)
	switch {
	case err != nil:
		return fmt.Errorf("cannot look up the limits of the caller: %w", err)
	case reach == Reach{}:
		return s.cfg.Store.CreateAction(ctx, a, e)
	}
	return s.cfg.Store.CreateActionWithin(ctx, a, e, reach)
}
