// SPDX-License-Identifier: Apache-2.0

package issuer_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
	"staunch/internal/server/people"
	"staunch/internal/server/pki/pkitest"
)

const (
	upn      = "ana@corp.example"
	password = "correct horse battery staple"
	redirect = "https://app.example/callback?keep=1"
	verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)

var challenge = func() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}()

// house is a bench where people sign in: ana, through a public and a confidential app.
type house struct {
	*bench
	people       *people.Service
	user         people.User
	public       issuer.App
	confidential issuer.App
	secret       string

	mu  sync.Mutex
	now time.Time // guarded by mu; zero: the real time
}

func (h *house) clock() time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.now.IsZero() {
		return time.Now()
	}
	return h.now
}

func (h *house) at(t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = t
}

func newHouse(t testing.TB) *house {
	t.Helper()
	h := &house{}
	h.bench = newBench(t, func(c *issuer.Config) {
		var err error
		if h.people, err = people.New(people.Config{Store: c.Store.(*faulty), Sealer: pkitest.Sealer(t), Now: h.clock}); err != nil {
			t.Fatal(err)
		}
		c.People, c.Now = h.people, h.clock
		c.PasswordGrant = func() bool { return true }
	})
	var err error
	h.verifier, err = auth.New(auth.Config{Realm: auth.Realm{Tenant: tenant, PublicURL: public}, Keys: h.service.Keys, AppEnabled: h.service.Enabled, Person: h.people.Person, Now: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	if h.user, err = h.people.CreateUser(ctx, admin, upn, "Ana", password, people.Outside{}); err != nil {
		t.Fatal(err)
	}
	yes := true
	more := issuer.AppChange{Delegated: []string{"Machine.Read", "Machine.StopAndQuarantine"}, RedirectURIs: []string{redirect, "http://localhost", "com.example.app:/cb"}}
	if h.confidential, h.secret, err = h.service.CreateApp(ctx, admin, "confidential", nil, more); err != nil {
		t.Fatal(err)
	}
	more.Public = &yes
	if h.public, _, err = h.service.CreateApp(ctx, admin, "public", nil, more); err != nil {
		t.Fatal(err)
	}
	return h
}

// query is a good authorization request of the public app, with changes.
func (h *house) query(changes ...string) url.Values {
	q := url.Values{
		"client_id": {h.public.ID}, "redirect_uri": {redirect}, "response_type": {"code"}, "state": {"s+t&x"}, "nonce": {"n1"},
		"scope": {"openid offline_access " + resource + "/.default"}, "code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(changes); i += 2 {
		q.Del(changes[i])
		if changes[i+1] != "" {
			q.Set(changes[i], changes[i+1])
		}
	}
	return q
}

// visit is what a browser does: it is not JSON that comes.
func (h *house) visit(method, path, body string, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, public+path, strings.NewReader(body))
	r.Header = header.Clone()
	if r.Header == nil {
		r.Header = http.Header{}
	}
	w := httptest.NewRecorder()
	h.service.Handler().ServeHTTP(w, r)
	return w
}

var hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)

// fields are the hidden fields of a page's form.
func fields(page string) url.Values {
	v := url.Values{}
	unescape := strings.NewReplacer("&amp;", "&", "&#43;", "+", "&#34;", `"`, "&lt;", "<", "&gt;", ">")
	for _, m := range hiddenField.FindAllStringSubmatch(page, -1) {
		v.Set(m[1], unescape.Replace(m[2]))
	}
	return v
}

const authorizePath = "/" + tenant + "/oauth2/v2.0/authorize"

