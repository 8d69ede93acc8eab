// SPDX-License-Identifier: Apache-2.0

package issuer_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"staunch/api"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
)

// certificate makes a self-signed one that is valid from a day ago until end.
func certificate(t testing.TB, end time.Time) (*rsa.PrivateKey, []byte, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "soc"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func assertion(t testing.TB, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, claims map[string]any) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType("JWT")
	for k, v := range header {
		opts = opts.WithHeader(k, v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jwt.Signed(s).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestAssertion(t *testing.T) {
	b := newBench(t, nil)
	key, der, pemText := certificate(t, time.Now().Add(time.Hour))
	stranger, strangerDER, _ := certificate(t, time.Now().Add(time.Hour))
	oldKey, oldDER, oldPEM := certificate(t, time.Now().Add(-time.Hour))
	a, _, err := b.service.ChangeApp(t.Context(), admin, b.app.ID, issuer.AppChange{AddCertificate: pemText})
	if err == nil {
		a, _, err = b.service.ChangeApp(t.Context(), admin, b.app.ID, issuer.AppChange{AddCertificate: oldPEM})
	}
	if err != nil || len(a.Certificates) != 2 {
		t.Fatal(a, err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	sum1, sum256 := sha1.Sum(der), sha256.Sum256(der)
	x5t, x5t256 := map[jose.HeaderKey]any{"x5t": b64(sum1[:])}, map[jose.HeaderKey]any{"x5t#S256": b64(sum256[:])}
	padded := map[jose.HeaderKey]any{"x5t": base64.URLEncoding.EncodeToString(sum1[:])}
	strangerSum, oldSum := sha256.Sum256(strangerDER), sha256.Sum256(oldDER)
	claims := func(changes ...any) map[string]any {
		c := map[string]any{
			"iss": b.app.ID, "sub": b.app.ID, "aud": public + "/" + tenant + "/oauth2/v2.0/token", "jti": auth.NewGUID(),
			"exp": time.Now().Add(10 * time.Minute).Unix(), "nbf": time.Now().Unix(),
		}
		for i := 0; i < len(changes); i += 2 {
			delete(c, changes[i].(string))
			if changes[i+1] != nil {
				c[changes[i].(string)] = changes[i+1]
			}
		}
		return c
	}
	ask := func(text string) (int, map[string]any) {
		form := url.Values{
			"grant_type": {"client_credentials"}, "client_id": {b.app.ID}, "scope": {resource + "/.default"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {text},
		}
		w, answer := b.do(t, "POST", public+"/"+tenant+"/oauth2/v2.0/token", form.Encode(), nil)
		return w.Code, answer
	}
	for name, text := range map[string]string{
		"RS256 and x5t":      assertion(t, jose.RS256, key, x5t, claims()),
		"PS256 and x5t#S256": assertion(t, jose.PS256, key, x5t256, claims()),
		"padded x5t":         assertion(t, jose.RS256, key, padded, claims()),
		"issuer as audience": assertion(t, jose.RS256, key, x5t, claims("aud", public+"/"+tenant+"/v2.0")),
		"tenant by name":     assertion(t, jose.RS256, key, x5t, claims("aud", public+"/common/oauth2/token")),
		"upper case":         assertion(t, jose.RS256, key, x5t, claims("iss", strings.ToUpper(b.app.ID), "sub", strings.ToUpper(b.app.ID))),
	} {
		status, answer := ask(text)
		if status != 200 || payload(t, text2(answer))["azpacr"] != "2" {
			t.Errorf("%s: %d %v", name, status, answer)
		}
		// Once, whoever presents it.
		status, answer = ask(text)
		if status != 401 || !strings.HasPrefix(answer["error_description"].(string), "AADSTS700026:") {
			t.Errorf("%s, replayed: %d %v", name, status, answer)
		}
	}
	for name, c := range map[string]struct{ text, number string }{
		"garbage":               {"abc", "50027"},
		"too long":              {strings.Repeat("a", 17000), "50027"},
		"alg none":              {"eyJhbGciOiJub25lIn0.e30.", "50027"},
		"HS256 by certificate":  {assertion(t, jose.HS256, der, x5t, claims()), "50027"},
		"another's key":         {assertion(t, jose.RS256, stranger, x5t, claims()), "700027"},
		"another's certificate": {assertion(t, jose.RS256, stranger, map[jose.HeaderKey]any{"x5t#S256": b64(strangerSum[:])}, claims()), "700027"},
		"no certificate named":  {assertion(t, jose.RS256, key, nil, claims()), "700027"},
		"two that differ":       {assertion(t, jose.RS256, key, map[jose.HeaderKey]any{"x5t": b64(sum1[:]), "x5t#S256": b64(oldSum[:])}, claims()), "700027"},
		"expired certificate":   {assertion(t, jose.RS256, oldKey, map[jose.HeaderKey]any{"x5t#S256": b64(oldSum[:])}, claims()), "700024"},
		"another issuer":        {assertion(t, jose.RS256, key, x5t, claims("iss", auth.NewGUID())), "700021"},
		"another subject":       {assertion(t, jose.RS256, key, x5t, claims("sub", auth.NewGUID())), "700021"},
		"another audience":      {assertion(t, jose.RS256, key, x5t, claims("aud", "https://login.microsoftonline.com/"+tenant+"/oauth2/v2.0/token")), "700023"},
		"another path":          {assertion(t, jose.RS256, key, x5t, claims("aud", public+"/"+tenant+"/oauth2/authorize")), "700023"},
		"no audience":           {assertion(t, jose.RS256, key, x5t, claims("aud", nil)), "700023"},
		"expired":               {assertion(t, jose.RS256, key, x5t, claims("exp", time.Now().Add(-auth.Leeway-time.Minute).Unix())), "700024"},
		"no expiry":             {assertion(t, jose.RS256, key, x5t, claims("exp", nil)), "700024"},
		"for a year":            {assertion(t, jose.RS256, key, x5t, claims("exp", time.Now().Add(8760*time.Hour).Unix())), "700024"},
		"not yet":               {assertion(t, jose.RS256, key, x5t, claims("nbf", time.Now().Add(time.Hour).Unix())), "700024"},
		"no jti":                {assertion(t, jose.RS256, key, x5t, claims("jti", nil)), "50027"},
	} {
		t.Run(name, func(t *testing.T) {
			status, answer := ask(c.text)
			wantRefusal(t, status, answer, "invalid_client", c.number)
			if status != 401 {
				t.Error(status)
			}
		})
	}
	// A certificate that was taken away proves nothing.
	if _, _, err := b.service.ChangeApp(t.Context(), admin, b.app.ID, issuer.AppChange{RemoveCertificate: hexText(sum256[:])}); err != nil {
		t.Fatal(err)
	}
	status, answer := ask(assertion(t, jose.RS256, key, x5t, claims()))
	wantRefusal(t, status, answer, "invalid_client", "700027")
}

func text2(answer map[string]any) string { return text(answer, "access_token") }

func hexText(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

// Several secrets, each with its end; one that is taken away is wrong at once.
func TestSecrets(t *testing.T) {
	b := newBench(t, nil)
	ask := func(secret string) string {
		_, answer := b.do(t, "POST", "/"+tenant+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {b.app.ID}, "client_secret": {secret}, "scope": {resource + "/.default"}}.Encode(), nil)
		if text(answer, "access_token") != "" {
			return ""
		}
		return text(answer, "error_description")[:13]
	}
	a, second, err := b.service.ChangeApp(t.Context(), admin, b.app.ID, issuer.AppChange{AddSecret: time.Hour})
	if err != nil || len(a.Secrets) != 2 || second == "" || second == b.secret {
		t.Fatal(a, err)
	}
	if got := ask(b.secret) + ask(second); got != "" {
		t.Errorf("both secrets: %s", got)
	}
	if _, _, err = b.service.ChangeApp(t.Context(), admin, b.app.ID, issuer.AppChange{RemoveSecret: a.Secrets[0].ID}); err != nil {
		t.Fatal(err)
	}
	if got := ask(b.secret); got != "AADSTS7000215" {
		t.Errorf("the removed secret: %q", got)
	}
	if got := ask(second); got != "" {
		t.Errorf("the kept secret: %q", got)
	}
	for want, ch := range map[string]issuer.AppChange{
		"has no secret with id":                 {RemoveSecret: "x"},
		"has no certificate with the SHA-256":   {RemoveCertificate: "x"},
		"at most 730 days":                      {AddSecret: 9999 * time.Hour * 24},
		"not one PEM block of type CERTIFICATE": {AddCertificate: "x"},
		`There is no permission "Machine.Fly"`:  {Delegated: []string{"Machine.Fly"}},
		"is not an absolute URI":                {RedirectURIs: []string{"/callback"}},
		"would send codes in the clear":         {RedirectURIs: []string{"http://app.example/"}},
		"has a fragment":                        {RedirectURIs: []string{"https://app.example/#x"}},
		"a user name or a wildcard":             {RedirectURIs: []string{"https://*.app.example/"}},
		"of a scheme that is nobody's own":      {RedirectURIs: []string{"app:/x"}},
	} {
		if _, _, err := b.service.ChangeApp(t.Context(), admin, b.app.ID, ch); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ChangeApp = %v, want %q", err, want)
		}
	}
	if _, _, err := b.service.ChangeApp(t.Context(), auth.Caller{Kind: auth.App}, b.app.ID, issuer.AppChange{}); api.CodeOf(err) != api.Forbidden {
		t.Errorf("ChangeApp by an app: %v", err)
	}
}

// A new key does not break tokens, signs when everybody knows it, and another
// replica on the same folder knows both.
func TestRotateKeys(t *testing.T) {
	h := newHouse(t)
	var dir string
	second := newBench(t, func(c *issuer.Config) { c.Now = h.clock; dir = c.KeysDir })
	first, err := issuer.New(issuer.Config{Store: second.store, Realm: auth.Realm{Tenant: tenant, PublicURL: public}, KeysDir: dir, Now: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	h.at(now)
	kid := func() string {
		_, answer := second.do(t, "POST", "/"+tenant+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {second.app.ID}, "client_secret": {second.secret}, "scope": {resource + "/.default"}}.Encode(), nil)
		tok, err := jwt.ParseSigned(text(answer, "access_token"), []jose.SignatureAlgorithm{jose.RS256})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.verifier.Verify(t.Context(), text(answer, "access_token")); err != nil {
			t.Errorf("its own token: %v", err)
		}
		return tok.Headers[0].KeyID
	}
	old := kid()
	_, answer := second.do(t, "POST", "/"+tenant+"/oauth2/v2.0/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {second.app.ID}, "client_secret": {second.secret}, "scope": {resource + "/.default"}}.Encode(), nil)
	token := text(answer, "access_token")

	made, err := first.RotateKeys(t.Context(), admin)
	if err != nil || made == old {
		t.Fatal(made, err)
	}
	h.at(now.Add(30 * time.Second))
	if n := len(second.service.Keys().Keys); n != 2 {
		t.Errorf("the other replica knows %d keys, want 2", n)
	}
	if got := kid(); got != old {
		t.Error("the new key signs before everybody knows it")
	}
	h.at(now.Add(61 * time.Second))
	if got := kid(); got != made {
		t.Error("the new key does not sign")
	}
	if _, err := second.verifier.Verify(t.Context(), token); err != nil {
		t.Errorf("a token of the old key: %v", err)
	}
	// Two days later it is gone with the next one.
	h.at(now.Add(50 * time.Hour))
	if _, err := first.RotateKeys(t.Context(), admin); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil || len(files) != 2 {
		t.Errorf("%d files, %v: the oldest key is to be gone", len(files), err)
	}
	// A damaged folder does not take a running service down.
	if err := os.WriteFile(filepath.Join(dir, "20990101T000000.000000000Z.pem"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.at(now.Add(51 * time.Hour))
	if kid() == "" {
		t.Error("no token")
	}
	if _, err := first.RotateKeys(t.Context(), auth.Caller{Kind: auth.App}); api.CodeOf(err) != api.Forbidden {
		t.Errorf("RotateKeys by an app: %v", err)
	}
}

func FuzzAssertion(f *testing.F) {
	b := newBench(f, nil)
	key, der, pemText := certificate(f, time.Now().Add(time.Hour))
	if _, _, err := b.service.ChangeApp(f.Context(), admin, b.app.ID, issuer.AppChange{AddCertificate: pemText}); err != nil {
		f.Fatal(err)
	}
	sum := sha1.Sum(der)
	good := assertion(f, jose.RS256, key, map[jose.HeaderKey]any{"x5t": base64.RawURLEncoding.EncodeToString(sum[:])}, map[string]any{"iss": b.app.ID, "sub": b.app.ID, "aud": "https://other.example", "jti": "1"})
	f.Add(good)
	f.Add("..")
	f.Add(strings.Replace(good, ".", ".e30.", 1))
	f.Fuzz(func(t *testing.T, text string) {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {b.app.ID}, "scope": {resource + "/.default"}, "client_assertion": {text}}
		w, _ := b.do(t, "POST", public+"/"+tenant+"/oauth2/v2.0/token", form.Encode(), nil)
		if w.Code != 401 {
			t.Errorf("%q: %d", text, w.Code)
		}
	})
}
