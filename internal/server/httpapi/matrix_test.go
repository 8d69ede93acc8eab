// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/server/auth"
)

// unlimited is a Limiter that never refuses.
type unlimited struct{}

func (unlimited) Take(context.Context, string, Limit, int) (time.Duration, error) { return 0, nil }

func withoutLimits(c *Config) { c.Limiter = unlimited{} }

// caller is one kind of caller, with what the route table says about it.
type caller struct {
	who   string
	token string
	may   func(r route) bool
}

// callers are all kinds there are: applications and people with each
// permission, people with each right of a role, and with none.
func (k *kit) callers() []caller {
	t := k.t
	signIn := k.signInApp("console", auth.Permissions()...)
	k.person("norole@corp.example", "nobodies")
	k.person("boss@corp.example", "bosses")
	k.role("everything", auth.Rights(), "bosses")
	never := func(route) bool { return false }
	token := func(r route) bool { return r.access.kind == byToken }
	all := []caller{
		{"nobody", "", never}, {"a token that is none", "eyJ.x.y", never}, {"a token without signature", "eyJhbGciOiJub25lIn0.e30.", never},
		{"an app without permission", k.token("without"), never}, {"an app with every permission", k.token("all", auth.Permissions()...), token},
		{"a user without a role", k.personToken(signIn, "norole@corp.example"), never},
		{"a user with every right", k.personToken(signIn, "boss@corp.example"), token},
	}
	for _, p := range auth.Permissions() {
		own := k.signInApp("signs in with "+string(p), p)
		all = append(all,
			caller{"an app with " + string(p), k.token("only "+string(p), p), func(r route) bool { return token(r) && slices.Contains(r.access.app, p) }},
			caller{"a token with " + string(p) + " of a user with every right", k.personToken(own, "boss@corp.example"),
				func(r route) bool { return token(r) && slices.Contains(r.access.delegated, p) }},
			caller{"a token with " + string(p) + " of a user without a role", k.personToken(own, "norole@corp.example"), never})
	}
	for i, right := range auth.Rights() {
		upn := fmt.Sprintf("u%d@corp.example", i)
		k.person(upn, "group of "+string(right))
		k.role("role of "+string(right), []auth.Right{right}, "group of "+string(right))
		// Any right brings View data with it.
		all = append(all, caller{"a user with " + string(right), k.personToken(signIn, upn), func(r route) bool {
			return token(r) && (slices.Contains(r.access.rights, right) || slices.Contains(r.access.rights, auth.ViewData))
		}})
	}
	if len(all) < 7+3*len(auth.Permissions())+len(auth.Rights()) || len(auth.Rights()) == 0 {
		t.Fatal("kinds of caller are missing")
	}
	return all
}

// The authorisation matrix: every route by every kind of caller. What is not
// about permission (a body that is missing, a thing that is not there) is as good as let in.
func TestAuthorisationMatrix(t *testing.T) {
	k := newKit(t, withoutLimits)
	machine := k.enroll("fin-lt-014.corp.example")
	callers := k.callers()
	_, root := k.root()
	outside := k.url
	for _, r := range routes() {
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			if r.pass != nil {
				return // devices prove themselves there by their key: gateway's tests
			}
			for _, c := range callers {
				resp, body := k.raw(r.method, fill(r.path, machine), c.token, "")
				if resp.StatusCode >= 500 {
					t.Fatalf("by %s: %d %s", c.who, resp.StatusCode, body)
				}
				refused := resp.StatusCode == http.StatusForbidden || resp.StatusCode == http.StatusUnauthorized
				if allowed := r.access.kind == open || c.may(r); allowed == refused && r.path != "/v1/enroll" {
					t.Errorf("by %s: %d, allowed is %v: %s", c.who, resp.StatusCode, allowed, body)
				}
			}
			// Who opened the admin socket may do everything, and nothing of it is refused for want of permission.
			k.url = root
			defer func() { k.url = outside }()
			if resp, body := k.raw(r.method, fill(r.path, "nothing-of-that-name"), "", ""); strings.Contains(body, string(api.Unauthorized)) || strings.Contains(body, string(api.Forbidden)) || resp.StatusCode >= 500 {
				t.Errorf("by the administrator: %d %s", resp.StatusCode, body)
			}
		})
	}
}

// A machine in a device group of others is a machine that is not there, for
// every call about a machine and by every right.
func TestMatrixAcrossDeviceGroups(t *testing.T) {
	k := newKit(t, withoutLimits)
	hidden := k.enroll("lab-01.corp.example")
	_, err := k.devices.Tag(t.Context(), admin(), hidden, "lab", true)
	check(t, err)
	c, _ := k.root()
	_, err = c.CreateGroup(t.Context(), api.GroupRequest{Name: "labs"})
	check(t, err)
	_, err = c.CreateDeviceGroup(t.Context(), api.DeviceGroupRequest{Name: "Labs", Rules: []string{"tag=lab"}, Access: []string{"labs"}})
	check(t, err)
	callers := k.callers()
	nowhere := strings.Repeat("0", 40)
	n := 0
	for _, r := range routes() {
		if !strings.HasPrefix(r.path, "/api/machines/{id}") {
			continue
		}
		for _, c := range callers {
			if !strings.HasPrefix(c.who, "a user with") || !c.may(r) {
				continue
			}
			n++
			for _, name := range []string{hidden, "lab-01.corp.example", "lab-01"} {
				_, got := k.raw(r.method, fill(r.path, name), c.token, validBody(r))
				_, want := k.raw(r.method, fill(r.path, nowhere), c.token, validBody(r))
				if sameButName(got, name) != sameButName(want, nowhere) || !strings.Contains(got, "ResourceNotFound") {
					t.Errorf("%s %s by %s outside the device group:\n%s\nof a machine that is not there:\n%s", r.method, r.path, c.who, got, want)
				}
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d pairs of a call and a right", n)
	}
}
