// SPDX-License-Identifier: Apache-2.0

package issuer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
	"staunch/internal/server/store"
)

const (
	tenant   = "2c9e51aa-7b40-4c33-9d10-b5f7a1d2e604"
	public   = "https://staunch.example:8443"
	resource = "https://api.securitycenter.microsoft.com"
)

var admin = auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"}

// faulty is a real store that can be told to fail.
type faulty struct {
	*store.Store
	broken atomic.Bool
}

var errBroken = errors.New("no database")

func (f *faulty) CreateApp(ctx context.Context, a issuer.App, e audit.Entry) error {
	if f.broken.Load() {
		return errBroken
	}
	return f.Store.CreateApp(ctx, a, e)
}

func (f *faulty) App(ctx context.Context, id string) (issuer.App, error) {
	if f.broken.Load() {
		return issuer.App{}, errBroken
	}
	return f.Store.App(ctx, id)
}

func (f *faulty) Record(ctx context.Context, e audit.Entry) error {
	if f.broken.Load() {
		return errBroken
	}
	return f.Store.Record(ctx, e)
}

func openStore(t testing.TB) *faulty {
	t.Helper()
	secret, _, err := note.GenerateKey(rand.Reader, "test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "db"), Checkpoint: signer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &faulty{Store: s}
}

// bench is a token service with one app and the verifier of its tokens.
type bench struct {
	store    *faulty
	service  *issuer.Service
	verifier *auth.Verifier
	log      *bytes.Buffer
	app      issuer.App
	secret   string
}

// cachedKey spares each test the making of a key.
var cachedKey = sync.OnceValue(func() []byte {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return pkcs8(key)
})

func pkcs8(key any) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func keysDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "20260101T000000.000000000Z.pem"), cachedKey(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newBench(t testing.TB, change func(*issuer.Config)) *bench {
	t.Helper()
	b := &bench{store: openStore(t), log: &bytes.Buffer{}}
	cfg := issuer.Config{
		Store:   b.store,
		Realm:   auth.Realm{Tenant: tenant, PublicURL: public, Names: []string{"login.example", "127.0.0.1"}},
		KeysDir: keysDir(t),
		Log:     slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if b.service, err = issuer.New(cfg); err != nil {
		t.Fatal(err)
	}
	b.verifier, err = auth.New(auth.Config{Realm: cfg.Realm, Keys: b.service.Keys, AppEnabled: b.service.Enabled, Now: cfg.Now})
	if err != nil {
		t.Fatal(err)
	}
	b.app, b.secret, err = b.service.CreateApp(t.Context(), admin, "soc-automation", []string{"Machine.StopAndQuarantine", "Machine.Read.All"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// lines returns the audit log.
func (b *bench) lines(t testing.TB) []audit.Entry {
	t.Helper()
	all, err := b.store.AuditEntries(context.Background(), -1, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// do sends a request as it is: no header is added to those given.
func (b *bench) do(t testing.TB, method, target, body string, header http.Header) (*httptest.ResponseRecorder, map[string]any) {
	t.Helper()
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if header != nil {
		r.Header = header
	}
	w := httptest.NewRecorder()
	b.service.Handler().ServeHTTP(w, r)
	if ct := w.Header().Get("Content-Type"); !strings.Contains(ct, "json") {
		t.Errorf("%s %s: Content-Type %q, want JSON", method, target, ct)
	}
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil && method != http.MethodHead {
		t.Fatalf("%s %s: %v in %q", method, target, err, w.Body)
	}
	return w, answer
}

func TestCreateApp(t *testing.T) {
	b := newBench(t, nil)
	if !auth.IsGUID(b.app.ID) || b.app.Name != "soc-automation" || len(b.app.Permissions) != 2 || !strings.HasPrefix(b.secret, "staunch_") {
		t.Errorf("CreateApp = %+v, %q", b.app, b.secret)
	}
	lines := b.lines(t)
	line, err := json.Marshal(lines)
	if err != nil || len(lines) != 1 || lines[0].Operation != audit.CreateApp || lines[0].Target != b.app.ID {
		t.Errorf("audit = %s, %v, want one CreateApp", line, err)
	}
	if strings.Contains(string(line), b.secret) || strings.Contains(b.log.String(), b.secret) {
		t.Error("the secret is in the audit log or in the log")
	}
}

func TestCreateAppRefuses(t *testing.T) {
	b := newBench(t, nil)
	stop := []string{"Machine.StopAndQuarantine"}
	for name, c := range map[string]struct {
		caller      auth.Caller
		name        string
		permissions []string
		code        api.Code
		want        string
	}{
		"not an administrator": {auth.Caller{Kind: auth.App, ID: "x"}, "a", stop, api.Forbidden, "Only an administrator"},
		"no name":              {admin, "  ", stop, api.MissingRequiredParameter, "no name"},
		"long name":            {admin, strings.Repeat("ä", 121), stop, api.InvalidInput, "121 characters, 120 are allowed"},
		"control characters":   {admin, "a\nb", stop, api.InvalidInput, "cannot be printed"},
		"invalid UTF-8":        {admin, "a\xff", stop, api.InvalidInput, "cannot be printed"},
		"name taken":           {admin, "SOC-Automation", stop, api.InvalidInput, `An app named "soc-automation" exists already (client id ` + b.app.ID},
		"misspelt permission":  {admin, "b", []string{"machine.stopandquarantine"}, api.InvalidInput, `no permission "machine.stopandquarantine". The nearest are: Machine.StopAndQuarantine, `},
		"nonsense permission":  {admin, "b", []string{strings.Repeat("x", 9999)}, api.InvalidInput, "The nearest are: "},
		"empty permission":     {admin, "b", []string{""}, api.InvalidInput, `no permission ""`},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(b.lines(t))
			_, secret, err := b.service.CreateApp(t.Context(), c.caller, c.name, c.permissions)
			if api.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) || secret != "" {
				t.Errorf("CreateApp = %q, %v, want %s with %q", secret, err, c.code, c.want)
			}
			if apps, err := b.service.Apps(t.Context(), admin); err != nil || len(apps) != 1 {
				t.Errorf("%d apps, %v: one was made all the same", len(apps), err)
			}
			if got := b.lines(t)[before:]; len(got) != 1 || got[0].Outcome != "refused: "+string(c.code) {
				t.Errorf("audit = %+v, want one refusal", got)
			}
		})
	}
	if _, err := b.service.Apps(t.Context(), auth.Caller{Kind: auth.App}); api.CodeOf(err) != api.Forbidden {
		t.Errorf("Apps for an app = %v, want Forbidden", err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := issuer.Config{Store: &faulty{}, Realm: auth.Realm{Tenant: tenant, PublicURL: public}, KeysDir: keysDir(t)}
	for want, change := range map[string]func(*issuer.Config){
		"Store is not set":   func(c *issuer.Config) { c.Store = nil },
		"is not a GUID":      func(c *issuer.Config) { c.Realm.Tenant = "contoso" },
		"KeysDir is not set": func(c *issuer.Config) { c.KeysDir = "" },
	} {
		cfg := good
		change(&cfg)
		if _, err := issuer.New(cfg); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cannot start the token service: ") {
			t.Errorf("New = %v, want %q", err, want)
		}
	}
}
