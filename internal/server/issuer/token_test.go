// SPDX-License-Identifier: Apache-2.0

package issuer_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
)

func basic(user, password string) http.Header {
	return http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}}
}

func contentType(s string) http.Header { return http.Header{"Content-Type": {s}} }

// keep puts an app into the store and makes it the bench's own.
func (b *bench) keep(t *testing.T, a issuer.App) {
	t.Helper()
	a.Created = time.Now()
	if err := b.store.CreateApp(t.Context(), a, audit.By(admin, audit.CreateApp, a.ID, "accepted")); err != nil {
		t.Fatal(err)
	}
	b.app = a
}

// Each way in which shipped clients ask for a token gives one that opens the API.
func TestTokenStyles(t *testing.T) {
	b := newBench(t, nil)
	// A secret with the characters that encodings trip over, as Entra's have them.
	odd := "Ab8Q~+x/y=%z;w.-_"
	b.keep(t, issuer.App{
		ID: auth.NewGUID(), Name: "odd", Permissions: b.app.Permissions,
		Secrets: []issuer.Secret{
			{ID: auth.NewGUID(), Digest: sha256.Sum256([]byte("another")), Expires: time.Now().Add(time.Hour)},
			{ID: auth.NewGUID(), Digest: sha256.Sum256([]byte(odd)), Expires: time.Now().Add(time.Hour)},
		},
	})
	b.secret = odd

	id, esc := b.app.ID, url.QueryEscape
	cred := "grant_type=client_credentials&client_id=" + id + "&client_secret=" + esc(b.secret)
	v1form, v2form := cred+"&resource="+esc(resource), cred+"&scope="+esc(resource+"/.default")
	urlencoded := contentType("application/x-www-form-urlencoded")
	p1, p2 := "/"+tenant+"/oauth2/token", "/"+tenant+"/oauth2/v2.0/token"

	for name, c := range map[string]struct {
		method, path, body string
		header             http.Header
	}{
		"v1":                          {"POST", p1, v1form, urlencoded},
		"v2":                          {"POST", p2, v2form, urlencoded},
		"charset":                     {"POST", p2, v2form, contentType("application/x-www-form-urlencoded;charset=utf-8")},
		"charset with space":          {"POST", p2, v2form, contentType("application/x-www-form-urlencoded; charset=utf-8")},
		"no content type":             {"POST", p1, v1form, http.Header{}},
		"other content type":          {"POST", p1, v1form, contentType("application/json")},
		"v1 GET with a body":          {"GET", p1, v1form, http.Header{}},
		"v2 GET with a body":          {"GET", p2, v2form, urlencoded},
		"query is ignored":            {"POST", p2 + "?client-request-id=abc&grant_type=password", v2form, urlencoded},
		"tenant by domain":            {"POST", "/contoso.onmicrosoft.com/oauth2/v2.0/token", v2form, urlencoded},
		"tenant common":               {"POST", "/common/oauth2/token", v1form, urlencoded},
		"tenant organizations":        {"POST", "/organizations/oauth2/v2.0/token", v2form, urlencoded},
		"path in upper case":          {"POST", "/" + strings.ToUpper(tenant) + "/OAuth2/V2.0/Token", v2form, urlencoded},
		"slash at the end":            {"POST", p2 + "/", v2form, urlencoded},
		"unknown fields":              {"POST", p2, v2form + "&client_info=1&x-client-SKU=MSAL&claims=%zz&=&x", urlencoded},
		"line end after the body":     {"POST", p2, v2form + "\r\n", urlencoded},
		"client id in upper case":     {"POST", p2, strings.ReplaceAll(v2form, id, strings.ToUpper(id)), urlencoded},
		"same field twice, one value": {"POST", p2, v2form + "&client_id=" + id, urlencoded},
		"Basic, raw":                  {"POST", p2, "grant_type=client_credentials&scope=" + esc(resource+"/.default"), basic(id, b.secret)},
		"Basic, encoded":              {"POST", p1, "grant_type=client_credentials&resource=" + esc(resource), basic(esc(id), esc(b.secret))},
		"Basic and client_id":         {"POST", p1, "grant_type=client_credentials&client_id=" + id + "&resource=" + esc(resource), basic(id, b.secret)},
		"Basic wrong, body right":     {"POST", p1, v1form, basic(id, "wrong")},
		"semicolon not encoded":       {"POST", p1, "grant_type=client_credentials&client_id=" + id + "&client_secret=" + strings.ReplaceAll(esc(b.secret), "%3B", ";") + "&resource=" + esc(resource), urlencoded},
		"resource with a slash":       {"POST", p1, cred + "&resource=" + esc("https://api.securitycenter.windows.com/"), urlencoded},
		"resource by id":              {"POST", p1, cred + "&resource=fc780465-2017-40d4-a0c5-307022471b92", urlencoded},
		"resource windowsatpservice":  {"POST", p1, cred + "&resource=" + esc("https://securitycenter.onmicrosoft.com/windowsatpservice"), urlencoded},
		"resource api.security":       {"POST", p1, cred + "&resource=" + esc("https://api.security.microsoft.com"), urlencoded},
		"resource our own":            {"POST", p1, cred + "&resource=" + esc(public), urlencoded},
		"scope our own":               {"POST", p2, cred + "&scope=" + esc(public+"/.default"), urlencoded},
		"scope by id":                 {"POST", p2, cred + "&scope=fc780465-2017-40d4-a0c5-307022471b92/.default", urlencoded},
		"scope with two slashes":      {"POST", p2, cred + "&scope=" + esc(resource+"//.default"), urlencoded},
		"scope list":                  {"POST", p2, cred + "&scope=" + esc("offline_access "+resource+"/.default"), urlencoded},
		"scope list after":            {"POST", p2, cred + "&scope=" + esc(resource+"/.default openid offline_access profile"), urlencoded},
		"v1 with a scope":             {"POST", p1, v2form, urlencoded},
		"v2 with a resource":          {"POST", p2, v1form, urlencoded},
	} {
		t.Run(name, func(t *testing.T) {
			w, answer := b.do(t, c.method, c.path, c.body, c.header)
			if w.Code != http.StatusOK || answer["token_type"] != "Bearer" {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if w.Header().Get("Cache-Control") != "no-store" {
				t.Error("a token may be cached")
			}
			got, err := b.verifier.Verify(t.Context(), answer["access_token"].(string))
			want := auth.Caller{Kind: auth.App, ID: id, Name: "odd", AppID: id, Tenant: tenant,
				Permissions: []auth.Permission{"Machine.StopAndQuarantine", "Machine.Read.All"}}
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("Verify: %v\n%s", err, diff)
			}
		})
	}
	if strings.Contains(b.log.String(), b.secret) {
		t.Error("the secret is in the log")
	}
}

