// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/alert"
	"staunch/internal/server/file"
	"staunch/internal/server/indicator"
	"staunch/internal/server/store"
)

// withRules gives the handler its standing rules, files and alerts, of real parts.
func (k *kit) withRules(cfg *Config, key ed25519.PrivateKey) {
	var err error
	k.alerts, err = alert.New(alert.Config{
		Store: k.store, Indicator: k.store.Indicator, Visible: k.devices.Visible, Now: k.clock,
		MachineName: func(ctx context.Context, id string) (string, error) {
			d, err := k.store.Device(ctx, id)
			return d.Name, err
		},
	})
	check(k.t, err)
	k.files, err = file.New(file.Config{Store: k.store, Met: k.alerts.Met, Now: k.clock})
	check(k.t, err)
	k.indicators, err = indicator.New(indicator.Config{
		Store: k.store, OrderKey: key, Now: k.clock,
		Limit: func() int { k.mu.Lock(); defer k.mu.Unlock(); return cmp.Or(k.most, 15_000) },
		GroupOf: func(ctx context.Context, id string) (string, error) {
			d, err := k.store.Device(ctx, id)
			return d.GroupName, err
		},
		Group: func(ctx context.Context, name string) (int64, bool, error) {
			groups, err := k.devices.Groups(ctx)
			for _, g := range groups {
				if strings.EqualFold(g.Name, name) {
					return g.ID, true, nil
				}
			}
			return 0, false, err
		},
	})
	check(k.t, err)
	cfg.Indicators, cfg.Files, cfg.Alerts = k.indicators, k.files, k.alerts
	cfg.IndicatorFields, cfg.AlertFields = store.IndicatorFields(), store.AlertFields()
}

// met reports a sighting as its device would.
func (k *kit) met(device, sha1, what, rule, path string) {
	k.t.Helper()
	h, err := filehash.Parse(sha1)
	check(k.t, err)
	check(k.t, k.files.Met(k.t.Context(), device, []order.Sighting{{
		SHA1: h.SHA1, SHA256: filehash.SHA256(append(h.SHA1[:], make([]byte, 12)...)), Size: 42, Path: order.TextOf(path), Seen: k.clock(), What: what, Blocked: rule,
	}}))
}

// at sets the kit's clock.
func (k *kit) at(t testing.TB, value string) time.Time {
	t.Helper()
	now, err := time.Parse(time.RFC3339, value)
	check(t, err)
	k.set(func() { k.now = now })
	return now
}
