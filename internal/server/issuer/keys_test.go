// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"staunch/internal/server/auth"
)

func TestFirstStartMakesAKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "keys")
	first, err := OpenKeys(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("files = %v, %v, want one", files, err)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, files[0].Name()): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: mode %v, %v, want %v", path, fi.Mode().Perm(), err, want)
		}
	}
	again, err := OpenKeys(dir, time.Now())
	if err != nil || again.Public().Keys[0].KeyID != first.Public().Keys[0].KeyID {
		t.Errorf("the second start has another key (%v)", err)
	}
}

// The newest key signs; tokens of the one before stay good.
func TestSeveralKeys(t *testing.T) {
	dir := keysDir(t)
	realm := auth.Realm{Tenant: tenant, PublicURL: public}
	old := newBench(t, func(c *Config) { c.KeysDir = dir })
	oldToken, ref := old.service.mint(old.app, resource, public, v2)
	if ref != nil {
		t.Fatal(ref)
	}
	if err := makeKey(dir, time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README"), []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	now := newBench(t, func(c *Config) { c.KeysDir = dir })
	newToken, ref := now.service.mint(old.app, resource, public, v2)
	if ref != nil {
		t.Fatal(ref)
	}
	if n := len(now.service.Keys().Keys); n != 2 {
		t.Fatalf("%d keys, want 2", n)
	}
	v, err := auth.New(auth.Config{Realm: realm, Keys: now.service.Keys})
	if err != nil {
		t.Fatal(err)
	}
	oldText, newText := oldToken.(answerV2).Token, newToken.(answerV2).Token
	if strings.Split(oldText, ".")[0] == strings.Split(newText, ".")[0] {
		t.Error("the new token is signed with the old key")
	}
	for _, tok := range []string{oldText, newText} {
		if _, err := v.Verify(t.Context(), tok); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenKeysRefuses(t *testing.T) {
	write := func(t *testing.T, dir string, b []byte, mode os.FileMode) {
		t.Helper()
		path := filepath.Join(dir, "20990101T000000.000000000Z.pem")
		if err := os.WriteFile(path, b, mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	pkcs8 := func(t *testing.T, key any) []byte {
		t.Helper()
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"open folder": {func(t *testing.T, dir string) {
			if err := os.Chmod(dir, 0o750); err != nil {
				t.Fatal(err)
			}
		}, "open to others than its owner (mode 0750)"},
		"open file": {func(t *testing.T, dir string) { write(t, dir, cachedKey(), 0o644) }, "run chmod 0600"},
		"garbage":   {func(t *testing.T, dir string) { write(t, dir, []byte("x"), 0o600) }, "not a PEM file"},
		"empty":     {func(t *testing.T, dir string) { write(t, dir, nil, 0o600) }, "not a PEM file"},
		"cut off": {func(t *testing.T, dir string) {
			write(t, dir, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}), 0o600)
		}, "not a PKCS #8 private key"},
		"elliptic": {func(t *testing.T, dir string) {
			k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, pkcs8(t, k), 0o600)
		}, "not an RSA key"},
		"short": {func(t *testing.T, dir string) {
			k, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, pkcs8(t, k), 0o600)
		}, "1024 bits are fewer"},
		"file in its place": {func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "a file is in its place"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := keysDir(t)
			c.spoil(t, dir)
			_, err := OpenKeys(dir, time.Now())
			if err == nil || !strings.HasPrefix(err.Error(), "cannot open the token signing keys: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("OpenKeys = %v, want %q", err, c.want)
			}
		})
	}
}
