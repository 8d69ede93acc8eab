// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/issuer"
	"staunch/internal/server/odata"
)

func testEnroll(t *testing.T, _ *Harness, s Store) {
	tok := device.Token{ID: "tok", Secret: [32]byte{1}, Uses: 2, Expires: time.Now().Add(time.Hour), Tags: []string{"finance", "laptop"}}
	must(t, s.CreateToken(t.Context(), tok, Entry(audit.CreateEnrollmentToken, tok.ID)))
	wantText(t, s.CreateToken(t.Context(), tok, Entry(audit.CreateEnrollmentToken, tok.ID)), "is in use")

	d := NewDevice("host.example")
	d.FirstSeen = d.FirstSeen.Add(7) // ns: finer than is kept
	d.Revoked = time.Time{}
	must(t, s.Enroll(t.Context(), tok.Secret, d, Entry(audit.EnrollDevice, d.ID)))
	if diff := cmp.Diff(tok.Tags, d.Tags); diff != "" || d.Seq == 0 {
		t.Errorf("Seq %d; tags (-token +device):\n%s", d.Seq, diff)
	}
	got, err := s.Device(t.Context(), d.ID)
	must(t, err)
	if diff := cmp.Diff(*d, got); diff != "" {
		t.Errorf("what the caller holds and what is read differ (-held +read):\n%s", diff)
	}

	// A failed enrollment gives its use back.
	wantText(t, s.Enroll(t.Context(), tok.Secret, d, Entry(audit.EnrollDevice, d.ID)), "its id is in use")
	must(t, s.Enroll(t.Context(), tok.Secret, NewDevice("b"), Entry(audit.EnrollDevice, "b")))
	refused := func(secret [32]byte) {
		t.Helper()
		err := s.Enroll(t.Context(), secret, NewDevice("c"), Entry(audit.EnrollDevice, "c"))
		wantCode(t, err, api.Forbidden, "not known, used up or past its date", "enroll-token create")
	}
	refused(tok.Secret) // used up
	refused([32]byte{2})
	old := device.Token{ID: "old", Secret: [32]byte{3}, Uses: 5, Expires: time.Now().Add(-time.Second)}
	must(t, s.CreateToken(t.Context(), old, Entry(audit.CreateEnrollmentToken, old.ID)))
	refused(old.Secret)
	if n := len(entries(t, s)); n != 4 {
		t.Errorf("%d audit entries, want two tokens and two devices", n)
	}
}

func testEnrollRace(t *testing.T, _ *Harness, s Store) {
	tok := device.Token{ID: "tok", Secret: [32]byte{1}, Uses: 7, Expires: time.Now().Add(time.Hour)}
	must(t, s.CreateToken(t.Context(), tok, Entry(audit.CreateEnrollmentToken, tok.ID)))
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			err := s.Enroll(t.Context(), tok.Secret, NewDevice(fmt.Sprint("host", i)), Entry(audit.EnrollDevice, "d"))
			if code := api.CodeOf(err); code != "" && code != api.Forbidden {
				t.Errorf("Enroll: %v", err)
			}
		})
	}
	group.Wait()
	all, _, err := s.Devices(t.Context(), query(t, nil))
	must(t, err)
	if len(all) != 7 {
		t.Errorf("%d devices by a token of 7 uses", len(all))
	}
}

