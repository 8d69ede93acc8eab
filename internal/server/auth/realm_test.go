// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"strings"
	"testing"
)

func TestBase(t *testing.T) {
	plain := testRealm()
	plain.PublicURL = "http://127.0.0.1:9000"
	for _, c := range []struct {
		realm Realm
		tls   bool
		host  string
		want  string
	}{
		{testRealm(), true, "staunch.example:8443", public},
		{testRealm(), false, "staunch.example:8443", public}, // behind a proxy that ends TLS
		{testRealm(), true, "login.example", "https://login.example"},
		{testRealm(), true, "LOGIN.example:8443", "https://login.example:8443"},
		{testRealm(), false, "login.example", "https://login.example"},
		{testRealm(), true, "127.0.0.1:8443", "https://127.0.0.1:8443"},
		{testRealm(), false, "localhost:8080", "http://localhost:8080"},
		{testRealm(), true, "[::1]:8443", "https://[::1]:8443"},
		{plain, false, "localhost:9000", "http://localhost:9000"},
		{testRealm(), true, "evil.example", public},
		{testRealm(), true, "", public},
		{testRealm(), true, "evil.example/login.example", public},
		{testRealm(), true, "login.example@evil.example", public},
		{testRealm(), true, "evil@login.example", public},
		{testRealm(), true, "login.example:8443#x", public},
	} {
		got := c.realm.Base(c.tls, c.host)
		if got != c.want {
			t.Errorf("Base(%v, %q) = %q, want %q", c.tls, c.host, got, c.want)
		}
		if !c.realm.Issued(c.realm.IssuerV1(got)) || !c.realm.Issued(c.realm.IssuerV2(got)) {
			t.Errorf("an issuer made of %q is not recognised", got)
		}
	}
}

func TestAudience(t *testing.T) {
	r := testRealm()
	r.Audiences = func() []string { return []string{"https://graph.microsoft.com/", ""} }
	for in, want := range map[string]string{
		"https://api.securitycenter.windows.com/":                  "https://api.securitycenter.windows.com",
		"HTTPS://API.securitycenter.microsoft.com":                 "https://api.securitycenter.microsoft.com",
		"https://api.security.microsoft.com":                       "https://api.security.microsoft.com",
		"https://securitycenter.onmicrosoft.com/windowsatpservice": "https://securitycenter.onmicrosoft.com/windowsatpservice",
		"fc780465-2017-40d4-a0c5-307022471b92":                     "fc780465-2017-40d4-a0c5-307022471b92",
		"https://graph.microsoft.com":                              "https://graph.microsoft.com",
		public + "/":                                               public,
		"https://localhost:8443":                                   "https://localhost:8443",
		"https://vault.azure.net":                                  "",
		"":                                                         "",
		"/":                                                        "",
		"staunch.example:8443":                                     "",
	} {
		if got, ok := r.Audience(in); got != want || ok != (want != "") {
			t.Errorf("Audience(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
}

func TestRealmCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Realm)
		want   string
	}{
		"good":           {func(*Realm) {}, ""},
		"no tenant":      {func(r *Realm) { r.Tenant = "" }, "is not a GUID"},
		"upper tenant":   {func(r *Realm) { r.Tenant = strings.ToUpper(r.Tenant) }, "is not a GUID in lower case"},
		"no URL":         {func(r *Realm) { r.PublicURL = "" }, "not of the form https://"},
		"URL with path":  {func(r *Realm) { r.PublicURL = "https://a/b" }, "must end after the host"},
		"name with path": {func(r *Realm) { r.Names = []string{"a/b"} }, "a host name or an address alone"},
	} {
		r := testRealm()
		c.change(&r)
		err := r.Check()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Check = %v, want %q", name, err, c.want)
		}
	}
}
