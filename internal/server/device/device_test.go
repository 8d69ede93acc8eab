// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/store"
)

var admin = auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"}

func app(ps ...auth.Permission) auth.Caller {
	return auth.Caller{Kind: auth.App, ID: "6d0f2b1e-5a44-4f0b-9a2f-3c1de8840c77", Name: "soc", Permissions: ps}
}

// bench is a device service on a real store, with a clock to turn.
type bench struct {
	*device.Service
	store   *store.Store
	log     *syncBuffer
	revoked []string
	moved   []string // as Regrouped was told

	mu  sync.Mutex
	now time.Time
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *bench) turn(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{log: &syncBuffer{}, now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)}
	secret, _, err := note.GenerateKey(rand.Reader, "test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewJSONHandler(b.log, nil))
	b.store, err = store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "db"), Checkpoint: signer, Log: log, Now: b.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.store.Close(); err != nil {
			t.Error(err)
		}
	})
	b.Service, err = device.New(device.Config{
		Store: b.store, URL: "https://staunch.example:8443", CA: strings.Repeat("ab", 32),
		Regrouped: func(id string) { b.moved = append(b.moved, id) },
		Revoked:   func(id string) { b.revoked = append(b.revoked, id) }, Log: log, Now: b.clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) audit(t testing.TB) []audit.Entry {
	t.Helper()
	all, err := b.store.AuditEntries(context.Background(), -1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// facts are those of a machine of that name.
func facts(fqdn string) order.Facts {
	host, _, _ := strings.Cut(fqdn, ".")
	f := order.Facts{
		Hostname: host, OS: "linux", OSPlatform: "Debian", OSVersion: "12", Kernel: "6.1.0-28-amd64", Arch: "x64", AgentVersion: "0.1.0",
		Addresses: []order.Address{
			{IP: "127.0.0.1", Type: "SoftwareLoopback", Up: true},
			{IP: "fd00::7", MAC: "02005e10a0b1", Type: "Ethernet", Up: true},
			{IP: "10.20.30.14", MAC: "02005E10A0B1", Type: "Ethernet", Up: true},
		},
		Can: []order.Kind{order.StopAndQuarantine, order.Restore}, Privileged: true,
	}
	if host != fqdn {
		f.FQDN = fqdn
	}
	return f
}

// machine is an enrolled device with the key it holds.
type machine struct {
	device.Device
	key ed25519.PrivateKey
}

func (b *bench) request(t testing.TB, f order.Facts) (api.EnrollRequest, ed25519.PrivateKey) {
	t.Helper()
	line, _, err := b.CreateToken(context.Background(), admin, 1, time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := order.ParseEnrollToken(line)
	if err != nil {
		t.Fatal(err)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return api.EnrollRequest{Secret: tok.Secret, PublicKey: order.FormatKey(pub), Facts: raw}, key
}

func (b *bench) enroll(t testing.TB, fqdn string) machine {
	t.Helper()
	r, key := b.request(t, facts(fqdn))
	d, err := b.Enroll(context.Background(), r, "198.51.100.9")
	if err != nil {
		t.Fatal(err)
	}
	return machine{d, key}
}

func refusal(t testing.TB, err error, code api.Code, text string) {
	t.Helper()
	if api.CodeOf(err) != code || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want %s with %q", err, code, text)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := device.New(device.Config{}); err == nil || !strings.Contains(err.Error(), "Store is not set") {
		t.Errorf("New = %v", err)
	}
	if _, err := device.New(device.Config{Store: &store.Store{}, CA: "abc"}); err == nil || !strings.Contains(err.Error(), "CA is not 64 hex digits") {
		t.Errorf("New = %v", err)
	}
}
