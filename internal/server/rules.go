// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/ed25519"
	"strings"

	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/alert"
	"staunch/internal/server/bus"
	"staunch/internal/server/file"
	"staunch/internal/server/indicator"
)

// rulesEvent tells every replica that a device, or each, may have other rules now.
const rulesEvent = "indicators"

// openRules makes what knows of standing rules, of what devices meet, and of
// the alerts that come of both. It comes after the devices and before the actions.
func (s *Server) openRules(orderKey ed25519.PrivateKey) (err error) {
	s.alerts, err = alert.New(alert.Config{
		Store: s.store, Indicator: s.store.Indicator, Visible: s.devices.Visible, Log: s.cfg.Log,
		MachineName: func(ctx context.Context, id string) (string, error) {
			d, err := s.store.Device(ctx, id)
			return d.Name, err
		},
	})
	if err != nil {
		return err
	}
	if s.files, err = file.New(file.Config{Store: s.store, Met: s.alerts.Met}); err != nil {
		return err
	}
	s.indicators, err = indicator.New(indicator.Config{
		Store: s.store, OrderKey: orderKey, Log: s.cfg.Log,
		GroupOf: func(ctx context.Context, id string) (string, error) {
			d, err := s.store.Device(ctx, id)
			return d.GroupName, err
		},
		Group:   s.deviceGroup,
		Limit:   func() int { return s.settings.number("indicators.limit") },
		Changed: func() { s.bus.Publish(bus.Event{Type: rulesEvent}) },
	})
	return err
}

// deviceGroup finds a device group by its name, in any case.
func (s *Server) deviceGroup(ctx context.Context, name string) (int64, bool, error) {
	groups, err := s.devices.Groups(ctx)
	if err != nil {
		return 0, false, err
	}
	for _, g := range groups {
		if strings.EqualFold(g.Name, name) {
			return g.ID, true, nil
		}
	}
	return 0, false, nil
}

// startRules begins to take expired rules away, and to tell devices of changes.
func (s *Server) startRules(ctx context.Context) error {
	stop, err := s.bus.Subscribe(func(e bus.Event) {
		if e.Type == rulesEvent {
			s.gateway.RulesChanged(e.Device)
		}
	})
	if err != nil {
		return err
	}
	s.onStop("rules' events", func() error { stop(); return nil })
	s.indicators.Start(ctx)
	s.onStop("indicators", func() error { s.indicators.Stop(); return nil })
	return nil
}

// vaults hands what devices say of their vaults on to actions, and to the
// record of files: what lies there was met there.
type vaults struct {
	*action.Service
	files *file.Service
}

// Inventory makes items all that is known of the device's vault.
func (v vaults) Inventory(ctx context.Context, device string, items []order.Item) error {
	if err := v.Service.Inventory(ctx, device, items); err != nil {
		return err
	}
	return v.files.Sealed(ctx, device, items)
}
