// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"staunch/api"
)

// want verifies a token that k signed and looks at the code of the answer.
func (r *relying) want(t *testing.T, p *idp, kid string, code api.Code) {
	t.Helper()
	claims := with(p.appV2(r.clock.now()), "jti", r.clock.now().String()) // not one that is in memory
	_, err := r.Verify(t.Context(), sign(t, jose.RS256, p.key(kid), claims, "kid", kid))
	if api.CodeOf(err) != code && (code != "" || err != nil) {
		t.Errorf("a token of key %s: %v, want %q", kid, err, code)
	}
}

func (p *idp) key(kid string) any {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.keys[kid]; k != nil {
		return k
	}
	return otherKey()
}

func TestRotation(t *testing.T) {
	p := newIDP(t)
	r := trusting(t, p.v2())
	old := sign(t, jose.RS256, rsaKey(), with(p.appV2(r.clock.now()), "exp", r.clock.now().Add(48*time.Hour).Unix()))
	if _, err := r.Verify(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	p.set(func() { p.keys["k2"] = otherKey() })
	r.want(t, p, "k2", api.Unauthorized) // asked a moment ago
	r.clock.add(askAgain)
	r.want(t, p, "k2", "")
	r.want(t, p, "k1", "")
	if n := p.count("/keys"); n != 2 {
		t.Errorf("the keys were asked for %d times, want 2", n)
	}

	// A key that is withdrawn ends what it signed, also what was verified before.
	p.set(func() { delete(p.keys, "k1") })
	r.clock.add(freshFor)
	if _, err := r.Verify(t.Context(), old); err != nil { // served while the keys are got again
		t.Errorf("while the keys are got again: %v", err)
	}
	until(t, func() bool { return p.count("/keys") == 3 })
	until(t, func() bool { _, err := r.Verify(t.Context(), old); return api.CodeOf(err) == api.Unauthorized })
	r.want(t, p, "k2", "")
}

// until waits for what another goroutine brings about.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it did not come to be so within a minute")
}

func TestIssuerDown(t *testing.T) {
	p := newIDP(t)
	down := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }
	p.instead["/"+tid+"/v2.0"+wellKnown] = down
	r := trusting(t, p.v2()) // starts all the same
	r.want(t, p, "k1", api.ServiceUnavailable)
	p.set(func() { clear(p.instead) })
	r.want(t, p, "k1", api.ServiceUnavailable) // asked a moment ago
	r.clock.add(tryAgain)
	r.want(t, p, "k1", "")

	p.set(func() { p.instead["/keys"] = down })
	r.clock.add(goodFor - time.Second)
	r.want(t, p, "k1", "") // with the keys as they were
	r.clock.add(time.Second)
	r.want(t, p, "k1", api.ServiceUnavailable) // they are too old to be believed
	p.set(func() { clear(p.instead) })
	r.clock.add(tryAgain)
	r.want(t, p, "k1", "")
}

// Strangers can have the issuer asked once a minute, however many come at once.
func TestUnknownKeysAreAskedForTogether(t *testing.T) {
	p := newIDP(t)
	hold := make(chan struct{})
	p.instead["/keys"] = func(w http.ResponseWriter, _ *http.Request) { <-hold; p.serveKeys(w) }
	r := trusting(t, p.v2())
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			token := sign(t, jose.RS256, otherKey(), with(p.appV2(r.clock.now()), "jti", i), "kid", fmt.Sprint("x", i))
			if _, err := r.Verify(t.Context(), token); api.CodeOf(err) != api.Unauthorized {
				t.Errorf("a key nobody has: %v", err)
			}
		})
	}
	until(t, func() bool { return p.count("/keys") == 1 })
	close(hold)
	all.Wait()
	if n := p.count("/keys"); n != 1 {
		t.Errorf("the keys were asked for %d times, want once", n)
	}
}

