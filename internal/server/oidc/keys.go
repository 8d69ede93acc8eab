// SPDX-License-Identifier: Apache-2.0

package oidc

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/go-jose/go-jose/v4"

	"staunch/internal/server/auth"
)

const (
	freshFor = time.Hour        // then keys are got again, while the old ones serve
	goodFor  = 24 * time.Hour   // then keys that could not be got again end
	askAgain = time.Minute      // before an issuer that answered is asked for a key it had not
	tryAgain = 15 * time.Second // before an issuer that did not answer is asked again

	fetchTime = 10 * time.Second // for one answer

	maxDocument = 128 << 10 // bytes
	maxKeySet   = 512 << 10 // bytes; Entra's has some 20 KB
	maxKeys     = 128
	minRSA      = 2048 // bits
	maxRSA      = 8192 // bits: a check of a longer one would cost too much
)

// issuer is one issuer and what it published last.
type issuer struct {
	name      string // of what the operator named it
	iss       string
	discovery string // URL of its document
	tenant    string // of Entra's form: the tid of its tokens
	version   string // of Entra's form: the ver of its tokens

	life   context.Context //nolint:containedctx // fetches serve all callers and end with the process, not with one of them
	client *http.Client
	log    *slog.Logger
	now    func() time.Time
	wait   *sync.WaitGroup

	mu     sync.Mutex
	keys   map[string]jose.JSONWebKey // by kid; guarded by mu, as are the next
	got    time.Time                  // when
	next   time.Time                  // not to be asked before
	flight chan struct{}              // closed when the fetch under way has ended; nil: none
	failed bool                       // the last fetch
}

// key returns the key of that kid: from what is known; else, and where that is
// old, from the issuer, which all callers ask together and not often.
func (i *issuer) key(ctx context.Context, kid string) (jose.JSONWebKey, error) {
	i.mu.Lock()
	k, known := i.keys[kid]
	age := i.now().Sub(i.got)
	if known && age < goodFor {
		if age >= freshFor {
			i.begin()
		}
		i.mu.Unlock()
		return k, nil
	}
	flight := i.begin()
	i.mu.Unlock()
	if flight != nil {
		select {
		case <-flight:
		case <-ctx.Done():
			return jose.JSONWebKey{}, fmt.Errorf("%w: %w", auth.ErrIssuerDown, ctx.Err())
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	current := i.keys != nil && i.now().Sub(i.got) < goodFor
	switch k, known = i.keys[kid]; {
	case known && current:
		return k, nil
	case i.failed || !current:
		return jose.JSONWebKey{}, auth.ErrIssuerDown
	}
	return jose.JSONWebKey{}, auth.ErrUnknownKey
}

// begin asks the issuer unless it was asked a moment ago, and returns what is
// closed when its answer is there. It runs under mu.
func (i *issuer) begin() chan struct{} {
	if i.flight != nil {
		return i.flight
	}
	if i.now().Before(i.next) || i.life.Err() != nil {
		return nil
	}
	flight := make(chan struct{})
	i.flight = flight
	i.wait.Go(func() {
		defer close(flight)
		keys, err := i.fetch(i.life)
		i.mu.Lock()
		defer i.mu.Unlock()
		i.flight, i.failed = nil, err != nil
		now := i.now()
		if err != nil {
			i.next = now.Add(tryAgain)
			if i.life.Err() == nil {
				i.log.Warn("issuer_not_reached", "issuer", i.iss, "error", err, "keys", len(i.keys))
			}
			return
		}
		i.keys, i.got, i.next = keys, now, now.Add(askAgain)
	})
	return flight
}

// fetch reads the issuer's document and the keys that it points to.
func (i *issuer) fetch(ctx context.Context) (map[string]jose.JSONWebKey, error) {
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := i.get(ctx, i.discovery, maxDocument, &document); err != nil {
		return nil, err
	}
	u, err := url.Parse(document.Keys)
	switch {
	case document.Issuer != i.iss:
		return nil, fmt.Errorf("the document at %s is of the issuer %.200q", i.discovery, document.Issuer)
	case err != nil || u.Host == "" || !secure(u):
		return nil, fmt.Errorf("the document at %s has no jwks_uri that begins with https://", i.discovery)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := i.get(ctx, document.Keys, maxKeySet, &set); err != nil {
		return nil, err
	}
	return usable(set.Keys)
}

// usable reads those keys of a set that may sign tokens. One that cannot be read
// is left out, as RFC 7517 has it in section 5.
func usable(set []json.RawMessage) (map[string]jose.JSONWebKey, error) {
	if len(set) > maxKeys {
		return nil, fmt.Errorf("it publishes %d keys, at most %d are read", len(set), maxKeys)
	}
	keys := map[string]jose.JSONWebKey{}
	for _, raw := range set {
		var k jose.JSONWebKey
		if err := json.Unmarshal(raw, &k); err != nil || k.KeyID == "" || len(k.KeyID) > 256 || k.Use != "" && k.Use != "sig" || !k.Valid() {
			continue
		}
		switch key := k.Key.(type) {
		case *rsa.PublicKey:
			if n := key.N.BitLen(); n < minRSA || n > maxRSA {
				continue
			}
		case *ecdsa.PublicKey:
		default: // a secret or private key, which only the issuer may have; a kind that signs no tokens
			continue
		}
		if _, twice := keys[k.KeyID]; !twice {
			keys[k.KeyID] = k
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("it publishes no key that may sign tokens")
	}
	return keys, nil
}

// get reads one JSON answer of at most most bytes.
func (i *issuer) get(ctx context.Context, from string, most int64, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return err
	}
	r.Header.Set("Accept", "application/json, application/jwk-set+json")
	answer, err := i.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }() // what was read is what counts
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", from, answer.Status)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, most+1))
	switch {
	case err != nil:
		return fmt.Errorf("cannot read %s: %w", from, err)
	case int64(len(body)) > most:
		return fmt.Errorf("%s answers with more than %d bytes", from, most)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("cannot read %s: %w", from, err)
	}
	return nil
}

// publicOnly refuses to dial what is not on the public internet.
func publicOnly(_, address string, _ syscall.RawConn) error {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := a.Addr().Unmap()
	shared := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, 0, 0}), 10) // RFC 6598
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || shared.Contains(ip) {
		return fmt.Errorf("the issuer's document points to %s, which is not a public address", ip)
	}
	return nil
}
