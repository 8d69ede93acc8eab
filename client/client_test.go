// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
)

// serve makes a client of a server that answers with h. What a real server
// answers is tested with the real one, in internal/server/httpapi; this is for
// what no healthy server does.
func serve(t *testing.T, cfg Config, h http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	cfg.URL, cfg.HTTP = s.URL, s.Client()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tokens is a TokenSource that counts.
type tokens struct{ asked, refreshed atomic.Int32 }

func (s *tokens) Token(_ context.Context, refresh bool) (string, error) {
	s.asked.Add(1)
	if refresh {
		s.refreshed.Add(1)
		return "new", nil
	}
	return "old", nil
}

func refuse(w http.ResponseWriter, status int, code api.Code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.ErrorBody{Error: &api.Error{Code: code, Message: message, Target: "t"}})
}

func TestNewRefuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{Config{}, "want https://HOST[:PORT]"},
		{Config{URL: "http://mde.soc.example"}, "http only for this machine"},
		{Config{URL: "ftp://x"}, "want https://HOST[:PORT]"},
		{Config{URL: "https://"}, "want https://HOST[:PORT]"},
		{Config{URL: "https://a b"}, "cannot use server URL"},
		{Config{URL: "https://x", CAFile: "/no/such/file"}, "cannot read the server's certificate authority"},
		{Config{URL: "https://x", CAFile: empty}, "holds no PEM certificate"},
	} {
		if _, err := New(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
}

func TestCAFile(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Config{URL: s.URL + "/", CAFile: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Healthy(t.Context()); err != nil {
		t.Error(err)
	}
	if c, err = New(Config{URL: s.URL}); err != nil {
		t.Fatal(err)
	}
	if err := c.Healthy(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a stranger's certificate: %v", err)
	}
}

func TestRefreshOnce(t *testing.T) {
	src := &tokens{}
	c := serve(t, Config{TokenSource: src}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer new" {
			refuse(w, 401, api.Unauthorized, "expired")
			return
		}
		_, _ = io.WriteString(w, `{"id":"x"}`)
	})
	if a, err := c.MachineAction(t.Context(), "x"); err != nil || a.ID != "x" {
		t.Error(err)
	}
	always := serve(t, Config{TokenSource: src}, func(w http.ResponseWriter, _ *http.Request) { refuse(w, 401, api.Unauthorized, "no") })
	src.asked.Store(0)
	if _, err := always.MachineAction(t.Context(), "x"); api.CodeOf(err) != api.Unauthorized || src.asked.Load() != 2 {
		t.Errorf("%v after %d tokens", err, src.asked.Load())
	}
	// A call that is open takes no token with it.
	src.asked.Store(0)
	if err := always.Healthy(t.Context()); api.CodeOf(err) != api.Unauthorized || src.asked.Load() != 0 {
		t.Errorf("%v after %d tokens", err, src.asked.Load())
	}
}

func TestCredentials(t *testing.T) {
	var answer atomic.Value
	var asked atomic.Int32
	c := serve(t, Config{TenantID: "t/1", ClientID: "app", ClientSecret: "s&cret"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/t%2F1/oauth2/v2.0/token" {
			_, _ = io.WriteString(w, `{}`)
			return
		}
		asked.Add(1)
		if r.PostFormValue("client_secret") != "s&cret" || r.PostFormValue("grant_type") != "client_credentials" {
			t.Errorf("form %v", r.PostForm)
		}
		a, _ := answer.Load().([2]string)
		if a[0] == "400" {
			w.WriteHeader(400)
		}
		_, _ = io.WriteString(w, a[1])
	})
	for _, a := range []struct{ answer, want string }{
		{"<html>", `cannot get a token: the server answered 400 Bad Request: "<html>"`},
		{"{}", "cannot get a token: the answer holds none"},
		{`{"error":"invalid_client","error_description":"AADSTS7000215: no"}`, "Unauthorized: no token for application app: AADSTS7000215: no"},
	} {
		answer.Store([2]string{"400", a.answer})
		if err := c.Login(t.Context()); err == nil || err.Error() != a.want {
			t.Errorf("%s: %v", a.answer, err)
		}
	}
	// A good token is kept; one about to end is not.
	asked.Store(0)
	answer.Store([2]string{"200", `{"access_token":"a","expires_in":3599}`})
	for range 3 {
		if _, err := c.Machine(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if asked.Load() != 1 {
		t.Errorf("%d tokens for three calls", asked.Load())
	}
	answer.Store([2]string{"200", `{"access_token":"a","expires_in":30}`})
	if err := c.Login(t.Context()); err != nil {
		t.Fatal(err)
	}
	asked.Store(0)
	if _, err := c.Machine(t.Context(), "x"); err != nil || asked.Load() != 1 {
		t.Errorf("a token near its end was used: %v", err)
	}
	open := serve(t, Config{}, nil)
	if err := open.Login(t.Context()); err == nil || !strings.Contains(err.Error(), "no credentials") {
		t.Errorf("login without credentials: %v", err)
	}
}

// transport answers without a network, so that a test can own the clock.
type transport func(*http.Request) *http.Response

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

func respond(status int, retryAfter, body string) *http.Response {
	h := http.Header{}
	if retryAfter != "" {
		h.Set("Retry-After", retryAfter)
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

const busy = `{"error":{"code":"TooManyRequests","message":"slow down","target":"t"}}`

func TestRetry(t *testing.T) {
	for name, c := range map[string]struct {
		answers []*http.Response // the last one again and again
		maxWait time.Duration
		code    api.Code // "": success
		calls   int
		took    time.Duration
	}{
		"waits as told":                {[]*http.Response{respond(429, "7", busy), respond(503, "2", "proxy"), respond(200, "", "{}")}, 0, "", 3, 9 * time.Second},
		"gives up after some attempts": {[]*http.Response{respond(429, "1", busy)}, 0, api.TooManyRequests, 5, 4 * time.Second},
		"waits no longer than allowed": {[]*http.Response{respond(429, "61", busy)}, time.Minute, api.TooManyRequests, 1, 0},
		"need not wait":                {[]*http.Response{respond(429, "1", busy)}, -1, api.TooManyRequests, 1, 0},
		"no Retry-After, no retry":     {[]*http.Response{respond(503, "", "x")}, 0, api.ServiceUnavailable, 1, 0},
		"a date is not followed":       {[]*http.Response{respond(503, "Fri, 31 Dec 1999 23:59:59 GMT", "x")}, 0, api.ServiceUnavailable, 1, 0},
		"other refusals are final":     {[]*http.Response{respond(500, "1", "x")}, 0, api.InternalServerError, 1, 0},
		"a gateway's fault":            {[]*http.Response{respond(502, "1", "<html>")}, 0, api.ServiceUnavailable, 1, 0},
		"a proxy's 404":                {[]*http.Response{respond(404, "", "")}, 0, api.NotFound, 1, 0},
		"a redirect is not followed":   {[]*http.Response{respond(302, "", "")}, 0, api.InternalServerError, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				calls := 0
				h := &http.Client{Transport: transport(func(*http.Request) *http.Response {
					calls++
					last := *c.answers[min(calls, len(c.answers))-1]
					b, _ := io.ReadAll(last.Body)
					c.answers[min(calls, len(c.answers))-1].Body = io.NopCloser(strings.NewReader(string(b)))
					last.Body = io.NopCloser(strings.NewReader(string(b)))
					return &last
				})}
				cl, err := New(Config{URL: "https://x", HTTP: h, MaxWait: c.maxWait})
				if err != nil {
					t.Fatal(err)
				}
				start := time.Now()
				_, err = cl.StopAndQuarantineFile(t.Context(), "m", api.StopAndQuarantineRequest{Comment: "c"})
				if api.CodeOf(err) != c.code || calls != c.calls || time.Since(start) != c.took {
					t.Errorf("%v after %d calls and %s", err, calls, time.Since(start))
				}
			})
		})
	}
}

