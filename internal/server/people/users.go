// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// upnForm is user@domain without blanks and without what would look like
// something else in a path, a list or a log line.
var upnForm = regexp.MustCompile(`^[^\s@/\\?#%&<>"'(),;:\x00-\x1f\x7f]{1,64}@[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)

// ParseUPN reads a user principal name, in any case.
func ParseUPN(s string) (string, error) {
	upn := strings.ToLower(strings.TrimSpace(s))
	if upn == "" {
		return "", api.Errorf(api.MissingRequiredParameter, "The user has no name")
	}
	if len(upn) > 254 || !utf8.ValidString(upn) || strings.ContainsFunc(upn, func(r rune) bool { return !unicode.IsPrint(r) }) || !upnForm.MatchString(upn) {
		return "", api.Errorf(api.InvalidInput, "%q is not a user name of the form user@domain", clip(s))
	}
	return upn, nil
}

// Users lists the people, without what they prove themselves by.
func (s *Service) Users(ctx context.Context) ([]User, error) { return s.cfg.Store.Users(ctx) }

// User returns one by id or UPN.
func (s *Service) User(ctx context.Context, id string) (User, error) {
	return s.cfg.Store.User(ctx, id)
}

// CreateUser makes a user who signs in by password, or whom an issuer outside
// signs in.
func (s *Service) CreateUser(ctx context.Context, c auth.Caller, name, display, password string, of Outside) (User, error) {
	var u User
	err := s.decide(ctx, c, audit.CreateUser, name, func(e audit.Entry) error {
		upn, err := ParseUPN(name)
		if err != nil {
			return err
		}
		if display = strings.TrimSpace(display); display != "" {
			if err := checkName("user", display); err != nil {
				return err
			}
		}
		now := s.cfg.Now()
		u = User{ID: auth.NewGUID(), UPN: upn, Name: display, Created: now, Since: now, Groups: []string{}}
		if u.Issuer, u.Subject, err = s.outside("user", of); err != nil {
			return err
		}
		detail := map[string]any{"id": u.ID}
		switch {
		case u.Issuer != "" && password != "":
			return api.Errorf(api.InvalidInput, "A user whom an issuer outside signs in has no password here")
		case u.Issuer != "":
			detail["issuer"], detail["subject"] = u.Issuer, u.Subject
		default:
			if err := checkPassword(upn, password); err != nil {
				return err
			}
			if err := s.hash(ctx, func() { u.Password = digest(password) }); err != nil {
				return err
			}
		}
		e.Target = upn
		e.Detail = mustJSON(detail)
		return s.cfg.Store.CreateUser(ctx, u, e)
	})
	return u, err
}

// A UserChange is what to change of a user; what is nil stays.
type UserChange struct {
	Password *string
	Name     *string
	Disabled *bool
	TOTP     *bool // true: a new second factor in place of any; false: none
}

// ChangeUser changes a user. It returns the URI of a new second factor, for
// their authenticator app, which is shown nowhere else.
func (s *Service) ChangeUser(ctx context.Context, c auth.Caller, id string, ch UserChange) (u User, uri string, err error) {
	err = s.decide(ctx, c, audit.ChangeUser, id, func(e audit.Entry) error {
		var sum string
		if ch.Password != nil {
			known, err := s.cfg.Store.User(ctx, id)
			if err != nil {
				return err
			}
			if err := checkPassword(known.UPN, *ch.Password); err != nil {
				return err
			}
			if err := s.hash(ctx, func() { sum = digest(*ch.Password) }); err != nil {
				return err
			}
		}
		if ch.Name != nil && *ch.Name != "" {
			if err := checkName("user", *ch.Name); err != nil {
				return err
			}
		}
		u, err = s.cfg.Store.ChangeUser(ctx, id, func(u *User) (*audit.Entry, error) {
			uri = ""
			if u.Issuer != "" && (ch.Password != nil || ch.TOTP != nil) {
				return nil, api.Errorf(api.InvalidInput, "User %s is signed in by %s and has neither password nor second factor here", u.UPN, u.Issuer)
			}
			e.Target = u.UPN
			e.Detail = mustJSON(s.apply(ch, u, sum, &uri))
			return &e, nil
		})
		return err
	})
	return u, uri, err
}

// apply changes u and returns what the audit line is to say of it.
func (s *Service) apply(ch UserChange, u *User, sum string, uri *string) map[string]any {
	detail, now := map[string]any{}, s.cfg.Now()
	if ch.Password != nil {
		u.Password, u.Since = sum, now
		detail["password"] = "changed"
	}
	if ch.Name != nil {
		u.Name = *ch.Name
		detail["name"] = u.Name
	}
	if ch.Disabled != nil {
		u.Disabled = *ch.Disabled
		detail["disabled"] = u.Disabled
	}
	if ch.TOTP != nil {
		u.TOTP, u.Step, u.Since = nil, 0, now
		if *ch.TOTP {
			secret := newTOTP()
			u.TOTP = s.cfg.Sealer.Seal(secret, u.ID)
			*uri = totpURI(u.UPN, secret)
		}
		detail["secondFactor"] = *ch.TOTP
	}
	return detail
}

// DeleteUser takes a user away; their tokens end within seconds.
func (s *Service) DeleteUser(ctx context.Context, c auth.Caller, id string) error {
	return s.decide(ctx, c, audit.DeleteUser, id, func(e audit.Entry) error { return s.cfg.Store.DeleteUser(ctx, id, e) })
}

// hash runs fn, which computes a password digest, when there is room for one more.
func (s *Service) hash(ctx context.Context, fn func()) error {
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
		fn()
		return nil
	case <-ctx.Done():
		return api.Errorf(api.ServiceUnavailable, "Too many people are signing in at the moment: try again")
	}
}
