// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"staunch/api"
	"staunch/internal/server/auth"
)

// endpoint is one row of the token service's routes.
type endpoint struct {
	path  string // after /{tenant}, in lower case: paths match without regard to case
	post  bool   // POST too; GET always
	serve func(s *Service, w http.ResponseWriter, r *http.Request, base string)
}

func endpoints() []endpoint {
	return []endpoint{
		{"/oauth2/token", true, func(s *Service, w http.ResponseWriter, r *http.Request, base string) { s.token(w, r, base, v1) }},
		{"/oauth2/v2.0/token", true, func(s *Service, w http.ResponseWriter, r *http.Request, base string) { s.token(w, r, base, v2) }},
		{"/.well-known/openid-configuration", false, func(s *Service, w http.ResponseWriter, _ *http.Request, base string) { s.discovery(w, base, v1) }},
		{"/v2.0/.well-known/openid-configuration", false, func(s *Service, w http.ResponseWriter, _ *http.Request, base string) { s.discovery(w, base, v2) }},
		{"/discovery/keys", false, (*Service).jwks},
		{"/discovery/v2.0/keys", false, (*Service).jwks},
		{"/discovery/instance", false, (*Service).instance},
		{"/oauth2/authorize", true, forPeople(func(s *Service, w http.ResponseWriter, r *http.Request, base string) { s.authorize(w, r, base, v1) })},
		{"/oauth2/v2.0/authorize", true, forPeople(func(s *Service, w http.ResponseWriter, r *http.Request, base string) { s.authorize(w, r, base, v2) })},
		{"/oauth2/devicecode", true, forPeople(func(s *Service, w http.ResponseWriter, r *http.Request, base string) { s.deviceCode(w, r, base, v1) })},
		{"/oauth2/v2.0/devicecode", true, forPeople(func(s *Service, w http.ResponseWriter, r *http.Request, base string) { s.deviceCode(w, r, base, v2) })},
		{"/oauth2/deviceauth", true, forPeople((*Service).deviceAuth)},
	}
}

// Handler serves the token service. What is none of its paths gets the API's
// error for an unknown resource, so that it can stand behind all other routes.
func (s *Service) Handler() http.Handler {
	routes := map[string]endpoint{}
	for _, e := range endpoints() {
		routes[e.path] = e
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tenant, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		e, ok := routes["/"+strings.ToLower(strings.TrimSuffix(rest, "/"))]
		if !ok {
			writeJSON(w, http.StatusNotFound, api.ErrorBody{Error: &api.Error{
				Code: api.NotFound, Message: "There is nothing at this path", Target: auth.NewGUID(),
			}})
			return
		}
		if id := correlationID(r); r.Header.Get("client-request-id") == id {
			w.Header().Set("client-request-id", id)
		}
		switch {
		case r.Method == http.MethodGet, r.Method == http.MethodHead, r.Method == http.MethodPost && e.post:
		default:
			w.Header().Set("Allow", allowed(e))
			s.refuse(w, r, &refusal{status: http.StatusMethodNotAllowed, code: "invalid_request", number: 900561,
				text: "The endpoint only accepts " + strings.ReplaceAll(allowed(e), ", ", " and ") + " requests. Received a " + cut(r.Method) + " request."})
			return
		}
		if ref := s.checkTenant(tenant); ref != nil {
			s.refuse(w, r, ref)
			return
		}
		e.serve(s, w, r, s.cfg.Realm.Base(r.TLS != nil, r.Host))
	})
}

func allowed(e endpoint) string {
	if e.post {
		return "GET, POST"
	}
	return "GET"
}

