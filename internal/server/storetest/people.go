// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/odata"
	"staunch/internal/server/people"
)

func newUser(t testing.TB, s Store, upn string) people.User {
	t.Helper()
	u := people.User{ID: newGUID(), UPN: upn, Password: "$argon2id$x", Created: start, Since: start, Groups: []string{}}
	must(t, s.CreateUser(t.Context(), u, Entry(audit.CreateUser, upn)))
	return u
}

func newGroup(t testing.TB, s Store, name string, members ...string) {
	t.Helper()
	must(t, s.CreateGroup(t.Context(), people.Group{Name: name}, Entry(audit.CreateGroup, name)))
	for _, m := range members {
		must(t, s.SetMember(t.Context(), name, m, true, Entry(audit.ChangeGroup, name)))
	}
}

func newRole(t testing.TB, s Store, name string, rights []auth.Right, groups ...string) {
	t.Helper()
	must(t, s.CreateRole(t.Context(), name, rights, Entry(audit.CreateRole, name)))
	for _, g := range groups {
		must(t, s.SetRole(t.Context(), name, g, true, Entry(audit.AssignRole, name)))
	}
}

// deviceGroup makes a device group of the rules, below all others.
func deviceGroup(t testing.TB, s Store, name string, rules ...string) device.Group {
	t.Helper()
	g := device.Group{Name: name}
	for _, text := range rules {
		r, err := device.ParseRule(text)
		must(t, err)
		g.Rules = append(g.Rules, r)
	}
	must(t, s.CreateDeviceGroup(t.Context(), &g, Entry(audit.CreateDeviceGroup, name)))
	return g
}

// limit gives a device group to user groups alone.
func limit(t testing.TB, s Store, name string, groups ...string) {
	t.Helper()
	_, err := s.ChangeDeviceGroup(t.Context(), name, Entry(audit.ChangeDeviceGroup, name), func(g *device.Group) error { g.Access = groups; return nil })
	must(t, err)
}

// access is what a user may do, as the server computes it.
func access(t testing.TB, s Store, id string) auth.Access {
	t.Helper()
	groups, deviceGroups, err := s.Access(t.Context(), id, "", nil)
	must(t, err)
	return auth.AccessOf(groups, deviceGroups)
}

