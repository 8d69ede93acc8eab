// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/sha1" //nolint:gosec // names a certificate, as x5t does; nothing is trusted by it
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"staunch/api"
	"staunch/internal/server/auth"
)

// assertionType is the only kind of assertion there is (RFC 7523).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

const (
	maxAssertion     = 16 << 10       // bytes
	maxAssertionLife = 24 * time.Hour // so long its id must be remembered
)

// checkAssertion proves an application by a JWT that the key of one of its
// registered certificates signed: for us, in date, and never seen before.
func (s *Service) checkAssertion(ctx context.Context, app App, text, base string) *refusal {
	bad := func(number int, format string, args ...any) *refusal {
		return denied(http.StatusUnauthorized, "invalid_client", number, app, format, args...)
	}
	if len(app.Certificates) == 0 {
		return notRegistered(app)
	}
	if len(text) > maxAssertion {
		return bad(50027, "The client assertion is longer than %d bytes.", maxAssertion)
	}
	tok, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.RS256, jose.PS256})
	if err != nil || len(tok.Headers) != 1 {
		return bad(50027, "The client assertion is not a JSON Web Token signed with RS256 or PS256.")
	}
	now := s.cfg.Now()
	cert, ref := s.certificateOf(app, tok.Headers[0], now)
	if ref != nil {
		return ref
	}
	var c jwt.Claims
	if err := tok.Claims(cert.PublicKey, &c); err != nil {
		return bad(700027, "The client assertion's signature is not valid: it was not made with the key of the certificate that it names.")
	}
	switch {
	case !strings.EqualFold(c.Issuer, app.ID) || !strings.EqualFold(c.Subject, app.ID):
		return bad(700021, "The client assertion's iss and sub must both be the application's id.")
	case !slices.ContainsFunc(c.Audience, func(a string) bool { return s.isTokenEndpoint(a, base) }):
		return bad(700023, "The client assertion's audience '%s' is not this server's token endpoint.", cut(strings.Join(c.Audience, " ")))
	case c.Expiry == nil || !now.Before(c.Expiry.Time().Add(auth.Leeway)):
		return bad(700024, "The client assertion is not within its valid time range: it has expired, or has no exp.")
	case c.NotBefore != nil && now.Add(auth.Leeway).Before(c.NotBefore.Time()):
		return bad(700024, "The client assertion is not within its valid time range: it is not valid yet.")
	case c.Expiry.Time().Sub(now) > maxAssertionLife:
		return bad(700024, "The client assertion is valid for longer than a day.")
	case c.ID == "" || len(c.ID) > 256:
		return bad(50027, "The client assertion has no jti of at most 256 bytes.")
	}
	err = s.cfg.Store.PutGrants(ctx, Grant{
		Digest: digestOf(kindAssertion, app.ID+"\x00"+c.ID), Kind: kindAssertion, Family: "app " + app.ID, Data: []byte("{}"),
		Expires: c.Expiry.Time().Add(2 * auth.Leeway), Used: now,
	})
	switch {
	case api.CodeOf(err) == api.ActiveRequestAlreadyExists:
		return bad(700026, "The client assertion was used before: make a new one for each request.")
	case err != nil:
		return s.fault("assertion_not_kept", app, err)
	}
	return nil
}

// certificateOf finds the registered certificate that the header names by x5t or
// x5t#S256, or by kid as some libraries do.
func (s *Service) certificateOf(app App, h jose.Header, now time.Time) (*x509.Certificate, *refusal) {
	name := func(key string) string { v, _ := h.ExtraHeaders[jose.HeaderKey(key)].(string); return v }
	x5t, x5t256 := name("x5t"), name("x5t#S256")
	for _, der := range app.Certificates {
		sum1, sum256 := sha1.Sum(der), sha256.Sum256(der)
		if x5t != "" && !names(x5t, sum1[:]) || x5t256 != "" && !names(x5t256, sum256[:]) ||
			x5t == "" && x5t256 == "" && !names(h.KeyID, sum1[:]) && !names(h.KeyID, sum256[:]) {
			continue
		}
		cert, err := x509.ParseCertificate(der)
		switch {
		case err != nil:
			return nil, s.fault("certificate_unreadable", app, err)
		case now.Before(cert.NotBefore) || now.After(cert.NotAfter):
			return nil, denied(http.StatusUnauthorized, "invalid_client", 700024, app, "The certificate that signs the client assertion is not valid at this time: register a new one.")
		}
		return cert, nil
	}
	return nil, notRegistered(app)
}

func notRegistered(app App) *refusal {
	return denied(http.StatusUnauthorized, "invalid_client", 700027, app,
		"The certificate that signs the client assertion is not registered on application '%s': name it by x5t or x5t#S256, and register it with staunch admin app change %s --add-certificate FILE.", app.ID, app.ID)
}

// names compares a thumbprint in base64url, with or without padding, or in hex.
func names(given string, sum []byte) bool {
	if b, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(given, "=")); err == nil && string(b) == string(sum) {
		return true
	}
	return strings.EqualFold(given, hexOf(sum))
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 2*len(b))
	for _, c := range b {
		out = append(out, digits[c>>4], digits[c&15])
	}
	return string(out)
}

// isTokenEndpoint reports whether a URL is one of our token endpoints, or our
// issuer, under the base that the client called or the public one.
func (s *Service) isTokenEndpoint(audience, base string) bool {
	if s.cfg.Realm.Issued(audience) {
		return true
	}
	for _, b := range []string{base, strings.TrimSuffix(s.cfg.Realm.PublicURL, "/")} {
		rest, ok := strings.CutPrefix(strings.ToLower(audience), strings.ToLower(b)+"/")
		if !ok {
			continue
		}
		tenant, path, _ := strings.Cut(rest, "/")
		if (path == "oauth2/token" || path == "oauth2/v2.0/token") && s.checkTenant(tenant) == nil {
			_, err := url.Parse(audience)
			return err == nil
		}
	}
	return false
}

// parseCertificate reads the certificate that an application registers.
func parseCertificate(text string) ([]byte, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" || strings.TrimSpace(string(rest)) != "" {
		return nil, api.Errorf(api.InvalidInput, "The certificate is not one PEM block of type CERTIFICATE")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, api.Errorf(api.InvalidInput, "The certificate cannot be read")
	}
	if _, err := rsaKey(cert); err != nil {
		return nil, err
	}
	return block.Bytes, nil
}
