// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Credentials are what a person shows to sign in.
type Credentials struct {
	Name     string // UPN
	Password string
	Code     string // of the second factor; "" where there is none
	Address  string // the IP address it comes from
	AppID    string // the application they sign in to
}

// The ways in which a sign-in fails that callers must tell apart. What an
// unknown name, a wrong password and a disabled account are told is the same.
var (
	ErrCodeNeeded = errors.New("a code of the second factor is needed")
	errWrong      = api.Errorf(api.Unauthorized, "The user name or password is wrong")
)

// SignIn returns the user that the credentials are of. Refusals are api.Errors:
// Unauthorized, or TooManyRequests with how long to wait. Both ways are on record.
func (s *Service) SignIn(ctx context.Context, cr Credentials) (User, error) {
	u, err := s.signIn(ctx, cr)
	who := auth.Caller{Kind: auth.User, ID: u.UPN, Name: u.UPN, AppID: cr.AppID}
	if u.UPN == "" {
		who.ID, who.Name = clip(cr.Name), clip(cr.Name)
	}
	detail := map[string]any{"ip": cr.Address, "app": cr.AppID}
	switch {
	case errors.Is(err, ErrCodeNeeded): // half way: the next try decides
	case err != nil && api.CodeOf(err) != api.InternalServerError:
		s.record(ctx, audit.By(who, audit.SignIn, cr.AppID, "refused: "+string(api.CodeOf(err))), detail)
	case err == nil:
		e := audit.By(who, audit.SignIn, cr.AppID, "accepted")
		e.Detail = mustJSON(detail)
		if rerr := s.cfg.Store.Record(ctx, e); rerr != nil { // what cannot be recorded does not happen
			return User{}, fmt.Errorf("cannot record a sign-in: %w", rerr)
		}
	}
	if err != nil {
		return User{}, err
	}
	return u, nil
}

func (s *Service) signIn(ctx context.Context, cr Credentials) (User, error) {
	upn, err := ParseUPN(cr.Name)
	if err != nil {
		return User{}, errWrong
	}
	wait, err := s.beginTry(ctx, upn, cr.Address)
	if err != nil {
		return User{}, err
	}
	if wait > 0 {
		seconds := int(math.Ceil(wait.Seconds()))
		e := api.Errorf(api.TooManyRequests, "There were too many wrong tries from this address: try again in %s", (time.Duration(seconds) * time.Second).String())
		e.RetryAfter = seconds
		return User{}, e
	}
	u, err := s.cfg.Store.User(ctx, upn)
	if err != nil && api.CodeOf(err) != api.ResourceNotFound {
		return User{}, fmt.Errorf("cannot look up user: %w", err)
	}
	kept := u.Password
	if kept == "" {
		kept = s.decoy // as much work, so that the time does not tell who there is
	}
	var ok, old bool
	var damaged error
	if err := s.hash(ctx, func() { ok, old, damaged = matches(kept, cr.Password) }); err != nil {
		return User{}, err
	}
	if damaged != nil {
		s.cfg.Log.Error("password_digest_damaged", "user", u.UPN, "error", damaged)
	}
	if !ok || len(cr.Password) > maxPassword || u.Password == "" || u.Disabled {
		return User{}, errWrong
	}
	if len(u.TOTP) > 0 && cr.Code == "" {
		return User{}, ErrCodeNeeded // counted: or guessing codes would cost nothing
	}
	if u, err = s.spend(ctx, u, cr, old); err != nil {
		return User{}, err
	}
	return u, s.rightTry(ctx, upn, cr.Address)
}

// spend marks the code of the second factor as used, and makes a digest of older
// strength anew.
func (s *Service) spend(ctx context.Context, u User, cr Credentials, old bool) (User, error) {
	if len(u.TOTP) == 0 && !old {
		return u, nil
	}
	sum := ""
	if old {
		if err := s.hash(ctx, func() { sum = digest(cr.Password) }); err != nil {
			return User{}, err
		}
	}
	was := u.Password
	return s.cfg.Store.ChangeUser(ctx, u.ID, func(u *User) (*audit.Entry, error) {
		if u.Disabled || u.Password != was {
			return nil, errWrong
		}
		if len(u.TOTP) > 0 {
			secret, err := s.cfg.Sealer.Open(u.TOTP, u.ID)
			if err != nil {
				return nil, fmt.Errorf("cannot open the second factor of %s: %w; was keys/seal.key replaced? give them a new one with staunch admin user second-factor %s", u.UPN, err, u.UPN)
			}
			step, ok := totpAt(secret, cr.Code, u.Step, s.cfg.Now())
			if !ok {
				return nil, api.Errorf(api.Unauthorized, "The code of the second factor is wrong or was used before")
			}
			u.Step = step
		}
		if sum != "" {
			u.Password = sum
		}
		return nil, nil
	})
}
