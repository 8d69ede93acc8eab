// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"staunch/api"
)

const (
	tenant   = "2c9e51aa-7b40-4c33-9d10-b5f7a1d2e604"
	appID    = "6d0f2b1e-5a44-4f0b-9a2f-3c1de8840c77"
	personID = "b4c0a1de-8f55-4c1e-9d3a-0e77c1a5d902"
	public   = "https://staunch.example:8443"
	audience = "https://api.securitycenter.microsoft.com"
)

var testKey = sync.OnceValue(func() *rsa.PrivateKey { return newKey(nil) })

func newKey(t testing.TB) *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil && t != nil {
		t.Fatal(err)
	}
	return k
}

func testRealm() Realm {
	return Realm{Tenant: tenant, PublicURL: public, Names: []string{"localhost", "127.0.0.1", "::1", "login.example"}}
}

func keySet() jose.JSONWebKeySet {
	return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: testKey().Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}}
}

func newVerifier(t testing.TB, change func(*Config)) *Verifier {
	t.Helper()
	since := time.Now().Add(-time.Hour)
	cfg := Config{Realm: testRealm(), Keys: keySet, Person: func(_ context.Context, oid string) (Person, error) {
		if oid != personID {
			return Person{}, api.Errorf(api.ResourceNotFound, "no such user")
		}
		return Person{UPN: "ana@corp.example", Access: Access{ViewData: {0, 7}}, Since: since}, nil
	}}
	if change != nil {
		change(&cfg)
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// appClaims are those of a good v1 token of an application.
func appClaims(now time.Time) map[string]any {
	return map[string]any{
		"aud": audience, "iss": public + "/" + tenant + "/", "iat": now.Unix(), "nbf": now.Add(-Leeway).Unix(), "exp": now.Add(time.Hour).Unix(),
		"tid": tenant, "appid": appID, "app_displayname": "soc-automation", "ver": "1.0",
		"roles": []string{"Machine.Read.All", "Machine.StopAndQuarantine"},
	}
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		opts = opts.WithHeader("kid", kid)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func with(base map[string]any, changes ...any) map[string]any {
	c := maps.Clone(base)
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(c, changes[i].(string))
			continue
		}
		c[changes[i].(string)] = changes[i+1]
	}
	return c
}

func TestVerifyAccepts(t *testing.T) {
	now := time.Now()
	app := Caller{Kind: App, ID: appID, Name: "soc-automation", AppID: appID, Tenant: tenant,
		Permissions: []Permission{MachineReadAll, MachineStopAndQuarantine}}
	user := Caller{Kind: User, ID: "ana@corp.example", Name: "ana@corp.example", AppID: appID, Tenant: tenant, Access: Access{ViewData: {0, 7}},
		Permissions: []Permission{MachineRead, MachineStopAndQuarantine}}
	base := appClaims(now)

	for name, c := range map[string]struct {
		claims map[string]any
		want   Caller
	}{
		"v1":                {base, app},
		"v2":                {with(base, "ver", "2.0", "appid", nil, "azp", appID, "iss", public+"/"+tenant+"/v2.0"), app},
		"audience by id":    {with(base, "aud", "fc780465-2017-40d4-a0c5-307022471b92"), app},
		"audience with /":   {with(base, "aud", "https://api.securitycenter.windows.com/"), app},
		"own audience":      {with(base, "aud", public), app},
		"operator audience": {with(base, "aud", "https://graph.microsoft.com"), app},
		"several audiences": {with(base, "aud", []string{"https://other.example", audience}), app},
		"issued by a name":  {with(base, "iss", "https://login.example:8443/"+tenant+"/v2.0"), app},
		"clock late":        {with(base, "exp", now.Add(-Leeway+time.Minute).Unix()), app},
		"clock early":       {with(base, "nbf", now.Add(Leeway-time.Minute).Unix()), app},
		"upper case app id": {with(base, "appid", strings.ToUpper(appID)), app},
		"user":              {with(base, "scp", "Machine.Read  Machine.StopAndQuarantine", "upn", "old@corp.example", "oid", strings.ToUpper(personID), "auth_time", now.Unix()), user},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVerifier(t, func(c *Config) {
				c.Realm.Audiences = func() []string { return []string{"https://graph.microsoft.com/"} }
			})
			tok := sign(t, jose.RS256, testKey(), "k1", c.claims)
			for range 2 { // the second time from the cache
				got, err := v.Verify(t.Context(), tok)
				if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
					t.Errorf("Verify: %v\n%s", err, diff)
				}
			}
		})
	}
}

