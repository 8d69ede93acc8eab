// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/server/auth"
)

func TestTokensOfOutside(t *testing.T) {
	p := newIDP(t)
	p.keys["ec"], p.keys["ps"], p.algs["ps"] = ecKey(), otherKey(), "PS256"
	r := trusting(t, p.v2(), p.plain())
	now := r.clock.now()
	v1, v2, user := p.appV1(now), p.appV2(now), p.userV2(now)
	app := auth.Caller{Kind: auth.App, ID: client, Name: client, AppID: client, Tenant: tid, Permissions: []auth.Permission{auth.MachineReadAll}}
	named := app
	named.Name = "SOAR"
	person := auth.Caller{
		Kind: auth.User, ID: "ana@corp.example", Name: "ana@corp.example", AppID: client, Tenant: tid, Access: auth.Access{auth.ViewData: {0}},
		Permissions: []auth.Permission{auth.MachineRead, auth.MachineStopAndQuarantine},
	}
	plain := with(v2, "iss", p.plain(), "tid", nil, "ver", nil, "azp", "soar")
	plainID := auth.NameGUID("foreign application", p.plain(), "soar")
	plainApp := auth.Caller{Kind: auth.App, ID: plainID, Name: "soar", AppID: plainID, Tenant: p.plain(), Permissions: app.Permissions}
	plainPerson := person
	plainPerson.AppID, plainPerson.Tenant = plainID, p.plain()

	for name, c := range map[string]struct {
		token string
		want  auth.Caller
	}{
		"Entra v2":                 {sign(t, jose.RS256, rsaKey(), v2), app},
		"Entra v1":                 {sign(t, jose.RS256, rsaKey(), v1), named},
		"Entra v2, a person":       {sign(t, jose.RS256, rsaKey(), user), person},
		"Entra v1, a person":       {sign(t, jose.RS256, rsaKey(), with(v1, "scp", user["scp"], "roles", nil, "unique_name", "ana@corp.example")), person},
		"a person with roles too":  {sign(t, jose.RS256, rsaKey(), with(user, "roles", []string{"Machine.Offboard"})), person},
		"ids in upper case":        {sign(t, jose.RS256, rsaKey(), with(v2, "tid", strings.ToUpper(tid), "azp", strings.ToUpper(client))), app},
		"ES256":                    {sign(t, jose.ES256, ecKey(), v2, "kid", "ec"), app},
		"PS256":                    {sign(t, jose.PS256, otherKey(), v2, "kid", "ps"), app},
		"at+jwt":                   {sign(t, jose.RS256, rsaKey(), v2, "typ", "at+jwt"), app},
		"plain issuer":             {sign(t, jose.RS256, rsaKey(), plain), plainApp},
		"plain issuer, client_id":  {sign(t, jose.RS256, rsaKey(), with(plain, "azp", nil, "client_id", "soar")), plainApp},
		"plain issuer, a person":   {sign(t, jose.RS256, rsaKey(), with(plain, "roles", nil, "scp", user["scp"], "upn", "ana@corp.example")), plainPerson},
		"scp as a list":            {sign(t, jose.RS256, rsaKey(), with(plain, "roles", nil, "scp", strings.Fields(user["scp"].(string)), "upn", "ana@corp.example")), plainPerson},
		"own id as another's name": {sign(t, jose.RS256, rsaKey(), with(plain, "azp", client)), auth.Caller{Kind: auth.App, ID: auth.NameGUID("foreign application", p.plain(), client), AppID: auth.NameGUID("foreign application", p.plain(), client), Name: client, Tenant: p.plain(), Permissions: app.Permissions}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second time from memory
				got, err := r.Verify(t.Context(), c.token)
				if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
					t.Errorf("Verify: %v\n%s", err, diff)
				}
			}
		})
	}
	want := auth.Visitor{Issuer: p.v2(), Subject: oid, UPN: "ana@corp.example", Groups: []string{"g1", "g2"}}
	found := false
	for _, w := range r.seen {
		found = found || cmp.Equal(w, want)
	}
	if !found {
		t.Errorf("visitors %+v, want among them %+v", r.seen, want)
	}
}

