// SPDX-License-Identifier: Apache-2.0

package device

import (
	"regexp"
	"strings"
	"testing"

	"staunch/api"
	"staunch/internal/order"
)

func rules(t testing.TB, texts ...string) []Rule {
	t.Helper()
	var all []Rule
	for _, s := range texts {
		r, err := ParseRule(s)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

func TestRules(t *testing.T) {
	d := Device{Name: "fin-01.corp.example", Tags: []string{"Finance", "a*b"}, Facts: order.Facts{OSPlatform: "Ubuntu", OS: "linux"}}
	for _, c := range []struct {
		rules []string
		want  bool
	}{
		{[]string{"tag=finance"}, true}, {[]string{"tag=fin*"}, false}, {[]string{"tag=a*b"}, true},
		{[]string{"tag=other", "tag=finance"}, true},
		{[]string{"name=fin-*"}, true}, {[]string{"name=FIN-0?"}, true}, {[]string{"name=fin-01.corp.example"}, true}, {[]string{"name=corp*"}, false},
		{[]string{"domain=corp.example"}, true}, {[]string{"domain=*.example"}, true}, {[]string{"domain=example"}, false},
		{[]string{"os=ubuntu"}, true}, {[]string{"os=Linux"}, true}, {[]string{"os=win*"}, false},
		{[]string{"tag=finance", "os=win*"}, false}, {[]string{"tag=finance", "os=win*", "os=ubu*"}, true},
		{nil, false},
	} {
		if got := (Group{Rules: rules(t, c.rules...)}).Matches(d); got != c.want {
			t.Errorf("%q: %v", c.rules, got)
		}
	}
	if (Group{Rules: rules(t, "domain=*")}).Matches(Device{Name: "alone"}) {
		t.Error("a device without a domain is in one")
	}
}

func TestParseRuleRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"": "not of the form", "finance": "not of the form", "color=red": "not of the form", "tag=": "matches nothing", "tag=  ": "matches nothing",
		"name=" + strings.Repeat("x", 256): "longer than 255", "name=a\x00": "cannot be printed", "name=\xff": "cannot be printed",
	} {
		if _, err := ParseRule(in); api.CodeOf(err) != api.InvalidInput || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRule(%q) = %v, want %q", in, err, want)
		}
	}
}

func TestGroupCheck(t *testing.T) {
	many := strings.Split(strings.Repeat("tag=x ", 11), " ")[:11]
	for want, g := range map[string]Group{
		"no name":           {Rules: rules(t, "tag=x")},
		"no rule":           {Name: "g"},
		"more than 10":      {Name: "g", Rules: rules(t, many...)},
		"Rank -1":           {Name: "g", Rank: -1, Rules: rules(t, "tag=x")},
		"devices in no gr":  {Name: "ungrouped DEVICES", Rules: rules(t, "tag=x")},
		"a slash":           {Name: "a/b", Rules: rules(t, "tag=x")},
		"120 are allowed":   {Name: strings.Repeat("x", 121), Rules: rules(t, "tag=x")},
		"cannot be printed": {Name: "g", Description: "\x00", Rules: rules(t, "tag=x")},
	} {
		if err := g.check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check = %v, want %q", err, want)
		}
	}
}

// glob agrees with the regular expression that says the same, and ends.
func FuzzGlob(f *testing.F) {
	f.Add("fin-*", "fin-01")
	f.Add("*a*b*?", "xaybz")
	f.Add("", "")
	f.Add(strings.Repeat("*a", 30), strings.Repeat("a", 60)+"b")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 200 || len(s) > 200 {
			return
		}
		var re strings.Builder
		for _, r := range strings.ToLower(pattern) {
			switch r {
			case '*':
				re.WriteString(`(?s:.*)`)
			case '?':
				re.WriteString(`(?s:.)`)
			default:
				re.WriteString(regexp.QuoteMeta(string(r)))
			}
		}
		lower := string([]rune(strings.ToLower(s)))
		if want := regexp.MustCompile(`\A(?:` + re.String() + `)\z`).MatchString(lower); glob(pattern, s) != want {
			t.Errorf("glob(%q, %q) = %v", pattern, s, !want)
		}
	})
}