func TestSlowIssuer(t *testing.T) {
	p := newIDP(t)
	r := trusting(t, p.v2())
	r.want(t, p, "k1", "")
	hold := make(chan struct{})
	defer close(hold)
	p.set(func() {
		p.instead["/keys"] = func(_ http.ResponseWriter, q *http.Request) {
			select {
			case <-hold:
			case <-q.Context().Done():
			}
		}
	})
	r.clock.add(freshFor)
	r.want(t, p, "k1", "") // nobody who has a known key waits
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := r.Verify(ctx, sign(t, jose.RS256, otherKey(), p.appV2(r.clock.now()), "kid", "k9"))
	if api.CodeOf(err) != api.ServiceUnavailable { // and nobody waits who has gone
		t.Errorf("a caller who went away: %v", err)
	}
	r.Close() // ends the fetch that hangs
}

func TestHostileDocuments(t *testing.T) {
	keys := func(body string) func(*idp, http.ResponseWriter) {
		return func(_ *idp, w http.ResponseWriter) { fmt.Fprint(w, body) }
	}
	one := `{"kty":"RSA","kid":"k1","n":"` + strings.Repeat("x", 342) + `","e":"AQAB"}`
	for name, c := range map[string]struct {
		path  string
		serve func(p *idp, w http.ResponseWriter)
	}{
		"document of another issuer": {wellKnown, func(p *idp, w http.ResponseWriter) { p.document(w, p.plain()) }},
		"keys in the clear": {wellKnown, func(p *idp, w http.ResponseWriter) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://keys.example/"}`, p.v2())
		}},
		"keys in a file": {wellKnown, func(p *idp, w http.ResponseWriter) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"file:///etc/passwd"}`, p.v2())
		}},
		"keys on a private address": {wellKnown, func(p *idp, w http.ResponseWriter) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"https://[::ffff:169.254.169.254]/"}`, p.v2())
		}},
		"keys on loopback": {wellKnown, func(p *idp, w http.ResponseWriter) {
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, p.v2(), strings.Replace(p.URL, "127.0.0.1", "localhost", 1)+"/keys")
		}},
		"huge document":       {wellKnown, func(_ *idp, w http.ResponseWriter) { fmt.Fprint(w, strings.Repeat(" ", maxDocument), "{}") }},
		"document is no JSON": {wellKnown, func(_ *idp, w http.ResponseWriter) { fmt.Fprint(w, "<html>") }},
		"huge set":            {"/keys", keys(`{"keys":[` + one + `],"x":"` + strings.Repeat("x", maxKeySet) + `"}`)},
		"too many keys":       {"/keys", keys(`{"keys":[` + strings.Repeat(one+",", maxKeys) + one + `]}`)},
		"no keys":             {"/keys", keys(`{"keys":[]}`)},
		"keys is no list":     {"/keys", keys(`{"keys":{}}`)},
		"secret key":          {"/keys", keys(`{"keys":[{"kty":"oct","kid":"k1","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"}]}`)},
		"short key":           {"/keys", keys(`{"keys":[{"kty":"RSA","kid":"k1","n":"` + strings.Repeat("x", 171) + `","e":"AQAB"}]}`)},
		"endless key":         {"/keys", keys(`{"keys":[{"kty":"RSA","kid":"k1","n":"` + strings.Repeat("x", 4000) + `","e":"AQAB"}]}`)},
		"key to encrypt":      {"/keys", keys(`{"keys":[` + strings.Replace(one, "{", `{"use":"enc",`, 1) + `]}`)},
		"key without a name":  {"/keys", keys(`{"keys":[` + strings.Replace(one, "k1", "", 1) + `]}`)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newIDP(t)
			path := c.path
			if path == wellKnown {
				path = "/" + tid + "/v2.0" + wellKnown
			}
			r := trusting(t, p.v2())
			r.want(t, p, "k1", "")
			p.set(func() { p.instead[path] = func(w http.ResponseWriter, _ *http.Request) { c.serve(p, w) } })
			r.clock.add(goodFor) // the good keys are over
			r.want(t, p, "k1", api.ServiceUnavailable)
			p.set(func() { clear(p.instead) })
			r.clock.add(tryAgain)
			r.want(t, p, "k1", "")
		})
	}
}

