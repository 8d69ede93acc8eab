// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/alert"
	"staunch/internal/server/audit"
	"staunch/internal/server/device"
	"staunch/internal/server/file"
	"staunch/internal/server/odata"
)

// fileTests are added to the suite by Run.
func fileTests() []test {
	return []test{
		{"sightings are added up", testSightings},
		{"sightings of one device are bounded", testSightingsBounded},
		{"devices by the address they had", testDevicesAt},
		{"an open alert takes further events", testAlertRaise},
		{"alerts change", testAlertChange},
		{"lists of alerts", testAlertLists},
	}
}

func sighting(b byte, seen time.Time, path string) file.Sighting {
	return file.Sighting{
		Sum:  filehash.Sum{SHA1: filehash.SHA1{b}, SHA256: filehash.SHA256{b}, Size: int64(b)},
		Path: path, Name: path[strings.LastIndexByte(path, '/')+1:], Seen: seen, Executed: b%2 == 1,
	}
}

func testSightings(t *testing.T, _ *Harness, s Store) {
	a, b := enroll(t, s, NewDevice("a")), enroll(t, s, NewDevice("b"))
	old := start.Add(-90 * 24 * time.Hour)
	putFiles := func(device string, files ...file.Sighting) {
		t.Helper()
		must(t, s.PutSightings(t.Context(), device, files, old, 100))
	}
	putFiles(a.ID, sighting(1, start, "/tmp/x"), sighting(2, start, "/tmp/y"))
	putFiles(a.ID, sighting(1, start.Add(time.Hour), "/tmp/z"), sighting(1, start.Add(-time.Hour), "/tmp/early"))
	putFiles(b.ID, sighting(1, start.Add(2*time.Hour), "/tmp/z"))
	sum := filehash.Sum{SHA1: filehash.SHA1{1}, SHA256: filehash.SHA256{1}, Size: 1}
	want := file.Known{Sum: sum, Devices: 2, First: start.Add(-time.Hour), Last: start.Add(2 * time.Hour), Names: []string{"z"}}
	for _, h := range []filehash.Hash{{SHA1: sum.SHA1}, {SHA256: sum.SHA256}, sum.Hash()} {
		got, ok, err := s.File(t.Context(), h, file.Scope{})
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("%v (-want +got):\n%s", h, diff)
		}
	}
	if got, ok, err := s.File(t.Context(), sum.Hash(), file.Scope{Since: start.Add(90 * time.Minute)}); err != nil || !ok || got.Devices != 1 {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	for _, none := range []file.Scope{{Since: start.Add(3 * time.Hour)}, {Groups: []int64{}}, {Groups: []int64{77}}} {
		if got, ok, err := s.File(t.Context(), sum.Hash(), none); err != nil || ok {
			t.Errorf("%+v: %+v, %v", none, got, err)
		}
	}
	if _, ok, err := s.File(t.Context(), filehash.Hash{SHA1: filehash.SHA1{1}, SHA256: filehash.SHA256{2}}, file.Scope{}); err != nil || ok {
		t.Errorf("two halves of different files are found: %v", err)
	}
	for _, c := range []struct {
		device string
		since  time.Time
		want   bool
	}{{a.ID, start, true}, {a.ID, start.Add(time.Hour + 1000), false}, {b.ID, start, true}, {"nobody", start, false}} {
		if got, err := s.Observed(t.Context(), c.device, sum.Hash(), c.since); err != nil || got != c.want {
			t.Errorf("Observed(%s, %v) = %v, %v", c.device, c.since, got, err)
		}
	}
	all, count, err := s.DevicesWith(t.Context(), sum.Hash(), start, odata.Query{Top: 1, Count: true})
	must(t, err)
	if count != 2 || len(all) != 1 || all[0].ID != b.ID {
		t.Errorf("%d: %+v", count, all)
	}
	all, _, err = s.DevicesWith(t.Context(), filehash.Hash{SHA1: filehash.SHA1{2}}, start, query(t, nil))
	must(t, err)
	if len(all) != 1 || all[0].ID != a.ID {
		t.Errorf("%+v", all)
	}
}