func testDeviceChange(t *testing.T, _ *Harness, s Store) {
	d := enroll(t, s, NewDevice("host.example"), "a", "b")
	n := len(entries(t, s))
	got, err := s.ChangeDevice(t.Context(), d.ID, func(d *device.Device) (*audit.Entry, error) {
		d.Tags = append(d.Tags[:1], "c")
		d.Name, d.LastSeen, d.LastIP, d.Value, d.GroupID, d.GroupName = "new.example", start.Add(time.Hour), "::1", "High", 7, "Finance" // the group is not for the caller to say
		d.Facts.Kernel, d.Facts.Hostname = "6.1", "nul\x00 and \xff"                                                                     // facts are JSON: it has a way to say so
		d.Revoked = start.Add(time.Minute)
		return nil, nil
	})
	must(t, err)
	read, err := s.Device(t.Context(), d.ID)
	must(t, err)
	got.Facts.Hostname = strings.ToValidUTF8(got.Facts.Hostname, "\uFFFD")
	if diff := cmp.Diff(got, read); diff != "" {
		t.Errorf("what was returned and what is read differ (-returned +read):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"a", "c"}, read.Tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	e := Entry(audit.RevokeDevice, d.ID)
	_, err = s.ChangeDevice(t.Context(), d.ID, func(d *device.Device) (*audit.Entry, error) {
		d.Value = "Low"
		return &e, api.Errorf(api.BadRequest, "no")
	})
	wantCode(t, err, api.BadRequest, "no")
	if again, err := s.Device(t.Context(), d.ID); err != nil || again.Value != "High" {
		t.Errorf("something was kept: %v, %v", again, err)
	}
	_, err = s.ChangeDevice(t.Context(), d.ID, func(d *device.Device) (*audit.Entry, error) { d.ID = "x"; return nil, nil })
	wantText(t, err, "are fixed")
	_, err = s.ChangeDevice(t.Context(), "nobody", func(*device.Device) (*audit.Entry, error) { t.Error("called"); return nil, nil })
	wantCode(t, err, api.ResourceNotFound, "was not found")
	_, err = s.ChangeDevice(t.Context(), d.ID, func(*device.Device) (*audit.Entry, error) { return &e, nil })
	must(t, err)
	if got := len(entries(t, s)); got != n+1 {
		t.Errorf("%d new audit entries, want 1", got-n)
	}
}

func testDeviceOfEntra(t *testing.T, _ *Harness, s Store) {
	const id = "1c3b7a52-9d7e-4a6b-8c11-2e5f60a4d913"
	a, b := enroll(t, s, NewDevice("a")), enroll(t, s, NewDevice("b"))
	set := func(d *device.Device, change func(*device.Device)) error {
		_, err := s.ChangeDevice(t.Context(), d.ID, func(d *device.Device) (*audit.Entry, error) { change(d); return nil, nil })
		return err
	}
	_, err := s.DeviceOfEntra(t.Context(), id)
	wantCode(t, err, api.ResourceNotFound, "was not found")
	must(t, set(a, func(d *device.Device) { d.EntraID = id }))
	wantCode(t, set(b, func(d *device.Device) { d.EntraID = id }), api.InvalidInput, "take it off that one first")
	must(t, set(a, func(d *device.Device) { d.Value = "High" })) // its own is not another's
	for _, name := range []string{id, "1C3B7A52-9d7e-4a6b-8c11-2e5f60a4d913"} {
		if got, err := s.DeviceOfEntra(t.Context(), name); err != nil || got.ID != a.ID || got.EntraID != id || got.Value != "High" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	// Who is revoked has it no more, and does not keep it from another.
	must(t, set(a, func(d *device.Device) { d.Revoked = start }))
	_, err = s.DeviceOfEntra(t.Context(), id)
	wantCode(t, err, api.ResourceNotFound, "was not found")
	must(t, set(b, func(d *device.Device) { d.EntraID = id }))
	if got, err := s.DeviceOfEntra(t.Context(), id); err != nil || got.ID != b.ID {
		t.Errorf("%+v, %v", got, err)
	}
	for _, none := range []string{"", "\x00", "\xff"} {
		_, err = s.DeviceOfEntra(t.Context(), none)
		wantCode(t, err, api.ResourceNotFound, "was not found")
	}
}

func testDevicesNamed(t *testing.T, _ *Harness, s Store) {
	e := enroll(t, s, NewDevice("Über.Example"))
	a, b, c := enroll(t, s, NewDevice("web.corp.example")), enroll(t, s, NewDevice("web.lab.example")), enroll(t, s, NewDevice("db"))
	for _, test := range []struct {
		name string
		want []string
	}{
		{"web.corp.example", []string{a.ID}}, {"WEB.corp.example", []string{a.ID}}, {"web", []string{b.ID, a.ID}}, {"db", []string{c.ID}},
		{"ÜBER", []string{e.ID}}, {"ÜBER.example", []string{e.ID}},
		{"web.corp", nil}, {"corp", nil}, {"", nil}, {"w%", nil}, {"\x00", nil}, {"\xff", nil},
	} {
		got, err := s.DevicesNamed(t.Context(), test.name)
		must(t, err)
		var ids []string
		for _, d := range got {
			ids = append(ids, d.ID)
		}
		if diff := cmp.Diff(test.want, ids); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.name, diff)
		}
	}
}

func testDeviceLists(t *testing.T, h *Harness, s Store) {
	now := start.Add(8 * 24 * time.Hour)
	names := map[string]string{}
	group := deviceGroup(t, s, "Ubuntu", "os=ubuntu")
	add := func(name string, seen time.Time, change func(*device.Device), tags ...string) {
		d := NewDevice(name)
		d.LastSeen = seen
		if change != nil {
			change(d)
		}
		names[enroll(t, s, d, tags...).ID] = name
	}
	add("a", now, nil, "finance", "Laptop")
	add("b", now.Add(-7*24*time.Hour), func(d *device.Device) { d.Facts.OSPlatform = "Ubuntu" }, "finance")
	add("c", now.Add(time.Microsecond-7*24*time.Hour), func(d *device.Device) { d.Value, d.Facts.Addresses, d.Facts.Arch = "High", nil, "arm" })
	add("gone", now, func(d *device.Device) { d.Revoked = now }, "finance")
	list := func(options ...string) (string, int64) {
		t.Helper()
		got, count, err := s.Devices(t.Context(), query(t, h.DeviceFields(now), options...))
		if err != nil {
			t.Errorf("%q: %v", options, err)
		}
		var found []string
		for _, d := range got {
			found = append(found, names[d.ID])
		}
		return strings.Join(found, " "), count
	}
	for _, test := range []struct{ filter, want string }{
		{"id ne ''", "c b a"},
		{"healthStatus eq 'active'", "c a"},
		{"healthStatus ne 'Active'", "b"},
		{"machineTags/any(t: t eq 'finance')", "b a"},
		{"machineTags/any(t: startswith(t,'lap'))", "a"},
		{"not machineTags/any()", "c"},
		{"machineTags/all(t: t eq 'finance')", "c b"},
		{fmt.Sprint("osPlatform eq 'ubuntu' and rbacGroupId eq ", group.ID), "b"},
		{"deviceValue eq 'high' or computerDnsName eq 'A'", "c a"},
		{"lastIpAddress eq null", "c"},
		{"lastIpAddress eq '10.0.0.7'", "b a"},
		{"aadDeviceId eq null and riskScore ne 'High' and exposureLevel eq 'none'", "c b a"},
		{"riskScore eq 'High' or aadDeviceId ne null", ""},
		{"onboardingStatus eq 'onboarded' and version eq '12' and agentVersion eq '1.0'", "c b a"},
		{"osArchitecture eq '64-bit'", "b a"},
		{"lastSeen gt 2026-11-24T10:00:00.123456Z", "c a"},
		{"firstSeen le 2026-11-24Z and startswith(computerDnsName,'B')", "b"},
	} {
		got, count := list("$filter", test.filter, "$count", "true")
		if got != test.want || int(count) != len(strings.Fields(test.want)) {
			t.Errorf("%s: %q (count %d), want %q", test.filter, got, count, test.want)
		}
	}
	for _, test := range []struct{ order, want string }{
		{"", "c b a"}, {"healthStatus,lastSeen desc", "a c b"}, {"aadDeviceId,riskScore desc", "c b a"}, {"onboardingStatus asc", "a b c"}, {"lastIpAddress,computerDnsName desc", "c b a"},
	} {
		options := []string{"$top", "5"}
		if test.order != "" {
			options = append(options, "$orderby", test.order)
		}
		if got, _ := list(options...); got != test.want {
			t.Errorf("$orderby=%s: %q, want %q", test.order, got, test.want)
		}
	}
}

// testFieldsAgree takes each property of each device as the API shows it and
// finds the device by it: a filter must not disagree with what people see.
func testFieldsAgree(t *testing.T, h *Harness, s Store) {
	now := start.Add(8 * 24 * time.Hour)
	deviceGroup(t, s, "fourth", "tag=TAG4")
	for i, change := range []func(*device.Device){
		func(*device.Device) {},
		func(d *device.Device) { d.Facts = order.Facts{}; d.Value = ""; d.LastIP = "" },
		func(d *device.Device) { d.LastSeen = now.Add(-7 * 24 * time.Hour) },
		func(d *device.Device) { d.LastSeen = now.Add(time.Microsecond - 7*24*time.Hour); d.Facts.Arch = "x86" },
		func(d *device.Device) {
			d.Facts.Addresses = []order.Address{{IP: "127.0.0.1", Up: true}, {IP: "fd00::7", Up: true}, {IP: "10.1.1.1"}}
			d.Value = "High"
		},
	} {
		d := NewDevice(fmt.Sprint("host", i))
		change(d)
		enroll(t, s, d, fmt.Sprint("tag", i))
		encoded, err := json.Marshal(device.Machine(*d, now))
		must(t, err)
		var shown map[string]any
		must(t, json.Unmarshal(encoded, &shown))
		for _, f := range h.DeviceFields(now) {
			value, ok := shown[f.Name]
			if !ok {
				t.Errorf("the API shows no %s", f.Name)
				continue
			}
			filter := fmt.Sprintf("%s eq %s", f.Name, literal(f, value))
			if f.Type == odata.Strings {
				filter = fmt.Sprintf("%s/any(t: t eq '%v')", f.Name, value.([]any)[0])
			}
			got, _, err := s.Devices(t.Context(), query(t, h.DeviceFields(now), "$filter", filter+" and id eq '"+d.ID+"'"))
			if err != nil || len(got) != 1 {
				t.Errorf("device %d, $filter=%s: found %d, %v", i, filter, len(got), err)
			}
		}
	}
}

func literal(f odata.Field, value any) string {
	switch {
	case value == nil:
		return "null"
	case f.Type == odata.String || f.Type == odata.Folded:
		return "'" + strings.ReplaceAll(fmt.Sprint(value), "'", "''") + "'"
	}
	return fmt.Sprint(value)
}

func testApps(t *testing.T, _ *Harness, s Store) {
	a := issuer.App{ID: newGUID(), Name: "SOAR ünï", Permissions: []auth.Permission{auth.MachineStopAndQuarantine, auth.MachineReadAll}, Created: start,
		Secrets: []issuer.Secret{{ID: "s1", Digest: [32]byte{1, 2, 3}, Expires: start.Add(time.Hour)}, {ID: "s2"}}}
	b := issuer.App{ID: newGUID(), Name: "off", Created: start, Disabled: true}
	must(t, s.CreateApp(t.Context(), a, Entry(audit.CreateApp, a.ID)))
	must(t, s.CreateApp(t.Context(), b, Entry(audit.CreateApp, b.ID)))
	wantCode(t, s.CreateApp(t.Context(), b, Entry(audit.CreateApp, b.ID)), api.InvalidInput, "exists already")
	twin := b
	twin.Name = "another"
	wantCode(t, s.CreateApp(t.Context(), twin, Entry(audit.CreateApp, b.ID)), api.InvalidInput, "its id is in use")
	got, err := s.App(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(a, got); diff != "" {
		t.Errorf("app (-want +got):\n%s", diff)
	}
	all, err := s.Apps(t.Context())
	must(t, err)
	if diff := cmp.Diff([]issuer.App{a, b}, all); diff != "" {
		t.Errorf("apps (-want +got):\n%s", diff)
	}
	for _, id := range []string{newGUID(), "", "\x00"} {
		_, err = s.App(t.Context(), id)
		wantCode(t, err, api.ResourceNotFound, "was not found")
	}
	if n := len(entries(t, s)); n != 2 {
		t.Errorf("%d audit entries, want 2", n)
	}
}

// However many replicas are asked at once, one app gets the name.
func testAppNames(t *testing.T, h *Harness, s Store) {
	stores := []Store{s}
	if h.Replicas {
		other := h.Open(t)
		t.Cleanup(func() { must(t, other.Close()) })
		stores = append(stores, other)
	}
	var all sync.WaitGroup
	var made atomic.Int64
	for i := range 20 {
		all.Go(func() {
			a := issuer.App{ID: newGUID(), Name: []string{"Süd-SOAR", "süd-soar"}[i%2], Created: start}
			switch err := stores[i%len(stores)].CreateApp(t.Context(), a, Entry(audit.CreateApp, a.ID)); {
			case err == nil:
				made.Add(1)
			case api.CodeOf(err) != api.InvalidInput:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := made.Load(); n != 1 {
		t.Errorf("%d apps of one name", n)
	}
}

func testSettings(t *testing.T, _ *Harness, s Store) {
	get := func(key, want string, wantOK bool) {
		t.Helper()
		if got, ok, err := s.Setting(t.Context(), key); err != nil || got != want || ok != wantOK {
			t.Errorf("Setting(%q) = %q, %v, %v; want %q, %v", key, got, ok, err, want, wantOK)
		}
	}
	get("actions.expiry", "", false)
	get("\x00", "", false)
	must(t, s.SetSetting(t.Context(), "actions.expiry", "72h", Entry(audit.ChangeSetting, "actions.expiry")))
	get("actions.expiry", "72h", true)
	must(t, s.SetSetting(t.Context(), "actions.expiry", "", Entry(audit.ChangeSetting, "actions.expiry")))
	get("actions.expiry", "", true)
	get("Actions.Expiry", "", false)
	if n := len(entries(t, s)); n != 2 {
		t.Errorf("%d audit entries, want 2", n)
	}
}
