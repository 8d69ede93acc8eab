// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArguments(t *testing.T) {
	for _, c := range []struct {
		text string
		want url.Values
		err  string
	}{
		{"", url.Values{}, ""},
		{"ip='10.0.0.2',timestamp=2026-11-01T00:00:00Z", url.Values{"ip": {"10.0.0.2"}, "timestamp": {"2026-11-01T00:00:00Z"}}, ""},
		{" TimeStamp = 2026-11-01T00:00:00Z , IP = '10.0.0.2' ", url.Values{"ip": {"10.0.0.2"}, "timestamp": {"2026-11-01T00:00:00Z"}}, ""},
		{"tag='it''s, (a)=b'", url.Values{"tag": {"it's, (a)=b"}}, ""},
		{"tag=''", url.Values{"tag": {""}}, ""},
		{"ip", nil, "name=value"},
		{"ip='1',", nil, "name=value"},
		{"ip='1", nil, "no closing quote"},
		{"ip='1'x", nil, "behind the closing quote"},
		{"ip=1'2", nil, "quote in its middle"},
		{"ip=1,IP=2", nil, "more than once"},
		{"a='" + strings.Repeat("x", 9000) + "'", nil, "more than the"},
	} {
		got, err := Arguments(c.text)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.40q: error %v, want %q", c.text, err, c.err)
		}
		if diff := cmp.Diff(c.want, got); err == nil && diff != "" {
			t.Errorf("%q (-want +got):\n%s", c.text, diff)
		}
	}
}

// Whatever was read can be written and read again.
func FuzzArguments(f *testing.F) {
	for _, s := range []string{"", "ip='10.0.0.2',timestamp=2026-11-01T00:00:00Z", "tag='it''s'", "a=b,c='", "=", "a='x'y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Arguments(s)
		if err != nil {
			return
		}
		var parts []string
		for name := range v {
			parts = append(parts, name+"='"+strings.ReplaceAll(v.Get(name), "'", "''")+"'")
		}
		again, err := Arguments(strings.Join(parts, ","))
		if err == nil && !cmp.Equal(v, again) {
			t.Errorf("%q: %v, then %v", s, v, again)
		}
	})
}

func TestAnd(t *testing.T) {
	fields := []Field{{Name: "a", Column: "t.a", Type: Folded}, {Name: "n", Column: "t.n", Type: Number}}
	q, err := Parse(url.Values{"$filter": {"n eq 1 or n eq 2"}, "$top": {"5"}}, fields, Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := q.And(Only(fields, "a", "X"))
	if got.Where != "((t.n = $1 OR t.n = $2)) AND (lower(t.a) = $3)" || !cmp.Equal(got.Args, []any{int64(1), int64(2), "x"}) || got.Top != 5 {
		t.Errorf("%+v", got)
	}
	if got := (Query{Top: 3}).And(Only(fields, "a", "X")); got.Where != "lower(t.a) = $1" || got.Top != 3 {
		t.Errorf("%+v", got)
	}
	if got := q.And(Query{}); !cmp.Equal(got, q) {
		t.Errorf("%+v", got)
	}
}