func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		calls := 0
		h := &http.Client{Transport: transport(func(*http.Request) *http.Response {
			calls++
			status := api.Pending
			switch since := time.Since(start); {
			case since > 20*time.Minute:
				status = api.Succeeded
			case since > 10*time.Minute:
				status = api.InProgress
			}
			return respond(200, "", `{"id":"x","status":"`+status+`","lastUpdateDateTimeUtc":"2026-02-11T08:41:07Z"}`)
		})}
		c, err := New(Config{URL: "https://x", HTTP: h})
		if err != nil {
			t.Fatal(err)
		}
		var seen []string
		a, err := c.Watch(t.Context(), "x", func(a api.MachineAction) { seen = append(seen, a.Status) })
		if err != nil || a.Status != api.Succeeded {
			t.Errorf("%+v, %v", a, err)
		}
		if d := cmp.Diff([]string{api.Pending, api.InProgress, api.Succeeded}, seen); d != "" {
			t.Error(d)
		}
		if perMinute := float64(calls) / time.Since(start).Minutes(); perMinute > 25 {
			t.Errorf("%.0f looks a minute use up the rate limit", perMinute)
		}
		ctx, cancel := context.WithCancel(t.Context())
		start = time.Now()
		go func() { time.Sleep(time.Minute); cancel() }()
		if _, err := c.Watch(ctx, "x", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("a watch that was given up: %v", err)
		}
	})
}

// A server that restarts does not end a watch; one that stays away does.
func TestWatchIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		back := 30 * time.Second
		h := &http.Client{Transport: transport(func(*http.Request) *http.Response {
			if time.Since(start) < back {
				return respond(502, "", "nobody here")
			}
			return respond(200, "", `{"id":"x","status":"Succeeded"}`)
		})}
		c, err := New(Config{URL: "https://x", HTTP: h})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := c.Watch(t.Context(), "x", nil); err != nil || a.Status != api.Succeeded {
			t.Errorf("%+v, %v", a, err)
		}
		back = time.Hour
		again := time.Now()
		if _, err := c.Watch(t.Context(), "x", nil); api.CodeOf(err) != api.ServiceUnavailable || time.Since(again) > 2*patience {
			t.Errorf("after %s: %v", time.Since(again), err)
		}
	})
}

func TestWhatNoServerSays(t *testing.T) {
	var body atomic.Value
	c := serve(t, Config{}, func(w http.ResponseWriter, _ *http.Request) {
		s, _ := body.Load().(string)
		_, _ = io.WriteString(w, s)
	})
	for _, s := range []string{"", "<html>", `{"id":7}`, "[]"} {
		body.Store(s)
		if _, err := c.Machine(t.Context(), "x"); err == nil || !strings.HasPrefix(err.Error(), "cannot read the server's answer") {
			t.Errorf("%q: %v", s, err)
		}
	}
	gone, err := New(Config{URL: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Healthy(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "cannot reach the server") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestQuery(t *testing.T) {
	q := Query{Filter: "a eq 'b'", OrderBy: "c desc", Top: 5, Skip: 6, Count: true, Select: []string{"x", "y"}}
	if got, want := q.values().Encode(), "%24count=true&%24filter=a+eq+%27b%27&%24orderby=c+desc&%24select=x%2Cy&%24skip=6&%24top=5"; got != want {
		t.Errorf("have %s, want %s", got, want)
	}
	if len((Query{}).values()) != 0 {
		t.Error("zero values are sent")
	}
}
