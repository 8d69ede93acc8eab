// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"staunch/api"
	"staunch/internal/server/auth"
	"staunch/internal/server/people"
)

// People is what the token service asks of those who sign in.
type People interface {
	// SignIn returns the user that the credentials are of, or an api.Error.
	SignIn(ctx context.Context, cr people.Credentials) (people.User, error)
	// User returns one by id, or an api.Error ResourceNotFound.
	User(ctx context.Context, id string) (people.User, error)
}

// The grants of people, by the names that clients use for them.
const (
	grantCode     = "authorization_code"
	grantRefresh  = "refresh_token"
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"
	grantDeviceV1 = "device_code"
	grantPassword = "password"
)

// personGrant answers a token request for a person.
func (s *Service) personGrant(r *http.Request, f form, grant, base string, v version) (any, *refusal) {
	p, ref := s.authenticate(r, f, base)
	if ref != nil {
		return nil, ref
	}
	switch grant {
	case grantCode:
		return s.redeemCode(r.Context(), f, p, base, v)
	case grantRefresh:
		return s.refresh(r.Context(), f, p, base, v)
	case grantPassword:
		return s.byPassword(r, f, p, base, v)
	}
	return s.pollDevice(r.Context(), f, p, base, v)
}

func (s *Service) redeemCode(ctx context.Context, f form, p proven, base string, v version) (any, *refusal) {
	values, ref := f.get("code", "redirect_uri", "code_verifier")
	if ref != nil {
		return nil, ref
	}
	code, redirect, verifier := values[0], values[1], values[2]
	if code == "" {
		return nil, missing("code")
	}
	refreshValue := newValue("")
	t, ref := s.spend(ctx, kindCode, code, p.app, func(t sitting) *refusal {
		switch {
		case t.Redirect != redirect:
			return badGrant(p.app, 500112, "The redirect URI '%s' is not the one that the code was asked for with.", cut(redirect))
		case t.Challenge == "" && verifier != "", t.Challenge != "" && !verifies(t.Challenge, verifier):
			return badGrant(p.app, 501481, "The code_verifier does not match the code_challenge of the authorization request.")
		}
		return nil
	}, func(g Grant, t sitting) *Grant {
		next := newGrant(kindRefresh, refreshValue, g.Family, t.renewed(), time.Unix(t.SignedIn, 0).Add(refreshLifetime))
		return &next
	})
	if ref != nil {
		return nil, ref
	}
	return s.answer(ctx, t, p, refreshValue, base, v)
}

// verifies compares as RFC 7636 has it, S256: the plain method would give the
// code to whoever saw the request.
func verifies(challenge, verifier string) bool {
	if len(verifier) < 43 || len(verifier) > 128 {
		return false
	}
	sum := sha256.Sum256([]byte(verifier))
	return subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(challenge)) == 1
}

// renewed is what of a sitting lives on in its refresh tokens.
func (t sitting) renewed() sitting {
	t.Redirect, t.Challenge, t.Nonce, t.Device, t.Polled, t.Every = "", "", "", "", 0, 0
	return t
}

func (s *Service) refresh(ctx context.Context, f form, p proven, base string, v version) (any, *refusal) {
	values, ref := f.get("refresh_token", "scope", "resource")
	if ref != nil {
		return nil, ref
	}
	if values[0] == "" {
		return nil, missing("refresh_token")
	}
	var narrowed *sitting
	if values[1] != "" || values[2] != "" {
		t, ref := s.asked(f, p.app, v)
		if ref != nil {
			return nil, ref
		}
		narrowed = &t
	}
	refreshValue := newValue("")
	t, ref := s.spend(ctx, kindRefresh, values[0], p.app, func(sitting) *refusal { return nil }, func(g Grant, t sitting) *Grant {
		next := newGrant(kindRefresh, refreshValue, g.Family, t, g.Expires)
		return &next
	})
	if ref != nil {
		return nil, ref
	}
	t = t.narrow(narrowed, p.app)
	return s.answer(ctx, t, p, refreshValue, base, v)
}