// Every attack with a token from outside is refused, and the refusal says why.
func TestTokenAttacksFromOutside(t *testing.T) {
	p, foe := newIDP(t), newIDP(t)
	foe.keys["k1"] = otherKey()
	p.keys["ps"], p.algs["ps"] = rsaKey(), "PS256"
	r := trusting(t, p.v2(), p.plain(), foe.plain())
	now := r.clock.now()
	v1, v2, user := p.appV1(now), p.appV2(now), p.userV2(now)
	good := sign(t, jose.RS256, rsaKey(), v2)
	if _, err := r.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	der := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	jwk := must(json.Marshal(jose.JSONWebKey{Key: rsaKey().Public(), KeyID: "k1"}))
	with2 := func(changes ...any) string { return sign(t, jose.RS256, rsaKey(), with(v2, changes...)) }

	for name, c := range map[string]struct{ token, want string }{
		"alg none":                  {b64([]byte(`{"alg":"none","typ":"JWT","kid":"k1"}`)) + "." + parts[1] + ".", "not signed with"},
		"alg None, with signature":  {b64([]byte(`{"alg":"None","typ":"JWT","kid":"k1"}`)) + "." + parts[1] + "." + parts[2], "not signed with"},
		"key confusion, PEM":        {sign(t, jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), v2), "not signed with"},
		"key confusion, DER":        {sign(t, jose.HS256, der, v2), "not signed with"},
		"key confusion, JWK":        {sign(t, jose.HS512, jwk, v2), "not signed with"},
		"key confusion, modulus":    {sign(t, jose.HS256, rsaKey().N.Bytes(), v2), "not signed with"},
		"alg the key is not for":    {sign(t, jose.RS256, rsaKey(), v2, "kid", "ps"), "is for"},
		"no kid":                    {sign(t, jose.RS256, rsaKey(), v2, "kid", nil), "kid"},
		"kid nobody publishes":      {sign(t, jose.RS256, rsaKey(), v2, "kid", "k9"), "does not publish"},
		"key in the header":         {signEmbedded(t, v2), "signature"},
		"another issuer's key":      {sign(t, jose.RS256, otherKey(), v2), "signature"},
		"this server's key":         {sign(t, jose.RS256, otherKey(), v2, "kid", "own"), "does not publish"},
		"this server as issuer":     {sign(t, jose.RS256, rsaKey(), with(v2, "iss", "https://staunch.example/"+home+"/v2.0", "tid", home)), "not known here"},
		"issuer nobody trusts":      {with2("iss", "https://evil.example/"+tid+"/v2.0"), "not known here"},
		"issuer with a slash more":  {with2("iss", p.v2()+"/"), "not known here"},
		"issuer in upper case":      {with2("iss", strings.ToUpper(p.v2())), "not known here"},
		"no issuer":                 {with2("iss", nil), "not known here"},
		"wrong tenant":              {with2("tid", home), "another tenant"},
		"no tenant":                 {with2("tid", nil), "another tenant"},
		"v1 claims from v2":         {with2("ver", "1.0"), "version"},
		"v2 claims from v1":         {sign(t, jose.RS256, rsaKey(), with(v1, "ver", "2.0")), "version"},
		"appid in a v2 token":       {with2("azp", nil, "appid", client), "no application"},
		"application is no GUID":    {with2("azp", "soar"), "no application"},
		"wrong audience":            {with2("aud", "https://graph.microsoft.com"), "another audience"},
		"audience of the client":    {with2("aud", client), "another audience"},
		"no audience":               {with2("aud", nil), "another audience"},
		"expired":                   {with2("exp", now.Add(-auth.Leeway).Unix()), "expired"},
		"no expiry":                 {with2("exp", nil), "no expiry"},
		"not yet":                   {with2("nbf", now.Add(auth.Leeway+time.Minute).Unix()), "not valid before"},
		"tampered claims":           {parts[0] + "." + b64([]byte(strings.Replace(string(must(base64.RawURLEncoding.DecodeString(parts[1]))), "Machine.Read.All", "Machine.Offboard", 1))) + "." + parts[2], "signature"},
		"tampered header":           {b64([]byte(`{"alg":"RS256","kid":"k1","typ":"JWT","x":1}`)) + "." + parts[1] + "." + parts[2], "signature"},
		"signature cut off":         {parts[0] + "." + parts[1] + ".", "signature"},
		"roles that are no list":    {with2("roles", "Machine.Read.All"), "cannot be read"},
		"a claim twice":             {signRaw(t, `{"iss":"`+p.v2()+`","aud":"x","aud":"`+audience+`"}`), "cannot be read"},
		"id_token":                  {with2("nonce", "n"), "ID token"},
		"id_token by its hash":      {with2("at_hash", "h"), "ID token"},
		"a person's roles":          {with2("upn", "ana@corp.example"), "no delegated permission"},
		"a person's roles, by mail": {with2("email", "ana@corp.example"), "no delegated permission"},
		"logout token":              {sign(t, jose.RS256, rsaKey(), v2, "typ", "logout+jwt"), "not an access token"},
		"person without oid":        {sign(t, jose.RS256, rsaKey(), with(user, "oid", nil)), "names no user"},
		"person shut out":           {sign(t, jose.RS256, rsaKey(), with(user, "preferred_username", "gone@corp.example")), "disabled or no longer known"},
		"application shut out":      {with2("azp", "dead2b1e-5a44-4f0b-9a2f-3c1de8840c77"), "disabled"},
		"too many groups":           {sign(t, jose.RS256, rsaKey(), with(user, "groups", many(1001))), "groups"},
		"too long":                  {with2("x", strings.Repeat("x", auth.MaxToken)), "bytes long"},
		"unknown critical header":   {sign(t, jose.RS256, rsaKey(), v2, "crit", []string{"exp2"}, "exp2", 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				got, err := r.Verify(t.Context(), c.token)
				if api.CodeOf(err) != api.Unauthorized || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Verify: %+v, %v, want Unauthorized with %q", got, err, c.want)
				}
			}
		})
	}
	t.Run("person of another issuer", func(t *testing.T) {
		token := sign(t, jose.RS256, otherKey(), with(user, "iss", foe.plain(), "tid", nil, "ver", nil))
		got, err := r.Verify(t.Context(), token)
		if last := r.seen[len(r.seen)-1]; err != nil || last.Issuer != foe.plain() || got.Tenant != foe.plain() {
			t.Errorf("Verify: %+v, %v; asked as %+v", got, err, last)
		}
	})
}

