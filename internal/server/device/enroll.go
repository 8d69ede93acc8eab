// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Bounds and defaults of enrollment tokens.
const (
	DefaultUses = 1
	DefaultTTL  = 24 * time.Hour

	maxUses = 1_000_000
	maxTTL  = 366 * 24 * time.Hour
)

// CreateToken makes an enrollment token for that many devices (0: one) and that
// long (0: a day), and returns the line to hand to them; it is kept nowhere.
// Each device that uses it gets the tags. Only an administrator may.
func (s *Service) CreateToken(ctx context.Context, c auth.Caller, uses int, ttl time.Duration, tags []string) (string, Token, error) {
	line, t, err := s.newToken(c, uses, ttl, tags)
	if err != nil {
		return "", Token{}, s.refused(ctx, c, audit.CreateEnrollmentToken, "", nil, err)
	}
	e := audit.By(c, audit.CreateEnrollmentToken, t.ID, "accepted")
	e.Detail = mustJSON(map[string]any{"uses": t.Uses, "expires": t.Expires, "tags": t.Tags})
	if err := s.cfg.Store.CreateToken(ctx, t, e); err != nil {
		return "", Token{}, fmt.Errorf("cannot create enrollment token: %w", err)
	}
	return line, t, nil
}

func (s *Service) newToken(c auth.Caller, uses int, ttl time.Duration, tags []string) (string, Token, error) {
	if uses == 0 {
		uses = DefaultUses
	}
	if ttl == 0 {
		ttl = DefaultTTL
	}
	switch {
	case c.Kind != auth.Admin && c.Kind != auth.System:
		return "", Token{}, api.Errorf(api.Forbidden, "Only an administrator of this server may create enrollment tokens")
	case uses < 0 || uses > maxUses:
		return "", Token{}, api.Errorf(api.InvalidInput, "An enrollment token is good for 1 to %d devices, not for %d", maxUses, uses)
	case ttl < 0 || ttl > maxTTL:
		return "", Token{}, api.Errorf(api.InvalidInput, "An enrollment token is good for at most %d days, not for %s", maxTTL/(24*time.Hour), ttl)
	}
	clean, err := checkTags(tags)
	if err != nil {
		return "", Token{}, err
	}
	var secret [32]byte
	rand.Read(secret[:])
	line := order.EnrollToken{URL: s.cfg.URL, CA: s.cfg.CA, Secret: base64.RawURLEncoding.EncodeToString(secret[:])}.String()
	if _, err := order.ParseEnrollToken(line); err != nil { // a URL that no agent would accept
		return "", Token{}, fmt.Errorf("cannot create enrollment token: %w", err)
	}
	return line, Token{
		ID: auth.NewGUID(), Secret: sha256.Sum256(secret[:]), Uses: uses, Expires: s.cfg.Now().Add(ttl), Tags: clean,
	}, nil
}

// Enroll makes a device of a machine that shows an enrollment token's secret.
func (s *Service) Enroll(ctx context.Context, r api.EnrollRequest, address string) (Device, error) {
	d, digest, err := s.newDevice(r, address)
	if err != nil {
		return Device{}, err // malformed: not an attempt to record
	}
	c := auth.Caller{Kind: auth.Device, ID: d.ID, Name: d.Name}
	e := audit.By(c, audit.EnrollDevice, d.ID, "accepted")
	e.Detail = mustJSON(map[string]any{
		"name": d.Name, "ip": address, "platform": d.Facts.OSPlatform, "agentVersion": d.Facts.AgentVersion, "key": order.KeyID(d.Key),
	})
	var refusal *api.Error
	switch err := s.cfg.Store.Enroll(ctx, digest, &d, e); {
	case errors.As(err, &refusal):
		s.cfg.Log.Warn("enrollment_refused", "remote", address, "name", d.Name, "error", err)
		c.ID = "" // it never became a device
		return Device{}, s.refused(ctx, c, audit.EnrollDevice, "", map[string]any{"name": d.Name, "ip": address}, refusal)
	case err != nil:
		return Device{}, fmt.Errorf("cannot enroll device: %w", err)
	}
	s.cfg.Log.Info("device_enrolled", "device", d.ID, "name", d.Name, "remote", address)
	return d, nil
}

// newDevice reads an enrollment request, and returns the device it asks for and
// the digest of the secret it shows.
func (s *Service) newDevice(r api.EnrollRequest, address string) (Device, [32]byte, error) {
	secret, err := order.EnrollToken{Secret: r.Secret}.SecretBytes()
	if err != nil {
		return Device{}, [32]byte{}, api.Errorf(api.InvalidInput, "The enrollment secret is malformed: enroll again with the whole token that the server printed")
	}
	key, err := order.ParseKey(r.PublicKey)
	if err != nil {
		return Device{}, [32]byte{}, api.Errorf(api.InvalidInput, "publicKey is not base64 of the 32 bytes of an Ed25519 key")
	}
	facts, err := decodeFacts(r.Facts)
	if err != nil {
		return Device{}, [32]byte{}, err
	}
	var id [20]byte
	rand.Read(id[:])
	now := s.cfg.Now()
	return Device{
		ID: hex.EncodeToString(id[:]), Name: nameOf(facts), Key: key, FirstSeen: now, LastSeen: now, LastIP: address, Facts: facts, Value: "Normal",
	}, sha256.Sum256(secret[:]), nil
}
