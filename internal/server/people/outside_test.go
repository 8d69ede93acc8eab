// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"slices"
	"strings"
	"testing"

	"staunch/api"
	"staunch/internal/server/auth"
)

const idp = "https://idp.example/corp"

// UserOf is the real store's, on the shelf.
func (s *shelf) UserOf(_ context.Context, issuer, subject string) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.users {
		if issuer != "" && u.Issuer == issuer && u.Subject == subject {
			return u, nil
		}
	}
	return User{}, api.Errorf(api.ResourceNotFound, "User %s was not found", subject)
}

// Access gives every external group a right of its own.
func (s *shelf) Access(_ context.Context, _, issuer string, external []string) ([]auth.UserGroup, []auth.DeviceGroup, error) {
	var groups []auth.UserGroup
	if issuer == idp && slices.Contains(external, "g1") {
		groups = append(groups, auth.UserGroup{ID: 1, Rights: []auth.Right{auth.ActiveRemediation}})
	}
	return groups, []auth.DeviceGroup{{ID: auth.Ungrouped, Open: true}}, nil
}

func TestVisitor(t *testing.T) {
	s, kept := newService(t)
	s.cfg.Issuers = []string{idp, "https://other.example"}
	if _, err := s.CreateUser(t.Context(), root, "eva@corp.example", "", "", Outside{Issuer: idp, Name: "s1"}); err != nil {
		t.Fatal(err)
	}
	off := true
	if _, err := s.CreateUser(t.Context(), root, "out@corp.example", "", "", Outside{Issuer: idp, Name: "s2"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.ChangeUser(t.Context(), root, "out@corp.example", UserChange{Disabled: &off}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		who  auth.Visitor
		want string // who they are; "": nobody
		acts bool
	}{
		"tied to a user":              {auth.Visitor{Issuer: idp, Subject: "s1", UPN: "whatever@corp.example", Groups: []string{"g1"}}, "eva@corp.example", true},
		"tied, in no group":           {auth.Visitor{Issuer: idp, Subject: "s1"}, "eva@corp.example", false},
		"tied and disabled":           {auth.Visitor{Issuer: idp, Subject: "s2", Groups: []string{"g1"}}, "", false},
		"same subject elsewhere":      {auth.Visitor{Issuer: "https://other.example", Subject: "s1", UPN: "x@y.example", Groups: []string{"g1"}}, "x@y.example", false},
		"by group":                    {auth.Visitor{Issuer: idp, Subject: "s3", UPN: "Max@corp.example", Groups: []string{"g0", "g1"}}, "max@corp.example", true},
		"in no group that is known":   {auth.Visitor{Issuer: idp, Subject: "s3", UPN: "max@corp.example", Groups: []string{"g0"}}, "max@corp.example", false},
		"called as a user here":       {auth.Visitor{Issuer: idp, Subject: "s4", UPN: ana, Groups: []string{"g1"}}, "", false},
		"called as a tied user":       {auth.Visitor{Issuer: idp, Subject: "s4", UPN: "eva@corp.example", Groups: []string{"g1"}}, "", false},
		"called as the administrator": {auth.Visitor{Issuer: idp, Subject: "s5", UPN: "admin"}, "admin@idp.example", false},
		"called as nobody can be":     {auth.Visitor{Issuer: idp, Subject: "s 6", UPN: "a b"}, auth.NameGUID("visitor", idp, "s 6") + "@idp.example", false},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := s.Visitor(t.Context(), c.who)
			if (err != nil) != (c.want == "") || p.UPN != c.want || p.Access.Holds(auth.ActiveRemediation) != c.acts {
				t.Errorf("Visitor: %+v, %v", p, err)
			}
			if err != nil && api.CodeOf(err) != api.ResourceNotFound {
				t.Errorf("refused with %v", err)
			}
			if tied := c.who.Subject == "s1" && c.who.Issuer == idp; err == nil && (p.ID == "") != tied {
				t.Errorf("on record as %q", p.ID)
			}
		})
	}
	t.Run("no token of ours is theirs", func(t *testing.T) {
		if _, err := s.Person(t.Context(), kept.users["eva@corp.example"].ID); api.CodeOf(err) != api.ResourceNotFound {
			t.Errorf("Person: %v", err)
		}
		if err := try(t, s, "eva@corp.example", "", "", "192.0.2.1"); api.CodeOf(err) != api.Unauthorized {
			t.Errorf("signed in without a password: %v", err)
		}
	})
	password := good
	for want, do := range map[string]func() error{
		"has no password here": func() error {
			_, err := s.CreateUser(t.Context(), root, "b@x", "", good, Outside{Issuer: idp, Name: "s9"})
			return err
		},
		"not an issuer that this server trusts": func() error {
			_, err := s.CreateUser(t.Context(), root, "b@x", "", "", Outside{Issuer: "https://x", Name: "s9"})
			return err
		},
		"it trusts " + idp: func() error {
			_, err := s.CreateGroup(t.Context(), root, "g", Outside{Name: "g1"})
			return err
		},
		"which group of the issuer": func() error {
			_, err := s.CreateGroup(t.Context(), root, "g", Outside{Issuer: idp})
			return err
		},
		"blanks around": func() error {
			_, err := s.CreateGroup(t.Context(), root, "g", Outside{Issuer: idp, Name: " g1"})
			return err
		},
		"neither password nor second factor": func() error {
			_, _, err := s.ChangeUser(t.Context(), root, "eva@corp.example", UserChange{Password: &password})
			return err
		},
	} {
		if err := do(); api.CodeOf(err) != api.InvalidInput && api.CodeOf(err) != api.MissingRequiredParameter || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	s.cfg.Issuers = s.cfg.Issuers[:1]
	if iss, _, err := s.outside("user", Outside{Name: "S7"}); iss != idp || err != nil {
		t.Errorf("the only issuer: %q, %v", iss, err)
	}
}
