// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"staunch/internal/durable"
)

// Keys sign tokens: RS256, because that is what clients of Entra expect.
//
// On disk they are a folder of PEM files, one PKCS #8 RSA key each, readable by
// the server's user alone:
//
//	KeysDir/            0700
//	  20261124T220111.123456789Z.pem   0600, named by when it was made
//	  20270224T220111.000000000Z.pem
//
// The last by name signs, once it has been there for a minute: by then every
// replica has seen it, and who fetches the public keys. All of them verify, so that
// tokens of the one before stay good until they expire. A key's id is its RFC 7638
// thumbprint.
//
// Who reads a key can make tokens with any permission; who writes here can too.
type Keys struct {
	set     jose.JSONWebKeySet // public
	signers []signer           // oldest first
	names   []string           // of the files
	read    time.Time          // when they were read last
}

// signer signs with one key.
type signer struct {
	jose.Signer
	made time.Time // zero: the file's name does not say
}

const (
	keyBits    = 2048
	keyTimeFmt = "20060102T150405.000000000Z"
)

// OpenKeys reads the keys in dir, and makes the folder and a first key where
// there is none.
func OpenKeys(dir string, now time.Time) (*Keys, error) {
	k, err := openKeys(dir, now)
	if err != nil {
		return nil, fmt.Errorf("cannot open the token signing keys: %w", err)
	}
	return k, nil
}

func openKeys(dir string, now time.Time) (*Keys, error) {
	if dir == "" {
		return nil, errors.New("KeysDir is not set")
	}
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := private(dir, 0o700); err != nil {
		return nil, err
	}
	files, err := keyFiles(dir)
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		if err := makeKey(dir, now); err != nil {
			return nil, err
		}
		if files, err = keyFiles(dir); err != nil { // again: another replica may have made one too
			return nil, err
		}
	}
	return loadKeys(files, now)
}

// keyFiles returns the key files by name, oldest first.
func keyFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if n := e.Name(); strings.HasSuffix(n, ".pem") && !strings.HasPrefix(n, ".") {
			files = append(files, filepath.Join(dir, n))
		}
	}
	return files, nil
}

// private refuses what others than its owner can reach.
func private(path string, want os.FileMode) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s is open to others than its owner (mode %04o): whoever reads or writes it can make tokens; run chmod %04o %s, and make new keys if somebody may have read them",
			path, fi.Mode().Perm(), want, path)
	}
	return nil
}

func makeKey(dir string, now time.Time) error {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return durable.CreateFile(filepath.Join(dir, now.UTC().Format(keyTimeFmt)+".pem"), b, 0o600)
}

func loadKeys(files []string, now time.Time) (*Keys, error) {
	k := Keys{names: files, read: now}
	for _, f := range files {
		if err := private(f, 0o600); err != nil {
			return nil, err
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		key, err := parseKey(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		jwk := jose.JSONWebKey{Key: key, Algorithm: string(jose.RS256), Use: "sig"}
		sum, err := jwk.Thumbprint(crypto.SHA256)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		jwk.KeyID = base64.RawURLEncoding.EncodeToString(sum)
		k.set.Keys = append(k.set.Keys, jwk.Public())
		opts := (&jose.SignerOptions{}).WithType("JWT")
		sign, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jwk}, opts)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		k.signers = append(k.signers, signer{sign, madeAt(f)})
	}
	return &k, nil
}

func parseKey(b []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, errors.New("it is not a PEM file: restore it from a backup, or move it away")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("it is not a PKCS #8 private key: %w", err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	switch {
	case !ok:
		return nil, errors.New("it is not an RSA key, which RS256 needs")
	case key.N.BitLen() < keyBits:
		return nil, fmt.Errorf("its %d bits are fewer than the %d that RS256 needs", key.N.BitLen(), keyBits)
	}
	return key, nil
}

// Public returns the public keys, each with its id.
func (k *Keys) Public() jose.JSONWebKeySet { return k.set }