// narrow keeps of a sitting's scopes those that are still delegated and, where a
// renewal asks for fewer, asked for: never more than the person signed in for.
func (t sitting) narrow(asked *sitting, app App) sitting {
	var kept []auth.Permission
	for _, p := range t.Scopes {
		if has(app.Delegated, p) && (asked == nil || len(asked.Scopes) == 0 || has(asked.Scopes, p)) {
			kept = append(kept, p)
		}
	}
	t.Scopes = kept
	if asked != nil {
		t.Audience = asked.Audience
	}
	return t
}

func has(list []auth.Permission, p auth.Permission) bool {
	for _, q := range list {
		if p == q {
			return true
		}
	}
	return false
}

// byPassword is OAuth's password grant: the client sees the password, so it is
// off unless the operator says otherwise.
func (s *Service) byPassword(r *http.Request, f form, p proven, base string, v version) (any, *refusal) {
	if s.cfg.PasswordGrant == nil || !s.cfg.PasswordGrant() {
		return nil, denied(http.StatusBadRequest, "unauthorized_client", 7000200, p.app,
			"The password grant is switched off on this server. Use the authorization code or the device code flow, or let the operator set auth.passwordGrant to true.")
	}
	values, ref := f.get("username", "password")
	switch {
	case ref != nil:
		return nil, ref
	case values[0] == "":
		return nil, missing("username")
	case values[1] == "":
		return nil, missing("password")
	}
	t, ref := s.asked(f, p.app, v)
	if ref != nil {
		return nil, ref
	}
	u, err := s.cfg.People.SignIn(r.Context(), people.Credentials{Name: values[0], Password: values[1], Address: remoteIP(r), AppID: p.app.ID})
	if err != nil {
		return nil, s.notIn(p.app, err)
	}
	t.User, t.SignedIn, t.Factors = u.ID, s.cfg.Now().Unix(), factors(u)
	refreshValue, ref := s.putRefresh(r.Context(), t, p.app)
	if ref != nil {
		return nil, ref
	}
	return s.answer(r.Context(), t, p, refreshValue, base, v)
}

// putRefresh begins a family of refresh tokens.
func (s *Service) putRefresh(ctx context.Context, t sitting, app App) (string, *refusal) {
	value := newValue("")
	g := newGrant(kindRefresh, value, auth.NewGUID(), t.renewed(), s.cfg.Now().Add(refreshLifetime))
	if err := s.cfg.Store.PutGrants(ctx, g); err != nil {
		return "", s.fault("grant_not_kept", app, err)
	}
	return value, nil
}

// notIn is why a person was not signed in, for a token endpoint.
func (s *Service) notIn(app App, err error) *refusal {
	var refusal *api.Error
	switch {
	case errors.Is(err, people.ErrCodeNeeded):
		return badGrant(app, 50076, "A second factor is needed to sign in: use the authorization code or the device code flow.")
	case errors.As(err, &refusal) && refusal.Code == api.TooManyRequests:
		return badGrant(app, 50053, "%s.", refusal.Message)
	case errors.As(err, &refusal) && refusal.Code == api.Unauthorized:
		return badGrant(app, 50126, "Error validating credentials due to invalid username or password.")
	}
	return s.fault("sign_in_failed", app, err)
}

func factors(u people.User) []string {
	if len(u.TOTP) > 0 {
		return []string{"pwd", "otp", "mfa"}
	}
	return []string{"pwd"}
}

// personClaims are those of a person's access token.
type personClaims struct {
	claims
	Scopes    string   `json:"scp"`
	UPN       string   `json:"upn"`
	Preferred string   `json:"preferred_username"`
	Name      string   `json:"name,omitempty"`
	SignedIn  int64    `json:"auth_time"`
	Factors   []string `json:"amr"`
}

// idClaims are those of an id_token: who signed in, for the application alone.
type idClaims struct {
	Audience  string   `json:"aud"` // the client id
	Issuer    string   `json:"iss"`
	IssuedAt  int64    `json:"iat"`
	NotYet    int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
	SignedIn  int64    `json:"auth_time"`
	Factors   []string `json:"amr"`
	Nonce     string   `json:"nonce,omitempty"`
	ObjectID  string   `json:"oid"`
	Subject   string   `json:"sub"`
	Preferred string   `json:"preferred_username"`
	UPN       string   `json:"upn,omitempty"`
	Name      string   `json:"name,omitempty"`
	Tenant    string   `json:"tid"`
	Version   version  `json:"ver"`
}

