// SPDX-License-Identifier: Apache-2.0

package issuer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
)

func TestFirstStartMakesAKey(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "keys")
	first, err := issuer.OpenKeys(dir, time.Now())
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
	again, err := issuer.OpenKeys(dir, time.Now())
	if err != nil || again.Public().Keys[0].KeyID != first.Public().Keys[0].KeyID {
		t.Errorf("the second start has another key (%v)", err)
	}
}

// The newest key signs; tokens of the one before stay good.
func TestSeveralKeys(t *testing.T) {
	dir := keysDir(t)
	old := newBench(t, func(c *issuer.Config) { c.KeysDir = dir })
	oldToken := old.token(t)
	key, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"20260201T000000.000000000Z.pem": pkcs8(key), "README": []byte("not a key"), ".x.pem": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := newBench(t, func(c *issuer.Config) { c.KeysDir = dir })
	newToken := now.token(t)
	if n := len(now.service.Keys().Keys); n != 2 {
		t.Fatalf("%d keys, want 2", n)
	}
	v, err := auth.New(auth.Config{Realm: auth.Realm{Tenant: tenant, PublicURL: public}, Keys: now.service.Keys})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Split(oldToken, ".")[0] == strings.Split(newToken, ".")[0] {
		t.Error("the new token is signed with the old key")
	}
	for _, tok := range []string{oldToken, newToken} {
		if _, err := v.Verify(t.Context(), tok); err != nil {
			t.Error(err)
		}
	}
}

// token gets one as a client does.
func (b *bench) token(t *testing.T) string {
	t.Helper()
	_, answer := b.do(t, "POST", "/common/oauth2/v2.0/token",
		"grant_type=client_credentials&client_id="+b.app.ID+"&client_secret="+b.secret+"&scope="+resource+"/.default", nil)
	text, _ := answer["access_token"].(string)
	return text
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
			write(t, dir, pkcs8(k), 0o600)
		}, "not an RSA key"},
		"short": {func(t *testing.T, dir string) {
			k, err := rsa.GenerateKey(rand.Reader, 1024)
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir, pkcs8(k), 0o600)
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
			_, err := issuer.OpenKeys(dir, time.Now())
			if err == nil || !strings.HasPrefix(err.Error(), "cannot open the token signing keys: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("OpenKeys = %v, want %q", err, c.want)
			}
		})
	}
}
