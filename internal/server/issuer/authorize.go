// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"staunch/api"
	"staunch/internal/server/auth"
	"staunch/internal/server/people"
)

// authorization is an authorization request (RFC 6749, 4.1; OpenID Connect Core,
// 3.1.2), as far as it means something here.
type authorization struct {
	form     form
	app      App
	redirect string
	state    string
	formPost bool // response_mode=form_post
	t        sitting
	hint     string
}

// authorizeFields are kept across the sign-in form.
var authorizeFields = []string{
	"client_id", "redirect_uri", "response_type", "response_mode", "scope", "resource", "state", "nonce", "code_challenge", "code_challenge_method",
	"prompt", "login_hint",
}

// authorize is the authorization endpoint: it shows the sign-in form, and what
// comes of it goes to the application's redirect URI. There is no session: each
// application asks for the password anew.
func (s *Service) authorize(w http.ResponseWriter, r *http.Request, base string, v version) {
	f, ref := readParameters(w, r)
	if ref != nil {
		s.wrongPage(w, r, ref)
		return
	}
	a, ref := s.client(r.Context(), f)
	if ref != nil { // no redirect: where to is not known to be the application's
		s.wrongPage(w, r, ref)
		return
	}
	if ref := s.readAuthorization(a, v); ref != nil {
		s.sendBack(w, r, a, base, url.Values{"error": {ref.code}, "error_description": {ref.Error()}})
		return
	}
	if r.Method != http.MethodPost || f.values[formField] == "" {
		s.signInPage(w, r, a, base, "", http.StatusOK)
		return
	}
	if !fromOurForm(r, f, base) {
		s.signInPage(w, r, a, base, "The form had expired. Please sign in again.", http.StatusForbidden)
		return
	}
	u, wrong, status := s.signIn(r, f, a.app)
	if wrong != "" {
		s.signInPage(w, r, a, base, wrong, status)
		return
	}
	a.t.User, a.t.SignedIn, a.t.Factors = u.ID, s.cfg.Now().Unix(), factors(u)
	code := newValue("")
	if err := s.cfg.Store.PutGrants(r.Context(), newGrant(kindCode, code, auth.NewGUID(), a.t, s.cfg.Now().Add(codeLifetime))); err != nil {
		s.wrongPage(w, r, s.fault("code_not_kept", a.app, err))
		return
	}
	s.sendBack(w, r, a, base, url.Values{"code": {code}})
}

// readParameters reads query and body; a field in both must be the same.
func readParameters(w http.ResponseWriter, r *http.Request) (form, *refusal) {
	if len(r.URL.RawQuery) > maxForm {
		return form{}, invalidRequest(90013, "The query is larger than %d bytes.", maxForm)
	}
	body := ""
	if r.Method == http.MethodPost {
		f, ref := readBody(w, r)
		if ref != nil {
			return form{}, ref
		}
		body = f
	}
	return parseForm(r.URL.RawQuery + "&" + body), nil
}

// client finds the application and where it may be answered. Until both are
// known nothing is sent anywhere.
func (s *Service) client(ctx context.Context, f form) (*authorization, *refusal) {
	v, ref := f.get("client_id", "redirect_uri")
	switch {
	case ref != nil:
		return nil, ref
	case v[0] == "":
		return nil, missing("client_id")
	}
	app, ref := s.lookup(ctx, strings.ToLower(v[0]))
	switch {
	case ref != nil:
		return nil, ref
	case app.Disabled:
		return nil, denied(http.StatusBadRequest, "unauthorized_client", 7000112, app, "Application '%s' (%s) is disabled.", app.ID, cut(app.Name))
	}
	redirect := v[1]
	if redirect == "" && len(app.RedirectURIs) == 1 {
		redirect = app.RedirectURIs[0]
	}
	if !app.redirectsTo(redirect) {
		return nil, denied(http.StatusBadRequest, "invalid_request", 50011, app,
			"The redirect URI '%s' specified in the request does not match the redirect URIs configured for the application '%s'.", cut(redirect), app.ID)
	}
	return &authorization{form: f, app: app, redirect: redirect}, nil
}

