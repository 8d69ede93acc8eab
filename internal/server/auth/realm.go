// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// Realm is what the issuer of tokens and their verifier must agree on: the
// tenant, the names this server goes by, and the audiences that mean its API.
type Realm struct {
	Tenant    string          // required: a GUID, in lower case
	PublicURL string          // required: scheme://host[:port], no path; the base of every URL that does not follow a request
	Names     []string        // more host names or addresses, without port, that clients may call the server by
	Audiences func() []string // what the operator adds to DefaultAudiences; nil: nothing
}

// DefaultAudiences are the resource names of the Defender API, as its clients
// ask for them.
func DefaultAudiences() []string {
	return []string{
		"https://api.securitycenter.microsoft.com",
		"https://api.securitycenter.windows.com",
		"https://api.security.microsoft.com",
		"https://securitycenter.onmicrosoft.com/windowsatpservice",
		"fc780465-2017-40d4-a0c5-307022471b92",
	}
}

// Check returns what is wrong with the realm.
func (r Realm) Check() error {
	if r.Tenant != strings.ToLower(r.Tenant) || !IsGUID(r.Tenant) {
		return fmt.Errorf("tenant %q is not a GUID in lower case", r.Tenant)
	}
	u, err := url.Parse(r.PublicURL)
	switch {
	case err != nil:
		return fmt.Errorf("cannot read the public URL: %w", err)
	case u.Scheme != "https" && u.Scheme != "http", u.Hostname() == "":
		return fmt.Errorf("public URL %q is not of the form https://HOST[:PORT]", r.PublicURL)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("public URL %q must end after the host and port", r.PublicURL)
	}
	for _, n := range r.Names {
		if n == "" || strings.ContainsAny(n, "/ \t") {
			return errors.New("a server name must be a host name or an address alone")
		}
	}
	return nil
}

// Base returns the base URL to answer a request with: on the host that the
// client called, when that is one of the realm's names, because some SDKs
// refuse an issuer of another host; else the public URL. A Host header can
// choose among the realm's names and nothing more.
func (r Realm) Base(tls bool, host string) string {
	public := strings.TrimSuffix(r.PublicURL, "/")
	scheme, publicHost, _ := strings.Cut(public, "://")
	if strings.EqualFold(host, publicHost) || !r.named(host) {
		return public
	}
	// Behind a proxy that ends TLS the request itself is plain, so its scheme
	// counts only where there cannot be one: on this machine.
	switch {
	case tls:
		scheme = "https"
	case isLoopback(hostname(host)):
		scheme = "http"
	}
	return scheme + "://" + strings.ToLower(host)
}

// named reports whether host[:port] is one of the realm's names, whatever the port.
func (r Realm) named(host string) bool {
	u, err := url.Parse("//" + host)
	if err != nil || u.Host != host || u.Hostname() == "" {
		return false
	}
	if p, err := url.Parse(r.PublicURL); err == nil && strings.EqualFold(p.Hostname(), u.Hostname()) {
		return true
	}
	return slices.ContainsFunc(r.Names, func(n string) bool {
		return strings.EqualFold(strings.Trim(n, "[]"), u.Hostname())
	})
}

func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.Trim(host, "[]")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// own reports whether base is a base URL that Base may have returned.
func (r Realm) own(base string) bool {
	if base == strings.TrimSuffix(r.PublicURL, "/") {
		return true
	}
	scheme, host, ok := strings.Cut(base, "://")
	return ok && (scheme == "https" || scheme == "http") && r.named(host)
}

// IssuerV1 is the "iss" of v1 tokens issued at base.
func (r Realm) IssuerV1(base string) string { return base + "/" + r.Tenant + "/" }

// IssuerV2 is the "iss" of v2 tokens issued at base.
func (r Realm) IssuerV2(base string) string { return base + "/" + r.Tenant + "/v2.0" }

// Issued reports whether iss is this realm's issuer, under any of its names.
func (r Realm) Issued(iss string) bool {
	for _, tail := range []string{"/" + r.Tenant + "/", "/" + r.Tenant + "/v2.0"} {
		if base, ok := strings.CutSuffix(iss, tail); ok && r.own(base) {
			return true
		}
	}
	return false
}

// Audience reports whether name means this API, and returns it as it is to
// stand in a token: as configured, without a slash at the end.
func (r Realm) Audience(name string) (string, bool) {
	name = strings.TrimRight(name, "/")
	known := DefaultAudiences()
	if r.Audiences != nil {
		known = append(known, r.Audiences()...)
	}
	for _, k := range known {
		if k = strings.TrimRight(k, "/"); k != "" && strings.EqualFold(k, name) {
			return k, true
		}
	}
	if lower := strings.ToLower(name); r.own(lower) {
		return lower, true
	}
	return "", false
}
