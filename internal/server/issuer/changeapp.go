// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Bounds of what an application may have.
const (
	maxSecrets      = 16
	maxCertificates = 16
	maxRedirects    = 64
	maxSecretLife   = secretLifetime
	maxReach        = 10_000_000
)

// AppChange is what to change of an application; what is nil or "" stays.
type AppChange struct {
	Disabled     *bool
	Public       *bool
	Permissions  []string // not nil: in place of those it has
	Delegated    []string
	RedirectURIs []string

	ForeignID string // when it is made: its id at an issuer outside, which gives it its tokens

	Reach Reach // 0: no bound; less: as the settings say; nil: stays

	AddSecret         time.Duration // not zero: make another secret, good that long
	RemoveSecret      string        // its id
	AddCertificate    string        // PEM
	RemoveCertificate string        // hex SHA-256 of it
}

// ChangeApp changes an application, and returns its new secret, if one was made.
func (s *Service) ChangeApp(ctx context.Context, c auth.Caller, id string, ch AppChange) (App, string, error) {
	text := ""
	err := adminOnly(c)
	var a App
	if err == nil {
		a, err = s.cfg.Store.ChangeApp(ctx, strings.ToLower(id), func(a *App) (audit.Entry, error) {
			e := audit.By(c, audit.ChangeApp, a.ID, "accepted")
			detail, secret, err := s.applyApp(a, ch)
			if err != nil {
				return e, err
			}
			text = secret
			e.Detail, err = json.Marshal(detail)
			return e, err
		})
	}
	var refusal *api.Error
	if errors.As(err, &refusal) {
		s.recordRefusal(ctx, audit.By(c, audit.ChangeApp, cut(id), "refused: "+string(refusal.Code)), nil)
	}
	if err != nil {
		return App{}, "", fmt.Errorf("cannot change app: %w", err)
	}
	if ch.Disabled != nil && a.Disabled {
		s.cfg.Log.Info("app_disabled", "app", a.ID, "by", c.ID)
	}
	return a, text, nil
}

// applyApp changes a and returns what the audit line is to say of it.
func (s *Service) applyApp(a *App, ch AppChange) (detail map[string]any, secret string, err error) {
	detail = map[string]any{}
	if ch.Disabled != nil {
		a.Disabled = *ch.Disabled
		detail["disabled"] = a.Disabled
	}
	if ch.Public != nil {
		a.Public = *ch.Public
		detail["public"] = a.Public
	}
	for _, p := range []struct {
		name  string
		given []string
		into  *[]auth.Permission
	}{{"permissions", ch.Permissions, &a.Permissions}, {"delegated", ch.Delegated, &a.Delegated}} {
		if p.given == nil {
			continue
		}
		if *p.into, err = parsePermissions(p.given); err != nil {
			return nil, "", err
		}
		detail[p.name] = *p.into
	}
	if ch.RedirectURIs != nil {
		if a.RedirectURIs, err = checkRedirects(ch.RedirectURIs); err != nil {
			return nil, "", err
		}
		detail["redirectUris"] = a.RedirectURIs
	}
	for _, r := range []struct {
		name  string
		given *int
		into  **int
	}{{"ordersPerHour", ch.Reach.OrdersPerHour, &a.Reach.OrdersPerHour}, {"devicesPerDay", ch.Reach.DevicesPerDay, &a.Reach.DevicesPerDay}} {
		switch {
		case r.given == nil:
			continue
		case *r.given > maxReach:
			return nil, "", api.Errorf(api.InvalidInput, "%s is at most %d; 0 is no bound, -1 goes by the settings", r.name, maxReach)
		case *r.given < 0:
			*r.into = nil
		default:
			*r.into = r.given
		}
		detail[r.name] = *r.given
	}
	if secret, err = s.applySecrets(a, ch, detail); err != nil {
		return nil, "", err
	}
	return detail, secret, applyCertificates(a, ch, detail)
}

func (s *Service) applySecrets(a *App, ch AppChange, detail map[string]any) (string, error) {
	if ch.RemoveSecret != "" {
		n := len(a.Secrets)
		a.Secrets = slices.DeleteFunc(slices.Clone(a.Secrets), func(x Secret) bool { return strings.EqualFold(x.ID, ch.RemoveSecret) })
		if len(a.Secrets) == n {
			return "", api.Errorf(api.ResourceNotFound, "App %s has no secret with id %s", a.ID, cut(ch.RemoveSecret))
		}
		detail["removedSecret"] = strings.ToLower(ch.RemoveSecret)
	}
	if ch.AddSecret == 0 {
		return "", nil
	}
	now := s.cfg.Now()
	switch {
	case ch.AddSecret < 0 || ch.AddSecret > maxSecretLife:
		return "", api.Errorf(api.InvalidInput, "A secret is good for at most %d days, not for %s", maxSecretLife/(24*time.Hour), ch.AddSecret)
	case len(a.Secrets) >= maxSecrets:
		return "", api.Errorf(api.InvalidInput, "The app has %d secrets, which is the most there can be: remove one first", len(a.Secrets))
	}
	text, secret := newSecret()
	secret.Expires = now.Add(ch.AddSecret)
	a.Secrets = append(slices.Clone(a.Secrets), secret)
	detail["addedSecret"] = secret.ID
	return text, nil
}