var challengeForm = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// readAuthorization reads the rest, of which the application is told what is wrong.
func (s *Service) readAuthorization(a *authorization, v version) *refusal {
	a.t.Version = v
	f, ref := a.form.get("state", "response_type", "response_mode", "code_challenge", "code_challenge_method", "nonce", "prompt", "login_hint")
	if ref != nil {
		return ref
	}
	a.state, a.formPost, a.hint = f[0], f[2] == "form_post", f[7]
	switch {
	case f[1] != "code":
		return &refusal{code: "unsupported_response_type", number: 700051, text: "The response_type must be 'code'."}
	case f[2] != "" && f[2] != "query" && f[2] != "form_post":
		return invalidRequest(70007, "The response_mode must be 'query' or 'form_post'.")
	case f[6] == "none":
		return &refusal{code: "login_required", number: 50058, text: "A silent sign-in request was sent, and this server keeps nobody signed in."}
	case f[3] == "" && f[4] != "":
		return invalidRequest(501471, "There is a code_challenge_method without a code_challenge.")
	case f[3] != "" && f[4] != "S256":
		return invalidRequest(501471, "The code_challenge_method must be 'S256'.")
	case f[3] != "" && !challengeForm.MatchString(f[3]):
		return invalidRequest(501471, "The code_challenge is not the base64url of a SHA-256.")
	case f[3] == "" && a.app.Public:
		return invalidRequest(9002325, "Proof Key for Code Exchange is required: send a code_challenge.")
	case len(f[5]) > 1024 || len(f[0]) > 8192:
		return invalidRequest(90013, "state has more than 8192 bytes, or nonce more than 1024.")
	}
	if a.t, ref = s.asked(a.form, a.app, v); ref != nil {
		return ref
	}
	a.t.Redirect, a.t.Challenge, a.t.Nonce = a.form.values["redirect_uri"], f[3], f[5]
	return nil
}

// signIn tries what a sign-in form holds. wrong is what to tell the person.
func (s *Service) signIn(r *http.Request, f form, app App) (u people.User, wrong string, status int) {
	v, ref := f.get("username", "password", "otc")
	if ref != nil {
		return u, "The form could not be read. Please try again.", http.StatusBadRequest
	}
	u, err := s.cfg.People.SignIn(r.Context(), people.Credentials{Name: v[0], Password: v[1], Code: v[2], Address: remoteIP(r), AppID: app.ID})
	var refusal *api.Error
	switch {
	case err == nil:
		return u, "", 0
	case errors.Is(err, people.ErrCodeNeeded):
		return u, "Please enter your password again, with the code of your second factor.", http.StatusUnauthorized
	case errors.As(err, &refusal) && refusal.Code == api.TooManyRequests:
		return u, refusal.Message + ".", http.StatusTooManyRequests
	case errors.As(err, &refusal) && refusal.Code == api.Unauthorized:
		return u, refusal.Message + ".", http.StatusUnauthorized
	}
	s.cfg.Log.Error("sign_in_failed", "error", err)
	return u, "You cannot be signed in at the moment. Please try again.", http.StatusServiceUnavailable
}

func (s *Service) signInPage(w http.ResponseWriter, r *http.Request, a *authorization, base, wrong string, status int) {
	p := page{
		Title: "Sign in", Text: "to continue to " + a.app.Name, Wrong: wrong, Form: "signin", Action: r.URL.EscapedPath(),
		User: firstOf(a.form.values["username"], a.hint), Hidden: []field{{formField, formValue(w, r, base)}},
	}
	for _, name := range authorizeFields {
		if v := a.form.values[name]; v != "" {
			p.Hidden = append(p.Hidden, field{name, v})
		}
	}
	s.show(w, status, p, a.redirect)
}

// sendBack sends the answer to the redirect URI, with who it comes from (RFC 9207).
func (s *Service) sendBack(w http.ResponseWriter, r *http.Request, a *authorization, base string, answer url.Values) {
	if state := a.form.values["state"]; state != "" && !a.form.malformed["state"] {
		answer.Set("state", state)
	}
	answer.Set("iss", s.cfg.Realm.IssuerV1(base))
	if a.t.Version == v2 {
		answer.Set("iss", s.cfg.Realm.IssuerV2(base))
	}
	if a.formPost {
		p := page{Title: "Continue to " + a.app.Name, Form: "continue", Action: a.redirect}
		for name := range answer {
			p.Hidden = append(p.Hidden, field{name, answer.Get(name)})
		}
		s.show(w, http.StatusOK, p, a.redirect)
		return
	}
	to := a.redirect
	if strings.Contains(to, "?") {
		to += "&" + answer.Encode()
	} else {
		to += "?" + answer.Encode()
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusSeeOther)
}

// wrongPage tells the person what is wrong with the application's request.
func (s *Service) wrongPage(w http.ResponseWriter, r *http.Request, ref *refusal) {
	s.cfg.Log.Info("sign_in_refused", "code", ref.number, "client", ref.client, "remote", remoteIP(r))
	s.show(w, ref.status, page{Title: "You cannot sign in", Text: "The application's request is wrong. Tell its operator:", Wrong: ref.Error()}, "")
}

func firstOf(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
