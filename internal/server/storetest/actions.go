// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

func testActionKept(t *testing.T, _ *Harness, s Store) {
	a := NewAction("machine")
	a.Created = time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.FixedZone("CET", 3600)) // finer than is kept, elsewhere
	a.ExternalID, a.ErrorHResult, a.TroubleshootInfo = "INC-7", -2147467259, "why"
	a.CancelledBy, a.CancelComment, a.CancelRequested = action.Requestor{Kind: auth.User, ID: "u", Name: "ana"}, "no", start
	a.CancelOrder, a.Receipt, a.Acknowledged = []byte("cancel"), []byte{0, 0xff, 1}, true
	a.File = sha1Of(t, "da39a3ee5e6b4b0d3255bfef95601890afd80709")
	create(t, s, a)
	if a.Seq == 0 {
		t.Error("Seq was not set")
	}
	got, err := s.Action(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(*a, got); diff != "" {
		t.Errorf("what the caller holds and what is read differ (-held +read):\n%s", diff)
	}
	b := create(t, s, NewAction("machine"))
	if b.Seq <= a.Seq {
		t.Errorf("Seq did not rise: %d after %d", b.Seq, a.Seq)
	}
	log := entries(t, s)
	want := Entry(audit.StopAndQuarantineFile, a.ID)
	want.Time = log[0].Time
	if diff := cmp.Diff(want, log[0]); diff != "" {
		t.Errorf("audit entry (-want +got):\n%s", diff)
	}
}

func testActionDuplicate(t *testing.T, _ *Harness, s Store) {
	first := create(t, s, NewAction("machine"))
	twin := func() *action.Action {
		a := NewAction("machine")
		a.File = first.File
		return a
	}
	for _, status := range []string{api.Pending, api.InProgress} {
		setStatus(t, s, first.ID, status)
		err := s.CreateAction(t.Context(), twin(), Entry(audit.StopAndQuarantineFile, "twin"))
		wantCode(t, err, api.ActiveRequestAlreadyExists, "Action is already in progress")
		active, err := s.ActiveAction(t.Context(), first.Key())
		must(t, err)
		if active != first.ID {
			t.Errorf("active while %s: %q, want %q", status, active, first.ID)
		}
	}
	if n := len(entries(t, s)); n != 1 {
		t.Errorf("%d audit entries after two refusals, want the first's alone", n)
	}
	other := NewAction("another machine")
	other.File = first.File
	create(t, s, other)
	for _, status := range []string{api.Succeeded, api.Failed, api.TimeOut, api.Cancelled} {
		setStatus(t, s, first.ID, status)
		if active, err := s.ActiveAction(t.Context(), first.Key()); err != nil || active != "" {
			t.Errorf("active while %s: %q, %v", status, active, err)
		}
		first = create(t, s, twin())
	}
}

func setStatus(t testing.TB, s Store, id, status string) {
	t.Helper()
	_, err := s.ChangeAction(t.Context(), id, func(a *action.Action) (*audit.Entry, error) {
		a.Status = status
		return nil, nil
	})
	must(t, err)
}

