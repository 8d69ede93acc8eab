// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/device"
	"staunch/internal/server/odata"
)

var _ action.Devices = (*device.Service)(nil)

func TestFind(t *testing.T) {
	b := newBench(t)
	long, short, one, two := b.enroll(t, "fin-lt-014.corp.example"), b.enroll(t, "web1"), b.enroll(t, "db.east.example"), b.enroll(t, "db.west.example")
	twinA, twinB, gone := b.enroll(t, "twin.example"), b.enroll(t, "twin.example"), b.enroll(t, "gone.example")
	if _, err := b.Revoke(t.Context(), admin, gone.ID); err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{
		long.ID:                   long.ID,
		strings.ToUpper(long.ID):  long.ID,
		"fin-lt-014.corp.example": long.ID,
		"FIN-LT-014.Corp.Example": long.ID,
		"fin-lt-014":              long.ID,
		"web1":                    short.ID,
		"db.east.example":         one.ID,
		"db.west.example":         two.ID,
	} {
		d, err := b.Find(t.Context(), admin, asked)
		if err != nil || d.ID != want {
			t.Errorf("Find(%q) = %s, %v, want %s", asked, d.ID, err, want)
		}
	}
	for _, asked := range []string{
		"nobody.example", strings.Repeat("0", 40), gone.ID, "gone.example", "gone", "fin-lt-014.corp", "fin-lt-014.", "fin", "", " ",
		"6d0f2b1e-5a44-4f0b-9a2f-3c1de8840c77", "elastic-connector-test", "%", "_", "a'b", "a\x00b", "\xff", strings.Repeat("x", 5000),
	} {
		_, err := b.Find(t.Context(), admin, asked)
		if api.CodeOf(err) != api.ResourceNotFound || err.Error() != "ResourceNotFound: Machine "+asked+" was not found" {
			t.Errorf("Find(%.50q) = %v, want the text of the contract", asked, err)
		}
	}
	_, err := b.Find(t.Context(), admin, "db")
	refusal(t, err, api.ResourceNotFound, "Machine db was not found: 2 devices have that name, use the id of one (")
	_, err = b.Find(t.Context(), admin, "twin.example")
	refusal(t, err, api.ResourceNotFound, twinB.ID+", "+twinA.ID)

	// A device cannot take over what another is called by: both are left out.
	b.enroll(t, "fin-lt-014")
	_, err = b.Find(t.Context(), admin, "fin-lt-014")
	refusal(t, err, api.ResourceNotFound, "2 devices have that name")
	if d, err := b.Find(t.Context(), admin, "fin-lt-014.corp.example"); err != nil || d.ID != long.ID {
		t.Errorf("Find by the whole name = %s, %v", d.ID, err)
	}
}

func TestLookup(t *testing.T) {
	b := newBench(t)
	m := b.enroll(t, "a.example")
	got, err := b.Lookup(t.Context(), admin, "a")
	want := action.Device{ID: m.ID, Name: "a.example", Platform: "Debian", Version: "0.1.0", Key: m.Key, Can: []order.Kind{order.StopAndQuarantine, order.Restore}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("Lookup: %v\n%s", err, diff)
	}
	_, err = b.Lookup(t.Context(), admin, "b")
	refusal(t, err, api.ResourceNotFound, "Machine b was not found")
}

func TestMachines(t *testing.T) {
	b := newBench(t)
	m, gone := b.enroll(t, "a.example"), b.enroll(t, "b.example")
	if _, err := b.Revoke(t.Context(), admin, gone.ID); err != nil {
		t.Fatal(err)
	}
	all, n, err := b.Machines(t.Context(), admin, odata.Query{Top: 10, Count: true})
	if err != nil || n != 1 || len(all) != 1 || all[0].ID != m.ID {
		t.Errorf("Machines = %+v, %d, %v, want the one that is not revoked", all, n, err)
	}
}

func TestRevoke(t *testing.T) {
	b := newBench(t)
	m := b.enroll(t, "a.example")
	_, err := b.Revoke(t.Context(), app("Machine.ReadWrite.All"), m.ID)
	refusal(t, err, api.Forbidden, "application permissions (Machine.Offboard)")
	if len(b.revoked) != 0 {
		t.Error("a refused revocation was announced")
	}
	d, err := b.Revoke(t.Context(), app("Machine.Offboard"), "a.example")
	if err != nil || d.Revoked.IsZero() || len(b.revoked) != 1 || b.revoked[0] != m.ID {
		t.Errorf("Revoke = %+v, %v, announced %v", d, err, b.revoked)
	}
	_, err = b.Revoke(t.Context(), admin, m.ID)
	refusal(t, err, api.ResourceNotFound, "Machine "+m.ID+" was not found")
	var outcomes []string
	for _, e := range b.audit(t) {
		if e.Operation == audit.RevokeDevice {
			outcomes = append(outcomes, e.Outcome)
		}
	}
	if diff := cmp.Diff([]string{"refused: Forbidden", "accepted"}, outcomes); diff != "" {
		t.Error(diff)
	}
}

func TestTags(t *testing.T) {
	b := newBench(t)
	m := b.enroll(t, "a.example")
	c := app("Machine.ReadWrite.All")
	check := func(d device.Device, err error, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, d.Tags); err != nil || diff != "" {
			t.Errorf("%v\n%s", err, diff)
		}
		if kept, err := b.Find(t.Context(), admin, m.ID); err != nil || cmp.Diff(want, kept.Tags) != "" {
			t.Errorf("kept %v, %v, want %v", kept.Tags, err, want)
		}
	}
	tag := func(v string, add bool) (device.Device, error) { return b.Tag(t.Context(), c, "a", v, add) }
	d, err := tag(" finance ", true)
	check(d, err, "finance")
	d, err = tag("finance", true)
	check(d, err, "finance")
	d, err = tag("Laptop, (old)", true)
	check(d, err, "finance", "Laptop, (old)")
	d, err = tag("nothing", false)
	check(d, err, "finance", "Laptop, (old)")
	d, err = tag("finance", false)
	check(d, err, "Laptop, (old)")
	d, err = b.SetTags(t.Context(), c, m.ID, []string{"b", "a", "b"})
	check(d, err, "b", "a")

	_, err = tag("", true)
	refusal(t, err, api.InvalidInput, "A tag is empty")
	_, err = tag(strings.Repeat("x", 201), true)
	refusal(t, err, api.InvalidInput, "201 characters")
	_, err = b.Tag(t.Context(), c, "nobody", "x", true)
	refusal(t, err, api.ResourceNotFound, "Machine nobody was not found")
	_, err = b.Tag(t.Context(), app("Machine.Read.All"), m.ID, "x", true)
	refusal(t, err, api.Forbidden, "(Machine.ReadWrite.All)")

	n := 0
	for _, e := range b.audit(t) {
		if e.Operation == audit.TagDevice && e.Outcome == "accepted" {
			n++
		}
	}
	if n != 4 {
		t.Errorf("%d audit lines for 4 changes", n)
	}
	d, err = b.SetTags(t.Context(), c, m.ID, nil)
	if err != nil || len(d.Tags) != 0 {
		t.Errorf("SetTags(nil) = %v, %v", d.Tags, err)
	}
}
