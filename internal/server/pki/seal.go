// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"staunch/internal/durable"
)

// Seal keeps small secrets in the database from who has the database alone:
//
//	version 1 (1 byte) | nonce (12) | AES-256-GCM of the secret, bound to its owner (secret + 16)
type Seal struct{ aead cipher.AEAD }

const (
	sealKeySize = 32 // bytes
	sealVersion = 1
)

// Seal reads the key that seals secrets, or makes it.
func (d Dir) Seal() (Seal, error) {
	path := d.path("seal.key")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := make([]byte, sealKeySize)
		rand.Read(key)
		b = []byte(hex.EncodeToString(key) + "\n")
		err = durable.WriteFile(path, b, 0o600)
	}
	if err != nil {
		return Seal{}, fmt.Errorf("cannot read or make the sealing key: %w", err)
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(key) != sealKeySize {
		return Seal{}, fmt.Errorf("cannot read key %s: it is not %d bytes in hex; put the right file back, what was sealed with it cannot be opened with another", path, sealKeySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return Seal{}, fmt.Errorf("cannot use key %s: %w", path, err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return Seal{}, fmt.Errorf("cannot use key %s: %w", path, err)
	}
	return Seal{aead}, nil
}

// Seal seals a secret for its owner.
func (s Seal) Seal(secret []byte, owner string) []byte {
	out := make([]byte, 1+s.aead.NonceSize(), 1+s.aead.NonceSize()+len(secret)+s.aead.Overhead())
	out[0] = sealVersion
	nonce := out[1:]
	rand.Read(nonce)
	return s.aead.Seal(out, nonce, secret, []byte(owner))
}

// Open opens what was sealed for that owner.
func (s Seal) Open(sealed []byte, owner string) ([]byte, error) {
	n := 1 + s.aead.NonceSize()
	if len(sealed) < n || sealed[0] != sealVersion {
		return nil, errors.New("it is not sealed in a form that this program knows")
	}
	secret, err := s.aead.Open(nil, sealed[1:n], sealed[n:], []byte(owner))
	if err != nil {
		return nil, errors.New("it was sealed with another key, for another owner, or was altered")
	}
	return secret, nil
}