func many(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = string(rune('a'+i%26)) + strings.Repeat("x", i%3)
	}
	return out
}

// signEmbedded has the token bring along the key that verifies it.
func signEmbedded(t *testing.T, claims map[string]any) string {
	t.Helper()
	k := jose.JSONWebKey{Key: otherKey(), KeyID: "k1"}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: k}, &jose.SignerOptions{EmbedJWK: true, ExtraHeaders: map[jose.HeaderKey]any{"kid": "k1"}})
	if err != nil {
		t.Fatal(err)
	}
	return must(must(s.Sign(must(json.Marshal(claims)))).CompactSerialize())
}

func signRaw(t *testing.T, payload string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: rsaKey(), KeyID: "k1"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return must(must(s.Sign([]byte(payload))).CompactSerialize())
}

// What an operator names as audience is what counts, in place of the server's own.
func TestAudienceOfOutside(t *testing.T) {
	p := newIDP(t)
	r := trusting(t, p.v2())
	v, err := auth.New(auth.Config{
		Realm: auth.Realm{Tenant: home, PublicURL: "https://staunch.example"}, Keys: func() jose.JSONWebKeySet { return jose.JSONWebKeySet{} },
		Foreign: r.Find, ForeignAudience: func(name string) bool { return name == "api://staunch" },
	})
	if err != nil {
		t.Fatal(err)
	}
	for aud, ok := range map[string]bool{"api://staunch": true, audience: false} {
		_, err := v.Verify(context.Background(), sign(t, jose.RS256, rsaKey(), with(p.appV2(time.Now()), "aud", aud)))
		if (err == nil) != ok {
			t.Errorf("audience %s: %v", aud, err)
		}
	}
}

// Whatever a token from outside looks like: it is Unauthorized, or it is the one
// that was signed.
func FuzzToken(f *testing.F) {
	p := newIDP(f)
	r := trusting(f, p.v2())
	claims := with(p.appV2(time.Now()), "exp", time.Now().Add(24*time.Hour).Unix())
	good := sign(f, jose.RS256, rsaKey(), claims)
	f.Add(good)
	f.Add(strings.Replace(good, ".", "..", 1))
	f.Add(sign(f, jose.ES256, ecKey(), claims))
	f.Add(sign(f, jose.HS256, rsaKey().N.Bytes(), claims))
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		c, err := r.Verify(t.Context(), token)
		if err == nil && (c.ID != client || c.Tenant != tid) {
			t.Errorf("Verify(%q) = %+v", token, c)
		}
		if err != nil && api.CodeOf(err) != api.Unauthorized {
			t.Errorf("Verify(%q): %v", token, err)
		}
	})
}