var domainForm = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)+$`)

// checkTenant accepts our tenant by id, by any domain name (there is one tenant
// here, and what domains it has is not ours to know), and by the words for "the
// caller's own".
func (s *Service) checkTenant(t string) *refusal {
	t = strings.ToLower(t)
	switch {
	case t == s.cfg.Realm.Tenant, t == "common", t == "organizations":
		return nil
	case auth.IsGUID(t):
		return invalidRequest(90002, "Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud: this server's tenant is another.", t)
	case len(t) <= 253 && domainForm.MatchString(t):
		return nil
	}
	return invalidRequest(900023, "Specified tenant identifier '%s' is neither a valid DNS name, nor a valid external domain.", cut(t))
}

// discovery is OpenID Connect Discovery 1.0, with Entra's paths.
func (s *Service) discovery(w http.ResponseWriter, base string, v version) {
	at := base + "/" + s.cfg.Realm.Tenant
	oauth, keys, issuer := at+"/oauth2", at+"/discovery/keys", s.cfg.Realm.IssuerV1(base)
	if v == v2 {
		oauth, keys, issuer = at+"/oauth2/v2.0", at+"/discovery/v2.0/keys", s.cfg.Realm.IssuerV2(base)
	}
	w.Header().Set("Cache-Control", "public, max-age=600")
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer":                                issuer,
		"authorization_endpoint":                oauth + "/authorize",
		"token_endpoint":                        oauth + "/token",
		"device_authorization_endpoint":         oauth + "/devicecode",
		"jwks_uri":                              keys,
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic", "private_key_jwt"},
		"token_endpoint_auth_signing_alg_values_supported": []string{"RS256", "PS256"},
		"code_challenge_methods_supported":                 []string{"S256"},
		"authorization_response_iss_parameter_supported":   true,
		"request_uri_parameter_supported":                  false,
		"grant_types_supported":                            s.grants(),
		"response_types_supported":                         []string{"code"},
		"response_modes_supported":                         []string{"query", "form_post"},
		"scopes_supported":                                 []string{"openid", "profile", "email", "offline_access"},
		"subject_types_supported":                          []string{"pairwise"},
		"id_token_signing_alg_values_supported":            []string{"RS256"},
		"claims_supported":                                 []string{"aud", "iss", "iat", "nbf", "exp", "sub", "oid", "tid", "ver", "roles", "scp", "upn", "preferred_username", "name", "nonce", "auth_time", "amr"},
	})
}

func (s *Service) jwks(w http.ResponseWriter, _ *http.Request, _ string) {
	w.Header().Set("Cache-Control", "public, max-age=600")
	writeJSON(w, http.StatusOK, s.Keys())
}

// instance is Entra's instance discovery: SDKs ask it where the tenant of an
// authority that they do not know is described.
func (s *Service) instance(w http.ResponseWriter, r *http.Request, base string) {
	asked := r.URL.Query().Get("authorization_endpoint")
	if asked == "" {
		s.refuse(w, r, invalidRequest(900144, "The request must contain the following query parameter: 'authorization_endpoint'."))
		return
	}
	u, err := url.Parse(asked)
	if err != nil || u.Host == "" {
		s.refuse(w, r, invalidRequest(900144, "The query parameter 'authorization_endpoint' is not a URL: '%s'.", cut(asked)))
		return
	}
	tenant, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if ref := s.checkTenant(tenant); ref != nil {
		ref.code, ref.number = "invalid_instance", 50049
		s.refuse(w, r, ref)
		return
	}
	config := base + "/" + strings.ToLower(tenant)
	if strings.Contains(rest, "v2.0") {
		config += "/v2.0"
	}
	_, host, _ := strings.Cut(base, "://")
	version := "1.0"
	if r.URL.Query().Get("api-version") == "1.1" {
		version = "1.1"
	}
	writeJSON(w, http.StatusOK, map[string]any{
		"tenant_discovery_endpoint": config + "/.well-known/openid-configuration",
		"api-version":               version,
		"metadata": []map[string]any{
			{"preferred_network": host, "preferred_cache": host, "aliases": []string{host}},
		},
	})
}

// forPeople is an endpoint for those who sign in, where there are any: the discovery
// documents name it in any case.
func forPeople(serve func(s *Service, w http.ResponseWriter, r *http.Request, base string)) func(*Service, http.ResponseWriter, *http.Request, string) {
	return func(s *Service, w http.ResponseWriter, r *http.Request, base string) {
		if s.cfg.People != nil {
			serve(s, w, r, base)
			return
		}
		s.refuse(w, r, &refusal{status: http.StatusBadRequest, code: "unsupported_grant_type", number: 70003,
			text: "This server does not sign in people: use grant_type=client_credentials with the id and secret of an app."})
	}
}
