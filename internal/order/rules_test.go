// SPDX-License-Identifier: Apache-2.0

package order

import (
	"crypto/ed25519"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/internal/filehash"
)

func TestRules(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	device := strings.Repeat("ab", 20)
	rules := []Rule{
		{ID: "2", SHA256: filehash.SHA256{9}, Do: RuleAllow},
		{ID: "31", SHA1: filehash.SHA1{1}, Do: RuleRemediate, Alert: true, Expires: time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)},
	}
	digest, data, err := EncodePart(rules)
	if err != nil {
		t.Fatal(err)
	}
	set := RuleSet{Device: device, Version: 7, Issued: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), Rules: 2, Parts: []string{digest}}
	e, err := SignRules(set, private)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyRules(e, device, public)
	if err != nil || !cmp.Equal(got, set) {
		t.Fatalf("%+v, %v", got, err)
	}
	back, err := DecodePart(digest, data)
	if err != nil || len(back) != 2 || !cmp.Equal(back[1], rules[0]) || !cmp.Equal(back[0], rules[1]) {
		t.Errorf("%+v, %v", back, err)
	}

	_, err = VerifyRules(e, strings.Repeat("cd", 20), public)
	wantError(t, err, "for another device")
	forged := e
	forged.Payload = append([]byte(nil), e.Payload...)
	forged.Payload[20] ^= 1
	_, err = VerifyRules(forged, device, public)
	wantError(t, err, ErrSignature.Error())
	asOrder := e
	asOrder.PayloadType = OrderType
	_, err = Verify(asOrder, device, time.Now(), public)
	wantError(t, err, ErrSignature.Error())
	_, err = DecodePart(digest, append([]byte(" "), data...))
	wantError(t, err, "not the one that was named")
	for want, r := range map[string]Rule{
		"names no content":     {ID: "1", Do: RuleBlock},
		"or two":               {ID: "1", Do: RuleBlock, SHA1: filehash.SHA1{1}, SHA256: filehash.SHA256{1}},
		"not known to this":    {ID: "1", Do: "eat", SHA1: filehash.SHA1{1}},
		"is not a number":      {ID: "x", Do: RuleBlock, SHA1: filehash.SHA1{1}},
		"names the empty cont": {ID: "1", Do: RuleBlock, SHA1: emptySHA1(t)},
	} {
		digest, data, err := EncodePart([]Rule{r})
		if err != nil {
			t.Fatal(err)
		}
		_, err = DecodePart(digest, data)
		wantError(t, err, want)
	}
	for want, change := range map[string]func(*RuleSet){
		"not 40 hex digits":   func(s *RuleSet) { s.Device = "x" },
		"the date is missing": func(s *RuleSet) { s.Issued = time.Time{} },
		"rules are not from":  func(s *RuleSet) { s.Rules = MaxRules + 1 },
		"stands twice":        func(s *RuleSet) { s.Parts = []string{digest, digest} },
		"is no digest":        func(s *RuleSet) { s.Parts = []string{"../../etc/passwd"} },
		"more than the":       func(s *RuleSet) { s.Parts = make([]string, MaxParts+1) },
	} {
		bad := set
		change(&bad)
		_, err := SignRules(bad, private)
		wantError(t, err, want)
	}
}

func emptySHA1(t *testing.T) filehash.SHA1 {
	h, err := filehash.ParseSHA1("da39a3ee5e6b4b0d3255bfef95601890afd80709")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func wantError(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want one that says %q", err, text)
	}
}

// What DecodePart takes, EncodePart writes, and it is taken again.
func FuzzDecodePart(f *testing.F) {
	_, data, _ := EncodePart([]Rule{{ID: "2", SHA256: filehash.SHA256{9}, Do: RuleAllow}})
	f.Add(data)
	f.Add([]byte(`{"rules":[]}`))
	f.Add([]byte(`{"rules":[{"id":"1","sha1":"00","do":"block"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		digest := digestOf(data)
		rules, err := DecodePart(digest, data)
		if err != nil {
			return
		}
		digest, again, err := EncodePart(rules)
		if err != nil {
			t.Skip() // times far outside of any calendar, or too many
		}
		if _, err := DecodePart(digest, again); err != nil {
			t.Error(err)
		}
	})
}