// signIn goes through the page and returns where it leads.
func (h *house) signIn(t testing.TB, q url.Values, name, pass string) (*httptest.ResponseRecorder, url.Values) {
	t.Helper()
	w := h.visit("GET", authorizePath+"?"+q.Encode(), "", nil)
	if w.Code != 200 {
		t.Fatalf("page: %d %s %s", w.Code, w.Header().Get("Location"), w.Body)
	}
	form := fields(w.Body.String())
	form.Set("username", name)
	form.Set("password", pass)
	cookie := strings.SplitN(w.Header().Get("Set-Cookie"), ";", 2)[0]
	w = h.visit("POST", authorizePath, form.Encode(), http.Header{"Cookie": {cookie}, "Origin": {public}, "Sec-Fetch-Site": {"same-origin"}})
	u, err := url.Parse(w.Header().Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	return w, u.Query()
}

func (h *house) token(t testing.TB, form url.Values) (int, map[string]any) {
	t.Helper()
	w, answer := h.do(t, "POST", "/"+tenant+"/oauth2/v2.0/token", form.Encode(), nil)
	return w.Code, answer
}

func (h *house) redeem(t testing.TB, code string, changes ...string) (int, map[string]any) {
	t.Helper()
	form := url.Values{"grant_type": {"authorization_code"}, "client_id": {h.public.ID}, "code": {code}, "redirect_uri": {redirect}, "code_verifier": {verifier}}
	for i := 0; i < len(changes); i += 2 {
		form.Del(changes[i])
		if changes[i+1] != "" {
			form.Set(changes[i], changes[i+1])
		}
	}
	return h.token(t, form)
}

func (h *house) renew(t testing.TB, token string) (int, map[string]any) {
	t.Helper()
	return h.token(t, url.Values{"grant_type": {"refresh_token"}, "client_id": {h.public.ID}, "refresh_token": {token}})
}

func text(m map[string]any, key string) string { s, _ := m[key].(string); return s }

func wantRefusal(t testing.TB, status int, answer map[string]any, code, number string) {
	t.Helper()
	if status < 400 || text(answer, "error") != code || !strings.HasPrefix(text(answer, "error_description"), "AADSTS"+number+":") {
		t.Errorf("%d %v, want %s AADSTS%s", status, answer, code, number)
	}
}

func TestCodeFlow(t *testing.T) {
	h := newHouse(t)
	w, back := h.signIn(t, h.query(), "ANA@corp.example", password)
	if w.Code != 303 || !strings.HasPrefix(w.Header().Get("Location"), redirect+"&") || back.Get("state") != "s+t&x" || back.Get("keep") != "1" || back.Get("iss") != public+"/"+tenant+"/v2.0" {
		t.Fatalf("%d %s", w.Code, w.Header().Get("Location"))
	}
	status, answer := h.redeem(t, back.Get("code"))
	if status != 200 || text(answer, "refresh_token") == "" || text(answer, "scope") != "Machine.Read Machine.StopAndQuarantine" {
		t.Fatalf("%d %v", status, answer)
	}
	c, err := h.verifier.Verify(t.Context(), text(answer, "access_token"))
	if err != nil || c.Kind != auth.User || c.ID != upn || c.Name != upn || c.AppID != h.public.ID || len(c.Permissions) != 2 {
		t.Errorf("caller %+v, %v", c, err)
	}

	// The id_token is about the person, for the application: no key to the API.
	id := payload(t, text(answer, "id_token"))
	if id["aud"] != h.public.ID || id["nonce"] != "n1" || id["oid"] != h.user.ID || id["preferred_username"] != upn || id["sub"] == h.user.ID {
		t.Errorf("id_token %v", id)
	}
	if _, err := h.verifier.Verify(t.Context(), text(answer, "id_token")); api.CodeOf(err) != api.Unauthorized {
		t.Errorf("the API takes an id_token: %v", err)
	}

	// Refreshing rotates; the old one, presented again, ends the family.
	first := text(answer, "refresh_token")
	status, answer = h.renew(t, first)
	second := text(answer, "refresh_token")
	if status != 200 || second == "" || second == first {
		t.Fatalf("%d %v", status, answer)
	}
	status, answer = h.renew(t, first)
	wantRefusal(t, status, answer, "invalid_grant", "54005")
	status, answer = h.renew(t, second)
	wantRefusal(t, status, answer, "invalid_grant", "70000")

	// A code that is replayed ends what it gave.
	_, back = h.signIn(t, h.query(), upn, password)
	_, answer = h.redeem(t, back.Get("code"))
	given := text(answer, "refresh_token")
	status, answer = h.redeem(t, back.Get("code"))
	wantRefusal(t, status, answer, "invalid_grant", "54005")
	status, answer = h.renew(t, given)
	wantRefusal(t, status, answer, "invalid_grant", "70000")
}

func payload(t testing.TB, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %q", token)
	}
	b, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// What a code is bound to, and the ways around it.
func TestCodeAttacks(t *testing.T) {
	h := newHouse(t)
	other, _, err := h.service.CreateApp(t.Context(), admin, "other", nil, issuer.AppChange{Public: func() *bool { b := true; return &b }(), Delegated: []string{"Machine.Read"}, RedirectURIs: []string{redirect}})
	if err != nil {
		t.Fatal(err)
	}
	_, back := h.signIn(t, h.query(), upn, password)
	code := back.Get("code")
	for name, c := range map[string]struct {
		changes []string
		number  string
	}{
		"no verifier":           {[]string{"code_verifier", ""}, "501481"},
		"another verifier":      {[]string{"code_verifier", strings.Repeat("a", 43)}, "501481"},
		"challenge as verifier": {[]string{"code_verifier", challenge}, "501481"},
		"another redirect":      {[]string{"redirect_uri", "https://app.example/callback"}, "500112"},
		"no redirect":           {[]string{"redirect_uri", ""}, "500112"},
		"another application":   {[]string{"client_id", other.ID}, "9002313"},
		"another code":          {[]string{"code", code + "x"}, "70000"},
	} {
		status, answer := h.redeem(t, code, c.changes...)
		t.Run(name, func(t *testing.T) { wantRefusal(t, status, answer, "invalid_grant", c.number) })
	}
	status, answer := h.redeem(t, code, "code", "")
	wantRefusal(t, status, answer, "invalid_request", "900144")
	// As a refresh token or a device code it is nothing.
	status, answer = h.renew(t, code)
	wantRefusal(t, status, answer, "invalid_grant", "70000")
	if status, answer = h.redeem(t, code); status != 200 {
		t.Errorf("the code was spent by those who could not redeem it: %v", answer)
	}

	// Too late.
	_, back = h.signIn(t, h.query(), upn, password)
	h.at(time.Now().Add(6 * time.Minute))
	status, answer = h.redeem(t, back.Get("code"))
	wantRefusal(t, status, answer, "invalid_grant", "70008")
	h.at(time.Time{})

	// Downgrades: a public client cannot leave PKCE out, nobody can have plain,
	// and a verifier without a challenge is an injected code.
	for want, changes := range map[string][]string{
		"9002325":                       {"code_challenge", "", "code_challenge_method", ""},
		"501471: The code_challenge_me": {"code_challenge_method", "plain"},
		"501471: The code_challenge_m":  {"code_challenge_method", ""},
		"501471: The code_challenge is": {"code_challenge", "short"},
		"501471: There is":              {"code_challenge", ""},
		"700051":                        {"response_type", "token"},
		"70007":                         {"response_mode", "fragment"},
		"50058":                         {"prompt", "none"},
		"500011":                        {"scope", "https://vault.azure.net/.default"},
		"65001":                         {"scope", resource + "/Machine.Isolate"},
	} {
		w := h.visit("GET", authorizePath+"?"+h.query(changes...).Encode(), "", nil)
		u, _ := url.Parse(w.Header().Get("Location"))
		if w.Code != 303 || !strings.HasPrefix(u.Query().Get("error_description"), "AADSTS"+want) || u.Query().Get("code") != "" || u.Query().Get("state") != "s+t&x" {
			t.Errorf("%v: %d %s, want AADSTS%s", changes, w.Code, u, want)
		}
	}
	_, back = h.signIn(t, h.query("client_id", h.confidential.ID, "code_challenge", "", "code_challenge_method", ""), upn, password)
	status, answer = h.redeem(t, back.Get("code"), "client_id", h.confidential.ID, "client_secret", h.secret)
	wantRefusal(t, status, answer, "invalid_grant", "501481")
	status, answer = h.redeem(t, back.Get("code"), "client_id", h.confidential.ID, "code_verifier", "")
	wantRefusal(t, status, answer, "invalid_client", "7000218")
	if status, answer = h.redeem(t, back.Get("code"), "client_id", h.confidential.ID, "client_secret", h.secret, "code_verifier", ""); status != 200 {
		t.Errorf("a confidential client without PKCE: %v", answer)
	}
}

// Nobody is sent where the application did not say it would be.
func TestOpenRedirect(t *testing.T) {
	h := newHouse(t)
	for _, uri := range []string{
		"https://evil.example/", "https://app.example/callback", redirect + "&x=1", redirect + "#x", "https://app.example/callback?keep=1/../..",
		"https://app.example@evil.example/callback?keep=1", "https://APP.example/callback?keep=1", "//evil.example", "javascript:alert(1)", "data:text/html,x",
		"http://localhost.evil.example", "http://localhost:80@evil.example", "https://localhost", "http://127.0.0.1", "http://localhost/other", "", "com.example.app:/cb2",
	} {
		w := h.visit("GET", authorizePath+"?"+h.query("redirect_uri", uri).Encode(), "", nil)
		if w.Code != 400 || w.Header().Get("Location") != "" || !strings.Contains(w.Body.String(), "AADSTS50011") {
			t.Errorf("redirect_uri %q: %d %q", uri, w.Code, w.Header().Get("Location"))
		}
		if strings.Contains(w.Body.String(), "<script") {
			t.Error("the page has a script")
		}
	}
	for _, uri := range []string{redirect, "http://localhost", "http://localhost:49152", "http://localhost:49152/", "com.example.app:/cb"} {
		if w := h.visit("GET", authorizePath+"?"+h.query("redirect_uri", uri).Encode(), "", nil); w.Code != 200 {
			t.Errorf("redirect_uri %q: %d %s", uri, w.Code, w.Body)
		}
	}
	w := h.visit("GET", authorizePath+"?"+h.query("client_id", auth.NewGUID()).Encode(), "", nil)
	if w.Code != 400 || w.Header().Get("Location") != "" {
		t.Errorf("unknown application: %d", w.Code)
	}
	for _, bad := range []string{"http://app.example/", "https://*.example/", "https://a.example/#x", "javascript:x", "app.example", "https://u@a.example/", "data:x"} {
		if _, _, err := h.service.ChangeApp(t.Context(), admin, h.public.ID, issuer.AppChange{RedirectURIs: []string{bad}}); api.CodeOf(err) != api.InvalidInput {
			t.Errorf("redirect URI %q was registered: %v", bad, err)
		}
	}
}

// The page holds what a stranger wrote as text, runs nothing, cannot be framed, and
// nobody is signed in by a form that another site made.
func TestSignInPage(t *testing.T) {
	h := newHouse(t)
	w := h.visit("GET", authorizePath+"?"+h.query("login_hint", `"><script>alert(1)</script>`, "state", `"><img src=x onerror=1>`).Encode(), "", nil)
	page := w.Body.String()
	if strings.Contains(page, "<script") || strings.Contains(page, "<img") {
		t.Error(page)
	}
	csp := w.Header().Get("Content-Security-Policy")
	for _, part := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self' https://app.example;"} {
		if !strings.Contains(csp, part) {
			t.Errorf("policy %q lacks %q", csp, part)
		}
	}
	if strings.Contains(csp, "script") || strings.Contains(csp, "unsafe") || w.Header().Get("X-Frame-Options") != "DENY" {
		t.Errorf("policy %q", csp)
	}
	cookie := w.Header().Get("Set-Cookie")
	for _, part := range []string{"__Host-", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"} {
		if !strings.Contains(cookie, part) {
			t.Errorf("cookie %q lacks %q", cookie, part)
		}
	}
	form := fields(page)
	form.Set("username", upn)
	form.Set("password", password)
	own := strings.SplitN(cookie, ";", 2)[0]
	other := form.Get("signin")[1:] + "A"
	for name, header := range map[string]http.Header{
		"no cookie":         {},
		"another's cookie":  {"Cookie": {"__Host-staunch-signin=" + other}},
		"plain cookie":      {"Cookie": {strings.TrimPrefix(own, "__Host-")}},
		"another origin":    {"Cookie": {own}, "Origin": {"https://evil.example"}},
		"says cross-site":   {"Cookie": {own}, "Origin": {public}, "Sec-Fetch-Site": {"cross-site"}},
		"says same-site":    {"Cookie": {own}, "Sec-Fetch-Site": {"same-site"}},
		"origin is a guess": {"Cookie": {own}, "Origin": {public + ".evil.example"}},
	} {
		if w := h.visit("POST", authorizePath, form.Encode(), header); w.Code != 403 || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d %s", name, w.Code, w.Header().Get("Location"))
		}
	}
	// An application's own POST shows the page.
	if w := h.visit("POST", authorizePath, h.query().Encode(), nil); w.Code != 200 || !strings.Contains(w.Body.String(), `name="password"`) {
		t.Errorf("POST by an application: %d", w.Code)
	}

	// Wrong password, and what a stranger is told is what the owner of no account is told.
	w, _ = h.signIn(t, h.query(), upn, "wrong password")
	unknown, _ := h.signIn(t, h.query(), "nobody@corp.example", password)
	for _, w := range []*httptest.ResponseRecorder{w, unknown} {
		if w.Code != 401 || !strings.Contains(w.Body.String(), "The user name or password is wrong.") || strings.Contains(w.Body.String(), password) {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}

	// form_post, without a script: a button.
	w, _ = h.signIn(t, h.query("response_mode", "form_post"), upn, password)
	if got := fields(w.Body.String()); w.Code != 200 || got.Get("code") == "" || got.Get("state") != "s+t&x" || !strings.Contains(w.Body.String(), `action="https://app.example/callback?keep=1"`) {
		t.Errorf("form_post: %d %s", w.Code, w.Body)
	}
}

