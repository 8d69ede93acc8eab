// SPDX-License-Identifier: Apache-2.0

package alert_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/alert"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/indicator"
	"staunch/internal/server/odata"
	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

const (
	machine = "c3f1d0a98b7e6f5d4c3b2a190817263544536271"
	hidden  = "0000000000000000000000000000000000000001"
)

var content = filehash.Hash{SHA1: filehash.SHA1{1, 2, 3}, SHA256: filehash.SHA256{4, 5, 6}}

// bench is a service on a real store; only devices and indicators are said and not kept.
type bench struct {
	*alert.Service
	store *store.Store
	rules map[int64]indicator.Indicator
	now   time.Time
}

func newBench(t *testing.T) *bench {
	t.Helper()
	signer, _ := storetest.Signer(t)
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "server.db"), Checkpoint: signer, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	b := &bench{store: s, rules: map[int64]indicator.Indicator{}, now: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)}
	b.Service, err = alert.New(alert.Config{
		Store: s, Now: func() time.Time { return b.now },
		Indicator: func(_ context.Context, id int64, _ time.Time) (indicator.Indicator, error) {
			in, ok := b.rules[id]
			if !ok {
				return in, api.Errorf(api.ResourceNotFound, "none")
			}
			return in, nil
		},
		MachineName: func(context.Context, string) (string, error) { return "fin-lt-014.corp.example", nil },
		Visible: func(_ context.Context, c auth.Caller, device string) (bool, error) {
			return c.Kind != auth.User || device != hidden, nil
		},
	})
	must(t, err)
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code api.Code) {
	t.Helper()
	if api.CodeOf(err) != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func app(permissions ...auth.Permission) auth.Caller {
	return auth.Caller{Kind: auth.App, ID: "app", Name: "soc", Permissions: permissions}
}

func person(right auth.Right, permissions ...auth.Permission) auth.Caller {
	return auth.Caller{Kind: auth.User, ID: "ana@corp.example", Name: "ana@corp.example", Permissions: permissions, Access: auth.Access{right: {0}, auth.ViewData: {0}}}
}

var worker = app(auth.AlertReadWriteAll)

// met reports that the device met the content of a rule.
func (b *bench) met(t *testing.T, device, rule string, seen time.Time) {
	t.Helper()
	must(t, b.Met(t.Context(), device, order.Sighting{SHA1: content.SHA1, SHA256: content.SHA256, Size: 1, Path: "/tmp/x", Seen: seen, What: "blocked", Blocked: rule}))
}

func (b *bench) all(t *testing.T) []alert.Alert {
	t.Helper()
	list, n, err := b.List(t.Context(), worker, odata.Query{Top: 100, Count: true})
	must(t, err)
	if int(n) != len(list) {
		t.Errorf("%d alerts, count %d", len(list), n)
	}
	return list
}

func rule(action string, told bool) indicator.Indicator {
	return indicator.Indicator{Seq: 7, Type: "FileSha1", Value: content.SHA1.String(), Action: action, Title: "Case 4711", Description: "why", Severity: "High", GenerateAlert: told}
}

// What raises an alert, and what does not.
func TestMet(t *testing.T) {
	bySHA256, other := rule("Block", true), rule("Block", true)
	bySHA256.Value, other.Value = content.SHA256.String(), strings.Repeat("a", 40)
	for name, c := range map[string]struct {
		rule   indicator.Indicator
		named  string
		alerts int
	}{
		"a block that is to be told":       {rule("Block", true), "7", 1},
		"by SHA-256":                       {bySHA256, "7", 1},
		"an audit":                         {rule("Audit", true), "7", 1},
		"the older Alert":                  {rule(indicator.Alert, false), "7", 1},
		"the older AlertAndBlock":          {rule(indicator.AlertAndBlock, false), "7", 1},
		"a block that is not to be told":   {rule("Block", false), "7", 0},
		"a rule about another content":     {other, "7", 0},
		"a rule that is gone":              {rule("Block", true), "8", 0},
		"an order's gate":                  {rule("Block", true), "0a1b", 0},
		"a number that no id can be":       {rule("Block", true), "99999999999999999999", 0},
		"a rule of nobody, the empty name": {rule("Block", true), "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.rules[7] = c.rule
			b.met(t, machine, c.named, b.now)
			got := b.all(t)
			if len(got) != c.alerts {
				t.Fatalf("%+v", got)
			}
			if c.alerts == 0 {
				return
			}
			a := got[0]
			if !strings.HasPrefix(a.ID, "da63") || a.Title != "Case 4711" || a.Description != "why" || a.Severity != "High" || a.Status != "New" || a.Category != "Malware" || a.Indicator != "7" ||
				a.MachineID != machine || a.MachineName != "fin-lt-014.corp.example" || a.SHA1 != content.SHA1.String() || a.SHA256 != content.SHA256.String() || a.Path != "/tmp/x" || a.Events != 1 {
				t.Errorf("%+v", a)
			}
		})
	}
}