func decodeClaims(t *testing.T, token string) map[string]any {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var c map[string]any
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTokenAnswers(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	b := newBench(t, func(c *issuer.Config) { c.Now = func() time.Time { return now } })
	cred := "grant_type=client_credentials&client_id=" + b.app.ID + "&client_secret=" + b.secret
	common := func(version string, issuer string) map[string]any {
		return map[string]any{
			"aud": resource, "iss": issuer, "idp": issuer, "idtyp": "app", "tid": tenant, "ver": version,
			"iat": float64(now.Unix() - 300), "nbf": float64(now.Unix() - 300), "exp": float64(now.Unix() + 3600),
			"app_displayname": "soc-automation", "roles": []any{"Machine.StopAndQuarantine", "Machine.Read.All"},
		}
	}
	check := func(claims map[string]any, want map[string]any) {
		t.Helper()
		if claims["oid"] == "" || claims["oid"] != claims["sub"] || claims["uti"] == "" || claims["uti"] != claims["jti"] {
			t.Errorf("oid %v, sub %v, uti %v, jti %v", claims["oid"], claims["sub"], claims["uti"], claims["jti"])
		}
		for _, k := range []string{"oid", "sub", "uti", "jti"} {
			delete(claims, k)
		}
		if diff := cmp.Diff(want, claims); diff != "" {
			t.Error(diff)
		}
	}

	// v1: numbers are strings.
	_, answer := b.do(t, "POST", "/"+tenant+"/oauth2/token", cred+"&resource="+url.QueryEscape(resource+"/"), nil)
	token, _ := answer["access_token"].(string)
	delete(answer, "access_token")
	unix := func(d time.Duration) string { s, _ := json.Marshal(now.Add(d).Unix()); return string(s) }
	want := map[string]any{"token_type": "Bearer", "expires_in": "3599", "ext_expires_in": "3599", "resource": resource,
		"expires_on": unix(time.Hour), "not_before": unix(-5 * time.Minute)}
	if diff := cmp.Diff(want, answer); diff != "" {
		t.Error(diff)
	}
	v1claims := common("1.0", public+"/"+tenant+"/")
	v1claims["appid"], v1claims["appidacr"] = b.app.ID, "1"
	check(decodeClaims(t, token), v1claims)

	// v2: numbers are numbers, and the issuer is on the host that was called.
	_, answer = b.do(t, "POST", "https://LOGIN.example:8443/"+tenant+"/oauth2/v2.0/token", cred+"&scope="+url.QueryEscape(resource+"/.default"), nil)
	token, _ = answer["access_token"].(string)
	delete(answer, "access_token")
	if diff := cmp.Diff(map[string]any{"token_type": "Bearer", "expires_in": 3599., "ext_expires_in": 3599.}, answer); diff != "" {
		t.Error(diff)
	}
	v2claims := common("2.0", "https://login.example:8443/"+tenant+"/v2.0")
	v2claims["azp"], v2claims["azpacr"] = b.app.ID, "1"
	check(decodeClaims(t, token), v2claims)
	if _, err := b.verifier.Verify(t.Context(), token); err != nil {
		t.Errorf("a token issued on another name of ours: %v", err)
	}
}

func TestOperatorsAudience(t *testing.T) {
	var extra []string
	b := newBench(t, func(c *issuer.Config) { c.Realm.Audiences = func() []string { return extra } })
	body := "grant_type=client_credentials&client_id=" + b.app.ID + "&client_secret=" + b.secret + "&scope=" + url.QueryEscape("https://graph.microsoft.com/.default")
	if w, _ := b.do(t, "POST", "/common/oauth2/v2.0/token", body, nil); w.Code != http.StatusBadRequest {
		t.Errorf("before the setting: %d %s", w.Code, w.Body)
	}
	extra = []string{"https://graph.microsoft.com"}
	w, answer := b.do(t, "POST", "/common/oauth2/v2.0/token", body, nil)
	if w.Code != http.StatusOK {
		t.Fatalf("after the setting: %d %s", w.Code, w.Body)
	}
	if _, err := b.verifier.Verify(t.Context(), answer["access_token"].(string)); err != nil {
		t.Error(err)
	}
}

func TestTokenRefusals(t *testing.T) {
	b := newBench(t, nil)
	mine, expiredSecret := b.app, "past-its-date"
	disabled := issuer.App{ID: auth.NewGUID(), Name: "disabled", Disabled: true}
	expired := issuer.App{ID: auth.NewGUID(), Name: "expired", Secrets: []issuer.Secret{
		{ID: auth.NewGUID(), Digest: sha256.Sum256([]byte(expiredSecret)), Expires: time.Now()},
	}}
	b.keep(t, disabled)
	b.keep(t, expired)
	b.app = mine

	const other = "0c9e51aa-7b40-4c33-9d10-b5f7a1d2e604"
	v2path := "/" + tenant + "/oauth2/v2.0/token"
	grant := "grant_type=client_credentials&"
	id := "client_id=" + b.app.ID
	cred := grant + id + "&client_secret=" + b.secret
	scope := "&scope=" + url.QueryEscape(resource+"/.default")
	assertion := "&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=a.b.c"

	for name, c := range map[string]struct {
		method, path, body string
		header             http.Header
		status             int
		code               string
		number             int
		text               string
		recorded           bool
	}{
		"no body":          {"POST", v2path, "", nil, 400, "invalid_request", 900144, "parameter: 'grant_type'", false},
		"GET without body": {"GET", v2path + "?" + cred + scope, "", nil, 400, "invalid_request", 900144, "'grant_type'", false},
		"JSON body":        {"POST", v2path, `{"grant_type":"client_credentials"}`, contentType("application/json"), 400, "invalid_request", 900144, "'grant_type'", false},
		"body too large":   {"POST", v2path, cred + scope + "&x=" + strings.Repeat("a", 64<<10), nil, 413, "invalid_request", 90013, "larger than 65536 bytes", false},
		"grant twice":      {"POST", v2path, cred + scope + "&grant_type=password", nil, 400, "invalid_request", 90014, "'grant_type' is sent twice", false},
		"bad encoding":     {"POST", v2path, grant + id + "&client_secret=%zz" + scope, nil, 400, "invalid_request", 90014, "'client_secret' is sent twice with two values, or is not form-encoded", false},
		"password grant":   {"POST", v2path, "grant_type=password&" + id, nil, 400, "unsupported_grant_type", 70003, "unsupported grant type 'password'", false},
		"no client id":     {"POST", v2path, grant + "client_secret=x" + scope, nil, 400, "invalid_request", 900144, "'client_id'", false},
		"two client ids":   {"POST", v2path, cred + scope, basic(other, "x"), 400, "invalid_request", 90014, "differ", false},
		"unknown app":      {"POST", v2path, grant + "client_id=" + other + "&client_secret=x" + scope, nil, 400, "unauthorized_client", 700016, "identifier '" + other + "' was not found", true},
		"odd app id":       {"POST", v2path, grant + "client_id=' or 1=1--&client_secret=x" + scope, nil, 400, "unauthorized_client", 700016, "identifier '' or 1=1--' was not found", true},
		"app disabled":     {"POST", v2path, grant + "client_id=" + disabled.ID + "&client_secret=x" + scope, nil, 400, "unauthorized_client", 7000112, "is disabled", true},
		"no secret":        {"POST", v2path, grant + id + scope, nil, 401, "invalid_client", 7000218, "'client_assertion' or 'client_secret'", true},
		"wrong secret":     {"POST", v2path, grant + id + "&client_secret=wrong" + scope, nil, 401, "invalid_client", 7000215, "Invalid client secret provided", true},
		"secret id":        {"POST", v2path, grant + id + "&client_secret=" + b.app.Secrets[0].ID + scope, nil, 401, "invalid_client", 7000215, "not the client secret ID", true},
		"wrong Basic":      {"POST", v2path, grant + scope, basic(b.app.ID, "wrong"), 401, "invalid_client", 7000215, "Invalid client secret provided", true},
		"other's secret":   {"POST", v2path, grant + id + "&client_secret=" + expiredSecret + scope, nil, 401, "invalid_client", 7000215, "Invalid client secret", true},
		"expired secret":   {"POST", v2path, grant + "client_id=" + expired.ID + "&client_secret=" + expiredSecret + scope, nil, 401, "invalid_client", 7000222, "are expired", true},
		"assertion":        {"POST", v2path, grant + id + assertion + scope, nil, 401, "invalid_client", 700027, "is not registered on application", true},
		"no scope":         {"POST", v2path, cred, nil, 400, "invalid_request", 900144, "'scope'", false},
		"no resource":      {"POST", "/" + tenant + "/oauth2/token", cred, nil, 400, "invalid_request", 900144, "'resource'", false},
		"unknown resource": {"POST", "/" + tenant + "/oauth2/token", cred + "&resource=https://vault.azure.net", nil, 400, "invalid_resource", 500011, "named https://vault.azure.net was not found", false},
		"unknown scope":    {"POST", v2path, cred + "&scope=https://vault.azure.net/.default", nil, 400, "invalid_resource", 500011, "auth.audiences", false},
		"no .default":      {"POST", v2path, cred + "&scope=" + resource + "/Machine.Read", nil, 400, "invalid_scope", 1002012, "/.default suffixed", false},
		"two resources":    {"POST", v2path, cred + scope + "+" + public + "/.default", nil, 400, "invalid_scope", 28000, "more than one resource", false},
		"openid alone":     {"POST", v2path, cred + "&scope=openid+profile", nil, 400, "invalid_scope", 70011, "names no resource", false},
		"other tenant":     {"POST", "/" + other + "/oauth2/v2.0/token", cred + scope, nil, 400, "invalid_request", 90002, "Tenant '" + other + "' not found", false},
		"odd tenant":       {"POST", "/contoso/oauth2/v2.0/token", cred + scope, nil, 400, "invalid_request", 900023, "neither a valid DNS name", false},
		"no tenant":        {"POST", "//oauth2/v2.0/token", cred + scope, nil, 400, "invalid_request", 900023, "identifier ''", false},
		"PUT":              {"PUT", v2path, cred + scope, nil, 405, "invalid_request", 900561, "only accepts GET and POST requests. Received a PUT request", false},
		"POST discovery":   {"POST", "/" + tenant + "/v2.0/.well-known/openid-configuration", "", nil, 405, "invalid_request", 900561, "only accepts GET requests", false},
		"authorize":        {"GET", "/" + tenant + "/oauth2/v2.0/authorize?client_id=x", "", nil, 400, "unsupported_grant_type", 70003, "does not sign in people", false},
		"devicecode":       {"POST", "/" + tenant + "/oauth2/v2.0/devicecode", id, nil, 400, "unsupported_grant_type", 70003, "does not sign in people", false},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(b.lines(t))
			w, answer := b.do(t, c.method, c.path, c.body, c.header)
			if w.Code != c.status || answer["error"] != c.code {
				t.Errorf("%d %v, want %d %s", w.Code, answer["error"], c.status, c.code)
			}
			if diff := cmp.Diff([]any{float64(c.number)}, answer["error_codes"]); diff != "" {
				t.Error(diff)
			}
			checkErrorShape(t, answer, c.number, c.text)
			if challenge := w.Header().Get("WWW-Authenticate"); (challenge != "") != (c.status == 401 && c.header != nil) {
				t.Errorf("WWW-Authenticate %q", challenge)
			}
			got := b.lines(t)[before:]
			switch {
			case !c.recorded && len(got) > 0:
				t.Errorf("audit = %+v, want nothing", got)
			case c.recorded && (len(got) != 1 || got[0].Operation != audit.IssueToken || !strings.HasPrefix(got[0].Outcome, "refused: AADSTS")):
				t.Errorf("audit = %+v, want one refusal", got)
			}
		})
	}
	lines, _ := json.Marshal(b.lines(t))
	for _, s := range []string{b.secret, expiredSecret, "wrong"} {
		if strings.Contains(b.log.String(), s) || strings.Contains(string(lines), s) {
			t.Errorf("the log or the audit log holds the secret %q", s)
		}
	}
}

