// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/rand"
	"errors"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/server/auth"
)

// The device code flow (RFC 8628): a client without a browser shows a short code,
// and the person enters it in a browser of their own.

// userLetters make no words and are not taken for each other: 20^8 codes, of
// which few are in use, each for a quarter of an hour.
const (
	userLetters = "BCDFGHJKLMNPQRSTVWXZ"
	userLength  = 8
	pollEvery   = 5  // seconds
	longestPoll = 60 // seconds

	pollSlack = time.Second // that a client's clock may be fast
)

func newUserCode() string {
	var b strings.Builder
	for range userLength {
		n, _ := rand.Int(rand.Reader, big.NewInt(int64(len(userLetters)))) // crypto/rand never fails
		b.WriteByte(userLetters[n.Int64()])
	}
	return b.String()
}

// plainUserCode takes out what people put in.
func plainUserCode(s string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(userLetters, r) {
			return r
		}
		return -1
	}, strings.ToUpper(s))
}

type deviceAnswer struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	URI        string `json:"verification_uri"`
	URL        string `json:"verification_url"` // the v1 endpoint's name of it
	Complete   string `json:"verification_uri_complete"`
	ExpiresIn  int64  `json:"expires_in"`
	Interval   int64  `json:"interval"`
	Message    string `json:"message"`
}

