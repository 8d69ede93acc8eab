// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
)

func TestEnroll(t *testing.T) {
	b := newBench(t)
	line, tok, err := b.CreateToken(t.Context(), admin, 2, time.Hour, []string{" finance ", "finance", "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := order.ParseEnrollToken(line)
	if err != nil || parsed.URL != "https://staunch.example:8443" || parsed.CA != strings.Repeat("ab", 32) {
		t.Fatalf("token %q = %+v, %v", line, parsed, err)
	}
	r, _ := b.request(t, facts("FIN-lt-014.corp.example."))
	r.Secret = parsed.Secret
	d, err := b.Enroll(t.Context(), r, "198.51.100.9")
	if err != nil {
		t.Fatal(err)
	}
	kept, err := b.Find(t.Context(), admin, d.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, kept); diff != "" {
		t.Errorf("what Enroll returned is not what is kept\n%s", diff)
	}
	if !order.ValidDevice(d.ID) || d.Name != "fin-lt-014.corp.example" || d.Value != "Normal" || !d.LastSeen.Equal(b.clock()) || d.LastIP != "198.51.100.9" {
		t.Errorf("device %+v", d)
	}
	if diff := cmp.Diff([]string{"finance", "laptop"}, d.Tags); diff != "" {
		t.Error(diff)
	}
	if d.Facts.Addresses[1].MAC != "02005E10A0B1" {
		t.Errorf("address %+v, want the MAC in upper case", d.Facts.Addresses[1])
	}

	// A second use is good, a third is not, and the refusal is on record.
	if _, err := b.Enroll(t.Context(), r, "198.51.100.9"); err != nil {
		t.Error(err)
	}
	_, err = b.Enroll(t.Context(), r, "203.0.113.5")
	refusal(t, err, api.Forbidden, "used up")
	all := b.audit(t)
	last := all[len(all)-1]
	if last.Operation != audit.EnrollDevice || last.Outcome != "refused: Forbidden" || !strings.Contains(string(last.Detail), "203.0.113.5") {
		t.Errorf("last audit line %+v %s, want the refused enrollment", last, last.Detail)
	}
	lines, _ := json.Marshal(all)
	if strings.Contains(string(lines)+b.log.String(), parsed.Secret) {
		t.Error("the secret is in the log or in the audit log")
	}
	if tok.Uses != 2 || !tok.Expires.Equal(b.clock().Add(time.Hour)) {
		t.Errorf("token %+v", tok)
	}
}

func TestTokenExpires(t *testing.T) {
	b := newBench(t)
	r, _ := b.request(t, facts("a.example"))
	b.turn(time.Hour)
	_, err := b.Enroll(t.Context(), r, "")
	refusal(t, err, api.Forbidden, "past its date")
}

func TestCreateTokenRefuses(t *testing.T) {
	b := newBench(t)
	many := make([]string, 101)
	for i := range many {
		many[i] = fmt.Sprint(i)
	}
	for name, c := range map[string]struct {
		uses int
		ttl  time.Duration
		tags []string
		want string
	}{
		"negative uses": {-1, 0, nil, "1 to 1000000 devices, not for -1"},
		"too many uses": {1_000_001, 0, nil, "not for 1000001"},
		"negative time": {1, -time.Second, nil, "at most 366 days, not for -1s"},
		"too long":      {1, 367 * 24 * time.Hour, nil, "at most 366 days"},
		"empty tag":     {1, 0, []string{" "}, "A tag is empty"},
		"long tag":      {1, 0, []string{strings.Repeat("ä", 201)}, "201 characters, 200 are allowed"},
		"odd tag":       {1, 0, []string{"a\x1b[1m"}, "cannot be printed"},
		"too many tags": {1, 0, many, "101 tags are more than the 100"},
	} {
		line, _, err := b.CreateToken(t.Context(), admin, c.uses, c.ttl, c.tags)
		if line != "" {
			t.Errorf("%s: a token was made", name)
		}
		refusal(t, err, api.InvalidInput, c.want)
	}
	_, _, err := b.CreateToken(t.Context(), app("Machine.ReadWrite.All"), 1, 0, nil)
	refusal(t, err, api.Forbidden, "Only an administrator")
	if all := b.audit(t); len(all) != 9 || all[8].Outcome != "refused: Forbidden" || all[8].ActorID == "" {
		t.Errorf("%d audit lines, want 9 refusals", len(all))
	}
}

// Nothing that is malformed takes a use off the token.
func TestEnrollRefuses(t *testing.T) {
	b := newBench(t)
	good, _ := b.request(t, facts("good.example"))
	with := func(change func(*order.Facts)) json.RawMessage {
		f := facts("good.example")
		change(&f)
		raw, err := json.Marshal(f)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	long := strings.Repeat("x", 256)
	for name, c := range map[string]struct {
		change func(*api.EnrollRequest)
		code   api.Code
		want   string
	}{
		"no secret":    {func(r *api.EnrollRequest) { r.Secret = "" }, api.InvalidInput, "enrollment secret is malformed"},
		"whole token":  {func(r *api.EnrollRequest) { r.Secret = "staunch1." + r.Secret }, api.InvalidInput, "enrollment secret is malformed"},
		"wrong secret": {func(r *api.EnrollRequest) { r.Secret = base64.RawURLEncoding.EncodeToString(make([]byte, 32)) }, api.Forbidden, "not known"},
		"no key":       {func(r *api.EnrollRequest) { r.PublicKey = "" }, api.InvalidInput, "publicKey is not base64 of the 32 bytes"},
		"short key":    {func(r *api.EnrollRequest) { r.PublicKey = "AAAA" }, api.InvalidInput, "publicKey is not"},
		"private key": {func(r *api.EnrollRequest) { r.PublicKey = base64.StdEncoding.EncodeToString(make([]byte, 64)) }, api.InvalidInput,
			"publicKey is not"},
		"no facts":        {func(r *api.EnrollRequest) { r.Facts = nil }, api.MissingRequiredParameter, "Parameter facts is missing"},
		"facts a list":    {func(r *api.EnrollRequest) { r.Facts = json.RawMessage(`[]`) }, api.InvalidInput, "facts is not what a device says"},
		"facts of types":  {func(r *api.EnrollRequest) { r.Facts = json.RawMessage(`{"hostname":7}`) }, api.InvalidInput, "facts is not what"},
		"facts too large": {func(r *api.EnrollRequest) { r.Facts = json.RawMessage(`"` + strings.Repeat("x", 256<<10) + `"`) }, api.InvalidInput, "262144 are allowed"},
		"no host name":    {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.Hostname = "" }) }, api.InvalidInput, "facts.hostname is empty"},
		"long host name":  {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.Hostname = long }) }, api.InvalidInput, "facts.hostname has 256 bytes"},
		"path as name":    {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.FQDN = "../../etc" }) }, api.InvalidInput, "is not a host name"},
		"script as name":  {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.Hostname = "<script>" }) }, api.InvalidInput, "is not a host name"},
		"id as name":      {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.FQDN = strings.Repeat("AB", 20) }) }, api.InvalidInput, "is not a host name"},
		"GUID as name": {func(r *api.EnrollRequest) {
			r.Facts = with(func(f *order.Facts) { f.FQDN = "6d0f2b1e-5a44-4f0b-9a2f-3c1de8840c77" })
		}, api.InvalidInput, "is not a host name"},
		"odd kernel":   {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.Kernel = "a\x00b" }) }, api.InvalidInput, "facts.kernel holds characters"},
		"long version": {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.AgentVersion = long }) }, api.InvalidInput, "facts.agentVersion has 256 bytes"},
		"no address": {func(r *api.EnrollRequest) {
			r.Facts = with(func(f *order.Facts) { f.Addresses = []order.Address{{IP: "10.0.0.256"}} })
		}, api.InvalidInput, `"10.0.0.256", which is no IP address`},
		"many kinds": {func(r *api.EnrollRequest) { r.Facts = with(func(f *order.Facts) { f.Can = make([]order.Kind, 65) }) }, api.InvalidInput, "65 kinds of order"},
		"odd user": {func(r *api.EnrollRequest) {
			r.Facts = with(func(f *order.Facts) { f.Users = []order.LogonUser{{Name: "a\nb"}} })
		}, api.InvalidInput, "facts.users.name holds"},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			c.change(&r)
			d, err := b.Enroll(t.Context(), r, "198.51.100.9")
			if d.ID != "" {
				t.Errorf("enrolled %+v", d)
			}
			refusal(t, err, c.code, c.want)
		})
	}
	if _, err := b.Enroll(t.Context(), good, ""); err != nil {
		t.Errorf("the token's one use is gone: %v", err)
	}
}

