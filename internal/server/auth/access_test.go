// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"staunch/api"
)

// One group sees the servers, another may act on laptops: who is in both can
// still act on laptops alone.
func TestAccessIsNoUnion(t *testing.T) {
	const watchers, responders = 1, 2
	const servers, laptops, labs = 10, 11, 12
	a := AccessOf([]UserGroup{
		{watchers, []Right{ViewData}},
		{responders, []Right{ActiveRemediation}},
	}, []DeviceGroup{
		{ID: Ungrouped, Open: true},
		{ID: servers, To: []int64{watchers}},
		{ID: laptops, To: []int64{responders}},
		{ID: labs, To: []int64{99}},
	})
	for _, c := range []struct {
		right Right
		group int64
		want  bool
	}{
		{ViewData, servers, true}, {ActiveRemediation, servers, false},
		{ViewData, laptops, true}, {ActiveRemediation, laptops, true}, // any right brings View data
		{ViewData, labs, false}, {ActiveRemediation, labs, false},
		{ViewData, Ungrouped, true}, {ActiveRemediation, Ungrouped, true},
		{AlertsInvestigation, Ungrouped, false},
		{ViewData, 777, false}, // a group made after this was computed is closed
	} {
		if got := a.Can(c.right, c.group); got != c.want {
			t.Errorf("Can(%s, %d) = %v, want %v", c.right, c.group, got, c.want)
		}
	}
	if a.Can(ViewData, Everywhere) {
		t.Error("who reaches some device groups reaches all")
	}
	one := AccessOf([]UserGroup{{watchers, []Right{ViewData}}}, []DeviceGroup{{ID: Ungrouped, Open: true}, {ID: servers, To: []int64{watchers}}})
	if !one.Can(ViewData, Everywhere) || one.Can(ActiveRemediation, Everywhere) {
		t.Error("who reaches each device group does not reach all, or with what they have not")
	}
	if a.Holds(AlertsInvestigation) || !a.Holds(ActiveRemediation) {
		t.Error("Holds is wrong")
	}
	if Access(nil).Can(ViewData, Ungrouped) || Access(nil).Holds(ViewData) {
		t.Error("no access allows something")
	}
}

// Whatever the groups, roles and device groups: Can is what the sentence in the
// contract says, and Groups is Can for lists.
func TestAccessProperties(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var groups []UserGroup
		for range rnd.IntN(4) {
			g := UserGroup{ID: int64(rnd.IntN(4))}
			for _, r := range Rights() {
				if rnd.IntN(4) == 0 {
					g.Rights = append(g.Rights, r)
				}
			}
			groups = append(groups, g)
		}
		devices := []DeviceGroup{{ID: Ungrouped, Open: rnd.IntN(2) == 0}}
		for id := range int64(rnd.IntN(5)) {
			d := DeviceGroup{ID: id + 1, Open: rnd.IntN(3) == 0}
			for range rnd.IntN(3) {
				d.To = append(d.To, int64(rnd.IntN(4)))
			}
			devices = append(devices, d)
		}
		c := Caller{Kind: User, Access: AccessOf(groups, devices)}
		for _, r := range Rights() {
			for _, d := range devices {
				want := slices.ContainsFunc(groups, func(g UserGroup) bool {
					holds := slices.Contains(g.Rights, r) || r == ViewData && len(g.Rights) > 0
					return holds && (d.Open || slices.Contains(d.To, g.ID))
				})
				if got := c.Can(r, d.ID); got != want {
					t.Fatalf("Can(%s, %d) = %v with %+v on %+v", r, d.ID, got, groups, devices)
				}
				if slices.Contains(c.Groups(r), d.ID) != want {
					t.Fatalf("Groups(%s) = %v, Can(%d) = %v", r, c.Groups(r), d.ID, want)
				}
			}
			if c.Groups(r) == nil {
				t.Fatal("a person's list is not limited")
			}
		}
	}
}

func TestOthersAreNotLimited(t *testing.T) {
	for _, k := range []Kind{App, Admin, System} {
		c := Caller{Kind: k}
		if !c.Has(ActiveRemediation) || !c.Can(ActiveRemediation, 7) || c.Groups(ViewData) != nil {
			t.Errorf("a caller of kind %s is limited to device groups", k)
		}
	}
}

func TestAllowRight(t *testing.T) {
	c := Caller{Kind: User, Name: "ana@corp.example", Access: Access{ViewData: {0, 3}, AlertsInvestigation: {3}}}
	for name, got := range map[string]error{
		"The user ana@corp.example does not have any of the required role permissions (Active remediation actions) to access the resource.":                                    AllowRight(c, ActiveRemediation),
		"The user ana@corp.example does not have any of the required role permissions (Alerts investigation, Manage security settings) on this device to access the resource.": AllowOn(c, 0, AlertsInvestigation, ManageSecurity),
	} {
		if api.CodeOf(got) != api.Forbidden || !strings.HasSuffix(got.Error(), name) {
			t.Errorf("%v, want Forbidden: %s", got, name)
		}
	}
	for _, err := range []error{AllowRight(c), AllowRight(c, ActiveRemediation, ViewData), AllowOn(c, 7), AllowOn(c, 3, ManageSecurity, AlertsInvestigation)} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestParseRight(t *testing.T) {
	for in, want := range map[string]Right{
		"Active remediation actions": ActiveRemediation, "active  REMEDIATION actions": ActiveRemediation,
		"Active remediation actions - Security operations": ActiveRemediation, "View data – Security operations": ViewData,
		"Manage security settings in Security Center": ManageSecurity, "Alerts (manage)": AlertsInvestigation, "": "", "root": "",
	} {
		if got, ok := ParseRight(in); got != want || ok != (want != "") {
			t.Errorf("ParseRight(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}
