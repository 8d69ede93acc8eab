// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
)

func testOutbox(t *testing.T, _ *Harness, s Store) {
	var made []*action.Action
	for i := range 6 {
		made = append(made, create(t, s, NewAction(fmt.Sprint("machine", i%2))))
	}
	setStatus(t, s, made[0].ID, api.Cancelled) // still to be delivered: its cancel
	_, err := s.ChangeAction(t.Context(), made[2].ID, func(a *action.Action) (*audit.Entry, error) { a.Acknowledged = true; return nil, nil })
	must(t, err)
	for _, test := range []struct {
		device string
		limit  int
		want   []int
	}{
		{"", 100, []int{0, 1, 3, 4, 5}},
		{"", 2, []int{0, 1}},
		{"machine0", 100, []int{0, 4}},
		{"machine1", 100, []int{1, 3, 5}},
		{"machine1", 1, []int{1}},
		{"machine2", 100, nil},
	} {
		got, err := s.Undelivered(t.Context(), test.device, test.limit)
		must(t, err)
		want := []string{}
		for _, i := range test.want {
			want = append(want, made[i].ID)
		}
		if diff := cmp.Diff(want, ids(got)); diff != "" {
			t.Errorf("Undelivered(%q, %d) (-want +got):\n%s", test.device, test.limit, diff)
		}
		for _, a := range got {
			if len(a.Order) == 0 {
				t.Error("an undelivered action came without its order")
			}
		}
	}
	waiting := func(after string, limit int) []string {
		got, err := s.Waiting(t.Context(), after, limit)
		must(t, err)
		return got
	}
	if got := [][]string{waiting("", 10), waiting("machine0", 10), waiting("", 1), waiting("machine1", 10)}; !cmp.Equal(got, [][]string{{"machine0", "machine1"}, {"machine1"}, {"machine0"}, {}}) {
		t.Errorf("Waiting: %v", got)
	}
}

func testOverdue(t *testing.T, _ *Harness, s Store) {
	var made []*action.Action
	for i := range 4 {
		a := NewAction("machine")
		a.Expires = start.Add(time.Duration(i) * time.Hour)
		made = append(made, create(t, s, a))
	}
	setStatus(t, s, made[1].ID, api.InProgress)
	setStatus(t, s, made[0].ID, api.Succeeded)
	for _, test := range []struct {
		now   time.Duration
		limit int
		want  []string
	}{
		{2 * time.Hour, 10, []string{made[1].ID, made[2].ID}},
		{2*time.Hour - time.Microsecond, 10, []string{made[1].ID}},
		{9 * time.Hour, 2, []string{made[1].ID, made[2].ID}},
	} {
		got, err := s.Overdue(t.Context(), start.Add(test.now), test.limit)
		must(t, err)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("after %v (-want +got):\n%s", test.now, diff)
		}
	}
}

func testActionLists(t *testing.T, h *Harness, s Store) {
	var made []*action.Action
	for i := range 10 {
		a := NewAction(fmt.Sprint("machine", i%3))
		a.Created, a.Updated = start.Add(time.Duration(i)*time.Minute), start.Add(time.Duration(20-i)*time.Minute)
		a.Requestor.Name = []string{"SOAR", "ana@corp.example", "Über%App_"}[i%3]
		if i == 4 {
			a.ExternalID = "INC-4"
		}
		made = append(made, create(t, s, a))
	}
	setStatus(t, s, made[3].ID, api.Failed)
	for _, test := range []struct {
		options []string
		want    []int
		count   int64
	}{
		{nil, []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}, 0},
		{[]string{"$top", "2", "$count", "true"}, []int{9, 8}, 10},
		{[]string{"$top", "2", "$skip", "3"}, []int{6, 5}, 0},
		{[]string{"$top", "0", "$count", "true"}, nil, 10},
		{[]string{"$skip", "100"}, nil, 0},
		{[]string{"$filter", "machineId eq 'MACHINE1'", "$count", "true"}, []int{7, 4, 1}, 3},
		{[]string{"$filter", "status eq 'failed'"}, []int{3}, 0},
		{[]string{"$filter", "status ne 'Pending' or id eq '" + made[9].ID + "'"}, []int{9, 3}, 0},
		{[]string{"$filter", "type eq 'stopandquarantinefile' and computerdnsname eq 'HOST.example'", "$top", "1"}, []int{9}, 0},
		{[]string{"$filter", "requestor eq 'ANA@corp.example'"}, []int{7, 4, 1}, 0},
		{[]string{"$filter", "requestor eq 'Über%aPP_'"}, []int{8, 5, 2}, 0},
		{[]string{"$filter", "startswith(requestor, 'Üb')"}, []int{8, 5, 2}, 0},
		{[]string{"$filter", "contains(requestor, '%')"}, []int{8, 5, 2}, 0},
		{[]string{"$filter", "endswith(requestor, 'p_')"}, []int{8, 5, 2}, 0},
		{[]string{"$filter", "creationDateTimeUtc lt 2026-11-23T10:02:00Z"}, []int{1, 0}, 0},
		{[]string{"$filter", "lastUpdateDateTimeUtc ge 2026-11-23T10:18:00Z", "$orderby", "lastUpdateDateTimeUtc asc"}, []int{2, 1, 0}, 0},
		{[]string{"$filter", "externalId eq null", "$top", "1"}, []int{9}, 0},
		{[]string{"$filter", "externalId ne null"}, []int{4}, 0},
		{[]string{"$filter", "externalId eq 'INC-4' and errorHResult eq 0 and requestSource eq 'publicapi'"}, []int{4}, 0},
		{[]string{"$filter", "cancellationRequestor ne null"}, nil, 0},
		{[]string{"$orderby", "machineId desc,creationDateTimeUtc", "$top", "4"}, []int{2, 5, 8, 1}, 0},
		{[]string{"$orderby", "externalId desc", "$top", "1"}, []int{4}, 0},
		{[]string{"$orderby", "externalId asc", "$skip", "9"}, []int{4}, 0},
		{[]string{"$filter", "not (status in ('Pending','InProgress'))"}, []int{3}, 0},
	} {
		got, count, err := s.Actions(t.Context(), query(t, h.ActionFields(), test.options...))
		must(t, err)
		want := []string{}
		for _, i := range test.want {
			want = append(want, made[i].ID)
		}
		if diff := cmp.Diff(want, ids(got)); diff != "" || count != test.count {
			t.Errorf("%q: count %d, want %d; (-want +got):\n%s", test.options, count, test.count, diff)
		}
	}
	q := query(t, nil)
	q.Where, q.Args = "actions.comment = $1", []any{"\x00"}
	_, _, err := s.Actions(t.Context(), q)
	wantCode(t, err, api.ODataError, "contains characters")
}

func testPages(t *testing.T, h *Harness, s Store) {
	for range 25 {
		create(t, s, NewAction("machine")) // all of one time
	}
	for _, order := range []string{"", "lastUpdateDateTimeUtc asc", "status desc", "externalId", "machineId desc, creationDateTimeUtc asc"} {
		var seen []string
		for skip := 0; ; skip += 4 {
			options := []string{"$top", "4", "$skip", fmt.Sprint(skip)}
			if order != "" {
				options = append(options, "$orderby", order)
			}
			page, _, err := s.Actions(t.Context(), query(t, h.ActionFields(), options...))
			must(t, err)
			if len(page) == 0 {
				break
			}
			seen = append(seen, ids(page)...)
		}
		slices.Sort(seen)
		if n := len(slices.Compact(seen)); n != 25 {
			t.Errorf("$orderby=%s: %d different actions over all pages, want 25", order, n)
		}
	}
}