// deviceCode begins a sign-in on another device.
func (s *Service) deviceCode(w http.ResponseWriter, r *http.Request, base string, v version) {
	answer, ref := s.beginDevice(w, r, base, v)
	if ref != nil {
		s.refuse(w, r, ref)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (s *Service) beginDevice(w http.ResponseWriter, r *http.Request, base string, v version) (*deviceAnswer, *refusal) {
	f, ref := readForm(w, r)
	if ref != nil {
		return nil, ref
	}
	p, ref := s.authenticateOrName(r, f, base)
	if ref != nil {
		return nil, ref
	}
	t, ref := s.asked(f, p, v)
	if ref != nil {
		return nil, ref
	}
	code, userCode := newValue(""), newUserCode()
	expires, family := s.cfg.Now().Add(deviceLifetime), auth.NewGUID()
	device := newGrant(kindDevice, code, family, t, expires)
	pointer := newGrant(kindUserCode, userCode, family, sitting{App: t.App, Device: device.Digest}, expires)
	if err := s.cfg.Store.PutGrants(r.Context(), device, pointer); err != nil {
		return nil, s.fault("device_code_not_kept", p, err)
	}
	shown := userCode[:userLength/2] + "-" + userCode[userLength/2:]
	uri := base + "/" + s.cfg.Realm.Tenant + "/oauth2/deviceauth"
	return &deviceAnswer{
		DeviceCode: code, UserCode: shown, URI: uri, URL: uri, Complete: uri + "?user_code=" + url.QueryEscape(shown),
		ExpiresIn: int64(deviceLifetime / time.Second), Interval: pollEvery,
		Message: "To sign in, use a web browser to open the page " + uri + " and enter the code " + shown + " to authenticate.",
	}, nil
}

// authenticateOrName finds the application of a device code request. It proves
// itself when it redeems the code, so here its name will do, as with Entra; what
// it shows must be right all the same.
func (s *Service) authenticateOrName(r *http.Request, f form, base string) (App, *refusal) {
	p, ref := present(r, f)
	if ref != nil {
		return App{}, ref
	}
	if len(p.secrets) > 0 || p.asserts {
		proven, ref := s.authenticate(r, f, base)
		return proven.app, ref
	}
	app, ref := s.lookup(r.Context(), p.client)
	if ref == nil && app.Disabled {
		ref = denied(http.StatusBadRequest, "unauthorized_client", 7000112, app, "Application '%s' (%s) is disabled.", app.ID, cut(app.Name))
	}
	return app, ref
}

// deviceAuth is the page on which people enter the code that their other device
// shows, see what it is for, and sign in or decline.
func (s *Service) deviceAuth(w http.ResponseWriter, r *http.Request, base string) {
	f, ref := readParameters(w, r)
	if ref != nil {
		s.wrongPage(w, r, ref)
		return
	}
	ask := page{Title: "Enter the code", Text: "that your other device shows.", Form: "code", Action: r.URL.EscapedPath(), User: plainUserCode(f.values["user_code"])}
	if r.Method != http.MethodPost {
		s.show(w, http.StatusOK, ask, "") // also with a code in the link: people must see it is theirs
		return
	}
	device, t, err := s.findUserCode(r.Context(), plainUserCode(f.values["user_code"]))
	if err != nil {
		ask.Wrong, ask.User = "That code is wrong, was used, or has expired.", ""
		s.show(w, http.StatusBadRequest, ask, "")
		return
	}
	app, ref := s.lookup(r.Context(), t.App)
	if ref == nil && app.Disabled {
		ref = denied(http.StatusBadRequest, "unauthorized_client", 7000112, app, "Application '%s' is disabled.", app.ID)
	}
	if ref != nil {
		s.wrongPage(w, r, ref)
		return
	}
	signIn := page{
		Title: "Sign in to " + app.Name, Form: "signin", Action: r.URL.EscapedPath(), Decline: true, User: f.values["username"],
		Text:   "on the device that shows the code " + plainUserCode(f.values["user_code"]) + ". If you did not begin this yourself, do not sign in: somebody wants to act as you.",
		Hidden: []field{{formField, formValue(w, r, base)}, {"user_code", plainUserCode(f.values["user_code"])}},
	}
	switch {
	case f.values[formField] == "":
		s.show(w, http.StatusOK, signIn, "")
		return
	case !fromOurForm(r, f, base):
		signIn.Wrong = "The form had expired. Please sign in again."
		s.show(w, http.StatusForbidden, signIn, "")
		return
	}
	decision := sitting{Declined: f.values["decline"] != ""}
	if !decision.Declined {
		u, wrong, status := s.signIn(r, f, app)
		if wrong != "" {
			signIn.Wrong = wrong
			s.show(w, status, signIn, "")
			return
		}
		decision.User, decision.SignedIn, decision.Factors = u.ID, s.cfg.Now().Unix(), factors(u)
	}
	if err := s.decideDevice(r.Context(), device, decision); err != nil {
		ask.Wrong, ask.User = "That code was used or has expired in the meantime.", ""
		s.show(w, http.StatusBadRequest, ask, "")
		return
	}
	done := page{Title: "You are signed in", Text: "to " + app.Name + " on your other device. You can close this page."}
	if decision.Declined {
		done = page{Title: "Not signed in", Text: "Your other device will be told. You can close this page."}
	}
	s.show(w, http.StatusOK, done, "")
}

// findUserCode returns the digest of the device code that a user code is for.
func (s *Service) findUserCode(ctx context.Context, code string) (string, sitting, error) {
	pointer, err := s.cfg.Store.Grant(ctx, digestOf(kindUserCode, code))
	if err != nil {
		return "", sitting{}, err
	}
	t, err := pointer.sitting()
	if err != nil {
		return "", sitting{}, err
	}
	device, err := s.cfg.Store.Grant(ctx, t.Device)
	if err != nil {
		return "", sitting{}, err
	}
	d, err := device.sitting()
	if err == nil && (d.User != "" || d.Declined || !device.Used.IsZero() || !s.cfg.Now().Before(device.Expires)) {
		err = errRefused
	}
	return t.Device, d, err
}

// decideDevice keeps who signed in for a device code, or that nobody does; once.
func (s *Service) decideDevice(ctx context.Context, digest string, decision sitting) error {
	return s.cfg.Store.ChangeGrant(ctx, digest, func(g *Grant) (*Grant, error) {
		t, err := g.sitting()
		if err != nil {
			return nil, err
		}
		if t.User != "" || t.Declined || !g.Used.IsZero() || !s.cfg.Now().Before(g.Expires) {
			return nil, errRefused
		}
		t.User, t.SignedIn, t.Factors, t.Declined = decision.User, decision.SignedIn, decision.Factors, decision.Declined
		g.Data = newGrant("", "", "", t, g.Expires).Data
		return nil, nil
	})
}

// pollDevice answers a client that waits for the person.
func (s *Service) pollDevice(ctx context.Context, f form, p proven, base string, v version) (any, *refusal) {
	values, ref := f.get("device_code", "code") // the v1 endpoint calls it code
	if ref != nil {
		return nil, ref
	}
	code := firstOf(values[0], values[1])
	if code == "" {
		return nil, missing("device_code")
	}
	if ref := s.stillWaits(ctx, digestOf(kindDevice, code), p.app); ref != nil {
		return nil, ref
	}
	refreshValue := newValue("")
	t, ref := s.spend(ctx, kindDevice, code, p.app, func(sitting) *refusal { return nil }, func(g Grant, t sitting) *Grant {
		next := newGrant(kindRefresh, refreshValue, g.Family, t.renewed(), time.Unix(t.SignedIn, 0).Add(refreshLifetime))
		return &next
	})
	if ref != nil {
		return nil, ref
	}
	return s.answer(ctx, t, p, refreshValue, base, v)
}

// stillWaits is what a client is told while the person has not decided for it;
// nil when they have. None of it is worth an audit line. What is wrong with the
// code itself, spend says.
func (s *Service) stillWaits(ctx context.Context, digest string, app App) *refusal {
	g, err := s.cfg.Store.Grant(ctx, digest)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound:
		return nil
	case err != nil:
		return s.fault("device_code_not_read", app, err)
	}
	t, err := g.sitting()
	told := func(code string, number int, text string) *refusal {
		return &refusal{status: http.StatusBadRequest, code: code, number: number, text: text, client: app.ID}
	}
	switch {
	case err != nil:
		return s.fault("device_code_not_read", app, err)
	case t.App != app.ID:
		return nil
	case t.Declined:
		return told("access_denied", 70003, "The user declined to sign in.")
	case !s.cfg.Now().Before(g.Expires):
		return told("expired_token", 70020, "The device code has expired: begin again.")
	case t.User != "":
		return nil
	}
	every, err := s.pace(ctx, digest, t)
	switch {
	case err != nil:
		return s.fault("device_code_not_kept", app, err)
	case every > 0:
		return told("slow_down", 70016, "The client asks too often: wait "+strconv.FormatInt(every, 10)+" seconds between two requests.")
	}
	return told("authorization_pending", 70016, "OAuth 2.0 device flow error. Authorization is pending. Continue polling.")
}

// pace remembers when a client asked. One that did too early has to wait five
// seconds longer each time from then on (RFC 8628, 3.5), and is told how long;
// others 0. Once the person has decided, nobody is made to wait.
func (s *Service) pace(ctx context.Context, digest string, t sitting) (every int64, err error) {
	now := s.cfg.Now()
	early := func(t sitting) bool {
		return now.Sub(time.UnixMilli(t.Polled)) < time.Duration(t.every())*time.Second-pollSlack
	}
	if t.Polled > 0 && now.Sub(time.UnixMilli(t.Polled)).Abs() < pollSlack {
		return t.every(), nil // not worth a change of the database
	}
	err = s.cfg.Store.ChangeGrant(ctx, digest, func(g *Grant) (*Grant, error) {
		every = 0
		t, err := g.sitting()
		if err != nil {
			return nil, err
		}
		if t.User != "" || t.Declined {
			return nil, errRefused // decided at this moment: the next request sees it
		}
		if t.Polled > 0 && early(t) {
			t.Every = min(t.every()+pollEvery, longestPoll)
			every = t.Every
		}
		t.Polled = now.UnixMilli()
		g.Data = newGrant("", "", "", t, g.Expires).Data
		return nil, nil
	})
	if errors.Is(err, errRefused) || api.CodeOf(err) == api.ResourceNotFound {
		return 0, nil
	}
	return every, err
}

// every is how many seconds there must be between two requests for a device code.
func (t sitting) every() int64 { return max(t.Every, pollEvery) }
