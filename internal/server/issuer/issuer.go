// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Config of a Service.
type Config struct {
	Store    Store                // required
	Realm    auth.Realm           // required: the same as the verifier's
	KeysDir  string               // required: the folder of the signing keys
	Lifetime func() time.Duration // of access tokens; nil: one hour
	Log      *slog.Logger         // nil: nothing is logged
	Now      func() time.Time     // nil: time.Now

	People        People      // nil: nobody signs in, applications alone get tokens
	PasswordGrant func() bool // whether people's passwords may be sent by applications; nil: no
}

// Service issues tokens and keeps the register of applications.
type Service struct {
	cfg      Config
	keys     atomic.Pointer[Keys]
	reading  sync.Mutex // held by who reads the keys again
	page     *template.Template
	refusals audit.Refusals
}

const (
	defaultLifetime = time.Hour
	// secretLifetime is how long a client secret is good, as where Entra's portal stops.
	secretLifetime = 2 * 365 * 24 * time.Hour
)

// New opens the signing keys, making the first at the first start.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil {
		return nil, errors.New("cannot start the token service: Store is not set")
	}
	if err := cfg.Realm.Check(); err != nil {
		return nil, fmt.Errorf("cannot start the token service: %w", err)
	}
	if cfg.Lifetime == nil {
		cfg.Lifetime = func() time.Duration { return defaultLifetime }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	keys, err := OpenKeys(cfg.KeysDir, cfg.Now())
	if err != nil {
		return nil, fmt.Errorf("cannot start the token service: %w", err)
	}
	s := &Service{cfg: cfg, refusals: audit.Refusals{Now: cfg.Now}, page: parsePage()}
	s.keys.Store(keys)
	return s, nil
}

// Keys returns the public keys that verify this service's tokens.
func (s *Service) Keys() jose.JSONWebKeySet { return s.current().Public() }

// Enabled reports whether the application is registered and not disabled: what
// a verifier asks of it.
func (s *Service) Enabled(ctx context.Context, id string) (bool, error) {
	a, err := s.find(ctx, id)
	switch {
	case api.CodeOf(err) == api.ResourceNotFound:
		return false, nil
	case err != nil:
		return false, err
	}
	return !a.Disabled, nil
}

// Disabled reports whether an application of an issuer outside is shut out here:
// it is registered by that issuer, so that it need not be here, but may be.
func (s *Service) Disabled(ctx context.Context, id string) (bool, error) {
	a, err := s.cfg.Store.App(ctx, id)
	if api.CodeOf(err) == api.ResourceNotFound {
		return false, nil
	}
	return a.Disabled, err
}

// find returns an application by id: one that is registered, or the command line,
// which people sign in through without that.
func (s *Service) find(ctx context.Context, id string) (App, error) {
	if id == api.CommandLineApp && s.cfg.People != nil {
		return App{ID: id, Name: "Staunch command line", Public: true, Delegated: auth.Permissions()}, nil
	}
	return s.cfg.Store.App(ctx, id)
}
