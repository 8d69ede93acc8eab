// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

const (
	tenant   = "2c9e51aa-7b40-4c33-9d10-b5f7a1d2e604"
	public   = "https://staunch.example:8443"
	resource = "https://api.securitycenter.microsoft.com"
)

var admin = auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"}

// memory is a store in memory that can be told to fail.
type memory struct {
	mu     sync.Mutex
	apps   map[string]App
	audit  []audit.Entry
	broken bool
}

func (m *memory) CreateApp(_ context.Context, a App, e audit.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("no database")
	}
	m.apps[a.ID] = a
	m.audit = append(m.audit, e)
	return nil
}

func (m *memory) App(_ context.Context, id string) (App, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return App{}, errors.New("no database")
	}
	a, ok := m.apps[id]
	if !ok {
		return App{}, api.Errorf(api.ResourceNotFound, "no such app")
	}
	return a, nil
}

func (m *memory) Apps(context.Context) ([]App, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []App
	for _, a := range m.apps {
		all = append(all, a)
	}
	return all, nil
}

func (m *memory) Record(_ context.Context, e audit.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken {
		return errors.New("no database")
	}
	m.audit = append(m.audit, e)
	return nil
}

// bench is a token service with one app and the verifier of its tokens.
type bench struct {
	store    *memory
	service  *Service
	verifier *auth.Verifier
	log      *bytes.Buffer
	app      App
	secret   string
}

// cachedKey spares each test the making of a key.
var cachedKey = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "staunch-issuer-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := makeKey(dir, time.Now()); err != nil {
		panic(err)
	}
	files, err := keyFiles(dir)
	if err != nil {
		panic(err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		panic(err)
	}
	return b
})

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

func newBench(t testing.TB, change func(*Config)) *bench {
	t.Helper()
	b := &bench{store: &memory{apps: map[string]App{}}, log: &bytes.Buffer{}}
	cfg := Config{
		Store:   b.store,
		Realm:   auth.Realm{Tenant: tenant, PublicURL: public, Names: []string{"login.example", "127.0.0.1"}},
		KeysDir: keysDir(t),
		Log:     slog.New(slog.NewJSONHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if b.service, err = New(cfg); err != nil {
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
	line, err := json.Marshal(b.store.audit)
	if err != nil || len(b.store.audit) != 1 || b.store.audit[0].Operation != audit.CreateApp || b.store.audit[0].Target != b.app.ID {
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
			before := len(b.store.audit)
			_, secret, err := b.service.CreateApp(t.Context(), c.caller, c.name, c.permissions)
			if api.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.want) || secret != "" {
				t.Errorf("CreateApp = %q, %v, want %s with %q", secret, err, c.code, c.want)
			}
			if len(b.store.apps) != 1 {
				t.Error("an app was made all the same")
			}
			if got := b.store.audit[before:]; len(got) != 1 || got[0].Outcome != "refused: "+string(c.code) {
				t.Errorf("audit = %+v, want one refusal", got)
			}
		})
	}
	if _, err := b.service.Apps(t.Context(), auth.Caller{Kind: auth.App}); api.CodeOf(err) != api.Forbidden {
		t.Errorf("Apps for an app = %v, want Forbidden", err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{Store: &memory{}, Realm: auth.Realm{Tenant: tenant, PublicURL: public}, KeysDir: keysDir(t)}
	for want, change := range map[string]func(*Config){
		"Store is not set":   func(c *Config) { c.Store = nil },
		"is not a GUID":      func(c *Config) { c.Realm.Tenant = "contoso" },
		"KeysDir is not set": func(c *Config) { c.KeysDir = "" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cannot start the token service: ") {
			t.Errorf("New = %v, want %q", err, want)
		}
	}
}
