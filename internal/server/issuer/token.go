// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"net/http"
	"slices"
	"strings"

	"staunch/internal/server/auth"
)

// version is that of the token endpoint and of the tokens it gives.
type version string

const (
	v1 version = "1.0"
	v2 version = "2.0"
)

const grantClientCredentials = "client_credentials"

// token answers a token request.
func (s *Service) token(w http.ResponseWriter, r *http.Request, base string, v version) {
	answer, ref := s.grant(w, r, base, v)
	if ref != nil {
		s.refuse(w, r, ref)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func (s *Service) grant(w http.ResponseWriter, r *http.Request, base string, v version) (any, *refusal) {
	f, ref := readForm(w, r)
	if ref != nil {
		return nil, ref
	}
	grant, ref := f.get("grant_type")
	switch {
	case ref != nil:
		return nil, ref
	case grant[0] == "":
		return nil, missing("grant_type")
	case grant[0] == grantClientCredentials:
		return s.appGrant(r, f, base, v)
	case s.cfg.People != nil && slices.Contains([]string{grantCode, grantRefresh, grantDevice, grantDeviceV1, grantPassword}, grant[0]):
		return s.personGrant(r, f, grant[0], base, v)
	}
	return nil, &refusal{status: http.StatusBadRequest, code: "unsupported_grant_type", number: 70003,
		text: "The app requested an unsupported grant type '" + cut(grant[0]) + "'. This server grants " + strings.Join(s.grants(), ", ") + "."}
}

// grants are the grant types that discovery names.
func (s *Service) grants() []string {
	if s.cfg.People == nil {
		return []string{grantClientCredentials}
	}
	all := []string{grantClientCredentials, grantCode, grantRefresh, grantDevice}
	if s.cfg.PasswordGrant != nil && s.cfg.PasswordGrant() {
		all = append(all, grantPassword)
	}
	return all
}

// appGrant answers a request of an application for itself.
func (s *Service) appGrant(r *http.Request, f form, base string, v version) (any, *refusal) {
	p, ref := s.authenticate(r, f, base)
	if ref != nil {
		return nil, ref
	}
	if p.how == byNothing {
		return nil, denied(http.StatusUnauthorized, "invalid_client", 7000218, p.app,
			"The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
	}
	aud, ref := s.audience(f, v)
	if ref != nil {
		ref.client, ref.name = p.app.ID, p.app.Name
		return nil, ref
	}
	return s.mint(p, aud, base, v)
}

// audience finds the API that the token is asked for: resource in v1, scope in
// v2; where a client mixes them up, the other is taken.
func (s *Service) audience(f form, v version) (string, *refusal) {
	asked, ref := f.get("resource", "scope")
	if ref != nil {
		return "", ref
	}
	resource, scope := strings.TrimSpace(asked[0]), strings.TrimSpace(asked[1])
	switch {
	case resource == "" && scope == "" && v == v1:
		return "", missing("resource")
	case resource == "" && scope == "":
		return "", missing("scope")
	case scope != "" && (v == v2 || resource == ""):
		if resource, ref = ofScope(scope); ref != nil {
			return "", ref
		}
	}
	aud, ok := s.cfg.Realm.Audience(resource)
	if !ok {
		return "", s.noResource(resource)
	}
	return aud, nil
}

// ofScope returns the one resource that a v2 scope asks for. The scopes of
// OpenID Connect beside it mean nothing to an application and are passed over.
func ofScope(scope string) (string, *refusal) {
	resource := ""
	for word := range strings.FieldsSeq(scope) {
		switch word {
		case "openid", "offline_access", "profile", "email":
			continue
		}
		name, ok := strings.CutSuffix(word, "/.default")
		if !ok || name == "" {
			return "", &refusal{status: http.StatusBadRequest, code: "invalid_scope", number: 1002012,
				text: "The provided value for scope " + cut(word) + " is not valid. Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI)."}
		}
		if resource != "" && !strings.EqualFold(resource, name) {
			return "", &refusal{status: http.StatusBadRequest, code: "invalid_scope", number: 28000,
				text: "Provided value for the input parameter scope is not valid because it contains more than one resource."}
		}
		resource = name
	}
	if resource == "" {
		return "", &refusal{status: http.StatusBadRequest, code: "invalid_scope", number: 70011,
			text: "The provided value for the input parameter 'scope' is not valid: it names no resource, as in " + auth.DefaultAudiences()[0] + "/.default."}
	}
	return resource, nil
}