// A token may do what was asked for and is delegated, never more.
func TestScopes(t *testing.T) {
	h := newHouse(t)
	ask := func(scope string) (int, map[string]any) {
		return h.token(t, url.Values{"grant_type": {"password"}, "client_id": {h.public.ID}, "username": {upn}, "password": {password}, "scope": {scope}})
	}
	for scope, want := range map[string]string{
		resource + "/.default": "Machine.Read Machine.StopAndQuarantine",
		resource + "/Machine.Read " + resource + "/Machine.Isolate": "Machine.Read",
		"Machine.StopAndQuarantine":                                 "Machine.StopAndQuarantine",
		"openid profile":                                            "openid",
	} {
		status, answer := ask(scope)
		if status != 200 || text(answer, "scope") != want || payload(t, text(answer, "access_token"))["scp"] != want {
			t.Errorf("scope %q: %v, want %q", scope, answer, want)
		}
		if c, err := h.verifier.Verify(t.Context(), text(answer, "access_token")); err != nil || c.Kind != auth.User {
			t.Errorf("scope %q: caller %+v, %v", scope, c, err)
		}
		if text(answer, "refresh_token") != "" {
			t.Errorf("scope %q: a refresh token nobody asked for", scope)
		}
	}
	status, answer := ask("Machine.Isolate")
	wantRefusal(t, status, answer, "invalid_scope", "65001")
	status, answer = ask(resource + "/.default https://graph.microsoft.com/User.Read")
	wantRefusal(t, status, answer, "invalid_scope", "28000")
	status, answer = ask("")
	wantRefusal(t, status, answer, "invalid_request", "900144")

	// A public application is nobody by itself.
	status, answer = h.token(t, url.Values{"grant_type": {"client_credentials"}, "client_id": {h.public.ID}, "scope": {resource + "/.default"}})
	wantRefusal(t, status, answer, "invalid_client", "7000218")
}

