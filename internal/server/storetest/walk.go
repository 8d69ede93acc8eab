// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/server/device"
	"staunch/internal/server/indicator"
	"staunch/internal/server/odata"
)

// walk reads a list page by page, each from the place that the one before it
// ended at, and calls between before every page but the first.
func walk(t testing.TB, q odata.Query, fetch func(odata.Query) []string, between func()) []string {
	t.Helper()
	const page = 4
	var seen []string
	for {
		mark := &odata.Mark{Row: page}
		q.Top, q.Mark = page, mark
		got := fetch(q)
		seen = append(seen, got...)
		if len(got) < page {
			if mark.Place != nil {
				t.Error("a page has a place beyond its end")
			}
			return seen
		}
		// As the next request brings it.
		next, err := odata.Parse(map[string][]string{"$skiptoken": {mark.Token()}}, nil, odata.Options{})
		must(t, err)
		q.After, q.Skip = next.After, 1000 // which is not looked at any more
		between()
	}
}

// Whatever the order, with nulls and values that many rows share, pages that go
// on from a place make the whole list, and what comes meanwhile shifts none.
func testWalk(t *testing.T, h *Harness, s Store) {
	ctx := t.Context()
	var list []indicator.Indicator
	for i := range 11 {
		a := NewAction(fmt.Sprint("machine", i%3))
		a.Created, a.Updated = start.Add(time.Duration(i/2)*time.Minute), start.Add(time.Duration(20-i)*time.Minute)
		a.ExternalID = []string{"", "b", "a"}[i%3]
		create(t, s, a)
		in := NewIndicator(indicator.FileSHA1, fmt.Sprintf("%040x", i+1))
		in.GenerateAlert, in.Application = i%2 == 0, []string{"", "x", "Y"}[i%3]
		if i%4 == 0 {
			in.Expires = start.Add(time.Duration(i+1) * time.Hour)
		}
		list = append(list, in)
		enroll(t, s, NewDevice(fmt.Sprintf("host-%d.example", i)))
	}
	put(t, s, list...)
	actions := func(q odata.Query) []string {
		got, _, err := s.Actions(ctx, q)
		must(t, err)
		return ids(got)
	}
	devices := func(q odata.Query) []string {
		got, _, err := s.Devices(ctx, q)
		must(t, err)
		return each(got, func(d device.Device) string { return d.ID })
	}
	indicators := func(q odata.Query) []string {
		got, _, err := s.Indicators(ctx, indicator.Scope{Now: start}, q)
		must(t, err)
		return each(got, func(in indicator.Indicator) string { return fmt.Sprint(in.Seq) })
	}
	for _, l := range []struct {
		fetch  func(odata.Query) []string
		fields []odata.Field
		more   []string // orders beside each field by itself, up and down
	}{
		{actions, h.ActionFields(), []string{"", "externalId desc,status", "status,externalId", "machineId desc,externalId desc", "status,creationDateTimeUtc", "errorHResult desc,externalId asc,machineId desc"}},
		{devices, h.DeviceFields(start), []string{"", "riskScore desc,computerDnsName"}},
		{indicators, h.IndicatorFields(), []string{"", "generateAlert desc,expirationTime", "expirationTime desc,application"}},
	} {
		orders := l.more
		for _, f := range l.fields {
			if f.Type != odata.Strings {
				orders = append(orders, f.Name, f.Name+" desc")
			}
		}
		for _, order := range orders {
			var options []string
			if order != "" {
				options = []string{"$orderby", order}
			}
			q := query(t, l.fields, options...)
			if diff := cmp.Diff(l.fetch(q), walk(t, q, l.fetch, func() {})); diff != "" {
				t.Errorf("$orderby=%s (-whole +page by page):\n%s", order, diff)
			}
		}
	}
	q := query(t, h.ActionFields(), "$filter", "machineId ne 'machine0'")
	whole := actions(q)
	if diff := cmp.Diff(whole, walk(t, q, actions, func() {
		a := NewAction("machine1")
		a.Created = start.Add(time.Hour)
		create(t, s, a)
	})); diff != "" {
		t.Errorf("while more came (-before +page by page):\n%s", diff)
	}
	q = query(t, h.ActionFields(), "$orderby", "status")
	q.After = &odata.Place{Keys: []any{int64(1)}, Seq: 1}
	_, _, err := s.Actions(ctx, q)
	wantCode(t, err, api.ODataError, "another $orderby")
	q.After = &odata.Place{Keys: []any{"\x00"}, Seq: 1}
	_, _, err = s.Actions(ctx, q)
	wantCode(t, err, api.ODataError)
	q.Count, q.After = true, &odata.Place{Keys: []any{"zzz"}, Seq: 1}
	none, count, err := s.Actions(ctx, q)
	if err != nil || len(none) != 0 || count == 0 {
		t.Errorf("behind all: %d rows, a count of %d, %v", len(none), count, err)
	}
}

func each[T any](list []T, id func(T) string) []string {
	all := make([]string, len(list))
	for i, v := range list {
		all[i] = id(v)
	}
	return all
}