// Every attack, and every fault, is an Unauthorized that says what is wrong.
func TestVerifyRefuses(t *testing.T) {
	now := time.Now()
	base := appClaims(now)
	good := sign(t, jose.RS256, testKey(), "k1", base)
	part := strings.Split(good, ".")
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	rs := func(changes ...any) string {
		return sign(t, jose.RS256, testKey(), "k1", with(base, changes...))
	}
	publicDER, err := x509.MarshalPKIXPublicKey(testKey().Public())
	if err != nil {
		t.Fatal(err)
	}
	forged, _ := json.Marshal(with(base, "roles", []string{"Machine.ReadWrite.All"}))

	for name, c := range map[string]struct{ token, want string }{
		"empty":               {"", "not a signed JSON Web Token"},
		"garbage":             {"Zm9v", "not a signed JSON Web Token"},
		"two parts":           {part[0] + "." + part[1], "not a signed JSON Web Token"},
		"five parts":          {good + ".a.b", "not a signed JSON Web Token"},
		"JSON serialization":  {`{"payload":"` + part[1] + `","protected":"` + part[0] + `","signature":"` + part[2] + `"}`, "not a signed JSON Web Token"},
		"too long":            {strings.Repeat("a", MaxToken+1), "16385 bytes long, 16384 are allowed"},
		"alg none":            {b64(`{"alg":"none","typ":"JWT"}`) + "." + part[1] + ".", "not signed with RS256"},
		"alg None":            {b64(`{"alg":"None","kid":"k1"}`) + "." + part[1] + ".", "not signed with RS256"},
		"HS256 by public key": {sign(t, jose.HS256, publicDER, "k1", base), "not signed with RS256"},
		"PS256":               {sign(t, jose.PS256, testKey(), "k1", base), "not signed with RS256"},
		"another key":         {sign(t, jose.RS256, newKey(t), "k1", base), "signature is not valid"},
		"unknown key id":      {sign(t, jose.RS256, newKey(t), "k9", base), "key that is not known here"},
		"no key id":           {sign(t, jose.RS256, testKey(), "", base), "key that is not known here"},
		"embedded key": {signEmbedded(t, base),
			"key that is not known here"},
		"tampered claims":    {part[0] + "." + b64(string(forged)) + "." + part[2], "signature is not valid"},
		"signature cut off":  {part[0] + "." + part[1] + ".", "signature is not valid"},
		"critical header":    {signCritical(t, base), "token cannot be read"},
		"claims not JSON":    {signRaw(t, "hello"), "token cannot be read"},
		"claims of types":    {rs("roles", 7), "token cannot be read"},
		"expired":            {rs("exp", now.Add(-Leeway-time.Minute).Unix()), "expired at "},
		"no expiry":          {rs("exp", nil), "no expiry"},
		"not yet":            {rs("nbf", now.Add(Leeway+time.Minute).Unix()), "not valid before "},
		"wrong audience":     {rs("aud", "https://evil.example"), `for another audience: "https://evil.example"`},
		"no audience":        {rs("aud", nil), `for another audience: ""`},
		"audience prefix":    {rs("aud", audience+".evil.example"), "for another audience"},
		"operator's removed": {rs("aud", "https://graph.microsoft.com"), "for another audience"},
		"wrong issuer":       {rs("iss", "https://sts.windows.net/"+tenant+"/"), "issuer that is not trusted here"},
		"issuer's tenant":    {rs("iss", public+"/0c9e51aa-7b40-4c33-9d10-b5f7a1d2e604/"), "issuer that is not trusted here"},
		"issuer's user info": {rs("iss", "https://evil@staunch.example:8443/"+tenant+"/"), "issuer that is not trusted here"},
		"no issuer":          {rs("iss", nil), "issuer that is not trusted here"},
		"wrong tenant":       {rs("tid", "0c9e51aa-7b40-4c33-9d10-b5f7a1d2e604"), "of another tenant"},
		"no tenant":          {rs("tid", nil), "of another tenant"},
		"long tenant":        {rs("tid", strings.Repeat("x", 500)), strings.Repeat("x", 100) + "…"},
		"no application":     {rs("appid", nil), "names no application"},
		"odd application":    {rs("appid", "admin"), "names no application"},
		"scp without user":   {rs("scp", "Machine.Read", "auth_time", now.Unix()), "names no user"},
		"scp with a UPN":     {rs("scp", "Machine.Read", "upn", "ana@corp.example", "oid", "ana@corp.example", "auth_time", now.Unix()), "names no user"},
		"unknown user":       {rs("scp", "Machine.Read", "oid", appID, "auth_time", now.Unix()), "disabled or no longer known"},
		"before the change":  {rs("scp", "Machine.Read", "oid", personID, "auth_time", now.Add(-time.Hour-time.Second).Unix()), "credentials were changed"},
		"no sign-in":         {rs("scp", "Machine.Read", "oid", personID), "credentials were changed"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newVerifier(t, nil).Verify(t.Context(), c.token)
			if api.CodeOf(err) != api.Unauthorized || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Verify = %+v, %v, want Unauthorized with %q", got, err, c.want)
			}
			if strings.Contains(err.Error(), part[2]) {
				t.Error("the refusal shows the token's signature")
			}
		})
	}
}

