// SPDX-License-Identifier: Apache-2.0

package action_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
)

// What is beyond a caller's reach is refused and on record; the administrator has
// no bound.
func TestReach(t *testing.T) {
	k := newKit(t, func(c *action.Config) {
		c.Reach = func(_ context.Context, c auth.Caller) (action.Reach, error) {
			if c.ID != soc.ID {
				t.Errorf("asked for the reach of %s", c.ID)
			}
			return action.Reach{DevicesPerDay: 1}, nil
		}
	})
	req := action.StopRequest{Comment: "c", File: filehash.Hash{SHA1: filehash.SHA1{1}}}
	if _, err := k.StopAndQuarantine(t.Context(), soc, dev1, req); err != nil {
		t.Fatal(err)
	}
	_, err := k.StopAndQuarantine(t.Context(), soc, dev2, req)
	if api.CodeOf(err) != api.DisallowedOperation || !strings.Contains(err.Error(), "orders to 1 devices in the last 24 hours, 1 are allowed") {
		t.Errorf("second device: %v", err)
	}
	if n := len(k.store.refused); n != 1 || k.store.refused[0].Outcome != "refused: DisallowedOperation" || k.store.refused[0].ActorID != soc.ID {
		t.Errorf("on record: %+v", k.store.refused)
	}
	admin := auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"}
	if _, err := k.StopAndQuarantine(t.Context(), admin, dev2, req); err != nil {
		t.Errorf("the administrator: %v", err)
	}
}

// Force is a permission of its own, and of a person a right of its own, on that device.
func TestForce(t *testing.T) {
	k := newKit(t)
	req := action.StopRequest{Comment: "c", Force: true}
	permissions := []auth.Permission{auth.MachineStopAndQuarantine, auth.MachineForce}
	person := func(a auth.Access) auth.Caller {
		return auth.Caller{Kind: auth.User, ID: "ana@x", Name: "ana@x", AppID: "a", Permissions: permissions, Access: a}
	}
	all := []int64{0}
	for name, c := range map[string]struct {
		caller auth.Caller
		ok     bool
	}{
		"app with it":              {auth.Caller{Kind: auth.App, ID: "f", Name: "f", Permissions: permissions}, true},
		"app without":              {soc, false},
		"person with right":        {person(auth.Access{auth.ViewData: all, auth.ActiveRemediation: all, auth.ManageSecurity: all}), true},
		"person without right":     {person(auth.Access{auth.ViewData: all, auth.ActiveRemediation: all}), false},
		"person, on other devices": {person(auth.Access{auth.ViewData: all, auth.ActiveRemediation: all, auth.ManageSecurity: {7}}), false},
	} {
		t.Run(name, func(t *testing.T) {
			req.File.SHA1[0]++
			a, err := k.StopAndQuarantine(t.Context(), c.caller, dev1, req)
			if !c.ok {
				if api.CodeOf(err) != api.Forbidden {
					t.Errorf("%v, want Forbidden", err)
				}
				return
			}
			var env order.Envelope
			if err != nil || json.Unmarshal(a.Order, &env) != nil || !strings.Contains(string(env.Payload), `"force":true`) {
				t.Errorf("%v: order %s", err, env.Payload)
			}
		})
	}
}