// What ends a person's tokens.
func TestTokensEnd(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, h *house){
		"password changed": func(t *testing.T, h *house) {
			other := "another long password"
			if _, _, err := h.people.ChangeUser(t.Context(), admin, upn, people.UserChange{Password: &other}); err != nil {
				t.Fatal(err)
			}
		},
		"user disabled": func(t *testing.T, h *house) {
			yes := true
			if _, _, err := h.people.ChangeUser(t.Context(), admin, upn, people.UserChange{Disabled: &yes}); err != nil {
				t.Fatal(err)
			}
		},
		"user deleted": func(t *testing.T, h *house) {
			if err := h.people.DeleteUser(t.Context(), admin, upn); err != nil {
				t.Fatal(err)
			}
		},
		"app disabled": func(t *testing.T, h *house) {
			yes := true
			if _, _, err := h.service.ChangeApp(t.Context(), admin, h.public.ID, issuer.AppChange{Disabled: &yes}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.at(time.Now().Add(time.Minute))
			_, back := h.signIn(t, h.query(), upn, password)
			_, answer := h.redeem(t, back.Get("code"))
			access := text(answer, "access_token")
			if _, err := h.verifier.Verify(t.Context(), access); err != nil {
				t.Fatal(err)
			}
			h.at(time.Now().Add(2 * time.Minute))
			end(t, h)
			if _, err := h.verifier.Verify(t.Context(), access); api.CodeOf(err) != api.Unauthorized {
				t.Errorf("Verify: %v", err)
			}
			if status, answer := h.renew(t, text(answer, "refresh_token")); status == 200 {
				t.Errorf("refresh: %v", answer)
			}
		})
	}
}