// Whatever an issuer publishes: what is taken from it is public, and long enough.
func FuzzUsable(f *testing.F) {
	f.Add([]byte(`{"kty":"RSA","kid":"k1","n":"` + strings.Repeat("x", 342) + `","e":"AQAB"}`))
	f.Add([]byte(`{"kty":"EC","kid":"k1","crv":"P-256","x":"AA","y":"AA"}`))
	f.Add([]byte(`{"kty":"oct","kid":"k1","k":"AA"}`))
	f.Add([]byte(`{"kty":"RSA","kid":"k1","n":"AQ","e":"AQAB","d":"AQ","x5c":["AA"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		keys, err := usable([]json.RawMessage{b})
		if err == nil && len(keys) != 1 {
			t.Errorf("%d keys of one", len(keys))
		}
		for kid, k := range keys {
			if !k.IsPublic() || kid == "" || kid != k.KeyID {
				t.Errorf("key %q: %+v", kid, k)
			}
		}
	})
}

func TestRedirects(t *testing.T) {
	p, foe := newIDP(t), newIDP(t)
	foe.instead["/keys"] = func(w http.ResponseWriter, _ *http.Request) { p.serveKeys(w) }
	p.instead["/keys"] = func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, foe.URL+"/keys", http.StatusFound) }
	r := trusting(t, p.v2())
	r.want(t, p, "k1", api.ServiceUnavailable)
	if foe.count("/keys") != 0 {
		t.Error("another host was asked")
	}
	p.set(func() {
		p.instead["/keys"] = func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, "/moved", http.StatusFound) }
		p.instead["/moved"] = func(w http.ResponseWriter, _ *http.Request) { p.serveKeys(w) }
	})
	r.clock.add(tryAgain)
	r.want(t, p, "k1", "")
	p.set(func() {
		p.instead["/moved"] = func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, "/keys", http.StatusFound) }
	})
	r.clock.add(goodFor)
	r.want(t, p, "k1", api.ServiceUnavailable) // round and round
}

func TestPublicOnly(t *testing.T) {
	for address, ok := range map[string]bool{
		"93.184.216.34:443": true, "[2606:4700::1]:443": true,
		"127.0.0.1:443": false, "[::1]:443": false, "10.0.0.1:443": false, "192.168.1.1:443": false, "172.16.0.1:443": false, "169.254.169.254:80": false,
		"100.64.0.1:443": false, "0.0.0.0:443": false, "[fe80::1]:443": false, "[fd00::1]:443": false, "[::ffff:10.0.0.1]:443": false, "224.0.0.1:443": false, "x": false,
	} {
		if err := publicOnly("tcp", address, nil); (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestNames(t *testing.T) {
	for url, want := range map[string]string{
		"http://idp.example/realms/x": "https://",
		"ftp://idp.example":           "https://",
		"idp.example":                 "of the form",
		"":                            "of the form",
		"https://user@idp.example":    "nothing more",
		"https://idp.example/?x":      "nothing more",
		"https://idp.example/#":       "nothing more",
		"https://idp.example/" + strings.Repeat("x", 256):    "256 bytes",
		"https://login.microsoftonline.com/common/v2.0":      "name your own",
		"https://login.microsoftonline.com/organizations":    "name your own",
		"https://login.microsoftonline.com/{tenantid}/v2.0":  "",
		"https://login.microsoftonline.com/Common/v2.0/":     "name your own",
		"https://login.microsoftonline.com/" + tid + "/v2.0": "named twice",
		"https://idp.example/realms/common-people/protocol":  "ok",
		"https://sts.windows.net/" + home + "/":              "ok",
		"https://login.microsoftonline.us/" + home + "/v2.0": "ok",
		"http://127.0.0.1:8080/realms/x":                     "ok",
		"http://localhost/":                                  "ok",
	} {
		x, err := New(Config{URLs: []string{"https://login.microsoftonline.com/" + tid + "/v2.0", url}, Log: slog.New(slog.DiscardHandler)})
		if (err == nil) != (want == "ok") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
		if err == nil {
			if _, ok := x.Find("https://sts.windows.net/" + tid + "/"); !ok || len(x.Names()) != 2 {
				t.Errorf("%q: names %v, v1 found: %v", url, x.Names(), ok)
			}
			x.Close()
		}
	}
}
