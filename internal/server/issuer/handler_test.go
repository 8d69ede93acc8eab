// SPDX-License-Identifier: Apache-2.0

package issuer_test

import (
	"crypto/tls"
	"encoding/json"
	"net/http/httptest"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
)

func TestDiscovery(t *testing.T) {
	b := newBench(t, nil)
	for _, c := range []struct {
		host, path string
		tls        bool
		want       map[string]string
	}{
		{"staunch.example:8443", "/" + tenant + "/v2.0/.well-known/openid-configuration?", true, map[string]string{
			"issuer":                        public + "/" + tenant + "/v2.0",
			"authorization_endpoint":        public + "/" + tenant + "/oauth2/v2.0/authorize",
			"token_endpoint":                public + "/" + tenant + "/oauth2/v2.0/token",
			"device_authorization_endpoint": public + "/" + tenant + "/oauth2/v2.0/devicecode",
			"jwks_uri":                      public + "/" + tenant + "/discovery/v2.0/keys",
		}},
		{"login.example", "/common/.well-known/openid-configuration", true, map[string]string{
			"issuer":         "https://login.example/" + tenant + "/",
			"token_endpoint": "https://login.example/" + tenant + "/oauth2/token",
			"jwks_uri":       "https://login.example/" + tenant + "/discovery/keys",
		}},
		{"127.0.0.1:8080", "/contoso.example/v2.0/.well-known/openid-configuration", false, map[string]string{
			"issuer": "http://127.0.0.1:8080/" + tenant + "/v2.0",
		}},
		{"evil.example", "/organizations/v2.0/.well-known/openid-configuration", true, map[string]string{
			"issuer": public + "/" + tenant + "/v2.0",
		}},
	} {
		r := httptest.NewRequest("GET", c.path, nil)
		r.Host = c.host
		if c.tls {
			r.TLS = &tls.ConnectionState{}
		}
		w := httptest.NewRecorder()
		b.service.Handler().ServeHTTP(w, r)
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
			t.Fatalf("%s: %d %s", c.path, w.Code, w.Body)
		}
		for k, want := range c.want {
			if got[k] != want {
				t.Errorf("%s on %s: %s = %v, want %s", c.path, c.host, k, got[k], want)
			}
		}
	}
}

func TestJWKS(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/common/discovery/keys", "/" + tenant + "/discovery/v2.0/keys"} {
		w, _ := b.do(t, "GET", path, "", nil)
		var set jose.JSONWebKeySet
		if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil || len(set.Keys) != 1 {
			t.Fatalf("%s: %v in %s", path, err, w.Body)
		}
		if k := set.Keys[0]; !k.IsPublic() || k.KeyID == "" || k.Use != "sig" || k.Algorithm != "RS256" {
			t.Errorf("%s: %s", path, w.Body)
		}
		var raw struct{ Keys []map[string]any }
		if err := json.Unmarshal(w.Body.Bytes(), &raw); err != nil {
			t.Fatal(err)
		}
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi"} {
			if _, ok := raw.Keys[0][private]; ok {
				t.Fatalf("the key set shows the private part %q", private)
			}
		}
	}
}

func TestInstanceDiscovery(t *testing.T) {
	b := newBench(t, nil)
	ask := "/common/discovery/instance?api-version=1.1&authorization_endpoint="
	_, got := b.do(t, "GET", "https://login.example"+ask+"https%3A%2F%2Flogin.example%2Fcontoso.example%2Foauth2%2Fv2.0%2Fauthorize", "", nil)
	want := map[string]any{
		"tenant_discovery_endpoint": "https://login.example/contoso.example/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1",
		"metadata": []any{map[string]any{
			"preferred_network": "login.example", "preferred_cache": "login.example", "aliases": []any{"login.example"},
		}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	_, got = b.do(t, "GET", public+"/common/discovery/instance?api-version=1.0&authorization_endpoint="+public+"/"+tenant+"/oauth2/authorize", "", nil)
	if want := public + "/" + tenant + "/.well-known/openid-configuration"; got["tenant_discovery_endpoint"] != want {
		t.Errorf("tenant_discovery_endpoint %v, want %s", got["tenant_discovery_endpoint"], want)
	}

	for path, code := range map[string]string{
		"/common/discovery/instance":      "invalid_request",
		ask + "foo":                       "invalid_request",
		ask + "https://login.example/":    "invalid_instance",
		ask + "https://login.example/foo": "invalid_instance",
	} {
		if w, got := b.do(t, "GET", path, "", nil); w.Code != 400 || got["error"] != code {
			t.Errorf("%s: %d %s, want 400 %s", path, w.Code, w.Body, code)
		}
	}
}

func TestUnknownPath(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/", "/x", "/common/oauth2", "/common/oauth2/tokens", "/a/b/c/d/e"} {
		w, got := b.do(t, "GET", path, "", nil)
		e, _ := got["error"].(map[string]any)
		if w.Code != 404 || e["code"] != "NotFound" || e["message"] == "" || e["target"] == "" {
			t.Errorf("%s: %d %s, want a NotFound", path, w.Code, w.Body)
		}
	}
}