func TestDeviceFlow(t *testing.T) {
	h := newHouse(t)
	begin := func() (code, userCode string) {
		w, answer := h.do(t, "POST", "/"+tenant+"/oauth2/v2.0/devicecode", url.Values{"client_id": {h.public.ID}, "scope": {resource + "/.default offline_access"}}.Encode(), nil)
		if w.Code != 200 || !strings.Contains(text(answer, "message"), text(answer, "user_code")) || text(answer, "verification_uri") != "http://example.com/"+tenant+"/oauth2/deviceauth" &&
			text(answer, "verification_uri") != public+"/"+tenant+"/oauth2/deviceauth" {
			t.Fatalf("%d %v", w.Code, answer)
		}
		return text(answer, "device_code"), text(answer, "user_code")
	}
	poll := func(code, app string) (int, map[string]any) {
		return h.token(t, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {app}, "device_code": {code}})
	}
	const path = "/" + tenant + "/oauth2/deviceauth"
	enter := func(userCode string, more ...string) *httptest.ResponseRecorder {
		w := h.visit("POST", path, url.Values{"user_code": {userCode}}.Encode(), nil)
		if w.Code != 200 || len(more) == 0 {
			return w
		}
		form := fields(w.Body.String())
		for i := 0; i < len(more); i += 2 {
			form.Set(more[i], more[i+1])
		}
		return h.visit("POST", path, form.Encode(), http.Header{"Cookie": {strings.SplitN(w.Header().Get("Set-Cookie"), ";", 2)[0]}, "Origin": {public}})
	}
	code, userCode := begin()
	status, answer := poll(code, h.public.ID)
	wantRefusal(t, status, answer, "authorization_pending", "70016")
	if w := h.visit("GET", path+"?user_code="+userCode, "", nil); w.Code != 200 || strings.Contains(w.Body.String(), "password") {
		t.Errorf("the link alone asks for a password: %d", w.Code)
	}
	if w := enter("BBBB-BBBB"); w.Code != 400 {
		t.Errorf("unknown code: %d", w.Code)
	}
	if w := enter(strings.ToLower(userCode), "username", upn, "password", "wrong"); w.Code != 401 {
		t.Errorf("wrong password: %d", w.Code)
	}
	forged := h.visit("POST", path, url.Values{"user_code": {userCode}, "signin": {strings.Repeat("A", 43)}, "username": {upn}, "password": {password}}.Encode(), nil)
	if forged.Code != 403 {
		t.Errorf("a form that another site made: %d", forged.Code)
	}
	if w := enter(strings.ToLower(userCode), "username", upn, "password", password); w.Code != 200 || !strings.Contains(w.Body.String(), "You are signed in") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := enter(userCode); w.Code != 400 {
		t.Errorf("the code can be entered again: %d", w.Code)
	}
	status, answer = poll(code, h.confidential.ID) // without its secret
	wantRefusal(t, status, answer, "invalid_client", "7000218")
	if status, answer = poll(code, h.public.ID); status != 200 || text(answer, "refresh_token") == "" {
		t.Fatalf("%d %v", status, answer)
	}
	if c, err := h.verifier.Verify(t.Context(), text(answer, "access_token")); err != nil || c.ID != upn {
		t.Errorf("caller %+v, %v", c, err)
	}
	given := text(answer, "refresh_token")
	status, answer = poll(code, h.public.ID)
	wantRefusal(t, status, answer, "invalid_grant", "54005")
	status, answer = h.renew(t, given)
	wantRefusal(t, status, answer, "invalid_grant", "70000")

	code, userCode = begin()
	if w := enter(userCode, "decline", "1"); w.Code != 200 {
		t.Errorf("decline: %d", w.Code)
	}
	status, answer = poll(code, h.public.ID)
	wantRefusal(t, status, answer, "access_denied", "70003")
	code, userCode = begin()
	h.at(time.Now().Add(16 * time.Minute))
	status, answer = poll(code, h.public.ID)
	wantRefusal(t, status, answer, "expired_token", "70020")
	if w := enter(userCode); w.Code != 400 {
		t.Errorf("an expired code: %d", w.Code)
	}
}