func signRaw(t testing.TB, payload string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: testKey()}, (&jose.SignerOptions{}).WithHeader("kid", "k1"))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	tok, _ := sig.CompactSerialize()
	return tok
}

// signEmbedded carries the attacker's own public key in the header.
func signEmbedded(t testing.TB, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: newKey(t)}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(claims)
	sig, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	tok, _ := sig.CompactSerialize()
	return tok
}

func signCritical(t testing.TB, claims map[string]any) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithHeader("kid", "k1").WithHeader("crit", []string{"x"}).WithHeader("x", 1)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: testKey()}, opts)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(claims)
	sig, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	tok, _ := sig.CompactSerialize()
	return tok
}

// A token without roles is a caller that may do nothing: 403, not 401.
func TestNoRoles(t *testing.T) {
	claims := with(appClaims(time.Now()), "roles", nil)
	c, err := newVerifier(t, nil).Verify(t.Context(), sign(t, jose.RS256, testKey(), "k1", claims))
	if err != nil {
		t.Fatal(err)
	}
	if err := Allow(c, []Permission{MachineStopAndQuarantine}); api.CodeOf(err) != api.Forbidden {
		t.Errorf("Allow = %v, want Forbidden", err)
	}
}

func TestAllow(t *testing.T) {
	anyOf := []Permission{MachineReadAll, MachineReadWriteAll}
	for _, c := range []struct {
		caller Caller
		want   string // "" allowed
	}{
		{Caller{Kind: App, Permissions: []Permission{MachineReadWriteAll}}, ""},
		{Caller{Kind: Admin}, ""},
		{Caller{Kind: System}, ""},
		{Caller{Kind: App, Permissions: []Permission{MachineStopAndQuarantine}},
			"The application does not have any of the required application permissions (Machine.Read.All, Machine.ReadWrite.All) to access the resource."},
		{Caller{Kind: User}, "The token does not have any of the required delegated permissions (Machine.Read.All, Machine.ReadWrite.All) to access the resource."},
		{Caller{Kind: Device}, "This is not open to a device: it needs one of the permissions (Machine.Read.All, Machine.ReadWrite.All)."},
	} {
		err := Allow(c.caller, anyOf)
		var e *api.Error
		switch {
		case c.want == "" && err != nil:
			t.Errorf("Allow(%s) = %v, want nil", c.caller.Kind, err)
		case c.want != "" && (!errors.As(err, &e) || e.Code != api.Forbidden || e.Message != c.want):
			t.Errorf("Allow(%s) = %v, want Forbidden %q", c.caller.Kind, err, c.want)
		}
	}
}

func TestBearer(t *testing.T) {
	for _, c := range []struct{ header, token, want string }{
		{"Bearer abc", "abc", ""},
		{"bearer   abc ", "abc", ""},
		{"", "", "carries no access token"},
		{"Basic abc", "", "not of the form Bearer TOKEN"},
		{"Bearer ", "", "no token after Bearer"},
	} {
		got, err := Bearer(c.header)
		if got != c.token || (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("Bearer(%q) = %q, %v, want %q, %q", c.header, got, err, c.token, c.want)
		}
	}
}

