// SPDX-License-Identifier: Apache-2.0

package indicator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"staunch/internal/order"
)

func file(seq int64, kind, value, action string, groups ...string) Indicator {
	in := Indicator{Seq: seq, Type: kind, Value: value, Action: action}
	for _, g := range groups {
		in.Groups = append(in.Groups, Group{Name: g})
	}
	return in
}

// The contract's rules of precedence and conflict for file hashes, one row each.
func TestResolve(t *testing.T) {
	a1, a2 := strings.Repeat("a", 40), strings.Repeat("a", 64)
	for _, c := range []struct {
		name  string
		group string
		all   []Indicator
		want  string // ids and actions, by hash
	}{
		{"of all devices", "", []Indicator{file(1, FileSHA1, a1, Block)}, "1 block"},
		{"group-scoped: another group", "sales", []Indicator{file(1, FileSHA1, a1, Block, "Finance")}, ""},
		{"group-scoped: no group", "", []Indicator{file(1, FileSHA1, a1, Block, "Finance")}, ""},
		{"group-scoped: in any case", "finance", []Indicator{file(1, FileSHA1, a1, Block, "Sales", "FINANCE")}, "1 block"},
		{"the group-scoped policy beats the all-devices one", "finance", []Indicator{file(1, FileSHA1, a1, BlockAndRemediate), file(2, FileSHA1, a1, Allowed, "Finance")}, "2 allow"},
		{"block before allow among equals", "finance", []Indicator{file(1, FileSHA1, a1, Allowed, "Finance"), file(2, FileSHA1, a1, Block, "Finance", "Sales")}, "2 block"},
		{"remediate before block", "f", []Indicator{file(1, FileSHA1, a1, BlockAndRemediate, "F"), file(2, FileSHA1, a1, Block, "F", "G")}, "1 remediate"},
		{"allow before audit", "f", []Indicator{file(1, FileSHA1, a1, Allowed, "F"), file(2, FileSHA1, a1, Audit, "F", "G")}, "1 allow"},
		{"the newer among equals", "f", []Indicator{file(1, FileSHA1, a1, Block, "F"), file(2, FileSHA1, a1, Warn, "F", "G")}, "2 block"},
		{"SHA-256 and SHA-1 are two rules", "", []Indicator{file(1, FileSHA1, a1, Block), file(2, FileSHA256, a2, Allowed)}, "1 block, 2 allow"},
		{"legacy Alert and AlertAndBlock", "", []Indicator{file(1, FileSHA1, a1, Alert), file(2, FileSHA256, a2, AlertAndBlock)}, "1 audit alert, 2 block alert"},
		{"one that no device could follow harms no other", "", []Indicator{file(1, FileSHA1, strings.Repeat("0", 40), Block), file(2, FileSHA256, "x", Block), file(3, FileSHA1, a1, Warn)}, "3 block"},
	} {
		var got []string
		for _, r := range resolve(c.all, c.group) {
			text := r.ID + " " + string(r.Do)
			if r.Alert {
				text += " alert"
			}
			got = append(got, text)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// One rule more changes one part; none is too large; the word tells sets apart.
func TestCompose(t *testing.T) {
	var all []Indicator
	for i := range 5000 {
		all = append(all, file(int64(i+1), FileSHA1, fmt.Sprintf("%08x%032x", i*858_993, i+1), Block))
	}
	before, err := compose(all, "", 7)
	if err != nil {
		t.Fatal(err)
	}
	after, err := compose(append(all, file(9999, FileSHA1, strings.Repeat("77", 20), Block)), "", 8)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	for digest, data := range after.data {
		if before.data[digest] == nil {
			changed++
		}
		if _, err := order.DecodePart(digest, data); err != nil {
			t.Error(err)
		}
	}
	if changed != 1 || before.rules != 5000 || len(before.parts) < 16 || before.key == after.key {
		t.Errorf("%d parts of %d changed; %q, %q", changed, len(after.parts), before.key, after.key)
	}
	again, err := compose(all, "", 7)
	if err != nil || again.key != before.key {
		t.Errorf("%q, then %q, %v", before.key, again.key, err)
	}
	// Hashes chosen for their first bits do not crowd a part.
	var crowd []Indicator
	for i := range 3000 {
		crowd = append(crowd, file(int64(i+1), FileSHA256, fmt.Sprintf("%032x%032x", 1, i), Block))
	}
	if _, err := compose(crowd, "", 7); err != nil {
		t.Error(err)
	}
	soon := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	all[3].Expires = soon
	if s, err := compose(all, "", 7); err != nil || !s.until.Equal(soon) {
		t.Errorf("%v, %v", s.until, err)
	}
	if s, err := compose(nil, "", 0); err != nil || len(s.parts) != 0 {
		t.Errorf("%v, %v", s, err)
	}
}

// FuzzCheck: whatever is asked for is refused with a reason or can be kept, and
// what a device gets of it it takes.
func FuzzCheck(f *testing.F) {
	f.Add("FileSha1", strings.Repeat("a", 40), "Block", "2027-01-01T00:00:00Z", "Finance,Sales")
	f.Add("FileSha256", strings.Repeat("b", 64), "Allowed", "", "")
	f.Add("Url", "https://a.example/x", "Warn", "2027-01-01", "a")
	f.Add("IpAddress", "10.0.0.1", "Audit", "", "")
	f.Add("DomainName", "a.example", "AlertAndBlock", "", "")
	now := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, kind, value, action, expires, groups string) {
		in, err := Request{Type: kind, Value: value, Action: action, Title: "t", Description: "d", Expiration: expires, Groups: strings.Split(groups, ","), GenerateAlert: true}.check(now)
		if err != nil {
			return
		}
		if in.Type != FileSHA1 && in.Type != FileSHA256 {
			return
		}
		in.Seq = 1
		in.Groups = nil
		s, err := compose([]Indicator{in}, "", 1)
		if err != nil || s.rules != 1 {
			t.Fatalf("%+v: %v", in, err)
		}
		for digest, data := range s.data {
			if _, err := order.DecodePart(digest, data); err != nil {
				t.Errorf("%+v: %v", in, err)
			}
		}
	})
}
