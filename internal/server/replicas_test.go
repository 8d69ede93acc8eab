// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"staunch/api"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
	"staunch/internal/server/people"
	"staunch/internal/server/storetest"
)

const resource = "https://api.securitycenter.microsoft.com"

// replica is one running server, on its own listener and admin socket.
type replica struct {
	*Server
	t     testing.TB
	http  *http.Client
	admin *http.Client
}

func startReplica(t testing.TB, cfg Config) *replica {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	s, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	b, err := os.ReadFile(s.caFile())
	if err != nil || !roots.AppendCertsFromPEM(b) {
		t.Fatal("no certificate authority", err)
	}
	socket := filepath.Join(cfg.Data, "admin.sock")
	r := &replica{Server: s, t: t, http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}}
	r.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	t.Cleanup(func() { r.http.CloseIdleConnections(); r.admin.CloseIdleConnections() })
	return r
}

// startReplicas starts servers on one PostgreSQL database, with the same keys.
func startReplicas(t testing.TB, n int) []*replica {
	t.Helper()
	database := storetest.StartPostgres(t).Create(t)
	all := []*replica{startReplica(t, Config{Data: t.TempDir(), Database: database})}
	for range n - 1 {
		data := t.TempDir()
		if err := os.CopyFS(filepath.Join(data, "keys"), os.DirFS(filepath.Join(all[0].cfg.Data, "keys"))); err != nil {
			t.Fatal(err)
		}
		closed(t, filepath.Join(data, "keys"))
		all = append(all, startReplica(t, Config{Data: data, Database: database}))
	}
	return all
}

// closed gives a copy of the keys the modes that the originals have.
func closed(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600)
		if d.IsDir() {
			mode = 0o700
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// send makes a request and reads its answer.
func (r *replica) send(c *http.Client, method, url, token, kind, body string) (int, http.Header, []byte) {
	r.t.Helper()
	q, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	q.Header.Set("Content-Type", kind)
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	a, err := c.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = a.Body.Close() }()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return a.StatusCode, a.Header, b
}

func (r *replica) call(method, path, token, body string) (int, http.Header, []byte) {
	return r.send(r.http, method, r.URL()+path, token, "application/json", body)
}

// administer makes a call on the admin socket and decodes its answer into out.
func (r *replica) administer(method, path string, body, out any) int {
	r.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		r.t.Fatal(err)
	}
	code, _, answer := r.send(r.admin, method, "http://admin"+path, "", "application/json", string(b))
	if code < 300 && out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			r.t.Fatalf("%v: %s", err, answer)
		}
	}
	return code
}

// token asks the token service; a refusal comes as its error and number.
func (r *replica) token(tenant string, form url.Values) (token, refusal string) {
	r.t.Helper()
	_, _, b := r.send(r.http, "POST", r.URL()+"/"+tenant+"/oauth2/v2.0/token", "", "application/x-www-form-urlencoded", form.Encode())
	var answer struct {
		Token string `json:"access_token"`
		Error string `json:"error"`
		Codes []int  `json:"error_codes"`
	}
	if err := json.Unmarshal(b, &answer); err != nil {
		r.t.Fatalf("%v: %s", err, b)
	}
	if answer.Error == "" {
		return answer.Token, ""
	}
	return "", fmt.Sprint(answer.Error, " ", answer.Codes)
}

func (r *replica) app(name string, more api.AppRequest) (api.App, url.Values) {
	r.t.Helper()
	var a api.App
	more.Name = name
	if code := r.administer("POST", "/v1/apps", more, &a); code != 201 {
		r.t.Fatalf("cannot make app %s: %d", name, code)
	}
	return a, url.Values{"grant_type": {"client_credentials"}, "client_id": {a.ClientID}, "client_secret": {a.ClientSecret}, "scope": {resource + "/.default"}}
}

