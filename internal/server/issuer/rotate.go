// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"staunch/api"
	"staunch/internal/durable"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

const (
	// rereadKeys is how old what is known of the keys' folder may be.
	rereadKeys = 10 * time.Second
	// publishKey is how long a new key is shown before it signs.
	publishKey = time.Minute
	// retireKey is how long a key verifies after the next one was made: longer
	// than the longest token lives.
	retireKey = 48 * time.Hour
	// maxKeys bounds the keys, so that a script gone wrong cannot fill the folder.
	maxKeys = 32
)

// madeAt reads when a key was made from the name of its file.
func madeAt(file string) time.Time {
	t, err := time.Parse(keyTimeFmt, strings.TrimSuffix(filepath.Base(file), ".pem"))
	if err != nil {
		return time.Time{}
	}
	return t
}

// signerAt is the key that signs at now: the last that has been shown for long
// enough, else the first of all.
func (k *Keys) signerAt(now time.Time) jose.Signer {
	for _, s := range slices.Backward(k.signers) {
		if now.Sub(s.made) >= publishKey {
			return s
		}
	}
	return k.signers[0]
}

// current are the keys, read again when that was long ago and files came or went
// since: another replica, or an administrator, may have changed them. While one
// caller reads, the others go on with what is known.
func (s *Service) current() *Keys {
	k := s.keys.Load()
	now := s.cfg.Now()
	if age := now.Sub(k.read); age >= 0 && age < rereadKeys || !s.reading.TryLock() {
		return k
	}
	defer s.reading.Unlock()
	fresh, err := s.reread(k, now)
	if err != nil {
		// The keys that are known are good; a damaged folder must not take the
		// service down before its next start.
		s.cfg.Log.Error("keys_not_read", "error", err)
		kept := *k
		kept.read = now
		fresh = &kept
	}
	s.keys.Store(fresh)
	return fresh
}

func (s *Service) reread(k *Keys, now time.Time) (*Keys, error) {
	files, err := keyFiles(s.cfg.KeysDir)
	if err != nil {
		return nil, err
	}
	if slices.Equal(files, k.names) || len(files) == 0 {
		kept := *k
		kept.read = now
		return &kept, nil
	}
	return loadKeys(files, now)
}

// RotateKeys makes a new signing key. It signs a minute from now; the one before
// verifies for two days more and is deleted by a rotation after that.
func (s *Service) RotateKeys(ctx context.Context, c auth.Caller) (kid string, err error) {
	if err := adminOnly(c); err != nil {
		s.recordRefusal(ctx, audit.By(c, audit.RotateKeys, "", "refused: "+string(api.CodeOf(err))), nil)
		return "", err
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	now := s.cfg.Now()
	files, err := keyFiles(s.cfg.KeysDir)
	if err != nil {
		return "", fmt.Errorf("cannot rotate keys: %w", err)
	}
	if len(files) >= maxKeys {
		return "", api.Errorf(api.InvalidInput, "There are %d signing keys already: wait until the older ones have been retired, or take away those that nobody needs", len(files))
	}
	// On record before it is there: a key that nobody knows of must not sign.
	e := audit.By(c, audit.RotateKeys, "", "accepted")
	e.Detail, _ = json.Marshal(map[string]int{"keys": len(files) + 1})
	if err := s.cfg.Store.Record(ctx, e); err != nil {
		return "", fmt.Errorf("cannot rotate keys: %w", err)
	}
	if err := makeKey(s.cfg.KeysDir, now); err != nil {
		return "", fmt.Errorf("cannot rotate keys: %w", err)
	}
	for i, f := range files {
		next := now
		if i+1 < len(files) {
			next = madeAt(files[i+1])
		}
		if made := madeAt(f); !made.IsZero() && !next.IsZero() && now.Sub(next) > retireKey {
			if err := durable.Remove(f); err != nil {
				return "", fmt.Errorf("cannot take an old key away: %w", err)
			}
		}
	}
	if files, err = keyFiles(s.cfg.KeysDir); err != nil {
		return "", fmt.Errorf("cannot rotate keys: %w", err)
	}
	k, err := loadKeys(files, now)
	if err != nil {
		return "", fmt.Errorf("cannot rotate keys: %w", err)
	}
	s.keys.Store(k)
	return k.set.Keys[len(k.set.Keys)-1].KeyID, nil
}