// A machine with odd but honest hardware enrolls.
func TestEnrollKeepsWithinBounds(t *testing.T) {
	b := newBench(t)
	f := facts("node")
	f.OSPlatform = ""
	f.Addresses = []order.Address{{IP: "fe80::1%eth0", MAC: strings.Repeat("ab", 20), Type: "Other"}}
	for i := range 1000 {
		f.Addresses = append(f.Addresses, order.Address{IP: fmt.Sprintf("10.0.%d.%d", i/256, i%256), Type: "Other", Up: true})
	}
	r, _ := b.request(t, f)
	d, err := b.Enroll(t.Context(), r, "")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(d.Facts.Addresses); n != 256 {
		t.Errorf("%d addresses kept, want 256", n)
	}
	if a := d.Facts.Addresses[0]; a.MAC != "" || a.IP != "fe80::1" {
		t.Errorf("first address %+v, want it without zone and without a MAC of 20 bytes", a)
	}
	if d.Facts.OSPlatform != "Linux" || d.Name != "node" {
		t.Errorf("platform %q, name %q", d.Facts.OSPlatform, d.Name)
	}
}

// Whatever a machine says of itself, it is refused or kept within bounds.
func FuzzEnrollFacts(f *testing.F) {
	b := newBench(f)
	good, err := json.Marshal(facts("fuzz.example"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"hostname":"a","addresses":[{"ip":"::ffff:1.2.3.4%x"}],"can":["",null]}`))
	f.Add([]byte("{\"hostname\":\"\xff\"}"))
	line, _, err := b.CreateToken(f.Context(), admin, 1_000_000, 0, nil)
	if err != nil {
		f.Fatal(err)
	}
	tok, err := order.ParseEnrollToken(line)
	if err != nil {
		f.Fatal(err)
	}
	key := order.FormatKey(make([]byte, 32))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := b.Enroll(t.Context(), api.EnrollRequest{Secret: tok.Secret, PublicKey: key, Facts: raw}, "")
		switch {
		case err == nil && (d.Name == "" || len(d.Name) > 255):
			t.Errorf("enrolled with the name %q", d.Name)
		case err != nil && api.CodeOf(err) == api.InternalServerError:
			t.Errorf("Enroll(%q): %v", raw, err)
		}
	})
}
