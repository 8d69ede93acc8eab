// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/api"
	"staunch/client"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/alert"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/file"
	"staunch/internal/server/indicator"
	"staunch/internal/server/issuer"
	"staunch/internal/server/people"
	"staunch/internal/server/pki/pkitest"
	"staunch/internal/server/store"
)

const (
	testTenant = "2c9e51aa-7b40-4c33-9d10-b5f7a1d2e604"
	testSHA1   = "5d41aa90c6f27be813d0f4ce77a1b2389e06fd4b"
	testSHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
)

// kit is a server of real parts on a loopback port; only devices are not there,
// but their answers and receipts are made with their keys.
type kit struct {
	t       testing.TB
	url     string
	http    *http.Client
	store   *store.Store
	issuer  *issuer.Service
	people  *people.Service
	actions *action.Service
	devices *device.Service
	handler *Handler

	indicators *indicator.Service
	files      *file.Service
	alerts     *alert.Service

	log *lockedBuffer

	mu      sync.Mutex
	now     time.Time                     // guarded by mu; zero: the real time
	limit   Limit                         // guarded by mu
	most    int                           // indicators; 0: 15,000; guarded by mu
	mode    string                        // actions.requireObserved; "": auto; guarded by mu
	both    bool                          // auth.requireMachineRead; guarded by mu
	expiry  time.Duration                 // actions.expiry; 0: 72 hours; guarded by mu
	keys    map[string]ed25519.PrivateKey // of devices, by id; guarded by mu
	answers map[string]order.Answer       // of connected devices, by id; guarded by mu
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newKit(t testing.TB, options ...func(*Config)) *kit {
	t.Helper()
	k := &kit{t: t, log: &lockedBuffer{}, keys: map[string]ed25519.PrivateKey{}, answers: map[string]order.Answer{}}
	k.limit = Limit{PerMinute: 100_000, PerHour: 1_000_000}
	log := slog.New(slog.NewTextHandler(k.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	skey, _, err := note.GenerateKey(rand.Reader, "staunch-audit")
	check(t, err)
	signer, err := note.NewSigner(skey)
	check(t, err)
	k.store, err = store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "server.db"), Checkpoint: signer, Log: log})
	check(t, err)
	t.Cleanup(func() { _ = k.store.Close() })

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	k.url = "https://" + listener.Addr().String()
	realm := auth.Realm{Tenant: testTenant, PublicURL: k.url, Names: []string{"localhost", "mde.soc.example"}}
	k.people, err = people.New(people.Config{Store: k.store, Sealer: pkitest.Sealer(t), Log: log})
	check(t, err)
	k.issuer, err = issuer.New(issuer.Config{
		Store: k.store, Realm: realm, KeysDir: filepath.Join(t.TempDir(), "keys"), Log: log, People: k.people, PasswordGrant: func() bool { return true },
	})
	check(t, err)
	verifier, err := auth.New(auth.Config{Realm: realm, Keys: k.issuer.Keys, AppEnabled: k.issuer.Enabled, Person: k.people.Person, Log: log})
	check(t, err)
	_, orderKey, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	k.devices, err = device.New(device.Config{Store: k.store, URL: k.url, Log: log})
	check(t, err)
	k.actions, err = action.New(action.Config{
		Store: k.store, Devices: k.devices, Asker: k, OrderKey: orderKey, Log: log, Settings: k.settings(), SweepEvery: 20 * time.Millisecond,
		Observed: func(ctx context.Context, device string, file filehash.Hash) (bool, error) {
			return k.files.Observed(ctx, device, file)
		},
	})
	check(t, err)

	cfg := Config{
		Verifier: verifier, Actions: k.actions, Devices: k.devices, Audit: k.store, Admin: testAdmin{k.issuer, k.devices, k.store}, People: k.people, Issuer: k.issuer.Handler(),
		PublicURL: k.url, Names: realm.Names, ActionFields: store.ActionFields(), DeviceFields: store.DeviceFields,
		Welcome: func() api.EnrollResponse {
			return api.EnrollResponse{TenantID: testTenant, OrderKeys: []string{order.FormatKey(orderKey.Public().(ed25519.PublicKey))}}
		},
		Ready: k.store.Ping, Log: log, Now: k.clock,
		Limits: func() Limit { k.mu.Lock(); defer k.mu.Unlock(); return k.limit },
	}
	k.withRules(&cfg, orderKey)
	for _, o := range options {
		o(&cfg)
	}
	k.handler, err = New(cfg)
	check(t, err)
	server := &httptest.Server{Listener: listener, Config: Server(k.handler, log)}
	server.StartTLS()
	t.Cleanup(server.Close)
	k.http = server.Client()
	return k
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (k *kit) clock() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.now.IsZero() {
		return time.Now()
	}
	return k.now
}