// A cached token still ends at its date, and with its application.
func TestCachedTokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		enabled, broken := true, false
		asked := 0
		v := newVerifier(t, func(c *Config) {
			c.AppEnabled = func(_ context.Context, id string) (bool, error) {
				if asked++; id != appID {
					t.Errorf("asked for app %q", id)
				}
				if broken {
					return true, errors.New("no database")
				}
				return enabled, nil
			}
		})
		tok := sign(t, jose.RS256, testKey(), "k1", appClaims(time.Now()))
		verify := func(want string) {
			t.Helper()
			_, err := v.Verify(t.Context(), tok)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("Verify = %v, want %q", err, want)
			}
		}
		verify("")
		verify("")
		if asked != 1 {
			t.Errorf("asked %d times whether the app is enabled, want once", asked)
		}
		enabled = false
		time.Sleep(appCheckFor)
		verify("disabled or no longer registered")
		enabled, broken = true, true
		time.Sleep(appCheckFor)
		verify("ServiceUnavailable")
		broken = false
		verify("")
		time.Sleep(time.Hour + Leeway)
		verify("expired at")
	})
}

// What a key signed ends when the key is taken away, also what was seen before.
func TestKeyTakenAway(t *testing.T) {
	keys := keySet()
	v := newVerifier(t, func(c *Config) { c.Keys = func() jose.JSONWebKeySet { return keys } })
	tok := sign(t, jose.RS256, testKey(), "k1", appClaims(time.Now()))
	if _, err := v.Verify(t.Context(), tok); err != nil {
		t.Fatal(err)
	}
	keys = jose.JSONWebKeySet{}
	if _, err := v.Verify(t.Context(), tok); api.CodeOf(err) != api.Unauthorized || !strings.Contains(err.Error(), "not known here any more") {
		t.Errorf("Verify = %v", err)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := cache[int, int]{size: 10}
	for i := range 1000 {
		c.put(i, i)
		if v, ok := c.get(0); !ok || v != 0 {
			t.Fatalf("after %d others the entry in use is forgotten", i)
		}
		if n := len(c.young) + len(c.old); n > 20 {
			t.Fatalf("%d entries, want at most 20", n)
		}
	}
	if _, ok := c.get(1); ok {
		t.Error("an entry out of use was kept")
	}
}

// Whatever is presented, the answer is the signed caller or an Unauthorized.
func FuzzVerify(f *testing.F) {
	v := newVerifier(f, nil)
	claims := with(appClaims(time.Now()), "exp", time.Now().Add(24*time.Hour).Unix())
	good := sign(f, jose.RS256, testKey(), "k1", claims)
	f.Add(good)
	f.Add(good + "=")
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Add(`{"payload":"e30","signatures":[]}`)
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := v.Verify(t.Context(), token)
		if err == nil && (c.ID != appID || c.Tenant != tenant) {
			t.Errorf("Verify(%q) = %+v", token, c)
		}
		if err != nil && api.CodeOf(err) != api.Unauthorized {
			t.Errorf("Verify(%q): %v, want Unauthorized", token, err)
		}
	})
}

// BenchmarkVerify is what a token costs: one that was not seen before, and one
// that was; x_raw is that over the bare check of an RSA signature in the same run.
func BenchmarkVerify(b *testing.B) {
	tok := sign(b, jose.RS256, testKey(), "k1", appClaims(time.Now()))
	raw := rawCheck(b, tok)
	for _, cached := range []bool{false, true} {
		b.Run(map[bool]string{false: "new", true: "seen"}[cached], func(b *testing.B) {
			v := newVerifier(b, nil)
			for b.Loop() {
				if !cached {
					v.seen = cache[[32]byte, claims]{size: 10}
				}
				if _, err := v.Verify(b.Context(), tok); err != nil {
					b.Fatal(err)
				}
			}
			each := b.Elapsed() / time.Duration(b.N)
			b.ReportMetric(float64(each)/float64(raw), "x_raw")
			b.ReportMetric(float64(time.Second)/float64(each), "tokens/s")
		})
	}
}

// rawCheck is how long the check of a token's signature takes alone.
func rawCheck(b *testing.B, token string) time.Duration {
	b.Helper()
	at := strings.LastIndex(token, ".")
	sum := sha256.Sum256([]byte(token[:at]))
	sig, err := base64.RawURLEncoding.DecodeString(token[at+1:])
	if err != nil {
		b.Fatal(err)
	}
	const rounds = 2000
	begin := time.Now()
	for range rounds {
		if err := rsa.VerifyPKCS1v15(&testKey().PublicKey, crypto.SHA256, sum[:], sig); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(begin) / rounds
}
