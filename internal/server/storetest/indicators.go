// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/indicator"
	"staunch/internal/server/odata"
)

// indicatorTests are added to the suite by Run.
func indicatorTests() []test {
	return []test{
		{"indicators are kept whole, and one for each key", testIndicatorKept},
		{"indicators beyond the limit are refused", testIndicatorLimit},
		{"a refused row leaves its neighbours", testIndicatorRows},
		{"indicators are deleted together or not at all", testIndicatorDelete},
		{"expired indicators are gone", testIndicatorExpiry},
		{"lists of indicators", testIndicatorLists},
		{"indicators of two replicas at once are one for each key", testIndicatorRace},
	}
}

// NewIndicator makes one as a submission would.
func NewIndicator(kind, value string) indicator.Indicator {
	return indicator.Indicator{
		Type: kind, Value: value, Shown: value, Action: indicator.Block, Severity: "High", Title: "title", Description: "why",
		Created: start, Updated: start, Creator: indicator.Creator{Kind: auth.App, ID: "app-1", Name: "SOAR"}, Source: "PublicApi",
	}
}

func plainChange(*indicator.Indicator, *indicator.Indicator) (audit.Entry, error) {
	return Entry(audit.SubmitIndicator, ""), nil
}

// put keeps indicators that nothing is wrong with.
func put(t testing.TB, s Store, list ...indicator.Indicator) []indicator.Indicator {
	t.Helper()
	done, err := s.PutIndicators(t.Context(), list, start, 1000, plainChange)
	must(t, err)
	var kept []indicator.Indicator
	for _, p := range done {
		must(t, p.Err)
		kept = append(kept, p.Indicator)
	}
	return kept
}

func version(t testing.TB, s Store) int64 {
	t.Helper()
	v, err := s.IndicatorVersion(t.Context())
	must(t, err)
	return v
}

func testIndicatorKept(t *testing.T, _ *Harness, s Store) {
	in := NewIndicator(indicator.FileSHA1, strings.Repeat("ab", 20))
	in.Groups = []indicator.Group{{Name: "Finance", ID: "12"}, {Name: "Über"}}
	in.RecommendedActions, in.Application, in.EducateURL, in.ExternalID, in.GenerateAlert = "do", "app", "https://a", "x-1", true
	in.Expires, in.UpdatedBy = start.Add(time.Hour+7), "app-2"
	if v := version(t, s); v != 0 {
		t.Errorf("version %d of nothing", v)
	}
	kept := put(t, s, in)[0]
	got, err := s.Indicator(t.Context(), kept.Seq, start)
	must(t, err)
	if diff := cmp.Diff(kept, got); diff != "" || kept.Seq == 0 {
		t.Errorf("Seq %d (-held +read):\n%s", kept.Seq, diff)
	}
	first := version(t, s)
	if first < start.UnixMicro() {
		t.Errorf("version %d is before %d", first, start.UnixMicro())
	}
	all := entries(t, s)
	if e := all[len(all)-1]; e.Target != fmt.Sprint(kept.Seq) {
		t.Errorf("the entry is about %q", e.Target)
	}

	// The same key again: in its place. Other groups: beside it.
	again := in
	again.Title, again.Groups = "new", []indicator.Group{{Name: "finance", ID: "12"}, {Name: "Über"}}
	done, err := s.PutIndicators(t.Context(), []indicator.Indicator{again}, start, 1, func(old, in *indicator.Indicator) (audit.Entry, error) {
		if old == nil || old.Title != "title" {
			t.Errorf("old is %+v", old)
		}
		in.Description = "completed"
		return Entry(audit.SubmitIndicator, "x"), nil
	})
	must(t, err)
	if done[0].Err != nil || done[0].Indicator.Seq != kept.Seq {
		t.Errorf("%+v", done[0])
	}
	other := in
	other.Groups = nil
	if put(t, s, other)[0].Seq == kept.Seq {
		t.Error("groups are not part of the key")
	}
	got, err = s.Indicator(t.Context(), kept.Seq, start)
	must(t, err)
	if got.Title != "new" || got.Description != "completed" || got.Groups[0].Name != "finance" {
		t.Errorf("%+v", got)
	}
	if v := version(t, s); v != first+2 {
		t.Errorf("version %d, want %d", v, first+2)
	}
	files, v, err := s.FileIndicators(t.Context(), start)
	must(t, err)
	if len(files) != 2 || v != first+2 {
		t.Errorf("%d file indicators of version %d", len(files), v)
	}
	_, err = s.Indicator(t.Context(), 1<<40, start)
	wantCode(t, err, api.ResourceNotFound, "was not found")
}

