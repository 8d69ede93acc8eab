// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"staunch/api"
	"staunch/internal/server/auth"
)

const (
	home     = "2c9e51aa-7b40-4c33-9d10-b5f7a1d2e604" // this server's own tenant
	tid      = "9a3d51aa-7b40-4c33-9d10-b5f7a1d2e604" // of Entra's
	client   = "6d0f2b1e-5a44-4f0b-9a2f-3c1de8840c77"
	oid      = "b4c0a1de-8f55-4c1e-9d3a-0e77c1a5d902"
	audience = "https://api.securitycenter.microsoft.com"
)

// idp is an identity provider of the test's own, on loopback: an Entra tenant at
// /TID, and a plain issuer at /realms/corp.
type idp struct {
	*httptest.Server
	t testing.TB

	mu      sync.Mutex
	keys    map[string]crypto.Signer // by kid
	algs    map[string]string        // alg of a published key; "" none
	asked   map[string]int           // by path
	instead map[string]http.HandlerFunc
}

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey    = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newIDP(t testing.TB) *idp {
	p := &idp{t: t, keys: map[string]crypto.Signer{"k1": rsaKey()}, algs: map[string]string{}, asked: map[string]int{}, instead: map[string]http.HandlerFunc{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *idp) v2() string    { return p.URL + "/" + tid + "/v2.0" }
func (p *idp) v1() string    { return "https://sts.windows.net/" + tid + "/" }
func (p *idp) plain() string { return p.URL + "/realms/corp" }

func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.URL.Path]++
	instead := p.instead[r.URL.Path]
	p.mu.Unlock()
	if instead != nil {
		instead(w, r)
		return
	}
	switch r.URL.Path {
	case "/" + tid + "/v2.0" + wellKnown:
		p.document(w, p.v2())
	case "/" + tid + wellKnown:
		p.document(w, p.v1())
	case "/realms/corp" + wellKnown:
		p.document(w, p.plain())
	case "/keys":
		p.serveKeys(w)
	default:
		http.NotFound(w, r)
	}
}

func (p *idp) document(w http.ResponseWriter, iss string) {
	fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, iss, p.URL+"/keys")
}

func (p *idp) serveKeys(w http.ResponseWriter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var set jose.JSONWebKeySet
	for kid, k := range p.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: kid, Use: "sig", Algorithm: p.algs[kid]})
	}
	if err := json.NewEncoder(w).Encode(set); err != nil {
		p.t.Error(err)
	}
}

func (p *idp) set(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func (p *idp) count(path string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[path]
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// relying is a verifier that trusts issuers.
type relying struct {
	*auth.Verifier
	*Issuers
	clock *clock
	seen  []auth.Visitor
}

func trusting(t testing.TB, urls ...string) *relying {
	t.Helper()
	r := &relying{clock: &clock{at: time.Now()}}
	var err error
	if r.Issuers, err = New(Config{URLs: urls, Log: slog.New(slog.DiscardHandler), Now: r.clock.now}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	r.Verifier, err = auth.New(auth.Config{
		Realm: auth.Realm{Tenant: home, PublicURL: "https://staunch.example"}, Now: r.clock.now,
		Keys: func() jose.JSONWebKeySet {
			return jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: otherKey().Public(), KeyID: "own", Algorithm: "RS256"}}}
		},
		AppEnabled:  func(context.Context, string) (bool, error) { return false, nil }, // none is registered here
		AppDisabled: func(_ context.Context, id string) (bool, error) { return strings.HasPrefix(id, "dead"), nil },
		Foreign:     r.Find,
		Visitor: func(_ context.Context, w auth.Visitor) (auth.Person, error) {
			r.seen = append(r.seen, w)
			if w.UPN == "gone@corp.example" {
				return auth.Person{}, api.Errorf(api.ResourceNotFound, "gone")
			}
			return auth.Person{UPN: w.UPN, Access: auth.Access{auth.ViewData: {0}}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// appV2 are the claims of an application's token as Entra's v2 endpoint makes them.
func (p *idp) appV2(now time.Time) map[string]any {
	return map[string]any{
		"aud": audience, "iss": p.v2(), "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(time.Hour).Unix(),
		"tid": tid, "azp": client, "azpacr": "1", "oid": oid, "sub": oid, "ver": "2.0", "roles": []string{"Machine.Read.All"},
	}
}

func (p *idp) appV1(now time.Time) map[string]any {
	return with(p.appV2(now), "iss", p.v1(), "ver", "1.0", "azp", nil, "azpacr", nil, "appid", client, "appidacr", "1", "app_displayname", "SOAR")
}

func (p *idp) userV2(now time.Time) map[string]any {
	return with(p.appV2(now), "roles", nil, "scp", "Machine.Read Machine.StopAndQuarantine", "preferred_username", "Ana@Corp.Example", "groups", []string{"g2", "g1", "g1"})
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

// sign makes a token. header sets and, by nil, leaves out.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any, header ...any) string {
	t.Helper()
	opts := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "k1")
	for i := 0; i < len(header); i += 2 {
		if header[i+1] == nil {
			delete(opts.ExtraHeaders, jose.HeaderKey(header[i].(string)))
			continue
		}
		opts = opts.WithHeader(jose.HeaderKey(header[i].(string)), header[i+1])
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, opts)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign(must(json.Marshal(claims)))
	if err != nil {
		t.Fatal(err)
	}
	return must(sig.CompactSerialize())
}