// As long as one is open, further meetings of that device and rule count
// towards it; when it is resolved, the next is another.
func TestOneOpenAlert(t *testing.T) {
	b := newBench(t)
	b.rules[7] = rule("Block", true)
	start := b.now
	b.met(t, machine, "7", start)
	b.now = start.Add(time.Hour)
	b.met(t, machine, "7", b.now)
	b.met(t, machine, "7", start.Add(-time.Minute)) // reported late
	b.met(t, hidden, "7", b.now)                    // another device
	list := b.all(t)
	if len(list) != 2 || list[1].Events != 3 || !list[1].FirstEvent.Equal(start.Add(-time.Minute)) || !list[1].LastEvent.Equal(b.now) || !list[1].Updated.Equal(b.now) || !list[1].Created.Equal(start) {
		t.Fatalf("%+v", list)
	}
	first := list[1].ID
	_, err := b.Update(t.Context(), worker, first, alert.Change{Status: alert.StatusInProgress})
	must(t, err)
	b.met(t, machine, "7", b.now)
	_, err = b.Update(t.Context(), worker, first, alert.Change{Status: alert.StatusResolved})
	must(t, err)
	b.met(t, machine, "7", b.now)
	if list = b.all(t); len(list) != 3 {
		t.Fatalf("%+v", list)
	}
	// Two open ones of one subject there cannot be.
	_, err = b.Update(t.Context(), worker, first, alert.Change{Status: alert.StatusNew})
	wantCode(t, err, api.BadRequest)
}

// A device's clock may be wrong by years; what it met it met by now.
func TestClock(t *testing.T) {
	for name, c := range map[string]struct{ off, want time.Duration }{
		"ahead": {time.Second, 0}, "far ahead": {1000 * time.Hour, 0}, "back": {-29 * 24 * time.Hour, -29 * 24 * time.Hour}, "far back": {-31 * 24 * time.Hour, 0},
	} {
		b := newBench(t)
		b.rules[7] = rule("Block", true)
		b.met(t, machine, "7", b.now.Add(c.off))
		if a := b.all(t)[0]; !a.FirstEvent.Equal(b.now.Add(c.want)) {
			t.Errorf("%s: %s", name, a.FirstEvent)
		}
	}
}

