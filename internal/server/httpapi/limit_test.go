// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"testing"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/server/auth"
)

func TestRateLimit(t *testing.T) {
	k := newKit(t)
	c, other, ctx := k.soc(), k.soc2("other"), t.Context()
	start := time.Date(2026, 2, 11, 8, 0, 30, 0, time.UTC)
	at := func(d time.Duration) { k.set(func() { k.now = start.Add(d) }) }
	k.set(func() { k.limit = Limit{PerMinute: 3, PerHour: 8} })
	call := func(c *client.Client, want int) { // want: seconds to wait, 0 for an answer
		t.Helper()
		_, err := c.Machines(ctx, client.Query{})
		var e *api.Error
		switch {
		case want == 0 && err != nil:
			t.Errorf("refused: %v", err)
		case want > 0 && (!errors.As(err, &e) || e.Code != api.TooManyRequests || e.RetryAfter != want):
			t.Errorf("have %v, want to wait %d s", err, want)
		}
	}
	at(0)
	for range 3 {
		call(c, 0)
	}
	call(c, 60)
	at(59*time.Second + 1)
	call(c, 1)
	call(other, 0) // another app is not affected
	if _, err := c.MachineActions(ctx, client.Query{}); err != nil {
		t.Errorf("another API is affected: %v", err)
	}
	at(time.Minute)
	for range 3 {
		call(c, 0)
	}
	at(2 * time.Minute)
	call(c, 0)
	call(c, 0)
	call(c, 3480) // the hour is used up
	at(30 * time.Minute)
	call(c, 1800)
	k.set(func() { k.limit.PerHour = 100 }) // settings apply at once
	call(c, 0)
	k.set(func() { k.limit = Limit{} }) // 0 is no limit
	for range 10 {
		call(c, 0)
	}
	at(-24 * time.Hour) // a clock set back shuts nobody out
	k.set(func() { k.limit = Limit{PerMinute: 3, PerHour: 8} })
	call(c, 0)
}

// Calls that are refused for want of permission count too: each costs a record.
func TestRefusedCallsAreCounted(t *testing.T) {
	k := newKit(t)
	k.set(func() { k.limit, k.now = Limit{PerMinute: 2}, time.Now() })
	c := k.app("none", auth.MachineReadAll)
	for i, want := range []api.Code{api.Forbidden, api.Forbidden, api.TooManyRequests} {
		if _, err := c.StopAndQuarantineFile(t.Context(), "x", stop(testSHA1)); api.CodeOf(err) != want {
			t.Errorf("call %d: %v, want %s", i, err, want)
		}
	}
}

func TestClientNetwork(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:443": "192.0.2.1", "[::ffff:192.0.2.1]:443": "192.0.2.1", "[2001:db8:1:2:3::4]:443": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64", "@": "@",
	} {
		if got := clientNetwork(remote); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}