// Tries are counted over all replicas, and forgotten when there are none.
func testTries(t *testing.T, h *Harness, s Store) {
	names := []string{"192.0.2.1 ana", "192.0.2.1"}
	read := func(s Store) (kept []people.Tries) {
		must(t, s.ChangeTries(t.Context(), names, func(t []people.Tries) { kept = slices.Clone(t) }))
		return kept
	}
	stores := []Store{s}
	if h.Replicas {
		other := h.Open(t)
		t.Cleanup(func() { must(t, other.Close()) })
		stores = append(stores, other)
	}
	now := time.Now()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := stores[i%len(stores)].ChangeTries(t.Context(), names, func(t []people.Tries) {
				t[0].Wrong, t[0].Last, t[0].Until = t[0].Wrong+1, now, now.Add(time.Minute)
				t[1].Wrong, t[1].Last = t[1].Wrong+1, now
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	at := audit.Instant(now)
	want := []people.Tries{{Wrong: 20, Until: at.Add(time.Minute), Last: at}, {Wrong: 20, Last: at}}
	for _, s := range stores {
		if diff := cmp.Diff(want, read(s)); diff != "" {
			t.Errorf("tries (-want +got):\n%s", diff)
		}
	}
	must(t, s.ChangeTries(t.Context(), names, func(t []people.Tries) { t[0], t[1].Last = people.Tries{}, now.Add(-2*people.ForgetTries) }))
	must(t, s.ChangeTries(t.Context(), []string{"other"}, func([]people.Tries) {})) // sweeps
	if diff := cmp.Diff(make([]people.Tries, 2), read(s)); diff != "" {
		t.Errorf("tries that are over (-want +got):\n%s", diff)
	}
	wantCode(t, s.ChangeTries(t.Context(), []string{"a\x00"}, func([]people.Tries) {}), api.InvalidInput, "")
}

// What is tied to an issuer outside is found by that alone.
func testOutside(t *testing.T, _ *Harness, s Store) {
	const idp, other = "https://idp.example/corp", "https://idp.example/other"
	u := people.User{ID: newGUID(), UPN: "eva@corp.example", Issuer: idp, Subject: "s1", Created: start, Since: start}
	must(t, s.CreateUser(t.Context(), u, Entry(audit.CreateUser, u.UPN)))
	newUser(t, s, "ana@corp.example") // no issuer, no subject: any number of them
	newUser(t, s, "bob@corp.example")
	got, err := s.UserOf(t.Context(), idp, "s1")
	must(t, err)
	if got.ID != u.ID || got.Issuer != idp || got.Subject != "s1" {
		t.Errorf("user of the issuer: %+v", got)
	}
	for _, k := range [][2]string{{other, "s1"}, {idp, "s2"}, {"", ""}, {idp, ""}, {"", "s1"}, {idp, "\x00"}} {
		_, err := s.UserOf(t.Context(), k[0], k[1])
		wantCode(t, err, api.ResourceNotFound, "")
	}
	twin := u
	twin.ID, twin.UPN = newGUID(), "eva2@corp.example"
	wantCode(t, s.CreateUser(t.Context(), twin, Entry(audit.CreateUser, twin.UPN)), api.InvalidInput, "tied to that subject")
	twin.Issuer = other
	must(t, s.CreateUser(t.Context(), twin, Entry(audit.CreateUser, twin.UPN)))

	for _, g := range []people.Group{{Name: "soc", Issuer: idp, External: "g1"}, {Name: "ops", Issuer: idp, External: "g2"}, {Name: "plain"}, {Name: "elsewhere", Issuer: other, External: "g1"}} {
		must(t, s.CreateGroup(t.Context(), g, Entry(audit.CreateGroup, g.Name)))
	}
	wantCode(t, s.CreateGroup(t.Context(), people.Group{Name: "soc 2", Issuer: idp, External: "g1"}, Entry(audit.CreateGroup, "")), api.InvalidInput, "stands for that group")
	newRole(t, s, "act", []auth.Right{auth.ActiveRemediation}, "soc", "elsewhere", "plain")
	newRole(t, s, "see", []auth.Right{auth.ViewData}, "ops")
	for _, c := range []struct {
		issuer string
		groups []string
		want   []auth.Right
	}{
		{idp, []string{"g1"}, []auth.Right{auth.ActiveRemediation, auth.ViewData}},
		{idp, []string{"g2", "g9"}, []auth.Right{auth.ViewData}},
		{idp, nil, nil},
		{"", []string{"g1", ""}, nil},
		{"https://idp.example", []string{"g1"}, nil},
	} {
		groups, deviceGroups, err := s.Access(t.Context(), "", c.issuer, c.groups)
		must(t, err)
		if got := slices.Sorted(maps.Keys(auth.AccessOf(groups, deviceGroups))); !slices.Equal(got, c.want) {
			t.Errorf("%s, %v: %v, want %v", c.issuer, c.groups, got, c.want)
		}
	}
	all, err := s.Groups(t.Context())
	must(t, err)
	if all[0].Name != "elsewhere" || all[0].Issuer != other || all[0].External != "g1" || all[2].Issuer != "" {
		t.Errorf("groups: %+v", all)
	}
}

func testUsers(t *testing.T, _ *Harness, s Store) {
	u := newUser(t, s, "ana@corp.example")
	u.Name, u.TOTP, u.Step, u.Disabled, u.Since = "Ana", []byte{1, 2}, 7, true, u.Since.Add(1)
	n := len(entries(t, s))
	e := Entry(audit.ChangeUser, u.UPN)
	_, err := s.ChangeUser(t.Context(), "ANA@corp.example", func(kept *people.User) (*audit.Entry, error) {
		u.Groups = kept.Groups
		*kept = u
		return &e, nil
	})
	must(t, err)
	u.Since, u.Groups = audit.Instant(u.Since), []string{}
	for _, id := range []string{u.ID, u.UPN, strings.ToUpper(u.ID), "Ana@Corp.Example"} {
		got, err := s.User(t.Context(), id)
		must(t, err)
		if diff := cmp.Diff(u, got); diff != "" {
			t.Errorf("user %q (-want +got):\n%s", id, diff)
		}
	}
	_, err = s.ChangeUser(t.Context(), u.ID, func(kept *people.User) (*audit.Entry, error) {
		kept.Name = "x"
		return &e, api.Errorf(api.BadRequest, "no")
	})
	wantCode(t, err, api.BadRequest, "no")
	_, err = s.ChangeUser(t.Context(), u.ID, func(kept *people.User) (*audit.Entry, error) { kept.UPN = "x@y"; return nil, nil })
	wantText(t, err, "are fixed")
	if got := len(entries(t, s)); got != n+1 {
		t.Errorf("%d new audit entries, want 1", got-n)
	}
	v := u
	v.ID = newGUID()
	wantCode(t, s.CreateUser(t.Context(), v, Entry(audit.CreateUser, v.UPN)), api.InvalidInput, "exists already")

	b := newUser(t, s, "bob@corp.example")
	newGroup(t, s, "Tier 2", u.UPN, b.UPN)
	newGroup(t, s, "tier 1", b.ID)
	all, err := s.Users(t.Context())
	must(t, err)
	if len(all) != 2 || all[1].ID != b.ID || !slices.Equal(all[1].Groups, []string{"tier 1", "Tier 2"}) || !slices.Equal(all[0].Groups, []string{"Tier 2"}) {
		t.Errorf("users: %+v", all)
	}
	must(t, s.DeleteUser(t.Context(), b.UPN, Entry(audit.DeleteUser, b.UPN)))
	for _, id := range []string{b.ID, b.UPN, "", "\x00", "\xff"} {
		_, err = s.User(t.Context(), id)
		wantCode(t, err, api.ResourceNotFound, "was not found")
		wantCode(t, s.DeleteUser(t.Context(), id, Entry(audit.DeleteUser, id)), api.ResourceNotFound)
	}
}

func testGroups(t *testing.T, _ *Harness, s Store) {
	a, b := newUser(t, s, "a@x"), newUser(t, s, "b@x")
	newGroup(t, s, "Responders", b.UPN, a.UPN, a.UPN)
	wantCode(t, s.CreateGroup(t.Context(), people.Group{Name: "responders"}, Entry(audit.CreateGroup, "")), api.InvalidInput, "exists already")
	wantCode(t, s.SetMember(t.Context(), "nobody", a.UPN, true, Entry(audit.ChangeGroup, "")), api.ResourceNotFound, "Group", "nobody")
	wantCode(t, s.SetMember(t.Context(), "Responders", "c@x", true, Entry(audit.ChangeGroup, "")), api.ResourceNotFound, "User", "c@x")
	groups, err := s.Groups(t.Context())
	must(t, err)
	if len(groups) != 1 || !slices.Equal(groups[0].Members, []string{"a@x", "b@x"}) || groups[0].ID == 0 {
		t.Errorf("groups: %+v", groups)
	}
	must(t, s.SetMember(t.Context(), "RESPONDERS", b.UPN, false, Entry(audit.ChangeGroup, "")))
	must(t, s.SetMember(t.Context(), "RESPONDERS", b.UPN, false, Entry(audit.ChangeGroup, "")))
	if groups, err = s.Groups(t.Context()); err != nil || !slices.Equal(groups[0].Members, []string{"a@x"}) {
		t.Errorf("groups: %+v, %v", groups, err)
	}

	// Without its only group a device group would be open to everybody.
	deviceGroup(t, s, "Servers", "tag=server")
	limit(t, s, "servers", "Responders")
	wantCode(t, s.DeleteGroup(t.Context(), "Responders", Entry(audit.DeleteGroup, "")), api.InvalidInput, "would be open to everybody")
	limit(t, s, "servers")
	must(t, s.DeleteGroup(t.Context(), "Responders", Entry(audit.DeleteGroup, "")))
	if u, err := s.User(t.Context(), a.ID); err != nil || len(u.Groups) != 0 {
		t.Errorf("user: %+v, %v", u, err)
	}
}

func testRoles(t *testing.T, _ *Harness, s Store) {
	a, b := newUser(t, s, "a@x"), newUser(t, s, "b@x")
	newGroup(t, s, "watchers", a.UPN, b.UPN)
	newGroup(t, s, "responders", a.UPN)
	newRole(t, s, "Watch", []auth.Right{auth.ViewData}, "watchers")
	newRole(t, s, "Respond", []auth.Right{auth.ViewData, auth.ActiveRemediation}, "RESPONDERS", "responders")
	wantCode(t, s.CreateRole(t.Context(), "WATCH", nil, Entry(audit.CreateRole, "")), api.InvalidInput, "exists already")
	wantCode(t, s.SetRole(t.Context(), "no", "watchers", true, Entry(audit.AssignRole, "")), api.ResourceNotFound, "Role")
	wantCode(t, s.SetRole(t.Context(), "Watch", "no", true, Entry(audit.AssignRole, "")), api.ResourceNotFound, "Group")
	roles, err := s.Roles(t.Context())
	must(t, err)
	if len(roles) != 2 || roles[0].Name != "Respond" || !slices.Equal(roles[0].Groups, []string{"responders"}) || !slices.Equal(roles[1].Rights, []auth.Right{auth.ViewData}) {
		t.Errorf("roles: %+v", roles)
	}

	servers, laptops := deviceGroup(t, s, "servers", "tag=server"), deviceGroup(t, s, "laptops", "tag=laptop")
	limit(t, s, "servers", "watchers")
	limit(t, s, "laptops", "responders")
	limit(t, s, device.UngroupedName, "watchers")
	want := auth.Access{auth.ViewData: {auth.Ungrouped, servers.ID, laptops.ID}, auth.ActiveRemediation: {laptops.ID}}
	if diff := cmp.Diff(want, access(t, s, a.ID)); diff != "" {
		t.Errorf("access of a (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(auth.Access{auth.ViewData: {auth.Ungrouped, servers.ID}}, access(t, s, b.ID)); diff != "" {
		t.Errorf("access of b (-want +got):\n%s", diff)
	}
	must(t, s.SetRole(t.Context(), "watch", "watchers", false, Entry(audit.AssignRole, "")))
	must(t, s.DeleteRole(t.Context(), "respond", Entry(audit.DeleteRole, "")))
	if got := access(t, s, a.ID); len(got) != 0 {
		t.Errorf("access without a role: %v", got)
	}
}

func testDeviceGroups(t *testing.T, _ *Harness, s Store) {
	named := func(name string, tags ...string) *device.Device { return enroll(t, s, NewDevice(name), tags...) }
	in := func(want string, devices ...*device.Device) {
		t.Helper()
		for _, d := range devices {
			got, err := s.Device(t.Context(), d.ID)
			must(t, err)
			if got.GroupName != want || (got.GroupID == auth.Ungrouped) != (want == "") {
				t.Errorf("%s is in %q (%d), want %q", d.Name, got.GroupName, got.GroupID, want)
			}
		}
	}
	early := named("fin-01.corp.example", "finance")
	if early.GroupID != auth.Ungrouped {
		t.Errorf("group %d before there is one", early.GroupID)
	}
	deviceGroup(t, s, "Finance", "tag=Finance", "tag=accounts", "domain=corp.*", "os=deb*")
	in("Finance", early)
	late := named("fin-02.corp.example", "accounts")
	if late.GroupName != "Finance" {
		t.Errorf("the enrolled device does not know its group: %+v", late)
	}
	elsewhere := named("fin-03.lab.example", "finance")
	in("", elsewhere)

	// A change of tags or of the name moves it; a change of the group is not a device's.
	_, err := s.ChangeDevice(t.Context(), elsewhere.ID, func(d *device.Device) (*audit.Entry, error) {
		d.Name, d.GroupName, d.GroupID = "fin-03.corp.example", "Admins", 77
		return nil, nil
	})
	must(t, err)
	in("Finance", elsewhere)
	_, err = s.ChangeDevice(t.Context(), early.ID, func(d *device.Device) (*audit.Entry, error) { d.Tags = nil; return nil, nil })
	must(t, err)
	in("", early)

	// Rank decides; a rank that is taken is made room for.
	all := device.Group{Name: "All", Rank: 1, Rules: []device.Rule{{Kind: device.ByName, Pattern: "*"}}}
	must(t, s.CreateDeviceGroup(t.Context(), &all, Entry(audit.CreateDeviceGroup, "All")))
	in("All", early, late, elsewhere)
	_, err = s.ChangeDeviceGroup(t.Context(), "finance", Entry(audit.ChangeDeviceGroup, ""), func(g *device.Group) error { g.Rank = 1; return nil })
	must(t, err)
	in("Finance", late, elsewhere)
	in("All", early)
	groups, err := s.DeviceGroups(t.Context())
	must(t, err)
	var order []string
	for _, g := range groups {
		order = append(order, fmt.Sprint(g.Name, g.Rank))
	}
	if diff := cmp.Diff([]string{"Finance1", "All2", device.UngroupedName + "0"}, order); diff != "" {
		t.Errorf("groups by rank (-want +got):\n%s", diff)
	}

	wantCode(t, s.CreateDeviceGroup(t.Context(), &device.Group{Name: "FINANCE"}, Entry(audit.CreateDeviceGroup, "")), api.InvalidInput, "exists already")
	wantCode(t, s.CreateDeviceGroup(t.Context(), &device.Group{Name: "x", Access: []string{"nobody"}}, Entry(audit.CreateDeviceGroup, "")), api.ResourceNotFound, "Group", "nobody")
	wantCode(t, s.DeleteDeviceGroup(t.Context(), device.UngroupedName, Entry(audit.DeleteDeviceGroup, "")), api.InvalidInput, "no group")
	wantCode(t, s.DeleteDeviceGroup(t.Context(), "x", Entry(audit.DeleteDeviceGroup, "")), api.ResourceNotFound, "Device group")
	must(t, s.DeleteDeviceGroup(t.Context(), "Finance", Entry(audit.DeleteDeviceGroup, "")))
	in("All", early, late, elsewhere)
	must(t, s.DeleteDeviceGroup(t.Context(), "all", Entry(audit.DeleteDeviceGroup, "")))
	in("", early, late, elsewhere)
}

// testDeviceGroupsRace changes devices and groups at once: whoever comes last, no
// device is left in a group that does not match it.
func testDeviceGroupsRace(t *testing.T, _ *Harness, s Store) {
	devices := []*device.Device{}
	for i := range 8 {
		devices = append(devices, enroll(t, s, NewDevice(fmt.Sprint("host", i))))
	}
	var group sync.WaitGroup
	for i, d := range devices {
		group.Go(func() {
			for range 5 {
				_, err := s.ChangeDevice(t.Context(), d.ID, func(d *device.Device) (*audit.Entry, error) {
					if len(d.Tags) == 0 {
						d.Tags = []string{fmt.Sprint("t", i%3)}
					} else {
						d.Tags = nil
					}
					return nil, nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range 3 {
		group.Go(func() {
			g := device.Group{Name: fmt.Sprint("g", i), Rank: 1, Rules: []device.Rule{{Kind: device.ByTag, Pattern: fmt.Sprint("t", i)}, {Kind: device.ByName, Pattern: "*"}}}
			if err := s.CreateDeviceGroup(t.Context(), &g, Entry(audit.CreateDeviceGroup, g.Name)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	groups, err := s.DeviceGroups(t.Context())
	must(t, err)
	for _, d := range devices {
		got, err := s.Device(t.Context(), d.ID)
		must(t, err)
		want := got
		want.Assign(groups)
		if got.GroupID != want.GroupID || got.GroupName != want.GroupName || got.GroupID == auth.Ungrouped {
			t.Errorf("device with tags %v is in %q, want %q", got.Tags, got.GroupName, want.GroupName)
		}
	}
}

// testReach holds the lists against the decision on each single row, for people
// of random groups, roles and device groups.
func testReach(t *testing.T, h *Harness, s Store) {
	rnd := rand.New(rand.NewPCG(3, 4))
	users := []people.User{}
	for i := range 4 {
		users = append(users, newUser(t, s, fmt.Sprintf("u%d@x", i)))
	}
	for i := range 4 {
		newGroup(t, s, fmt.Sprint("g", i))
		for _, u := range users {
			if rnd.IntN(2) == 0 {
				must(t, s.SetMember(t.Context(), fmt.Sprint("g", i), u.ID, true, Entry(audit.ChangeGroup, "")))
			}
		}
		deviceGroup(t, s, fmt.Sprint("d", i), fmt.Sprint("tag=t", i))
	}
	newRole(t, s, "r0", []auth.Right{auth.ViewData}, "g0", "g1")
	newRole(t, s, "r1", []auth.Right{auth.ActiveRemediation}, "g1", "g2")
	limit(t, s, "d0", "g0")
	limit(t, s, "d1", "g1", "g3")
	limit(t, s, "d2", "g2")
	limit(t, s, device.UngroupedName, "g2")
	for i := range 15 {
		tags := []string{}
		if i%5 > 0 {
			tags = append(tags, fmt.Sprint("t", i%5-1))
		}
		d := enroll(t, s, NewDevice(fmt.Sprint("host", i)), tags...)
		create(t, s, NewAction(d.ID))
		it := NewItem(start)
		must(t, s.PutItems(t.Context(), d.ID, []order.Item{it}, true))
	}
	all, _, err := s.Devices(t.Context(), query(t, nil))
	must(t, err)
	for _, u := range users {
		c := auth.Caller{Kind: auth.User, Access: access(t, s, u.ID)}
		for _, r := range []auth.Right{auth.ViewData, auth.ActiveRemediation, auth.AlertsInvestigation} {
			want := []string{}
			for _, d := range all {
				in, err := s.DeviceIn(t.Context(), d.ID, c.Groups(r))
				must(t, err)
				if in != c.Can(r, d.GroupID) {
					t.Errorf("DeviceIn and Can disagree about group %d", d.GroupID)
				}
				if in {
					want = append(want, d.ID)
				}
			}
			sort.Strings(want)
			for what, got := range listed(t, h, s, c.Groups(r)) {
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s by %s, right %s (-want +got):\n%s", what, u.UPN, r, diff)
				}
			}
		}
	}
}

// listed are the devices that each list, limited to the groups, is about.
func listed(t *testing.T, h *Harness, s Store, groups []int64) map[string][]string {
	t.Helper()
	lists := map[string][]string{"devices": {}, "actions": {}, "items": {}, "filtered devices": {}}
	q := query(t, nil, "$count", "true")
	q.Groups = groups
	add := func(what, id string) { lists[what] = append(lists[what], id) }
	devices, count, err := s.Devices(t.Context(), q)
	must(t, err)
	for _, d := range devices {
		add("devices", d.ID)
	}
	if int(count) != len(devices) {
		t.Errorf("count %d of %d devices", count, len(devices))
	}
	filtered := query(t, h.DeviceFields(start), "$filter", "computerDnsName eq 'nobody' or startswith(computerDnsName,'host')")
	filtered.Groups = groups
	devices, _, err = s.Devices(t.Context(), filtered)
	must(t, err)
	for _, d := range devices {
		add("filtered devices", d.ID)
	}
	actions, count, err := s.Actions(t.Context(), odata.Query{Groups: groups, Top: 100, Count: true})
	must(t, err)
	for _, a := range actions {
		add("actions", a.MachineID)
	}
	if int(count) != len(actions) {
		t.Errorf("count %d of %d actions", count, len(actions))
	}
	for after := ""; ; {
		items, next, err := s.Items(t.Context(), action.ItemFilter{Groups: groups, Limit: 2, After: after})
		must(t, err)
		for _, it := range items {
			add("items", it.MachineID)
		}
		if after = next; after == "" {
			break
		}
	}
	for _, l := range lists {
		sort.Strings(l)
	}
	return lists
}