func testIndicatorLimit(t *testing.T, _ *Harness, s Store) {
	put(t, s, NewIndicator(indicator.DomainName, "a.example"))
	short := NewIndicator(indicator.DomainName, "b.example")
	short.Expires = start.Add(time.Minute)
	put(t, s, short)
	list := []indicator.Indicator{NewIndicator(indicator.DomainName, "c.example"), NewIndicator(indicator.DomainName, "a.example"), NewIndicator(indicator.DomainName, "d.example")}
	done, err := s.PutIndicators(t.Context(), list, start, 3, plainChange)
	must(t, err)
	if done[0].Err != nil || done[1].Err != nil {
		t.Errorf("%+v", done)
	}
	wantCode(t, done[2].Err, api.BadRequest, "There are 3 indicators already")
	// What has expired does not count, swept up or not; nor is it what a new one replaces.
	later := start.Add(time.Hour)
	done, err = s.PutIndicators(t.Context(), []indicator.Indicator{NewIndicator(indicator.DomainName, "b.example")}, later, 3, func(old, _ *indicator.Indicator) (audit.Entry, error) {
		if old != nil {
			t.Error("an expired one is replaced")
		}
		return Entry(audit.SubmitIndicator, ""), nil
	})
	must(t, err)
	must(t, done[0].Err)
}

func testIndicatorRows(t *testing.T, _ *Harness, s Store) {
	before := version(t, s)
	refuse := func(_, in *indicator.Indicator) (audit.Entry, error) {
		if in.Value == "bad.example" {
			return audit.Entry{}, api.Errorf(api.Forbidden, "no")
		}
		return Entry(audit.SubmitIndicator, ""), nil
	}
	nul := NewIndicator(indicator.DomainName, "nul.example")
	nul.Title = "a\x00"
	list := []indicator.Indicator{NewIndicator(indicator.DomainName, "bad.example"), NewIndicator(indicator.DomainName, "good.example"), nul}
	done, err := s.PutIndicators(t.Context(), list, start, 10, refuse)
	must(t, err)
	wantCode(t, done[0].Err, api.Forbidden, "no")
	must(t, done[1].Err)
	wantCode(t, done[2].Err, api.InvalidInput, "title contains a NUL")
	all, count, err := s.Indicators(t.Context(), indicator.Scope{Now: start}, odata.Query{Top: 10, Count: true})
	must(t, err)
	if len(all) != 1 || count != 1 || all[0].Value != "good.example" {
		t.Errorf("%d: %+v", count, all)
	}
	v := version(t, s)
	if v == before {
		t.Error("the version did not rise")
	}
	done, err = s.PutIndicators(t.Context(), list[:1], start, 10, refuse)
	must(t, err)
	if done[0].Err == nil || version(t, s) != v || len(entries(t, s)) != 1 {
		t.Error("a refusal left something")
	}
}