func testSightingsBounded(t *testing.T, _ *Harness, s Store) {
	var files []file.Sighting
	for i := range 10 {
		files = append(files, sighting(byte(i+1), start.Add(time.Duration(i)*time.Hour), fmt.Sprintf("/f%d", i)))
	}
	has := func(b byte) bool {
		_, ok, err := s.File(t.Context(), filehash.Hash{SHA1: filehash.SHA1{b}}, file.Scope{})
		must(t, err)
		return ok
	}
	must(t, s.PutSightings(t.Context(), "other", files[:1], start.Add(-time.Hour), 5))
	must(t, s.PutSightings(t.Context(), "d", files, start.Add(-time.Hour), 5))
	for b := byte(2); b <= 10; b++ {
		if has(b) != (b > 5) {
			t.Errorf("file %d: %v", b, has(b))
		}
	}
	if !has(1) {
		t.Error("another device's is gone")
	}
	must(t, s.PutSightings(t.Context(), "d", nil, start.Add(9*time.Hour), 5))
	if has(9) || !has(10) {
		t.Error("what is old stayed, or what is not went")
	}
}

func testDevicesAt(t *testing.T, _ *Harness, s Store) {
	with := func(name, ip string) *device.Device {
		d := NewDevice(name)
		d.Facts.Addresses = []order.Address{{IP: ip, Up: true}, {IP: "127.0.0.1", Up: true}, {IP: "10.9.9.9"}}
		return enroll(t, s, d)
	}
	a, b := with("a", "10.0.0.2"), with("b", "10.0.0.3")
	change := func(id string, at time.Duration, ip string) {
		t.Helper()
		_, err := s.ChangeDevice(t.Context(), id, func(d *device.Device) (*audit.Entry, error) {
			d.LastSeen, d.Facts.Addresses = start.Add(at), []order.Address{{IP: ip, Up: true}}
			return nil, nil
		})
		must(t, err)
	}
	change(a.ID, 20*time.Minute, "10.0.0.2")
	change(a.ID, 40*time.Minute, "10.0.0.3")
	change(a.ID, 3*time.Hour, "10.0.0.2")
	for _, c := range []struct {
		ip       string
		from, to time.Duration
		want     []string
	}{
		{"10.0.0.2", -15 * time.Minute, 15 * time.Minute, []string{a.ID}},
		{"10.0.0.2", 20 * time.Minute, time.Hour, []string{a.ID}},
		{"10.0.0.2", 21 * time.Minute, time.Hour, nil},
		{"10.0.0.2", 2 * time.Hour, 4 * time.Hour, []string{a.ID}},
		{"10.0.0.3", -time.Minute, time.Minute, []string{b.ID}},
		{"10.0.0.3", -time.Hour, time.Hour, []string{b.ID, a.ID}},
		{"127.0.0.1", -time.Hour, 9 * time.Hour, nil},
		{"10.9.9.9", -time.Hour, 9 * time.Hour, nil},
	} {
		got, _, err := s.DevicesAt(t.Context(), c.ip, start.Add(c.from), start.Add(c.to), query(t, nil))
		must(t, err)
		var ids []string
		for _, d := range got {
			ids = append(ids, d.ID)
		}
		if diff := cmp.Diff(c.want, ids); diff != "" {
			t.Errorf("%s from %v to %v (-want +got):\n%s", c.ip, c.from, c.to, diff)
		}
	}
}

// NewAlert makes an alert as a sighting would.
func NewAlert(machine, indicator string, at time.Time) *alert.Alert {
	return &alert.Alert{
		ID: "da" + newHex(8), Title: "title", Description: "why", Severity: "High", Status: alert.StatusNew, Category: "Malware",
		Created: at, Updated: at, FirstEvent: at, LastEvent: at, MachineID: machine, MachineName: "host.example", Indicator: indicator,
		SHA1: strings.Repeat("a", 40), SHA256: strings.Repeat("b", 64), Path: "/tmp/x", Events: 1,
	}
}

