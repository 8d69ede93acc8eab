// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Config of a Service.
type Config struct {
	Store Store // required

	// URL and CA are what enrollment tokens tell a new device: where the server
	// is, and the hex SHA-256 of the DER of the certificate authority to trust.
	// URL is required to make tokens; an empty CA means the system's own.
	URL string
	CA  string

	// Revoked is told of every revocation after it was kept, so that the link
	// can be cut. It must not block. nil: nobody listens.
	Revoked func(id string)

	// Regrouped is told that a device is in another device group now; with "",
	// that any may be. It must not block. nil: nobody listens.
	Regrouped func(id string)

	Log *slog.Logger     // nil: nothing is logged
	Now func() time.Time // nil: time.Now
}

// Service is what the server does with devices. It is safe for concurrent use.
type Service struct {
	cfg      Config
	refusals audit.Refusals
}

// New checks the configuration.
func New(cfg Config) (*Service, error) {
	if cfg.Store == nil {
		return nil, errors.New("cannot make the device service: Store is not set")
	}
	if ca, err := hex.DecodeString(cfg.CA); cfg.CA != "" && (err != nil || len(ca) != 32) {
		return nil, errors.New("cannot make the device service: CA is not 64 hex digits")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Regrouped == nil {
		cfg.Regrouped = func(string) {}
	}
	return &Service{cfg: cfg, refusals: audit.Refusals{Now: cfg.Now}}, nil
}

// errUnchanged leaves a device as it is, from inside ChangeDevice.
var errUnchanged = errors.New("nothing to change")

// notFound is the Defender API's text, also for devices that a caller must not
// learn of.
func notFound(nameOrID string) error {
	return api.Errorf(api.ResourceNotFound, "Machine %s was not found", nameOrID)
}

// refused records a refusal, within the bound for them, and returns it.
func (s *Service) refused(ctx context.Context, c auth.Caller, op audit.Operation, target string, detail map[string]any, err error) error {
	skipped, ok := s.refusals.Take()
	if !ok {
		return err
	}
	if skipped > 0 {
		if detail == nil {
			detail = map[string]any{}
		}
		detail["notRecordedBefore"] = skipped
	}
	e := audit.By(c, op, target, "refused: "+string(api.CodeOf(err)))
	if detail != nil {
		e.Detail = mustJSON(detail)
	}
	// A client that hangs up must not keep its refusal out of the log.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if rerr := s.cfg.Store.Record(ctx, e); rerr != nil {
		return fmt.Errorf("cannot record the refusal of %s: %w", op, rerr)
	}
	return err
}

// mustJSON encodes what always encodes: strings, numbers and lists of them.
func mustJSON(v any) json.RawMessage {
	b, _ := json.Marshal(v)
	return b
}