// personAnswer is what a token endpoint adds for people.
type personAnswer struct {
	Scope   string `json:"scope"`
	Refresh string `json:"refresh_token,omitempty"`
	ID      string `json:"id_token,omitempty"`
}

type personAnswerV1 struct {
	answerV1
	personAnswer
}

type personAnswerV2 struct {
	answerV2
	personAnswer
}

// answer makes the tokens of a sitting. The person may have been shut out, or
// their credentials changed, since they signed in.
func (s *Service) answer(ctx context.Context, t sitting, p proven, refreshValue, base string, v version) (any, *refusal) {
	u, err := s.cfg.People.User(ctx, t.User)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound, err == nil && u.Disabled:
		return nil, badGrant(p.app, 50057, "The user account is disabled or no longer there.")
	case err != nil:
		return nil, s.fault("user_lookup_failed", p.app, err)
	case t.SignedIn < u.Since.Truncate(time.Second).Unix():
		return nil, badGrant(p.app, 50173, "The grant was made before the user's credentials were changed: sign in again.")
	}
	c := personClaims{claims: s.baseClaims(p, t.Audience, base, v), UPN: u.UPN, Preferred: u.UPN, Name: u.Name, SignedIn: t.SignedIn, Factors: t.Factors}
	c.IDType, c.ObjectID, c.Subject, c.Roles = "user", u.ID, s.subject(p.app, u), nil
	scopes := make([]string, 0, len(t.Scopes))
	for _, sc := range t.Scopes {
		scopes = append(scopes, string(sc))
	}
	c.Scopes = strings.Join(scopes, " ")
	if c.Scopes == "" {
		c.Scopes = "openid" // a person's token has one always: it is what tells it from an application's
	}
	access, ref := s.sign(p.app, c)
	if ref != nil {
		return nil, ref
	}
	more := personAnswer{Scope: c.Scopes}
	if v == v1 || t.asks("offline_access") {
		more.Refresh = refreshValue
	}
	if t.asks("openid") {
		id := idClaims{
			Audience: p.app.ID, Issuer: c.Issuer, IssuedAt: c.IssuedAt, NotYet: c.NotYet, Expires: c.Expires, SignedIn: t.SignedIn, Factors: t.Factors,
			Nonce: t.Nonce, ObjectID: u.ID, Subject: c.Subject, Preferred: u.UPN, UPN: u.UPN, Name: u.Name, Tenant: c.Tenant, Version: v,
		}
		if more.ID, ref = s.sign(p.app, id); ref != nil {
			return nil, ref
		}
	}
	if v == v2 {
		return personAnswerV2{s.answerV2(access), more}, nil
	}
	return personAnswerV1{s.answerV1(access, c.claims), more}, nil
}

// subject names a person to one application: two of them cannot tell by it that
// it is the same (OpenID Connect Core, 8.1).
func (s *Service) subject(a App, u people.User) string {
	return auth.NameGUID("subject", s.cfg.Realm.Tenant, a.ID, u.ID)
}

func (s *Service) sign(a App, c any) (string, *refusal) {
	signed, err := jwt.Signed(s.current().signerAt(s.cfg.Now())).Claims(c).Serialize()
	if err != nil {
		s.cfg.Log.Error("token_not_signed", "client", a.ID, "error", err)
		return "", &refusal{status: http.StatusInternalServerError, code: "server_error", number: 90033, text: "The token could not be signed: see the server's log."}
	}
	return signed, nil
}

// seconds is the lifetime as it is told: one second less than it is, so that who
// trusts the number to the last second does not come too late.
func (s *Service) seconds() int64 { return int64(s.cfg.Lifetime()/time.Second) - 1 }

func (s *Service) answerV2(token string) answerV2 {
	n := s.seconds()
	return answerV2{"Bearer", n, n, token}
}

func (s *Service) answerV1(token string, c claims) answerV1 {
	text := strconv.FormatInt(s.seconds(), 10)
	return answerV1{"Bearer", text, text, strconv.FormatInt(c.Expires, 10), strconv.FormatInt(c.NotYet, 10), c.Audience, token}
}