// What is limited, is limited over all replicas together.
func TestReplicas(t *testing.T) {
	all := startReplicas(t, 2)
	one, two := all[0], all[1]
	reader := api.AppRequest{Permissions: []string{"Machine.Read.All"}}

	set := func(key, value string) {
		t.Helper()
		if code := one.administer("PUT", "/v1/settings/"+key, map[string]string{"value": value}, nil); code != 200 {
			t.Fatal(code)
		}
		for _, r := range all {
			if err := r.settings.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}

	// By the hour, so that a slow machine does not see the window end; limit tests the minute.
	t.Run("100 calls", func(t *testing.T) {
		set("limits.perMinute", "1000000")
		set("limits.perHour", "100")
		app, form := one.app("limited", reader)
		token, refusal := two.token(app.TenantID, form)
		if refusal != "" {
			t.Fatal(refusal)
		}
		for i := range 100 {
			if code, _, b := all[i%2].call("GET", "/api/machines", token, ""); code != 200 {
				t.Fatalf("call %d: %d %s", i, code, b)
			}
		}
		for _, r := range all {
			code, header, b := r.call("GET", "/api/machines", token, "")
			if n, err := strconv.Atoi(header.Get("Retry-After")); code != 429 || err != nil || n < 1 || n > 3600 {
				t.Errorf("call 101: %d, Retry-After %q, %s", code, header.Get("Retry-After"), b)
			}
			if code, _, b := r.call("GET", "/api/machineactions", token, ""); code != 200 {
				t.Errorf("another API: %d %s", code, b)
			}
		}
		if t.Failed() {
			return
		}
		// All at once and at both: never one more than the limit.
		set("limits.perHour", "150")
		var wait sync.WaitGroup
		var passed atomic.Int64
		for i := range 16 {
			wait.Go(func() {
				for range 20 {
					if code, _, _ := all[i%2].call("GET", "/api/machineactions", token, ""); code == 200 {
						passed.Add(1)
					}
				}
			})
		}
		wait.Wait()
		// Two were made above; a replica may hold a sixteenth of what was left unused.
		if n := passed.Load(); n > 148 || n < 148-148/16-1 {
			t.Errorf("%d of 320 calls passed, want 148 or a few less", n)
		}
	})

	t.Run("an app's name", func(t *testing.T) {
		var wait sync.WaitGroup
		var made atomic.Int64
		for i := range 10 {
			wait.Go(func() {
				if all[i%2].administer("POST", "/v1/apps", api.AppRequest{Name: "same", Permissions: reader.Permissions}, nil) == 201 {
					made.Add(1)
				}
			})
		}
		wait.Wait()
		if n := made.Load(); n != 1 {
			t.Errorf("%d apps of one name", n)
		}
	})

	t.Run("an assertion", func(t *testing.T) {
		key, cert := certificate(t)
		app, form := one.app("certified", api.AppRequest{Permissions: reader.Permissions, Certificate: cert})
		form.Del("client_secret")
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion(t, key, cert, app.ClientID, one.URL()+"/"+app.TenantID+"/v2.0"))
		got := map[string]int{}
		var mu sync.Mutex
		var wait sync.WaitGroup
		for i := range 8 {
			wait.Go(func() {
				_, refusal := all[i%2].token(app.TenantID, form)
				mu.Lock()
				defer mu.Unlock()
				got[refusal]++
			})
		}
		wait.Wait()
		if got[""] != 1 {
			t.Errorf("an assertion was taken %d times: %v", got[""], got)
		}
	})

	t.Run("guesses at a password", func(t *testing.T) {
		set("auth.passwordGrant", "true")
		if code := two.administer("POST", "/v1/users", api.UserRequest{UPN: "ana@corp.example", Password: "correct horse battery"}, nil); code != 201 {
			t.Fatal(code)
		}
		app, _ := one.app("native", api.AppRequest{Delegated: []string{"Machine.Read"}, Public: true})
		form := url.Values{"grant_type": {"password"}, "client_id": {app.ClientID}, "scope": {resource + "/.default"}, "username": {"ana@corp.example"}, "password": {"guess"}}
		for i := range 4 {
			if _, refusal := all[i%2].token(app.TenantID, form); refusal != "invalid_grant [50126]" {
				t.Errorf("guess %d: %s", i, refusal)
			}
		}
		err := two.store.ChangeTries(t.Context(), []string{"127.0.0.1 ana@corp.example", "127.0.0.1"}, func(tries []people.Tries) {
			if tries[0].Wrong != 4 || tries[1].Wrong != 4 {
				t.Errorf("four guesses at two replicas count as %+v", tries)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// What an app's orders may reach is said for all and, before that, of itself.
func TestReachOfCallers(t *testing.T) {
	s := startReplica(t, Config{Data: t.TempDir()})
	two, none, reset := 2, 0, -1
	app, _ := s.app("bounded", api.AppRequest{Permissions: []string{"Machine.StopAndQuarantine"}, OrdersPerHour: &two})
	if app.OrdersPerHour == nil || *app.OrdersPerHour != 2 || app.DevicesPerDay != nil {
		t.Errorf("app: %+v", app)
	}
	foreign := auth.NewGUID()
	adopted, _ := s.app("of Entra", api.AppRequest{ID: strings.ToUpper(foreign), DevicesPerDay: &two})
	if adopted.ClientID != foreign || adopted.ClientSecret != "" || len(adopted.Secrets) != 0 {
		t.Errorf("app of an issuer outside: %+v", adopted)
	}
	for _, bad := range []string{"soar", api.CommandLineApp, foreign} {
		if code := s.administer("POST", "/v1/apps", api.AppRequest{Name: "bad " + bad, ID: bad}, nil); code != 400 {
			t.Errorf("id %s: %d", bad, code)
		}
	}
	set := func(key, value string) {
		t.Helper()
		if code := s.administer("PUT", "/v1/settings/"+key, map[string]string{"value": value}, nil); code != 200 {
			t.Fatal(code)
		}
	}
	change := func(ch api.AppChange) {
		t.Helper()
		if code := s.administer("PATCH", "/v1/apps/"+app.ClientID, ch, nil); code != 200 {
			t.Fatal(code)
		}
	}
	want := func(kind auth.Kind, id string, want action.Reach) {
		t.Helper()
		if got, err := s.reach(t.Context(), auth.Caller{Kind: kind, ID: id}); err != nil || got != want {
			t.Errorf("%s %s: %+v, %v, want %+v", kind, id, got, err, want)
		}
	}
	want(auth.App, app.ClientID, action.Reach{OrdersPerHour: 2})
	want(auth.App, "of nobody", action.Reach{})
	set("limits.ordersPerHour", "100")
	set("limits.devicesPerDay", "50")
	want(auth.App, app.ClientID, action.Reach{OrdersPerHour: 2, DevicesPerDay: 50})
	want(auth.App, foreign, action.Reach{OrdersPerHour: 100, DevicesPerDay: 2})
	want(auth.App, "of nobody", action.Reach{OrdersPerHour: 100, DevicesPerDay: 50})
	want(auth.User, "ana@corp.example", action.Reach{OrdersPerHour: 100, DevicesPerDay: 50})
	change(api.AppChange{OrdersPerHour: &reset, DevicesPerDay: &none})
	want(auth.App, app.ClientID, action.Reach{OrdersPerHour: 100})
}

func certificate(t testing.TB) (crypto.Signer, string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func assertion(t testing.TB, key crypto.Signer, cert, client, audience string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(cert))
	sum := sha256.Sum256(block.Bytes)
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.PS256, Key: key}, (&jose.SignerOptions{}).WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(sum[:])))
	if err != nil {
		t.Fatal(err)
	}
	out, err := jwt.Signed(s).Claims(jwt.Claims{Issuer: client, Subject: client, Audience: jwt.Audience{audience}, ID: "j1", Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour))}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}