func testAlertRaise(t *testing.T, _ *Harness, s Store) {
	a := NewAlert("m", "31", start)
	must(t, s.RaiseAlert(t.Context(), a, Entry(audit.RaiseAlert, a.ID)))
	got, err := s.Alert(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(*a, got); diff != "" || a.Seq == 0 {
		t.Errorf("(-held +read):\n%s", diff)
	}
	more := NewAlert("m", "31", start.Add(time.Hour))
	must(t, s.RaiseAlert(t.Context(), more, Entry(audit.RaiseAlert, more.ID)))
	if more.ID != a.ID || more.Events != 2 || !more.LastEvent.Equal(start.Add(time.Hour)) || !more.FirstEvent.Equal(start) {
		t.Errorf("%+v", more)
	}
	other := NewAlert("n", "31", start)
	must(t, s.RaiseAlert(t.Context(), other, Entry(audit.RaiseAlert, other.ID)))
	if n := len(entries(t, s)); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
	_, err = s.ChangeAlert(t.Context(), a.ID, func(a *alert.Alert) (*audit.Entry, error) { a.Status = alert.StatusResolved; return nil, nil })
	must(t, err)
	again := NewAlert("m", "31", start)
	must(t, s.RaiseAlert(t.Context(), again, Entry(audit.RaiseAlert, again.ID)))
	if again.Events != 1 {
		t.Error("a resolved alert takes events")
	}
	_, err = s.ChangeAlert(t.Context(), a.ID, func(a *alert.Alert) (*audit.Entry, error) { a.Status = alert.StatusNew; return nil, nil })
	wantCode(t, err, api.BadRequest, "a newer one of that machine and indicator is open")
	for _, id := range []string{"", "x", "\x00"} {
		_, err := s.Alert(t.Context(), id)
		wantCode(t, err, api.ResourceNotFound)
	}
}

func testAlertChange(t *testing.T, _ *Harness, s Store) {
	a := NewAlert("m", "31", start)
	must(t, s.RaiseAlert(t.Context(), a, Entry(audit.RaiseAlert, a.ID)))
	e := Entry(audit.UpdateAlert, a.ID)
	got, err := s.ChangeAlert(t.Context(), a.ID, func(a *alert.Alert) (*audit.Entry, error) {
		a.Status, a.Classification, a.Determination, a.AssignedTo = alert.StatusResolved, "TruePositive", "Malware", "ana@corp.example"
		a.Resolved, a.Comments = start.Add(time.Hour), []alert.Comment{{Text: "ünï", By: "ana", At: start}}
		return &e, nil
	})
	must(t, err)
	read, err := s.Alert(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(got, read); diff != "" {
		t.Errorf("(-returned +read):\n%s", diff)
	}
	_, err = s.ChangeAlert(t.Context(), a.ID, func(a *alert.Alert) (*audit.Entry, error) { a.MachineID = "n"; return nil, nil })
	wantText(t, err, "what it is about is fixed")
	_, err = s.ChangeAlert(t.Context(), a.ID, func(*alert.Alert) (*audit.Entry, error) { return &e, api.Errorf(api.BadRequest, "no") })
	wantCode(t, err, api.BadRequest, "no")
	if n := len(entries(t, s)); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
}

func testAlertLists(t *testing.T, h *Harness, s Store) {
	d := enroll(t, s, NewDevice("a.example"))
	a, b := NewAlert(d.ID, "1", start), NewAlert("gone", "2", start.Add(time.Hour))
	b.Severity, b.SHA1, b.MachineName = "Low", strings.Repeat("c", 40), "b.example"
	must(t, s.RaiseAlert(t.Context(), a, Entry(audit.RaiseAlert, a.ID)))
	must(t, s.RaiseAlert(t.Context(), b, Entry(audit.RaiseAlert, b.ID)))
	_, err := s.ChangeAlert(t.Context(), b.ID, func(a *alert.Alert) (*audit.Entry, error) {
		a.Status, a.Resolved, a.AssignedTo = alert.StatusResolved, start.Add(2*time.Hour), "Ana@corp.example"
		return nil, nil
	})
	must(t, err)
	list := func(groups []int64, options ...string) string {
		t.Helper()
		q := query(t, h.AlertFields(), options...)
		q.Groups = groups
		got, _, err := s.Alerts(t.Context(), q)
		if err != nil {
			t.Errorf("%q: %v", options, err)
		}
		found := ""
		for _, x := range got {
			found += map[string]string{a.ID: "a", b.ID: "b"}[x.ID]
		}
		return found
	}
	for _, test := range []struct{ filter, want string }{
		{"status ne 'Resolved'", "a"}, {"status eq 'resolved'", "b"}, {"severity eq 'High'", "a"}, {"category eq 'malware'", "ba"},
		{"alertCreationTime gt 2026-11-23T10:30:00Z", "b"}, {"lastUpdateTime ge 2026-11-23T10:00:00Z", "ba"},
		{"incidentId eq 5", ""}, {"incidentId eq null and investigationId eq null", "ba"}, {"resolvedTime ne null", "b"},
		{"machineId eq '" + d.ID + "'", "a"}, {"computerDnsName eq 'B.example'", "b"}, {"sha1 eq '" + strings.Repeat("c", 40) + "'", "b"},
		{"assignedTo eq 'ana@corp.example'", "b"}, {"classification eq null", "ba"}, {"title eq 'Title' and startswith(id,'da')", "ba"},
	} {
		if got := list(nil, "$filter", test.filter); got != test.want {
			t.Errorf("%s: %q, want %q", test.filter, got, test.want)
		}
	}
	if got := list([]int64{0}); got != "a" {
		t.Errorf("of ungrouped devices: %q", got)
	}
	if got := list([]int64{}); got != "" {
		t.Errorf("of no devices: %q", got)
	}
}