var (
	stampForm = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ$`)
	descForm  = regexp.MustCompile(`^AADSTS(\d+): .+ Trace ID: \S+ Correlation ID: \S+ Timestamp: .+Z$`)
)

func checkErrorShape(t *testing.T, answer map[string]any, number int, text string) {
	t.Helper()
	desc, _ := answer["error_description"].(string)
	stamp, _ := answer["timestamp"].(string)
	trace, _ := answer["trace_id"].(string)
	correlation, _ := answer["correlation_id"].(string)
	want, _ := json.Marshal(number)
	if m := descForm.FindStringSubmatch(desc); m == nil || m[1] != string(want) || !strings.Contains(desc, text) {
		t.Errorf("error_description %q, want AADSTS%d with %q", desc, number, text)
	}
	if !stampForm.MatchString(stamp) || !auth.IsGUID(trace) || !auth.IsGUID(correlation) {
		t.Errorf("timestamp %q, trace_id %q, correlation_id %q", stamp, trace, correlation)
	}
}

func TestCorrelation(t *testing.T) {
	b := newBench(t, nil)
	const mine = "7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913"
	header := func(v string) http.Header { h := http.Header{}; h.Set("client-request-id", v); return h }
	for name, c := range map[string]struct {
		query  string
		header http.Header
		echo   bool
	}{
		"header": {"", header(mine), true},
		"query":  {"?client-request-id=" + mine, nil, true},
		"none":   {"", nil, false},
		"no id":  {"", header("<script>"), false},
	} {
		w, answer := b.do(t, "POST", "/common/oauth2/token"+c.query, "", c.header)
		if (answer["correlation_id"] == mine) != c.echo || !auth.IsGUID(answer["correlation_id"].(string)) {
			t.Errorf("%s: correlation_id %v", name, answer["correlation_id"])
		}
		if strings.Contains(w.Header().Get("client-request-id"), "<") {
			t.Errorf("%s: a stranger's text came back in a header", name)
		}
	}
}

func TestBrokenStore(t *testing.T) {
	b := newBench(t, nil)
	b.store.broken.Store(true)
	w, answer := b.do(t, "POST", "/common/oauth2/token", "grant_type=client_credentials&client_id="+b.app.ID+"&client_secret="+b.secret, nil)
	if w.Code != http.StatusServiceUnavailable || answer["error"] != "temporarily_unavailable" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "no database") {
		t.Error("the cause went to the client")
	}
	if !strings.Contains(b.log.String(), "no database") {
		t.Error("the cause is not in the log")
	}
	if _, err := b.service.Enabled(t.Context(), b.app.ID); err == nil {
		t.Error("Enabled says yes or no without a store")
	}
}

// A flood of wrong secrets neither fills the audit log nor locks the app out.
func TestFlood(t *testing.T) {
	now := time.Now()
	b := newBench(t, func(c *issuer.Config) { c.Now = func() time.Time { return now } })
	cred := "grant_type=client_credentials&client_id=" + b.app.ID + "&resource=" + url.QueryEscape(resource) + "&client_secret="
	for range 500 {
		b.do(t, "POST", "/common/oauth2/token", cred+"wrong", nil)
	}
	if n := len(b.lines(t)); n != 61 { // and the line of CreateApp
		t.Errorf("%d audit lines, want 61", n)
	}
	if w, _ := b.do(t, "POST", "/common/oauth2/token", cred+b.secret, nil); w.Code != http.StatusOK {
		t.Errorf("the right secret after a flood: %d %s", w.Code, w.Body)
	}
	now = now.Add(time.Minute)
	b.do(t, "POST", "/common/oauth2/token", cred+"wrong", nil)
	lines := b.lines(t)
	if last := lines[len(lines)-1]; !strings.Contains(string(last.Detail), `"notRecordedBefore":440`) {
		t.Errorf("last line %s does not say what was left out", last.Detail)
	}
}

// Whatever the body, the answer is a token or a refusal in its shape.
func FuzzTokenBody(f *testing.F) {
	b := newBench(f, nil)
	f.Add("grant_type=client_credentials&client_id="+b.app.ID+"&client_secret="+b.secret+"&scope="+resource+"/.default", "Basic Og==")
	f.Add("grant_type=client_credentials&client_id=%00&client_secret=\xff&resource=a", "Basic ")
	f.Add("=&=&&&;;%zz=%", "Bearer x")
	f.Fuzz(func(t *testing.T, body, authorization string) {
		w, answer := b.do(t, "POST", "/common/oauth2/v2.0/token", body, http.Header{"Authorization": {authorization}})
		switch {
		case w.Code == http.StatusOK && strings.Contains(body, b.secret):
		case w.Code < 400 || w.Code >= 500:
			t.Errorf("%d %s", w.Code, w.Body)
		case answer["error"] == "" || answer["correlation_id"] == "":
			t.Errorf("%s", w.Body)
		}
	})
}
