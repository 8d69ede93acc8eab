// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/server/auth"
)

// How long what is given out is good.
const (
	codeLifetime    = 5 * time.Minute
	deviceLifetime  = 15 * time.Minute
	refreshLifetime = 90 * 24 * time.Hour // from the sign-in on, however often it is renewed
)

// The kinds of grant.
const (
	kindCode      = "code"
	kindRefresh   = "refresh"
	kindDevice    = "device"
	kindUserCode  = "user_code"
	kindAssertion = "assertion"
)

// sitting is what one sign-in of a person through an application is for: what a
// grant of theirs keeps.
type sitting struct {
	App      string            `json:"app"`
	User     string            `json:"user,omitempty"` // object id; "" of a device code: nobody yet
	Audience string            `json:"audience"`
	Scopes   []auth.Permission `json:"scopes"`
	OIDC     []string          `json:"oidc,omitempty"` // openid, profile, …
	SignedIn int64             `json:"signedIn,omitempty"`
	Factors  []string          `json:"factors,omitempty"` // RFC 8176: pwd, otp
	Version  version           `json:"version"`

	Redirect  string `json:"redirect,omitempty"`  // of a code
	Challenge string `json:"challenge,omitempty"` // of a code: PKCE, S256
	Nonce     string `json:"nonce,omitempty"`     // of a code
	Declined  bool   `json:"declined,omitempty"`  // of a device code
	Polled    int64  `json:"polled,omitempty"`    // of a device code: when the client last asked, in ms since 1970
	Every     int64  `json:"every,omitempty"`     // of a device code: seconds between two requests; 0: pollEvery
	Device    string `json:"device,omitempty"`    // of a user code: the digest of its device code
}

func (t sitting) asks(word string) bool { return slices.Contains(t.OIDC, word) }

// newValue is what a client gets to hold: 256 random bits.
func newValue(prefix string) string {
	var b [32]byte
	rand.Read(b[:])
	return prefix + base64.RawURLEncoding.EncodeToString(b[:])
}

// digestOf is how a value is kept.
func digestOf(kind, value string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + value))
	return hex.EncodeToString(sum[:])
}

func newGrant(kind, value, family string, t sitting, expires time.Time) Grant {
	data, _ := json.Marshal(t) // strings and numbers always encode
	return Grant{Digest: digestOf(kind, value), Kind: kind, Family: family, Data: data, Expires: expires}
}

func (g Grant) sitting() (t sitting, err error) {
	if err := json.Unmarshal(g.Data, &t); err != nil {
		return t, fmt.Errorf("cannot read a grant: %w", err)
	}
	return t, nil
}

// spend redeems a grant, once: check sees what it is for, and next is kept in
// its place. Who presents it a second time has stolen it, or was stolen from:
// then all that goes back to that sign-in ends.
func (s *Service) spend(ctx context.Context, kind, value string, app App, check func(sitting) *refusal, next func(Grant, sitting) *Grant) (sitting, *refusal) {
	var t sitting
	var ref *refusal
	reused, family := false, ""
	err := s.cfg.Store.ChangeGrant(ctx, digestOf(kind, value), func(g *Grant) (_ *Grant, err error) {
		ref, reused, family = nil, false, g.Family
		if t, err = g.sitting(); err != nil {
			return nil, err
		}
		switch {
		case g.Kind != kind || t.App != app.ID:
			ref = badGrant(app, 9002313, "The %s was not given to application '%s'.", kind, app.ID)
		case !g.Used.IsZero():
			reused = true
			ref = badGrant(app, 54005, "The %s was already redeemed: sign in again.", kind)
		case !s.cfg.Now().Before(g.Expires):
			ref = badGrant(app, 70008, "The %s has expired: sign in again.", kind)
		default:
			ref = check(t)
		}
		if ref != nil {
			return nil, errRefused
		}
		g.Used = s.cfg.Now()
		if next == nil {
			return nil, nil
		}
		return next(*g, t), nil
	})
	switch {
	case reused:
		if err := s.cfg.Store.DropGrants(ctx, family); err != nil {
			return t, s.fault("grants_not_dropped", app, err)
		}
		return t, ref
	case ref != nil:
		return t, ref
	case api.CodeOf(err) == api.ResourceNotFound:
		return t, badGrant(app, 70000, "The provided value for the %s is not valid, or it was revoked: sign in again.", kind)
	case err != nil:
		return t, s.fault("grant_not_redeemed", app, err)
	}
	return t, nil
}

