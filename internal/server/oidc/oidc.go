// SPDX-License-Identifier: Apache-2.0

// Package oidc knows the issuers of tokens outside this server that its operator
// trusts (OpenID Connect providers, Microsoft Entra ID among them): what they are
// called, and the keys that sign their tokens now.
//
// It promises that a key is only ever what the issuer itself publishes over TLS;
// that keys it withdraws are withdrawn here within the hour; that an issuer which
// is slow, down, huge or hostile costs this server a bounded amount of memory and
// one call at a time; and that its being down stops nobody for a day.
package oidc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"staunch/internal/server/auth"
)

// maxIssuers bounds how many an operator may name.
const maxIssuers = 16

// Config names the issuers.
type Config struct {
	// URLs are the issuers, each exactly as the iss of its tokens has it. Of
	// Entra, https://login.microsoftonline.com/TENANT/v2.0 stands for the v1
	// tokens of that tenant too, whose iss is another.
	URLs []string

	TLS *tls.Config      // nil: the system's authorities
	Log *slog.Logger     // required
	Now func() time.Time // nil: time.Now
}

// Issuers are the trusted issuers. Close ends what they have under way.
type Issuers struct {
	byName map[string]*issuer // by iss
	stop   context.CancelFunc
	wait   sync.WaitGroup // the fetches under way
}

// New checks the names and asks nobody: an issuer that is down at the moment
// must not keep this server from starting.
func New(c Config) (*Issuers, error) {
	if c.Log == nil {
		return nil, errors.New("cannot trust issuers: Log is required")
	}
	if len(c.URLs) > maxIssuers {
		return nil, fmt.Errorf("cannot trust %d issuers, at most %d", len(c.URLs), maxIssuers)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	life, stop := context.WithCancel(context.Background())
	all := &Issuers{byName: map[string]*issuer{}, stop: stop}
	for _, raw := range c.URLs {
		found, err := read(raw)
		if err != nil {
			stop()
			return nil, fmt.Errorf("cannot trust issuer %q: %w", raw, err)
		}
		client := newClient(found[0].discovery, c.TLS)
		for _, i := range found {
			if all.byName[i.iss] != nil {
				stop()
				return nil, fmt.Errorf("cannot trust issuer %q: %s is named twice", raw, i.iss)
			}
			i.life, i.client, i.log, i.now, i.wait = life, client, c.Log, c.Now, &all.wait
			all.byName[i.iss] = i
		}
	}
	return all, nil
}

// Close ends the fetches under way and waits for them.
func (x *Issuers) Close() {
	x.stop()
	x.wait.Wait()
}

// Find returns the issuer whose tokens have that iss.
func (x *Issuers) Find(iss string) (auth.Foreign, bool) {
	i, ok := x.byName[iss]
	if !ok {
		return auth.Foreign{}, false
	}
	return auth.Foreign{Name: i.name, Tenant: i.tenant, Version: i.version, Key: i.key}, true
}

// Names are the issuers as the operator named them.
func (x *Issuers) Names() []string {
	var names []string
	for _, i := range x.byName {
		if i.iss == i.name {
			names = append(names, i.name)
		}
	}
	return names
}

// read makes of one name the issuers that it stands for.
func read(raw string) ([]*issuer, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, err
	case u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(raw, "#") || u.Opaque != "":
		return nil, errors.New("it must be a URL of the form https://HOST[:PORT][/PATH] and nothing more")
	case len(raw) > 256:
		return nil, errors.New("it is longer than 256 bytes")
	case !secure(u):
		return nil, errors.New("it must begin with https://: who can change its answers on the way could sign tokens (http is allowed on loopback alone)")
	}
	base := u.Scheme + "://" + u.Host
	segments := strings.Split(strings.Trim(u.Path, "/"), "/")
	switch word := strings.ToLower(segments[0]); word {
	case "common", "organizations", "consumers", "{tenantid}", "{tid}":
		if len(segments) <= 2 && strings.TrimPrefix(strings.Join(segments[1:], ""), "v2.0") == "" {
			return nil, fmt.Errorf("%q stands for every tenant there is: name your own by its GUID", word)
		}
	}
	named := &issuer{name: raw, iss: raw, discovery: strings.TrimSuffix(raw, "/") + wellKnown}
	tenant := strings.ToLower(segments[0])
	switch {
	case !auth.IsGUID(tenant):
		return []*issuer{named}, nil
	case raw == base+"/"+tenant+"/":
		named.tenant, named.version = tenant, "1.0"
		return []*issuer{named}, nil
	case raw != base+"/"+tenant+"/v2.0":
		return []*issuer{named}, nil
	}
	named.tenant, named.version = tenant, "2.0"
	all := []*issuer{named}
	// The v1 endpoint of the same tenant says itself which of the two it is.
	for _, iss := range []string{"https://sts.windows.net/" + tenant + "/", base + "/" + tenant + "/"} {
		all = append(all, &issuer{name: raw, iss: iss, tenant: tenant, version: "1.0", discovery: base + "/" + tenant + wellKnown})
	}
	return all, nil
}

const wellKnown = "/.well-known/openid-configuration" // OpenID Connect Discovery 1.0, section 4

// secure reports whether what is read from u is what its host sent.
func secure(u *url.URL) bool {
	if u.Scheme == "https" {
		return true
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "http" && (strings.EqualFold(u.Hostname(), "localhost") || ip != nil && ip.IsLoopback())
}

// newClient makes the client for one issuer. It reaches the issuer's own host
// wherever that is, because the operator named it; any other host, which only the
// issuer's document names, must be a public one: else a hostile document could
// have us ask the machines around us.
func newClient(discovery string, config *tls.Config) *http.Client {
	trusted := map[string]bool{}
	if u, err := url.Parse(discovery); err == nil {
		trusted[u.Hostname()] = true
		if p, err := http.ProxyFromEnvironment(&http.Request{URL: u}); err == nil && p != nil {
			trusted[p.Hostname()] = true
		}
	}
	near := &net.Dialer{Timeout: fetchTime}
	far := &net.Dialer{Timeout: fetchTime, Control: publicOnly}
	return &http.Client{
		Timeout: fetchTime,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				if host, _, err := net.SplitHostPort(address); err == nil && trusted[host] {
					return near.DialContext(ctx, network, address)
				}
				return far.DialContext(ctx, network, address)
			},
			TLSClientConfig: config, ForceAttemptHTTP2: true, TLSHandshakeTimeout: fetchTime,
			MaxResponseHeaderBytes: 64 << 10, MaxIdleConns: 2, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if from := via[0].URL; r.URL.Host != from.Host || r.URL.Scheme != from.Scheme || len(via) > 3 {
				return fmt.Errorf("it redirects from %s to %s", from.Host, r.URL.Host)
			}
			return nil
		},
	}
}