// One caller's orders reach so far and no farther, over all replicas.
func testReachOfOrders(t *testing.T, h *Harness, s Store) {
	stores := []Store{s}
	if h.Replicas {
		other := h.Open(t)
		t.Cleanup(func() { must(t, other.Close()) })
		stores = append(stores, other)
	}
	caller := NewAction("m").Requestor
	give := func(s Store, by action.Requestor, machine, kind string, at time.Time, r action.Reach) error {
		a := NewAction(machine)
		a.Requestor, a.Type, a.Created = by, kind, at
		return s.CreateActionWithin(t.Context(), a, Entry(audit.StopAndQuarantineFile, a.ID), r)
	}
	const stop = api.StopAndQuarantineFile
	hourly, daily := action.Reach{OrdersPerHour: 5}, action.Reach{DevicesPerDay: 3}

	var all sync.WaitGroup
	var passed atomic.Int64
	for i := range 20 {
		all.Go(func() {
			switch err := give(stores[i%len(stores)], caller, "m1", stop, start, hourly); {
			case err == nil:
				passed.Add(1)
			case api.CodeOf(err) != api.DisallowedOperation || !strings.Contains(err.Error(), "5 are allowed"):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := passed.Load(); n != 5 {
		t.Errorf("%d orders of 5 passed", n)
	}
	n := len(entries(t, s))
	other := caller
	other.ID = newGUID()
	asUser := caller
	asUser.Kind = auth.User
	for _, c := range []struct {
		name    string
		by      action.Requestor
		machine string
		kind    string
		after   time.Duration
		reach   action.Reach
		refused string
	}{
		{"a purge counts too", caller, "m1", api.PurgeFile, time.Minute, hourly, "in the last hour"},
		{"what is put back does not", caller, "m1", api.RestoreFile, time.Minute, hourly, ""},
		{"another caller", other, "m1", stop, time.Minute, hourly, ""},
		{"a person of that name", asUser, "m1", stop, time.Minute, hourly, ""},
		{"no bound", caller, "m1", stop, time.Minute, action.Reach{}, ""},
		{"an hour later", caller, "m1", stop, time.Hour + time.Second, hourly, ""},
		{"second device", caller, "m2", stop, 2 * time.Hour, daily, ""},
		{"third device", caller, "m3", stop, 2 * time.Hour, daily, ""},
		{"fourth device", caller, "m4", stop, 3 * time.Hour, daily, "3 are allowed"},
		{"again on the first", caller, "m1", stop, 3 * time.Hour, daily, ""},
		{"fourth, a day later", caller, "m4", stop, 28 * time.Hour, daily, ""},
	} {
		err := give(s, c.by, c.machine, c.kind, start.Add(c.after), c.reach)
		if (err != nil) != (c.refused != "") || err != nil && (api.CodeOf(err) != api.DisallowedOperation || !strings.Contains(err.Error(), c.refused)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if got := len(entries(t, s)) - n; got != 9 {
		t.Errorf("%d audit entries, want 9: what is refused leaves none here", got)
	}
}

func testActionRace(t *testing.T, _ *Harness, s Store) { race(t, 200, s) }

func testActionReplicas(t *testing.T, h *Harness, s Store) {
	if !h.Replicas {
		t.Skip("one process at a time opens this database")
	}
	other := h.Open(t)
	race(t, 100, s, other)
	must(t, other.Close())
}

// race has n callers of each store ask for the same action at once.
func race(t *testing.T, n int, stores ...Store) {
	file := NewAction("machine").File
	var mu sync.Mutex
	var kept []string
	var group sync.WaitGroup
	for i := range n * len(stores) {
		group.Go(func() {
			a := NewAction("machine")
			a.File = file
			err := stores[i%len(stores)].CreateAction(t.Context(), a, Entry(audit.StopAndQuarantineFile, a.ID))
			mu.Lock()
			defer mu.Unlock()
			switch api.CodeOf(err) {
			case "":
				kept = append(kept, a.ID)
			case api.ActiveRequestAlreadyExists:
			default:
				t.Errorf("CreateAction: %v", err)
			}
		})
	}
	group.Wait()
	if len(kept) != 1 {
		t.Fatalf("%d callers were told that their action is kept, want 1", len(kept))
	}
	all, _, err := stores[0].Actions(t.Context(), query(t, nil))
	must(t, err)
	if diff := cmp.Diff(kept, ids(all)); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if log := entries(t, stores[0]); len(log) != 1 || log[0].Target != kept[0] {
		t.Errorf("audit entries: %v, want the kept action's alone", log)
	}
}

func testActionID(t *testing.T, _ *Harness, s Store) {
	a := create(t, s, NewAction("machine"))
	b := NewAction("other")
	b.ID = a.ID
	wantCode(t, s.CreateAction(t.Context(), b, Entry(audit.StopAndQuarantineFile, b.ID)), api.InternalServerError, "its id is in use")
}

func testActionChange(t *testing.T, _ *Harness, s Store) {
	a := create(t, s, NewAction("machine"))
	e := Entry(audit.FinishMachineAction, a.ID)
	got, err := s.ChangeAction(t.Context(), a.ID, func(loaded *action.Action) (*audit.Entry, error) {
		if diff := cmp.Diff(a, loaded); diff != "" {
			t.Errorf("loaded (-want +got):\n%s", diff)
		}
		loaded.Status, loaded.Receipt, loaded.Acknowledged = api.Succeeded, []byte("receipt"), true
		loaded.Updated = start.Add(time.Hour + 5*time.Nanosecond)
		loaded.CancelledBy, loaded.CancelComment, loaded.CancelRequested = action.Requestor{Kind: auth.User, ID: "u", Name: "ana"}, "no", start
		loaded.TroubleshootInfo, loaded.ErrorHResult, loaded.CancelOrder = "fine", -5, []byte("cancel")
		return &e, nil
	})
	must(t, err)
	read, err := s.Action(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(got, read); diff != "" {
		t.Errorf("what was returned and what is read differ (-returned +read):\n%s", diff)
	}
	if read.Status != api.Succeeded || !read.Updated.Equal(start.Add(time.Hour)) || string(read.Receipt) != "receipt" || read.CancelledBy.Name != "ana" {
		t.Errorf("the change was not kept: %+v", read)
	}
	if log := entries(t, s); len(log) != 2 || log[1].Operation != audit.FinishMachineAction {
		t.Errorf("audit entries: %v", log)
	}
	setStatus(t, s, a.ID, api.Failed) // with no entry
	if n := len(entries(t, s)); n != 2 {
		t.Errorf("%d audit entries after a change without one, want 2", n)
	}
}

func testActionChangeAborted(t *testing.T, _ *Harness, s Store) {
	a := create(t, s, NewAction("machine"))
	reason := errors.New("the reason")
	e := Entry(audit.CancelMachineAction, a.ID)
	bad := e
	bad.Target = "a\x00b"
	for name, change := range map[string]func(*action.Action) (*audit.Entry, error){
		"an error": func(a *action.Action) (*audit.Entry, error) { a.Status = api.Failed; return &e, reason },
		"a refusal": func(a *action.Action) (*audit.Entry, error) {
			a.Status = api.Failed
			return &e, api.Errorf(api.BadRequest, "no")
		},
		"an unwritable entry":    func(a *action.Action) (*audit.Entry, error) { a.Status = api.Failed; return &bad, nil },
		"an action unlike ours":  func(a *action.Action) (*audit.Entry, error) { a.ID = "other"; return &e, nil },
		"text that is not UTF-8": func(a *action.Action) (*audit.Entry, error) { a.TroubleshootInfo = "\xff"; return &e, nil },
	} {
		got, err := s.ChangeAction(t.Context(), a.ID, change)
		if err == nil || got.ID != "" {
			t.Errorf("%s: returned %v, %v", name, got, err)
		}
		if name == "an error" && err != reason { //nolint:errorlint // it has to be the very error
			t.Errorf("error of the change came back as %v", err)
		}
	}
	read, err := s.Action(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(*a, read); diff != "" {
		t.Errorf("something was kept (-want +got):\n%s", diff)
	}
	if n := len(entries(t, s)); n != 1 {
		t.Errorf("%d audit entries, want that of the creation alone", n)
	}
}

func testActionChangePanics(t *testing.T, _ *Harness, s Store) {
	a := create(t, s, NewAction("machine"))
	func() {
		defer func() {
			if v := recover(); v == nil {
				t.Error("the panic did not reach the caller")
			}
		}()
		_, _ = s.ChangeAction(t.Context(), a.ID, func(a *action.Action) (*audit.Entry, error) { a.Status = api.Failed; panic("boom") })
	}()
	read, err := s.Action(t.Context(), a.ID)
	must(t, err)
	if read.Status != api.Pending {
		t.Errorf("status is %s", read.Status)
	}
	create(t, s, NewAction("machine")) // the store goes on
}

func testActionFixed(t *testing.T, _ *Harness, s Store) {
	a := create(t, s, NewAction("machine"))
	for name, change := range map[string]func(*action.Action){
		"Seq": func(a *action.Action) { a.Seq++ }, "ID": func(a *action.Action) { a.ID += "x" }, "MachineID": func(a *action.Action) { a.MachineID = "x" },
		"Type": func(a *action.Action) { a.Type = "x" }, "File": func(a *action.Action) { a.File.SHA256[0] = 1 }, "Requestor": func(a *action.Action) { a.Requestor.Name = "x" },
		"Created": func(a *action.Action) { a.Created = time.Now() },
	} {
		_, err := s.ChangeAction(t.Context(), a.ID, func(a *action.Action) (*audit.Entry, error) { change(a); return nil, nil })
		if err == nil {
			t.Errorf("%s was changed", name)
			continue
		}
		wantText(t, err, "is fixed")
	}
	// A final action cannot come to life beside an active one with its key.
	setStatus(t, s, a.ID, api.Failed)
	b := NewAction("machine")
	b.File = a.File
	create(t, s, b)
	_, err := s.ChangeAction(t.Context(), a.ID, func(a *action.Action) (*audit.Entry, error) { a.Status = api.Pending; return nil, nil })
	wantCode(t, err, api.ActiveRequestAlreadyExists)
}

func testActionMissing(t *testing.T, _ *Harness, s Store) {
	for _, id := range []string{newGUID(), "", "nul\x00", "\xff", string(make([]byte, 5000))} {
		_, err := s.Action(t.Context(), id)
		wantCode(t, err, api.ResourceNotFound, "was not found")
		_, err = s.ChangeAction(t.Context(), id, func(*action.Action) (*audit.Entry, error) {
			t.Error("change was called")
			return nil, nil
		})
		wantCode(t, err, api.ResourceNotFound, "was not found")
	}
	if a, err := s.Undelivered(t.Context(), "nul\x00", 1); err != nil || len(a) != 0 {
		t.Errorf("Undelivered: %v, %v", a, err)
	}
	if id, err := s.ActiveAction(t.Context(), "no such key"); err != nil || id != "" {
		t.Errorf("ActiveAction: %q, %v", id, err)
	}
}

// testNeighbours holds the writer so that good and bad changes queue up and are
// committed together.
func testNeighbours(t *testing.T, _ *Harness, s Store) {
	first := create(t, s, NewAction("machine"))
	release := hold(t, s, first.ID)
	var group sync.WaitGroup
	good := make([]*action.Action, 40)
	for i := range good {
		good[i] = NewAction(fmt.Sprint("machine", i))
		group.Go(func() {
			if err := s.CreateAction(t.Context(), good[i], Entry(audit.StopAndQuarantineFile, good[i].ID)); err != nil {
				t.Errorf("a good change: %v", err)
			}
		})
		group.Go(func() {
			twin := NewAction("machine")
			twin.File = first.File
			if err := s.CreateAction(t.Context(), twin, Entry(audit.StopAndQuarantineFile, "twin")); api.CodeOf(err) != api.ActiveRequestAlreadyExists {
				t.Errorf("a duplicate: %v", err)
			}
		})
		group.Go(func() {
			// Fails after it has written something.
			bad := Entry(audit.StopAndQuarantineFile, "bad")
			bad.Detail = raw("{")
			if err := s.CreateAction(t.Context(), NewAction("bad machine"), bad); err == nil {
				t.Error("an entry that is no JSON was kept")
			}
		})
	}
	release()
	group.Wait()
	for _, a := range good {
		_, err := s.Action(t.Context(), a.ID)
		must(t, err)
	}
	for _, e := range entries(t, s) {
		if e.Target == "twin" || e.Target == "bad" {
			t.Errorf("entry of a failed change was kept: %v", e)
		}
	}
	if all, _, err := s.Actions(t.Context(), query(t, nil)); err != nil || len(all) != 1+len(good) {
		t.Errorf("%d actions, %v; want %d", len(all), err, 1+len(good))
	}
}

// hold keeps the writer busy until release is called.
func hold(t testing.TB, s Store, id string) (release func()) {
	t.Helper()
	entered, leave, left := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		if _, err := s.ChangeAction(t.Context(), id, func(*action.Action) (*audit.Entry, error) {
			close(entered)
			<-leave
			return nil, nil
		}); err != nil {
			t.Errorf("holding change: %v", err)
		}
	}()
	<-entered
	return func() { close(leave); <-left }
}