// A client that asks too often is told so and has to wait five seconds longer
// each time (RFC 8628, 3.5); when the person has signed in, nobody is made to wait.
func TestDevicePace(t *testing.T) {
	h := newHouse(t)
	_, begun := h.do(t, "POST", "/"+tenant+"/oauth2/v2.0/devicecode", url.Values{"client_id": {h.public.ID}, "scope": {resource + "/.default"}}.Encode(), nil)
	now := time.Now()
	h.at(now)
	poll := func(want string) {
		t.Helper()
		_, answer := h.token(t, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {h.public.ID}, "device_code": {text(begun, "device_code")}})
		if got := text(answer, "error"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{0, "authorization_pending"},
		{5 * time.Second, "authorization_pending"},
		{4200 * time.Millisecond, "authorization_pending"}, // a clock that is a little fast
		{3 * time.Second, "slow_down"},                     // 10 s from here on
		{100 * time.Millisecond, "slow_down"},              // at once again: 10 s still
		{8 * time.Second, "slow_down"},                     // 15 s
		{15 * time.Second, "authorization_pending"},
		{10 * time.Second, "slow_down"}, // 20 s
		{20 * time.Second, "authorization_pending"},
	} {
		now = now.Add(c.after)
		h.at(now)
		poll(c.want)
	}
	const path = "/" + tenant + "/oauth2/deviceauth"
	w := h.visit("POST", path, url.Values{"user_code": {text(begun, "user_code")}}.Encode(), nil)
	form := fields(w.Body.String())
	form.Set("username", upn)
	form.Set("password", password)
	if w := h.visit("POST", path, form.Encode(), http.Header{"Cookie": {strings.SplitN(w.Header().Get("Set-Cookie"), ";", 2)[0]}, "Origin": {public}}); w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	poll("") // at once
}

