// SPDX-License-Identifier: Apache-2.0

// Package pki holds the server's own keys and certificates: files in one
// folder, made at the first start, readable by nobody else.
//
//	ca.pem, ca.key          the authority that signs the server's certificate; agents pin it
//	server.pem, server.key  the certificate shown on the listener; renewed in time
//	order.key               signs orders; whoever reads it can order what devices' local limits allow
//	seal.key                seals secrets in the database that must be read again (Seal)
//	audit.key               signs checkpoints of the audit log (golang.org/x/mod/sumdb/note)
//
// Replicas of one server share the folder's content.
package pki

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/internal/durable"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// renewal is how long before its end a certificate is replaced at a start.
	renewal = 60 * 24 * time.Hour
)

// Dir is the folder of keys.
type Dir string

// Open makes the folder if need be and checks that nobody else can read it.
func Open(path string) (Dir, error) {
	if err := durable.Mkdir(path, 0o700); err != nil {
		return "", err
	}
	fi, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot use key folder: %w", err)
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("cannot use key folder %s: others may enter it (mode %04o); run chmod 700 %s", path, fi.Mode().Perm(), path)
	}
	return Dir(path), nil
}

func (d Dir) path(name string) string { return filepath.Join(string(d), name) }

// CAFile is the path of the authority's certificate.
func (d Dir) CAFile() string { return d.path("ca.pem") }

// OrderKey reads the key that signs orders, or makes it.
func (d Dir) OrderKey() (ed25519.PrivateKey, error) {
	k, err := d.key("order.key", func() (any, error) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	key, ok := k.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("cannot use %s: it is a %T, want Ed25519", d.path("order.key"), k)
	}
	return key, nil
}

// AuditSigner reads the key that signs checkpoints, or makes it. origin names
// the log in its checkpoints.
func (d Dir) AuditSigner(origin string) (note.Signer, error) {
	path := d.path("audit.key")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		skey, vkey, err := note.GenerateKey(rand.Reader, origin)
		if err != nil {
			return nil, fmt.Errorf("cannot make audit key: %w", err)
		}
		if err := durable.WriteFile(d.path("audit.pub"), []byte(vkey+"\n"), 0o644); err != nil {
			return nil, err
		}
		if err := durable.WriteFile(path, []byte(skey), 0o600); err != nil {
			return nil, err
		}
		b = []byte(skey)
	} else if err != nil {
		return nil, fmt.Errorf("cannot read audit key: %w", err)
	}
	signer, err := note.NewSigner(string(b))
	if err != nil {
		return nil, fmt.Errorf("cannot read audit key %s: %w", path, err)
	}
	return signer, nil
}

// ServerCertificate returns what the listener shows: the certificate in
// certFile and keyFile where they are given, else one of the server's own
// authority that is valid for names (DNS names and IP addresses).
func (d Dir) ServerCertificate(certFile, keyFile string, names []string) (tls.Certificate, error) {
	if certFile != "" || keyFile != "" {
		c, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return c, fmt.Errorf("cannot use --tls-cert and --tls-key: %w", err)
		}
		return c, nil
	}
	ca, caKey, err := d.authority()
	if err != nil {
		return tls.Certificate{}, err
	}
	if c, err := tls.LoadX509KeyPair(d.path("server.pem"), d.path("server.key")); err == nil && serves(c.Leaf, ca, names) {
		return c, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make server key: %w", err)
	}
	t := template(names[0], leafLife)
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca, key.Public(), caKey)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("cannot make server certificate: %w", err)
	}
	// The chain carries the authority too: agents pin it before they have it.
	if err := durable.WriteFile(d.path("server.pem"), append(certPEM(der), certPEM(ca.Raw)...), 0o644); err != nil {
		return tls.Certificate{}, err
	}
	if err := writeKey(d.path("server.key"), key); err != nil {
		return tls.Certificate{}, err
	}
	return tls.LoadX509KeyPair(d.path("server.pem"), d.path("server.key"))
}

// Pin is what an enrollment token says of the authority: the SHA-256, in hex,
// of the last certificate in the chain that the listener shows.
func Pin(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[len(c.Certificate)-1])
	return hex.EncodeToString(sum[:])
}

// serves reports whether the certificate is of that authority, lasts a while
// and covers all names.
func serves(leaf, ca *x509.Certificate, names []string) bool {
	return leaf.CheckSignatureFrom(ca) == nil && time.Now().Add(renewal).Before(leaf.NotAfter) &&
		!slices.ContainsFunc(names, func(n string) bool { return leaf.VerifyHostname(n) != nil })
}

func (d Dir) authority() (*x509.Certificate, any, error) {
	k, err := d.key("ca.key", func() (any, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) })
	if err != nil {
		return nil, nil, err
	}
	b, err := os.ReadFile(d.CAFile())
	if err == nil {
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, nil, fmt.Errorf("cannot read %s: it is not PEM", d.CAFile())
		}
		ca, err := x509.ParseCertificate(block.Bytes)
		return ca, k, err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("cannot read CA certificate: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("cannot use %s: it is a %T, want ECDSA", d.path("ca.key"), k)
	}
	t := template("Staunch CA", caLife)
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	t.MaxPathLenZero = true
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make CA certificate: %w", err)
	}
	if err := durable.WriteFile(d.CAFile(), certPEM(der), 0o644); err != nil {
		return nil, nil, err
	}
	ca, err := x509.ParseCertificate(der)
	return ca, key, err
}

func template(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // crypto/rand does not fail
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour), // devices' clocks are behind at times
		NotAfter:     now.Add(life),
	}
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// key reads a PKCS #8 key, or makes and keeps one.
func (d Dir) key(name string, generate func() (any, error)) (any, error) {
	path := d.path(name)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		k, err := generate()
		if err != nil {
			return nil, fmt.Errorf("cannot make %s: %w", path, err)
		}
		return k, writeKey(path, k)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("cannot read key %s: it is not PEM; put the right file back, a new key would be a new server", path)
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read key %s: %w", path, err)
	}
	return k, nil
}

func writeKey(path string, k any) error {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return durable.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}