// set changes what the kit's parts look at.
func (k *kit) set(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// settings are those of package action, as the kit's fields say.
func (k *kit) settings() action.Settings {
	return action.Settings{
		RequireObserved:    func() string { k.mu.Lock(); defer k.mu.Unlock(); return cmp.Or(k.mode, "auto") },
		RequireMachineRead: func() bool { k.mu.Lock(); defer k.mu.Unlock(); return k.both },
		Expiry:             func() time.Duration { k.mu.Lock(); defer k.mu.Unlock(); return cmp.Or(k.expiry, 72*time.Hour) },
	}
}

// Ask implements action.Asker.
func (k *kit) Ask(_ context.Context, device string, _ filehash.Hash) (order.Answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	a, ok := k.answers[device]
	return a, ok
}

// app registers an application and returns a client of it.
func (k *kit) app(name string, permissions ...auth.Permission) *client.Client {
	k.t.Helper()
	names := make([]string, len(permissions))
	for i, p := range permissions {
		names[i] = string(p)
	}
	a, secret, err := k.issuer.CreateApp(k.t.Context(), admin(), name, names)
	check(k.t, err)
	return k.client(client.Config{TenantID: testTenant, ClientID: a.ID, ClientSecret: secret})
}

func (k *kit) client(cfg client.Config) *client.Client {
	k.t.Helper()
	cfg.URL, cfg.HTTP = k.url, k.http
	if cfg.MaxWait == 0 {
		cfg.MaxWait = -1
	}
	c, err := client.New(cfg)
	check(k.t, err)
	return c
}

// soc is an application that may do all there is.
func (k *kit) soc() *client.Client {
	return k.app("soc-automation", auth.MachineReadAll, auth.MachineStopAndQuarantine)
}

// enroll makes a device through the API.
func (k *kit) enroll(name string, facts ...func(*order.Facts)) string {
	k.t.Helper()
	return k.enrollWith(k.secret(1), name, facts...)
}

// secret is that of a new enrollment token.
func (k *kit) secret(uses int) string {
	k.t.Helper()
	line, _, err := k.devices.CreateToken(k.t.Context(), admin(), uses, time.Hour, []string{"finance"})
	check(k.t, err)
	tok, err := order.ParseEnrollToken(line)
	check(k.t, err)
	return tok.Secret
}

// testAdmin is Admin as the server wires it, with every setting there is allowed.
type testAdmin struct {
	*issuer.Service
	devices *device.Service
	store   *store.Store
}

func (a testAdmin) Tenant() string { return testTenant }

func (a testAdmin) CreateToken(ctx context.Context, c auth.Caller, uses int, ttl time.Duration, tags []string) (string, device.Token, error) {
	return a.devices.CreateToken(ctx, c, uses, ttl, tags)
}

func (a testAdmin) Revoke(ctx context.Context, c auth.Caller, id string) error {
	_, err := a.devices.Revoke(ctx, c, id)
	return err
}

func (a testAdmin) Setting(ctx context.Context, key string) (string, error) {
	v, ok, err := a.store.Setting(ctx, key)
	if err == nil && !ok {
		err = api.Errorf(api.ResourceNotFound, "Setting %s was not found", key)
	}
	return v, err
}

func (a testAdmin) SetSetting(ctx context.Context, c auth.Caller, key, value string) error {
	return a.store.SetSetting(ctx, key, value, audit.By(c, audit.ChangeSetting, key, "accepted"))
}

func (a testAdmin) Backup(ctx context.Context, _ auth.Caller, file string) error {
	return a.store.Backup(ctx, file)
}

func admin() auth.Caller { return auth.Caller{Kind: auth.Admin, ID: "admin", Name: "admin"} }

func (k *kit) enrollWith(secret, name string, facts ...func(*order.Facts)) string {
	k.t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	check(k.t, err)
	f := order.Facts{Hostname: strings.Split(name, ".")[0], FQDN: name, OS: "linux", OSPlatform: "Ubuntu", OSVersion: "24.4", Kernel: "6.8", Arch: "x64",
		AgentVersion: "0.1.0", Can: []order.Kind{order.StopAndQuarantine, order.Restore, order.Purge, order.Cancel}, Privileged: true}
	for _, change := range facts {
		change(&f)
	}
	raw, err := json.Marshal(f)
	check(k.t, err)
	answer, err := k.client(client.Config{}).Enroll(k.t.Context(), api.EnrollRequest{Secret: secret, PublicKey: order.FormatKey(public), Facts: raw})
	check(k.t, err)
	k.set(func() { k.keys[answer.DeviceID] = private })
	return answer.DeviceID
}

// finish reports an order as its device would.
func (k *kit) finish(id string, change func(*order.Receipt)) {
	k.t.Helper()
	a, err := k.store.Action(k.t.Context(), id)
	check(k.t, err)
	var env order.Envelope
	check(k.t, json.Unmarshal(a.Order, &env))
	digest := env.Digest()
	r := order.Receipt{Order: id, Digest: hexOf(digest[:]), Device: a.MachineID, Kind: order.StopAndQuarantine, Outcome: order.Proven, Accepted: time.Now(), Finished: time.Now()}
	if change != nil {
		change(&r)
	}
	k.mu.Lock()
	key := k.keys[a.MachineID]
	k.mu.Unlock()
	signed, err := order.SignReceipt(r, key)
	check(k.t, err)
	check(k.t, k.actions.Acknowledge(k.t.Context(), a.MachineID, order.Ack{Order: id}))
	check(k.t, k.actions.Finish(k.t.Context(), a.MachineID, order.ReceiptOf{Order: id, Envelope: signed}))
}

// raw sends a request as it stands and returns the answer with its body.
func (k *kit) raw(method, path, token, body string, header ...string) (*http.Response, string) {
	k.t.Helper()
	r, err := http.NewRequestWithContext(k.t.Context(), method, k.url+path, strings.NewReader(body))
	check(k.t, err)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			r.Host = header[i+1]
		}
	}
	resp, err := k.http.Do(r)
	check(k.t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	check(k.t, err)
	return resp, string(b)
}

