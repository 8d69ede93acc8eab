// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"bytes"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func open(t *testing.T) Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "keys"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestKept: what the first start made, the second one finds.
func TestKept(t *testing.T) {
	d := open(t)
	key, err := d.OrderKey()
	if err != nil {
		t.Fatal(err)
	}
	signer, err := d.AuditSigner("log")
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.OrderKey()
	if err != nil || !again.Equal(key) {
		t.Errorf("another order key: %v", err)
	}
	if s, err := d.AuditSigner("log"); err != nil || s.KeyHash() != signer.KeyHash() {
		t.Errorf("another audit key: %v", err)
	}
	for _, name := range []string{"order.key", "audit.key"} {
		if fi, err := os.Stat(d.path(name)); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want 0600", name, fi.Mode(), err)
		}
	}
}

// TestServerCertificate: it holds for the names under the authority, stays while
// it does, and is made anew for further names, under the same authority.
func TestServerCertificate(t *testing.T) {
	d := open(t)
	first, err := d.ServerCertificate("", "", []string{"localhost", "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(d.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for _, name := range []string{"localhost", "127.0.0.1"} {
		if _, err := first.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	same, err := d.ServerCertificate("", "", []string{"localhost"})
	if err != nil || !bytes.Equal(same.Certificate[0], first.Certificate[0]) {
		t.Errorf("it was made anew without need: %v", err)
	}
	more, err := d.ServerCertificate("", "", []string{"localhost", "staunch.example"})
	if err != nil || more.Leaf.VerifyHostname("staunch.example") != nil {
		t.Errorf("it does not hold for a further name: %v", err)
	}
	if Pin(more) != Pin(first) {
		t.Error("devices that pinned the authority would not know the server any more")
	}
}

func TestRefusals(t *testing.T) {
	d := open(t)
	if err := os.WriteFile(d.path("order.key"), []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.OrderKey(); err == nil || !strings.Contains(err.Error(), "put the right file back") {
		t.Errorf("damaged key: %v", err)
	}
	if _, err := d.ServerCertificate("/none.pem", "/none.key", []string{"localhost"}); err == nil || !strings.Contains(err.Error(), "--tls-cert") {
		t.Errorf("missing certificate: %v", err)
	}
	if err := os.Chmod(string(d), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(string(d)); err == nil || !strings.Contains(err.Error(), "run chmod 700") {
		t.Errorf("loose folder: %v", err)
	}
}
