// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"staunch/api"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
	"staunch/internal/server/limit"
	"staunch/internal/server/oidc"
	"staunch/internal/server/people"
)

// openIssuers makes what knows the issuers outside. None of them is asked yet.
func (s *Server) openIssuers(realm auth.Realm) (err error) {
	for _, iss := range s.cfg.Issuers {
		if realm.Issued(iss) {
			return fmt.Errorf("cannot use --oidc-issuer %s: that is this server itself, whose tokens are accepted anyway", iss)
		}
	}
	if len(s.cfg.Issuers) == 0 && len(s.cfg.IssuerAudiences) > 0 {
		return fmt.Errorf("cannot use --oidc-audience: it is about tokens of issuers outside, and no --oidc-issuer is given")
	}
	if s.issuers, err = oidc.New(oidc.Config{URLs: s.cfg.Issuers, Log: s.cfg.Log}); err != nil {
		return err
	}
	s.onStop("issuers", func() error { s.issuers.Close(); return nil })
	return nil
}

func (s *Server) openPeople(ctx context.Context) error {
	seal, err := s.keys.Seal()
	if err != nil {
		return err
	}
	if s.people, err = people.New(people.Config{Store: s.store, Sealer: seal, Log: s.cfg.Log, Issuers: s.issuers.Names()}); err != nil {
		return err
	}
	return s.people.SealAll(ctx)
}

// limiter counts calls: in this process, or where all replicas can.
func (s *Server) limiter() limit.Limiter {
	if counts := s.store.Counts(); counts != nil {
		return limit.NewShared(counts, s.cfg.Log)
	}
	return nil
}

// reach is what the caller's orders may reach: as the settings say, and of an
// app as is said of itself.
func (s *Server) reach(ctx context.Context, c auth.Caller) (action.Reach, error) {
	r := action.Reach{OrdersPerHour: s.settings.number("limits.ordersPerHour"), DevicesPerDay: s.settings.number("limits.devicesPerDay")}
	if c.Kind != auth.App {
		return r, nil
	}
	a, err := s.store.App(ctx, c.ID)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound: // of an issuer outside
		return r, nil
	case err != nil:
		return r, err
	}
	if n := a.Reach.OrdersPerHour; n != nil {
		r.OrdersPerHour = *n
	}
	if n := a.Reach.DevicesPerDay; n != nil {
		r.DevicesPerDay = *n
	}
	return r, nil
}

// verifying is what bearer tokens are checked against.
func (s *Server) verifying(realm auth.Realm) auth.Config {
	c := auth.Config{Realm: realm, Keys: s.issuer.Keys, AppEnabled: s.issuer.Enabled, Person: s.people.Person, Log: s.cfg.Log}
	if len(s.cfg.Issuers) == 0 {
		return c
	}
	c.Foreign, c.Visitor, c.AppDisabled = s.issuers.Find, s.people.Visitor, s.issuer.Disabled
	if own := s.cfg.IssuerAudiences; len(own) > 0 {
		c.ForeignAudience = func(name string) bool {
			return slices.ContainsFunc(own, func(a string) bool { return strings.EqualFold(strings.TrimRight(a, "/"), strings.TrimRight(name, "/")) })
		}
	}
	return c
}