func testIndicatorDelete(t *testing.T, _ *Harness, s Store) {
	kept := put(t, s, NewIndicator(indicator.DomainName, "a.example"), NewIndicator(indicator.DomainName, "b.example"))
	ids := []int64{kept[0].Seq, kept[1].Seq}
	check := func(list []indicator.Indicator) ([]audit.Entry, error) {
		var all []audit.Entry
		for _, in := range list {
			all = append(all, Entry(audit.DeleteIndicator, fmt.Sprint(in.Seq)))
		}
		return all, nil
	}
	v := version(t, s)
	wantCode(t, s.DeleteIndicators(t.Context(), append(ids, 99), start, check), api.ResourceNotFound, "Indicator 99 was not found")
	wantCode(t, s.DeleteIndicators(t.Context(), ids, start, func([]indicator.Indicator) ([]audit.Entry, error) {
		return nil, api.Errorf(api.Forbidden, "no")
	}), api.Forbidden, "no")
	if n := len(entries(t, s)); n != 2 || version(t, s) != v {
		t.Errorf("%d entries", n)
	}
	must(t, s.DeleteIndicators(t.Context(), ids, start, check))
	if n := len(entries(t, s)); n != 4 || version(t, s) <= v {
		t.Errorf("%d entries", n)
	}
	wantCode(t, s.DeleteIndicators(t.Context(), ids[:1], start, check), api.ResourceNotFound)
}

func testIndicatorExpiry(t *testing.T, _ *Harness, s Store) {
	for i := range 3 {
		in := NewIndicator(indicator.FileSHA1, fmt.Sprintf("%040x", i+1))
		in.Expires = start.Add(time.Duration(i) * time.Hour)
		if i == 0 {
			in.Expires = time.Time{}
		}
		put(t, s, in)
	}
	expire := func(now time.Time) int {
		t.Helper()
		n, err := s.ExpireIndicators(t.Context(), now, 10, func(in indicator.Indicator) audit.Entry {
			return Entry(audit.ExpireIndicator, fmt.Sprint(in.Seq))
		})
		must(t, err)
		return n
	}
	at := start.Add(time.Hour)
	list, _, err := s.Indicators(t.Context(), indicator.Scope{Now: at}, odata.Query{Top: 10})
	must(t, err)
	files, _, err := s.FileIndicators(t.Context(), at)
	must(t, err)
	if len(list) != 2 || len(files) != 2 {
		t.Errorf("%d and %d before the sweep, want 2", len(list), len(files))
	}
	v := version(t, s)
	if n := expire(at.Add(-time.Microsecond)); n != 0 || version(t, s) != v {
		t.Errorf("%d expired too early", n)
	}
	if n := expire(at); n != 1 || version(t, s) == v {
		t.Errorf("%d expired", n)
	}
	if n := expire(at); n != 0 {
		t.Errorf("%d expired twice", n)
	}
	if n := len(entries(t, s)); n != 4 {
		t.Errorf("%d entries", n)
	}
}

func testIndicatorLists(t *testing.T, h *Harness, s Store) {
	a := NewIndicator(indicator.FileSHA1, strings.Repeat("a", 40))
	a.Action, a.GenerateAlert, a.Application = indicator.BlockAndRemediate, true, "App"
	b := NewIndicator(indicator.FileSHA256, strings.Repeat("b", 64))
	b.Groups, b.Expires, b.Creator.ID = []indicator.Group{{Name: "Finance", ID: "12"}}, start.Add(time.Hour), "app-2"
	c := NewIndicator(indicator.URL, "https://bad.example/x")
	c.Shown, c.Severity, c.Action = "https://Bad.example/X", "Low", indicator.Warn
	c.Groups = []indicator.Group{{Name: "Sales", ID: "3"}}
	put(t, s, a, b, c)
	list := func(scope indicator.Scope, options ...string) string {
		t.Helper()
		scope.Now = start
		got, _, err := s.Indicators(t.Context(), scope, query(t, h.IndicatorFields(), options...))
		if err != nil {
			t.Errorf("%q: %v", options, err)
		}
		var found []string
		for _, in := range got {
			found = append(found, in.Value[:1])
		}
		return strings.Join(found, " ")
	}
	for _, test := range []struct{ filter, want string }{
		{"action eq 'BlockAndRemediate'", "a"},
		{"indicatorType eq 'filesha256'", "b"},
		{"indicatorValue eq '" + strings.Repeat("A", 40) + "'", "a"},
		{"contains(indicatorValue,'bad.EXAMPLE')", "h"},
		{"severity ne 'High'", "h"},
		{"generateAlert eq true", "a"},
		{"application eq null", "h b"},
		{"createdBy eq 'app-2'", "b"},
		{"createdByDisplayName eq 'soar' and title eq 'TITLE'", "h b a"},
		{"expirationTime ne null", "b"},
		{"expirationTime gt 2026-11-23Z", "b"},
		{"creationTimeDateTimeUtc ge 2026-11-23T10:00:00Z", "h b a"},
		{"rbacGroupNames/any(g: g eq 'Finance')", "b"},
		{"rbacGroupIds/any(g: g eq '3')", "h"},
		{"not rbacGroupNames/any()", "a"},
	} {
		if got := list(indicator.Scope{}, "$filter", test.filter); got != test.want {
			t.Errorf("%s: %q, want %q", test.filter, got, test.want)
		}
	}
	for _, test := range []struct {
		scope indicator.Scope
		want  string
	}{
		{indicator.Scope{CreatedBy: "app-2"}, "b"},
		{indicator.Scope{CreatedBy: "nobody"}, ""},
		{indicator.Scope{Groups: []int64{}}, "a"},
		{indicator.Scope{Groups: []int64{3, 7}}, "h a"},
		{indicator.Scope{Groups: []int64{12}, CreatedBy: "app-1"}, "a"},
	} {
		if got := list(test.scope, "$filter", "severity ne 'Informational'"); got != test.want {
			t.Errorf("%+v: %q, want %q", test.scope, got, test.want)
		}
	}
	if got := list(indicator.Scope{}, "$orderby", "expirationTime desc"); got != "b h a" {
		t.Errorf("ordered: %q", got)
	}
}