// Where the setting is off nobody's password goes through an application.
func TestPasswordGrantIsOff(t *testing.T) {
	h := newHouse(t)
	b := newBench(t, func(c *issuer.Config) { c.People = h.people })
	w, answer := b.do(t, "POST", "/"+tenant+"/oauth2/token", url.Values{"grant_type": {"password"}, "client_id": {b.app.ID}, "client_secret": {b.secret}, "username": {upn}, "password": {password}, "resource": {resource}}.Encode(), nil)
	wantRefusal(t, w.Code, answer, "unauthorized_client", "7000200")
}

func FuzzAuthorize(f *testing.F) {
	h := newHouse(f)
	f.Add(h.query().Encode())
	f.Add("client_id=" + h.public.ID + "&redirect_uri=http://localhost:1/&state=%22%3E&scope=a/b/c//&code_challenge=%ff")
	f.Add("a=%zz&client_id=x")
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", public+authorizePath, nil)
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		h.service.Handler().ServeHTTP(w, r)
		if w.Code != 200 && w.Code != 303 && w.Code != 400 {
			t.Errorf("%q: %d", query, w.Code)
		}
		if to := w.Header().Get("Location"); to != "" && !strings.HasPrefix(to, redirect+"&") && !strings.HasPrefix(to, "http://localhost") && !strings.HasPrefix(to, "com.example.app:/cb?") {
			t.Errorf("%q leads to %q", query, to)
		}
		if strings.Contains(w.Body.String(), "<script") {
			t.Errorf("%q: the page has a script", query)
		}
	})
}
