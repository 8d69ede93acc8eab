// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"staunch/api"
	"staunch/internal/server/auth"
)

// Outside names a person or a group of an issuer outside this server. The zero
// Outside names none.
type Outside struct {
	Issuer string // as the operator named it; "" where there is but one: that
	Name   string // of a person their oid, else sub; of a group what the claim groups has
}

// outside checks what a user or a group is to be tied to.
func (s *Service) outside(what string, of Outside) (issuer, name string, err error) {
	switch known := s.cfg.Issuers; {
	case of == Outside{}:
		return "", "", nil
	case of.Name == "":
		return "", "", api.Errorf(api.MissingRequiredParameter, "It is not said which %s of the issuer is meant", what)
	case strings.TrimSpace(of.Name) != of.Name || len(of.Name) > 200:
		return "", "", api.Errorf(api.InvalidInput, "The %s of the issuer has blanks around its name, or more than 200 bytes", what)
	case of.Issuer == "" && len(known) == 1:
		of.Issuer = known[0]
	case !slices.Contains(known, of.Issuer):
		return "", "", api.Errorf(api.InvalidInput, "%q is not an issuer that this server trusts: start it with --oidc-issuer; it trusts %s", clip(of.Issuer), listed(known))
	}
	if auth.IsGUID(of.Name) {
		of.Name = strings.ToLower(of.Name)
	}
	return of.Issuer, of.Name, nil
}

func listed(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Visitor is what auth.Verifier asks of a person whom an issuer outside signed
// in. Someone who is tied to a user here is that user, whatever the issuer calls
// them; anybody else is called as the issuer calls them, may do what the groups
// may that it puts them into, and must not have the name of a user here.
func (s *Service) Visitor(ctx context.Context, w auth.Visitor) (auth.Person, error) {
	u, err := s.cfg.Store.UserOf(ctx, w.Issuer, w.Subject)
	if err == nil {
		return s.person(ctx, u, w.Groups)
	}
	if api.CodeOf(err) != api.ResourceNotFound {
		return auth.Person{}, err
	}
	upn := visitorUPN(w)
	switch _, err := s.cfg.Store.User(ctx, upn); {
	case err == nil:
		s.cfg.Log.Warn("visitor_has_name_of_user", "user", upn, "issuer", w.Issuer, "subject", w.Subject)
		return auth.Person{}, api.Errorf(api.ResourceNotFound, "User %s is not tied to the issuer", upn)
	case api.CodeOf(err) != api.ResourceNotFound:
		return auth.Person{}, err
	}
	p, err := s.person(ctx, User{UPN: upn, Issuer: w.Issuer}, w.Groups)
	// The record knows them by what never changes; a blank is in no UPN and in no
	// application's id, so that they cannot be taken for either.
	p.ID = w.Subject + " " + w.Issuer
	return p, err
}

// visitorUPN is what a visitor is called here: always of the form of a UPN, so
// that nobody is called as the administrator or an application is.
func visitorUPN(w auth.Visitor) string {
	if upn, err := ParseUPN(w.UPN); err == nil {
		return upn
	}
	host := "issuer"
	if u, err := url.Parse(w.Issuer); err == nil && u.Hostname() != "" {
		host = u.Hostname()
	}
	for _, name := range []string{w.UPN, w.Subject, auth.NameGUID("visitor", w.Issuer, w.Subject)} {
		if upn, err := ParseUPN(name + "@" + host); err == nil {
			return upn
		}
	}
	return auth.NameGUID("visitor", w.Issuer, w.Subject) + "@issuer" // an issuer at an address
}
