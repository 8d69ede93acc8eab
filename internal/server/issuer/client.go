// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"net/url"
	"strings"

	"staunch/api"
	"staunch/internal/server/auth"
)

// presented is what a client shows to prove that it is the app it names.
type presented struct {
	client  string   // id
	secrets []string // any of them may be the one: a Basic header counts as it is and decoded
	asserts bool     // by a signed assertion
	assert  string   // and this is it
}

// proven is an application, and how it proved itself: the appidacr of its tokens.
type proven struct {
	app App
	how string
}

const (
	byNothing   = "0" // a public client
	bySecret    = "1"
	byAssertion = "2"
)

// present collects the client's credentials from the body and from a Basic
// header, whose parts RFC 6749 wants form-encoded and many clients do not encode.
func present(r *http.Request, f form) (presented, *refusal) {
	v, ref := f.get("client_id", "client_secret", "client_assertion", "client_assertion_type")
	if ref != nil {
		return presented{}, ref
	}
	p := presented{client: strings.ToLower(v[0]), asserts: v[2] != "" || v[3] != "", assert: v[2]}
	if v[3] != "" && v[3] != assertionType {
		return presented{}, invalidRequest(90014, "The client_assertion_type must be '%s'.", assertionType)
	}
	if v[1] != "" {
		p.secrets = append(p.secrets, v[1])
	}
	if user, password, ok := r.BasicAuth(); ok {
		if u, err := url.QueryUnescape(user); err == nil {
			user = u
		}
		user = strings.ToLower(user)
		if p.client != "" && p.client != user {
			return presented{}, invalidRequest(90014, "The client id in the Authorization header and 'client_id' in the body differ.")
		}
		p.client = user
		if password != "" {
			p.secrets = append(p.secrets, password)
		}
		if decoded, err := url.QueryUnescape(password); err == nil && decoded != password {
			p.secrets = append(p.secrets, decoded)
		}
	}
	if p.client == "" {
		return presented{}, missing("client_id")
	}
	return p, nil
}

// authenticate returns the app that the client proved to be. A public one has
// nothing to prove itself by.
func (s *Service) authenticate(r *http.Request, f form, base string) (proven, *refusal) {
	p, ref := present(r, f)
	if ref != nil {
		return proven{}, ref
	}
	app, ref := s.lookup(r.Context(), p.client)
	if ref != nil {
		return proven{}, ref
	}
	switch {
	case app.Disabled:
		return proven{}, denied(http.StatusBadRequest, "unauthorized_client", 7000112, app, "Application '%s' (%s) is disabled.", app.ID, cut(app.Name))
	case len(p.secrets) > 0:
		return proven{app, bySecret}, s.checkSecrets(app, p.secrets)
	case p.asserts:
		return proven{app, byAssertion}, s.checkAssertion(r.Context(), app, p.assert, base)
	case app.Public:
		return proven{app, byNothing}, nil
	}
	return proven{}, denied(http.StatusUnauthorized, "invalid_client", 7000218, app,
		"The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
}

func (s *Service) lookup(ctx context.Context, id string) (App, *refusal) {
	unknown := denied(http.StatusBadRequest, "unauthorized_client", 700016, App{},
		"Application with identifier '%s' was not found in the directory '%s'. Register it on this server first.", cut(id), s.cfg.Realm.Tenant)
	if !auth.IsGUID(id) {
		return App{}, unknown
	}
	unknown.client = id
	app, err := s.find(ctx, id)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound:
		return App{}, unknown
	case err != nil:
		s.cfg.Log.Error("app_lookup_failed", "client", id, "error", err)
		return App{}, &refusal{status: http.StatusServiceUnavailable, code: "temporarily_unavailable", number: 90033,
			text: "A transient error has occurred. Please try again.", client: id}
	}
	return app, nil
}

// checkSecrets compares in constant time, and every one with every one, so that
// the time tells neither which secret came near nor how many there are in use.
func (s *Service) checkSecrets(app App, given []string) *refusal {
	valid, expired := 0, 0
	for _, g := range given {
		digest := sha256.Sum256([]byte(g))
		for _, own := range app.Secrets {
			same := subtle.ConstantTimeCompare(digest[:], own.Digest[:])
			if s.cfg.Now().Before(own.Expires) {
				valid |= same
			} else {
				expired |= same
			}
		}
	}
	switch {
	case valid == 1:
		return nil
	case expired == 1:
		return denied(http.StatusUnauthorized, "invalid_client", 7000222, app,
			"The provided client secret keys for app '%s' are expired. Create a new one.", app.ID)
	}
	return denied(http.StatusUnauthorized, "invalid_client", 7000215, app,
		"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", app.ID)
}