// Two replicas that keep, delete and expire the same few at once leave one for
// each key, within the limit, and a version that only rises.
func testIndicatorRace(t *testing.T, h *Harness, s Store) {
	stores := []Store{s}
	if h.Replicas {
		other := h.Open(t)
		t.Cleanup(func() { _ = other.Close() }) // the first one's is looked at
		stores = append(stores, other)
	}
	const keys, rounds, limit = 5, 20, 4
	var group sync.WaitGroup
	for n := range 4 {
		s := stores[n%len(stores)]
		group.Go(func() {
			last := int64(0)
			for i := range rounds {
				in := NewIndicator(indicator.FileSHA1, fmt.Sprintf("%040x", (n+i)%keys+1))
				if i%3 == 0 {
					in.Expires = start.Add(time.Second)
				}
				done, err := s.PutIndicators(t.Context(), []indicator.Indicator{in}, start, limit, plainChange)
				if err != nil || len(done) != 1 || done[0].Err != nil && api.CodeOf(done[0].Err) != api.BadRequest {
					t.Errorf("%+v, %v", done, err)
					return
				}
				if i%4 == 3 && done[0].Err == nil {
					err := s.DeleteIndicators(t.Context(), []int64{done[0].Indicator.Seq}, start, func([]indicator.Indicator) ([]audit.Entry, error) { return nil, nil })
					if err != nil && api.CodeOf(err) != api.ResourceNotFound {
						t.Errorf("delete: %v", err)
					}
				}
				if i%5 == 4 {
					if _, err := s.ExpireIndicators(t.Context(), start.Add(time.Minute), 100, func(indicator.Indicator) audit.Entry { return Entry(audit.ExpireIndicator, "x") }); err != nil {
						t.Errorf("expire: %v", err)
					}
				}
				v, err := s.IndicatorVersion(t.Context())
				if err != nil || v < last {
					t.Errorf("version %d after %d, %v", v, last, err)
				}
				last = v
			}
		})
	}
	group.Wait()
	all, _, err := s.Indicators(t.Context(), indicator.Scope{Now: start}, odata.Query{Top: 100})
	must(t, err)
	seen := map[string]bool{}
	for _, in := range all {
		if seen[in.Value] {
			t.Errorf("%s is kept twice", in.Value)
		}
		seen[in.Value] = true
	}
	if len(all) > limit {
		t.Errorf("%d are kept, the limit is %d", len(all), limit)
	}
}