func TestUpdate(t *testing.T) {
	b := newBench(t)
	b.rules[7] = rule("Block", true)
	b.met(t, machine, "7", b.now)
	id := b.all(t)[0].ID
	text := func(s string) *string { return &s }
	b.now = b.now.Add(time.Minute)
	a, err := b.Update(t.Context(), worker, id, alert.Change{Status: "resolved", AssignedTo: text("ana@corp.example"), Classification: "truepositive", Determination: "malware", Comment: "done"})
	must(t, err)
	if a.Status != "Resolved" || !a.Resolved.Equal(b.now) || a.AssignedTo != "ana@corp.example" || a.Classification != "TruePositive" || a.Determination != "Malware" || !a.Updated.Equal(b.now) {
		t.Errorf("%+v", a)
	}
	if diff := cmp.Diff([]alert.Comment{{Text: "done", By: "soc", At: b.now}}, a.Comments); diff != "" {
		t.Error(diff)
	}
	got, err := b.Get(t.Context(), app(auth.AlertReadAll), id)
	must(t, err)
	if diff := cmp.Diff(a, got); diff != "" {
		t.Errorf("(-returned +read):\n%s", diff)
	}
	// What is not there stays; an assignment can be taken away; opened again it is not resolved.
	a, err = b.Update(t.Context(), worker, id, alert.Change{Status: "New", AssignedTo: text("")})
	must(t, err)
	if a.AssignedTo != "" || a.Classification != "TruePositive" || !a.Resolved.IsZero() || len(a.Comments) != 1 {
		t.Errorf("%+v", a)
	}
	for name, c := range map[string]struct {
		change alert.Change
		code   api.Code
	}{
		"nothing":                     {alert.Change{}, api.InvalidRequestBody},
		"a blank comment":             {alert.Change{Comment: " \t"}, api.InvalidRequestBody},
		"a status there is not":       {alert.Change{Status: "Gone"}, api.InvalidInput},
		"a status nobody gives":       {alert.Change{Status: "Unknown"}, api.InvalidInput},
		"a classification of no kind": {alert.Change{Classification: "Nice"}, api.InvalidInput},
		"a determination of no kind":  {alert.Change{Determination: "Nice"}, api.InvalidInput},
		"a comment with NUL":          {alert.Change{Comment: "a\x00"}, api.InvalidInput},
		"a comment that is too long":  {alert.Change{Comment: strings.Repeat("ä", 4097)}, api.InvalidInput},
		"a comment that is no text":   {alert.Change{Comment: "\xff"}, api.InvalidInput},
		"an assignment too long":      {alert.Change{AssignedTo: text(strings.Repeat("x", 257))}, api.InvalidInput},
	} {
		_, err := b.Update(t.Context(), worker, id, c.change)
		if api.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	if again, err := b.Get(t.Context(), worker, id); err != nil || !cmp.Equal(a, again) {
		t.Errorf("a refusal changed something: %+v, %v", again, err)
	}
	_, err = b.Update(t.Context(), worker, "da1_1", alert.Change{Status: "New"})
	wantCode(t, err, api.ResourceNotFound)

	// All of it is on the record, refusals too.
	entries, err := b.store.AuditEntries(t.Context(), -1, 1000)
	must(t, err)
	seen := map[string]int{}
	for _, e := range entries {
		if e.Operation == audit.UpdateAlert || e.Operation == audit.RaiseAlert {
			seen[string(e.Operation)+" "+e.Outcome]++
		}
	}
	want := map[string]int{"RaiseAlert accepted": 1, "UpdateAlert accepted": 2, "UpdateAlert refused: InvalidRequestBody": 2, "UpdateAlert refused: InvalidInput": 8, "UpdateAlert refused: ResourceNotFound": 1}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("the record (-want +has):\n%s", diff)
	}
}

// Who may, by permission, by right, and by what they see.
func TestAccess(t *testing.T) {
	b := newBench(t)
	b.rules[7] = rule("Block", true)
	b.met(t, machine, "7", b.now)
	shown := b.all(t)[0].ID
	b.now = b.now.Add(time.Second)
	b.met(t, hidden, "7", b.now)
	secret := b.all(t)[0].ID
	ana := person(auth.AlertsInvestigation, auth.AlertReadWrite)
	viewer := person(auth.ViewData, auth.AlertReadWrite)
	for i, c := range []struct {
		who          auth.Caller
		id           string
		read, update api.Code
	}{
		{app(), shown, api.Forbidden, api.Forbidden},
		{app(auth.MachineReadAll), shown, api.Forbidden, api.Forbidden},
		{app(auth.AlertReadAll), shown, "", api.Forbidden},
		{app(auth.AlertReadAll), secret, "", api.Forbidden},
		{worker, shown, "", ""},
		{worker, secret, "", ""},
		{person(auth.AlertsInvestigation, auth.AlertRead), shown, "", api.Forbidden},
		{viewer, shown, "", api.Forbidden},
		{ana, shown, "", ""},
		{ana, secret, api.ResourceNotFound, api.ResourceNotFound},
		{ana, "none", api.ResourceNotFound, api.ResourceNotFound},
		{ana, "\x00", api.ResourceNotFound, api.ResourceNotFound},
	} {
		_, err := b.Get(t.Context(), c.who, c.id)
		if api.CodeOf(err) != c.read {
			t.Errorf("%d: read: %v, want %q", i, err, c.read)
		}
		_, err = b.Update(t.Context(), c.who, c.id, alert.Change{Comment: "by " + strconv.Itoa(i)})
		if api.CodeOf(err) != c.update {
			t.Errorf("%d: update: %v, want %q", i, err, c.update)
		}
	}
	_, _, err := b.List(t.Context(), app(), odata.Query{Top: 1})
	wantCode(t, err, api.Forbidden)
}