// token returns an access token of a new application.
func (k *kit) token(name string, permissions ...auth.Permission) string {
	k.t.Helper()
	c := &tokenCatcher{}
	names := make([]string, len(permissions))
	for i, p := range permissions {
		names[i] = string(p)
	}
	a, secret, err := k.issuer.CreateApp(k.t.Context(), admin(), name, names)
	check(k.t, err)
	form := "grant_type=client_credentials&client_id=" + a.ID + "&client_secret=" + secret + "&scope=https://api.securitycenter.microsoft.com/.default"
	_, body := k.raw("POST", "/"+testTenant+"/oauth2/v2.0/token", "", form, "Content-Type", "application/x-www-form-urlencoded")
	check(k.t, json.Unmarshal([]byte(body), c))
	if c.Token == "" {
		k.t.Fatalf("no token: %s", body)
	}
	return c.Token
}

type tokenCatcher struct {
	Token string `json:"access_token"`
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	s := make([]byte, 0, 2*len(b))
	for _, c := range b {
		s = append(s, digits[c>>4], digits[c&15])
	}
	return string(s)
}

// fuzzHandler is a handler of real parts with a token that may do everything.
func fuzzHandler(f *testing.F) (*Handler, string) {
	k := newKit(f)
	k.enroll("fin-lt-014")
	return k.handler, k.token("all", auth.Permissions()...)
}
