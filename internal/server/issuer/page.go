// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strings"
)

//go:embed pages/page.html
var pageText string

// page is one page for people. It has no script: nothing on it can be made to run.
type page struct {
	Title  string
	Text   string
	Wrong  string // what was wrong with the last try
	Form   string // signin, code, continue; "": none
	Action string // where the form goes; "": back here
	Hidden []field
	User   string // what is filled in already

	Decline bool // the person may say no

	Nonce string // of the style; set by show
}

type field struct{ Name, Value string }

// parsePage reads the template, which is part of the program.
func parsePage() *template.Template { return template.Must(template.New("page").Parse(pageText)) }

// show answers with a page. to is where its form may lead besides here, also by
// a redirect: a redirect URI, or "".
func (s *Service) show(w http.ResponseWriter, status int, p page, to string) {
	var b [16]byte
	rand.Read(b[:])
	p.Nonce = base64.RawURLEncoding.EncodeToString(b[:])
	var out bytes.Buffer
	if err := s.page.Execute(&out, p); err != nil {
		s.cfg.Log.Error("page_not_made", "error", err)
		http.Error(w, "The page could not be made.", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-"+p.Nonce+"'; form-action 'self'"+formTarget(to)+"; base-uri 'none'; frame-ancestors 'none'")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // a client that is gone cannot be told
}

// formTarget is a redirect URI as a source of a Content-Security-Policy. Browsers
// hold the redirect after a form against form-action too.
func formTarget(to string) string {
	u, err := url.Parse(to)
	switch {
	case to == "" || err != nil:
		return ""
	case u.Scheme != "http" && u.Scheme != "https":
		return " " + u.Scheme + ":"
	}
	return " " + u.Scheme + "://" + strings.NewReplacer(";", "", ",", "", "'", "").Replace(u.Host)
}

// A sign-in form carries a value that the browser has in a cookie too: a form
// that another site makes cannot have it, so nobody can be signed in as somebody
// else behind their back.
const formCookie = "staunch-signin"

const formField = "signin"

func cookieName(secure bool) string {
	if secure {
		return "__Host-" + formCookie
	}
	return formCookie
}

// formValue returns the value for the form, and makes the cookie if there is none.
func formValue(w http.ResponseWriter, r *http.Request, base string) string {
	secure := strings.HasPrefix(base, "https://")
	if c, err := r.Cookie(cookieName(secure)); err == nil && len(c.Value) == 43 {
		return c.Value
	}
	value := newValue("")
	http.SetCookie(w, &http.Cookie{
		Name: cookieName(secure), Value: value, Path: "/", Secure: secure, HttpOnly: true, SameSite: http.SameSiteLaxMode, MaxAge: 3600,
	})
	return value
}

// fromOurForm reports whether a form was made by us for this browser.
func fromOurForm(r *http.Request, f form, base string) bool {
	c, err := r.Cookie(cookieName(strings.HasPrefix(base, "https://")))
	if err != nil || len(c.Value) != 43 || !hmac.Equal([]byte(c.Value), []byte(f.values[formField])) {
		return false
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return false
	}
	origin := r.Header.Get("Origin")
	// A page with Referrer-Policy no-referrer may send "null" from its own forms.
	return origin == "" || origin == "null" || strings.EqualFold(origin, base)
}
