// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"staunch/api"
)

// entra is a tenant of Entra's form, on loopback.
type entra struct {
	*httptest.Server
	tenant string
	key    *rsa.PrivateKey
}

func newEntra(t testing.TB) *entra {
	t.Helper()
	e := &entra{tenant: "9a3d51aa-7b40-4c33-9d10-b5f7a1d2e604"}
	var err error
	if e.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/" + e.tenant + "/v2.0/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, e.v2(), e.URL+"/keys")
		case "/" + e.tenant + "/.well-known/openid-configuration":
			fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, e.v1(), e.URL+"/keys")
		case "/keys":
			set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: e.key.Public(), KeyID: "k", Use: "sig"}}}
			if err := json.NewEncoder(w).Encode(set); err != nil {
				t.Error(err)
			}
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *entra) v2() string { return e.URL + "/" + e.tenant + "/v2.0" }
func (e *entra) v1() string { return "https://sts.windows.net/" + e.tenant + "/" }

func (e *entra) token(t testing.TB, iss string, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": iss, "aud": "api://staunch", "tid": e.tenant, "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(), "oid": "b4c0a1de-8f55-4c1e-9d3a-0e77c1a5d902"}
	app := "6d0f2b1e-5a44-4f0b-9a2f-3c1de8840c77"
	if iss == e.v1() {
		all["ver"], all["appid"], all["app_displayname"] = "1.0", app, "SOAR of Entra"
	} else {
		all["ver"], all["azp"] = "2.0", app
	}
	for k, v := range claims {
		all[k] = v
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: e.key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// Applications and people of an issuer outside, through the real server.
func TestIssuerOutside(t *testing.T) {
	e := newEntra(t)
	s := startReplica(t, Config{Data: t.TempDir(), Issuers: []string{e.v2()}, IssuerAudiences: []string{"api://staunch"}})
	read := map[string]any{"roles": []string{"Machine.Read.All"}}
	person := func(upn string, more ...any) map[string]any {
		c := map[string]any{"scp": "Machine.Read", "preferred_username": upn}
		for i := 0; i < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
		}
		return c
	}
	want := func(name, token string, want int) {
		t.Helper()
		if code, _, b := s.call("GET", "/api/machines", token, ""); code != want {
			t.Errorf("%s: %d, want %d: %s", name, code, want, b)
		}
	}
	want("an app, v2", e.token(t, e.v2(), read), 200)
	want("an app, v1", e.token(t, e.v1(), read), 200)
	want("an app without the role", e.token(t, e.v2(), nil), 403)
	want("another audience", e.token(t, e.v2(), map[string]any{"roles": read["roles"], "aud": resource}), 401)
	want("a person nobody knows", e.token(t, e.v2(), person("eva@corp.example")), 403)

	for _, call := range []struct {
		method, path string
		body         any
	}{
		{"POST", "/v1/roles", api.RoleRequest{Name: "See", Permissions: []string{"View data"}}},
		{"POST", "/v1/groups", api.GroupRequest{Name: "SOC", Issuer: e.v2(), External: "0e5b1a2c-1111-4222-8333-444455556666"}},
		{"PUT", "/v1/roles/See/groups/SOC", nil},
		{"POST", "/v1/groups", api.GroupRequest{Name: "Tied"}},
		{"PUT", "/v1/roles/See/groups/Tied", nil},
		{"POST", "/v1/users", api.UserRequest{UPN: "max@corp.example", Subject: "C4C0A1DE-8f55-4c1e-9d3a-0e77c1a5d902"}},
		{"PUT", "/v1/groups/Tied/members/max@corp.example", nil},
		{"POST", "/v1/users", api.UserRequest{UPN: "local@corp.example", Password: "correct horse battery"}},
	} {
		if code := s.administer(call.method, call.path, call.body, nil); code > 204 {
			t.Fatalf("%s %s: %d", call.method, call.path, code)
		}
	}
	groups := []string{"0e5b1a2c-1111-4222-8333-444455556666"}
	want("by group", e.token(t, e.v2(), person("eva@corp.example", "groups", groups)), 200)
	want("by group, v1", e.token(t, e.v1(), map[string]any{"scp": "Machine.Read", "upn": "eva@corp.example", "groups": groups}), 200)
	want("by group, without the scope", e.token(t, e.v2(), person("eva@corp.example", "groups", groups, "scp", "User.Read")), 403)
	want("of another group", e.token(t, e.v2(), person("eva@corp.example", "groups", []string{"x"})), 403)
	want("tied", e.token(t, e.v2(), person("whatever", "oid", "c4c0a1de-8f55-4c1e-9d3a-0e77c1a5d902")), 200)
	want("called as a user of ours", e.token(t, e.v2(), person("local@corp.example", "groups", groups)), 401)

	var app api.App
	if code := s.administer("POST", "/v1/apps", api.AppRequest{Name: "Entra's", ID: "6d0f2b1e-5a44-4f0b-9a2f-3c1de8840c77"}, &app); code != 201 {
		t.Fatal(code)
	}
	yes := true
	if code := s.administer("PATCH", "/v1/apps/"+app.ClientID, api.AppChange{Disabled: &yes}, nil); code != 200 {
		t.Fatal(code)
	}
	for range 600 { // believed for five seconds
		if code, _, _ := s.call("GET", "/api/machineactions", e.token(t, e.v2(), read), ""); code == 401 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Error("an app that is shut out here is let in")
}

func TestIssuerRefused(t *testing.T) {
	for want, cfg := range map[string]Config{
		"this server itself":   {PublicURL: "https://staunch.example", Issuers: []string{"https://staunch.example/TENANT/v2.0"}},
		"no --oidc-issuer":     {IssuerAudiences: []string{"x"}},
		"begin with https://":  {Issuers: []string{"http://idp.example"}},
		"stands for every ten": {Issuers: []string{"https://login.microsoftonline.com/common/v2.0"}},
	} {
		cfg.Data, cfg.Listen, cfg.Log = t.TempDir(), "127.0.0.1:0", slog.New(slog.DiscardHandler)
		if want == "this server itself" {
			first, err := New(t.Context(), Config{Data: cfg.Data, Listen: cfg.Listen, Log: cfg.Log})
			if err != nil {
				t.Fatal(err)
			}
			tenant, err := first.tenant(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			if err := first.Stop(); err != nil {
				t.Fatal(err)
			}
			cfg.Issuers[0] = strings.Replace(cfg.Issuers[0], "TENANT", tenant, 1)
		}
		s, err := New(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err == nil {
			_ = s.Stop()
		}
	}
}
