// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"encoding/base64"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
)

// A place comes back from its token as it was; what is no token, or belongs to
// another order, is refused and says what to do.
func TestPlace(t *testing.T) {
	order := []Order{{Type: Folded}, {Type: DateTime}, {Type: Bool}, {Type: Number}, {Type: String}}
	want := Place{Keys: []any{"ünï'%", int64(1_790_000_000_000_000), true, nil, ""}, Seq: 9_007_199_254_740_993}
	q, err := parse(t, "$skiptoken="+want.Token())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, *q.After); d != "" || q.After.Fits(order) != nil {
		t.Errorf("%v (-want +got):\n%s", q.After.Fits(order), d)
	}
	if err := (Place{Keys: []any{"a"}}).Fits([]Order{{Type: Number}}); api.CodeOf(err) != api.ODataError || !strings.Contains(err.Error(), "nextLink") {
		t.Errorf("a text for a number: %v", err)
	}
	if err := want.Fits(order[:4]); err == nil {
		t.Error("a place of five keys fits four")
	}
	long := Place{Keys: []any{strings.Repeat("x", maxToken)}}
	if got := long.Token(); got != "" {
		t.Errorf("a token of %d bytes", len(got))
	}
	if (Mark{}).Token() != "" {
		t.Error("no place has a token")
	}
	for name, text := range map[string]string{
		"no JSON": "x", "an object": `{"a":1}`, "nothing": `[]`, "a text for a row": `["a"]`, "a fraction": `[1.5,1]`,
		"too large": `[99999999999999999999,1]`, "more behind it": `[1] [2]`, "negative": `[-1]`, "nested": strings.Repeat("[", 2000),
	} {
		if _, err := parse(t, "$skiptoken="+base64.RawURLEncoding.EncodeToString([]byte(text))); api.CodeOf(err) != api.ODataError {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parse(t, "$skiptoken=%25"); api.CodeOf(err) != api.ODataError {
		t.Errorf("no base64: %v", err)
	}
}

// FuzzBehindAll: the end of a range of strings lies behind all that begin alike,
// and before all others that follow.
func FuzzBehindAll(f *testing.F) {
	for _, s := range []string{"a", "fin-", "\u007f", "\ud7ff", "\U0010ffff", "a\U0010ffff", "ÿ"} {
		f.Add(s, "tail")
	}
	f.Fuzz(func(t *testing.T, s, tail string) {
		if !utf8.ValidString(s) || !utf8.ValidString(tail) {
			return
		}
		end := behindAll(s)
		if end == "" {
			if strings.Trim(s, string(utf8.MaxRune)) != "" {
				t.Errorf("%q has no end", s)
			}
			return
		}
		if !utf8.ValidString(end) || end <= s || end <= s+tail || strings.HasPrefix(end, s) {
			t.Errorf("%q ends at %q", s, end)
		}
	})
}