// errRefused undoes a change of which the refusal is known otherwise.
var errRefused = fmt.Errorf("refused")

func badGrant(a App, number int, format string, args ...any) *refusal {
	return denied(http.StatusBadRequest, "invalid_grant", number, a, format, args...)
}

// fault is a refusal for what is not the client's doing; the log has the cause.
func (s *Service) fault(event string, a App, err error) *refusal {
	s.cfg.Log.Error(event, "client", a.ID, "error", err)
	return &refusal{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", number: 90033,
		text: "A transient error has occurred. Please try again.", client: a.ID, name: a.Name}
}

// oidcScopes are the scopes of OpenID Connect that mean something here.
var oidcScopes = []string{"openid", "profile", "email", "offline_access"}

// asked reads what a person's token is to be for: resource and scope, whichever
// the client sends. What the token may do is what is asked for and delegated to
// the application, whatever else is asked.
func (s *Service) asked(f form, app App, v version) (sitting, *refusal) {
	values, ref := f.get("resource", "scope")
	if ref != nil {
		return sitting{}, ref
	}
	t := sitting{App: app.ID, Version: v}
	resource, all := strings.TrimSpace(values[0]), false
	var names []auth.Permission
	for word := range strings.FieldsSeq(values[1]) {
		switch at := strings.LastIndex(word, "/"); {
		case slices.Contains(oidcScopes, word):
			t.OIDC = append(t.OIDC, word)
		case at < 0:
			names = append(names, auth.Permission(word))
		default:
			if r := word[:at]; resource != "" && !strings.EqualFold(strings.TrimRight(resource, "/"), strings.TrimRight(r, "/")) {
				return sitting{}, &refusal{status: http.StatusBadRequest, code: "invalid_scope", number: 28000,
					text: "Provided value for the input parameter scope is not valid because it contains more than one resource."}
			}
			resource = word[:at]
			if name := word[at+1:]; name == ".default" {
				all = true
			} else {
				names = append(names, auth.Permission(name))
			}
		}
	}
	if resource == "" && len(names) == 0 && len(t.OIDC) == 0 {
		if v == v1 {
			return sitting{}, missing("resource")
		}
		return sitting{}, missing("scope")
	}
	onlyWho := resource == "" && len(names) == 0 // openid alone: a token that may do nothing
	if resource == "" {
		resource = auth.DefaultAudiences()[0]
	}
	var ok bool
	if t.Audience, ok = s.cfg.Realm.Audience(resource); !ok {
		return sitting{}, s.noResource(resource)
	}
	all = all || len(names) == 0 && !onlyWho
	for _, p := range app.Delegated {
		if all || slices.Contains(names, p) {
			t.Scopes = append(t.Scopes, p)
		}
	}
	if len(t.Scopes) == 0 && !onlyWho {
		return sitting{}, denied(http.StatusBadRequest, "invalid_scope", 65001, app,
			"None of the asked permissions is delegated to the application '%s' (%s). Let the administrator do so: staunch admin app change %s --delegated P.", cut(app.Name), app.ID, app.ID)
	}
	return t, nil
}

func (s *Service) noResource(resource string) *refusal {
	return &refusal{status: http.StatusBadRequest, code: "invalid_resource", number: 500011,
		text: "The resource principal named " + cut(resource) + " was not found in the tenant named " + s.cfg.Realm.Tenant +
			". Ask for " + auth.DefaultAudiences()[0] + ", or let the operator add yours to the setting auth.audiences."}
}