func applyCertificates(a *App, ch AppChange, detail map[string]any) error {
	if ch.RemoveCertificate != "" {
		n := len(a.Certificates)
		a.Certificates = slices.DeleteFunc(slices.Clone(a.Certificates), func(der []byte) bool { return names(ch.RemoveCertificate, thumbprint(der)) })
		if len(a.Certificates) == n {
			return api.Errorf(api.ResourceNotFound, "App %s has no certificate with the SHA-256 %s", a.ID, cut(ch.RemoveCertificate))
		}
		detail["removedCertificate"] = cut(ch.RemoveCertificate)
	}
	if ch.AddCertificate == "" {
		return nil
	}
	der, err := parseCertificate(ch.AddCertificate)
	switch {
	case err != nil:
		return err
	case len(a.Certificates) >= maxCertificates:
		return api.Errorf(api.InvalidInput, "The app has %d certificates, which is the most there can be: remove one first", len(a.Certificates))
	case slices.ContainsFunc(a.Certificates, func(other []byte) bool { return string(other) == string(der) }):
		return api.Errorf(api.InvalidInput, "The app has that certificate already")
	}
	a.Certificates = append(slices.Clone(a.Certificates), der)
	detail["addedCertificate"] = hexOf(thumbprint(der))
	return nil
}

func thumbprint(der []byte) []byte {
	sum := sha256.Sum256(der)
	return sum[:]
}

func rsaKey(cert *x509.Certificate) (*rsa.PublicKey, error) {
	key, ok := cert.PublicKey.(*rsa.PublicKey)
	if !ok || key.N.BitLen() < keyBits {
		return nil, api.Errorf(api.InvalidInput, "The certificate's key is not an RSA key of at least %d bits, which RS256 and PS256 need", keyBits)
	}
	return key, nil
}

// checkRedirects takes absolute URIs to which a code may be sent: by https, to
// the own machine by http, or to an application by a scheme of its own.
func checkRedirects(uris []string) ([]string, error) {
	out := []string{}
	for _, s := range uris {
		u, err := url.Parse(s)
		switch {
		case err != nil || !u.IsAbs() || len(s) > 2048 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
			return nil, api.Errorf(api.InvalidInput, "The redirect URI %q is not an absolute URI in ASCII", cut(s))
		case u.Fragment != "" || strings.Contains(s, "#"):
			return nil, api.Errorf(api.InvalidInput, "The redirect URI %q has a fragment, which no code could be put behind", cut(s))
		case u.User != nil || strings.Contains(s, "*"):
			return nil, api.Errorf(api.InvalidInput, "The redirect URI %q holds a user name or a wildcard: it is compared exactly", cut(s))
		case u.Scheme == "https" && u.Hostname() != "", u.Scheme == "http" && isLoopback(u.Hostname()):
		case u.Scheme == "http" || u.Scheme == "https":
			return nil, api.Errorf(api.InvalidInput, "The redirect URI %q would send codes in the clear: use https, or http on localhost or 127.0.0.1", cut(s))
		case !strings.Contains(u.Scheme, ".") && !strings.HasPrefix(u.Scheme, "msal"):
			return nil, api.Errorf(api.InvalidInput, "The redirect URI %q is of a scheme that is nobody's own: use a reversed domain name, as in com.example.app:/signin", cut(s))
		}
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	if len(out) > maxRedirects {
		return nil, api.Errorf(api.InvalidInput, "There are %d redirect URIs, %d are allowed", len(out), maxRedirects)
	}
	return out, nil
}

func isLoopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// redirectsTo reports whether the application may be sent to that URI: exactly
// one it registered; on the own machine with any port, because an application
// there gets whatever port is free (RFC 8252, 7.3).
func (a App) redirectsTo(uri string) bool {
	if slices.Contains(a.RedirectURIs, uri) {
		return true
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" || !isLoopback(u.Hostname()) || u.User != nil || strings.Contains(uri, "#") {
		return false
	}
	return slices.ContainsFunc(a.RedirectURIs, func(registered string) bool {
		r, err := url.Parse(registered)
		return err == nil && r.Scheme == "http" && r.Port() == "" && r.Hostname() == u.Hostname() &&
			strings.TrimSuffix(r.EscapedPath(), "/") == strings.TrimSuffix(u.EscapedPath(), "/") && r.RawQuery == u.RawQuery
	})
}
