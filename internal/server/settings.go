// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// A setting is one thing an operator may change while the server runs.
type setting struct {
	fallback string
	check    func(string) error
	help     string
}

var settings = map[string]setting{
	"actions.expiry":          {"72h", duration(time.Minute, 30*24*time.Hour), "how long an order waits for its device, as in 72h"},
	"actions.requireObserved": {"auto", oneOf("auto", "strict", "off"), "auto: ask a connected device whether it has the file; strict: as the record says; off: do not ask"},
	"auth.requireMachineRead": {"false", boolean, "true: StopAndQuarantineFile also needs Machine.Read.All or Machine.ReadWrite.All"},
	"auth.tokenLifetime":      {"1h", duration(time.Minute, 24*time.Hour), "how long an access token is valid"},
	"auth.audiences":          {"", audiences, "further audiences of tokens, separated by blanks"},
	"indicators.limit":        {"15000", number(1, order.MaxRules), "how many indicators there may be"},
	"auth.passwordGrant":      {"false", boolean, "true: applications may send people's passwords (grant_type=password); they see them"},
	"limits.perMinute":        {"100", number(1, 1_000_000), "calls a minute per app and API"},
	"limits.ordersPerHour":    {"0", number(0, 10_000_000), "orders that take files away, an hour, of one app or person; 0: no bound"},
	"limits.devicesPerDay":    {"0", number(0, 10_000_000), "devices that the orders of one app or person may reach in 24 hours; 0: no bound"},
	"limits.perHour":          {"1500", number(1, 10_000_000), "calls an hour per app and API"},
}

func duration(low, high time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d < low || d > high {
			return fmt.Errorf("want a duration from %s to %s, as in 90m", low, high)
		}
		return nil
	}
}

func number(low, high int) func(string) error {
	return func(s string) error {
		if n, err := strconv.Atoi(s); err != nil || n < low || n > high {
			return fmt.Errorf("want a number from %d to %d", low, high)
		}
		return nil
	}
}

func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(words, s) {
			return fmt.Errorf("want one of %s", strings.Join(words, ", "))
		}
		return nil
	}
}

func boolean(s string) error { return oneOf("true", "false")(s) }

func audiences(s string) error {
	if len(s) > 4096 || len(strings.Fields(s)) > 32 {
		return fmt.Errorf("want at most 32 audiences in 4096 characters")
	}
	return nil
}

// settingStore is what Settings needs of the store.
type settingStore interface {
	Setting(ctx context.Context, key string) (string, bool, error)
	SetSetting(ctx context.Context, key, value string, e audit.Entry) error
}

// Settings are the values in force, kept in memory: every request reads some.
type Settings struct {
	store settingStore

	mu     sync.RWMutex
	values map[string]string // only what differs from the fallback; guarded by mu
}

// Load reads all settings from the store again: at the start, after a change,
// and now and then for changes made through another replica.
func (s *Settings) Load(ctx context.Context) error {
	values := map[string]string{}
	for key := range settings {
		v, ok, err := s.store.Setting(ctx, key)
		if err != nil {
			return fmt.Errorf("cannot read settings: %w", err)
		}
		if ok {
			values[key] = v
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values = values
	return nil
}

// Get returns the value in force.
func (s *Settings) Get(_ context.Context, key string) (string, error) {
	if _, ok := settings[key]; !ok {
		return "", unknownSetting(key)
	}
	return s.value(key), nil
}

// Set checks and keeps a value.
func (s *Settings) Set(ctx context.Context, c auth.Caller, key, value string) error {
	def, ok := settings[key]
	if !ok {
		return unknownSetting(key)
	}
	if err := def.check(value); err != nil {
		return api.Errorf(api.InvalidInput, "Setting %s cannot be %q: %v (%s)", key, value, err, def.help)
	}
	e := audit.By(c, audit.ChangeSetting, key, "accepted")
	e.Detail, _ = json.Marshal(value) // a string always encodes
	if err := s.store.SetSetting(ctx, key, value, e); err != nil {
		return err
	}
	return s.Load(ctx)
}

func unknownSetting(key string) error {
	return api.Errorf(api.ResourceNotFound, "Setting %s was not found. There are: %s", key, strings.Join(slices.Sorted(maps.Keys(settings)), ", "))
}

func (s *Settings) value(key string) string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if v, ok := s.values[key]; ok {
		return v
	}
	return settings[key].fallback
}

// The values were checked when they were set, so reading them does not fail;
// one written past us by hand falls back.
func (s *Settings) duration(key string) time.Duration {
	d, err := time.ParseDuration(s.value(key))
	if err != nil {
		d, _ = time.ParseDuration(settings[key].fallback)
	}
	return d
}

func (s *Settings) number(key string) int {
	n, err := strconv.Atoi(s.value(key))
	if err != nil {
		n, _ = strconv.Atoi(settings[key].fallback)
	}
	return n
}
