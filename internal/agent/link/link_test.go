// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"staunch/api"
	"staunch/internal/order"
)

var dev = strings.Repeat("1", 40)

// TestMain puts a proxy in the environment before anything asks for it:
// net/http reads it once. What is on loopback is reached without it.
func TestMain(m *testing.M) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	p := &connectProxy{}
	var wg sync.WaitGroup
	wg.Go(func() { p.serve(l) })
	_ = os.Setenv("HTTPS_PROXY", "http://"+l.Addr().String())
	viaProxy = p
	code := m.Run()
	_ = l.Close()
	wg.Wait()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

var viaProxy *connectProxy

// connectProxy answers CONNECT and sends every name to one address.
type connectProxy struct {
	target atomic.Value // string
	seen   atomic.Int32
}

func (p *connectProxy) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			req, err := http.ReadRequest(bufio.NewReader(c))
			if err != nil || req.Method != http.MethodConnect {
				return
			}
			p.seen.Add(1)
			far, err := net.Dial("tcp", p.target.Load().(string))
			if err != nil {
				return
			}
			defer func() { _ = far.Close() }()
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			go func() { _, _ = io.Copy(far, c); _ = far.Close() }()
			_, _ = io.Copy(c, far)
		}()
	}
}

// enrollServer answers POST /v1/enroll with status and body.
func enrollServer(t *testing.T, status int, body string) (*httptest.Server, order.EnrollToken) {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		var req api.EnrollRequest
		if r.Method != http.MethodPost || r.URL.Path != "/v1/enroll" || json.Unmarshal(raw, &req) != nil || req.Secret != "s3cret" {
			t.Errorf("unexpected %s %s %s", r.Method, r.URL.Path, raw)
		}
		if _, err := order.ParseKey(req.PublicKey); err != nil {
			t.Error(err)
		}
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(srv.Close)
	return srv, order.EnrollToken{URL: srv.URL, CA: pinOf(srv.Certificate()), Secret: "s3cret"}
}

func pinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func goodAnswer(t *testing.T) string {
	t.Helper()
	b, err := json.Marshal(api.EnrollResponse{DeviceID: dev, OrderKeys: []string{order.FormatKey(newKey(t).Public().(ed25519.PublicKey))}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestEnroll(t *testing.T) {
	srv, token := enrollServer(t, http.StatusOK, goodAnswer(t))
	answer, ca, err := Enroll(t.Context(), token, newKey(t), order.Facts{Hostname: "h"})
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(ca)
	if answer.DeviceID != dev || block == nil || string(block.Bytes) != string(srv.Certificate().Raw) {
		t.Errorf("answer %+v, authority %q", answer, ca)
	}
}

func TestEnrollThroughProxy(t *testing.T) {
	srv, token := enrollServer(t, http.StatusOK, goodAnswer(t))
	viaProxy.target.Store(srv.Listener.Addr().String())
	before := viaProxy.seen.Load()
	token.URL = "https://example.com" // in the certificate; only the proxy is asked for it
	if _, _, err := Enroll(t.Context(), token, newKey(t), order.Facts{}); err != nil {
		t.Fatal(err)
	}
	if viaProxy.seen.Load() != before+1 {
		t.Error("the proxy was not used")
	}
}

func TestEnrollRefused(t *testing.T) {
	refusal := `{"error":{"code":"Forbidden","message":"The token is used up.","target":"x"}}`
	tests := map[string]struct {
		status int
		body   string
		token  func(*order.EnrollToken)
		text   string
		code   api.Code
	}{
		"refused":         {status: 403, body: refusal, text: "The token is used up.", code: api.Forbidden},
		"no JSON":         {status: 500, body: "<html>", text: "the server answered 500"},
		"redirect":        {status: http.StatusFound, text: "the server answered 302"},
		"garbage":         {status: 200, body: "{", text: "cannot read the answer"},
		"no device":       {status: 200, body: `{"deviceId":"x"}`, text: `names the device "x"`},
		"no keys":         {status: 200, body: `{"deviceId":"` + dev + `"}`, text: "has no order key"},
		"bad key":         {status: 200, body: `{"deviceId":"` + dev + `","orderKeys":["x"]}`, text: "cannot read key"},
		"wrong pin":       {token: func(t *order.EnrollToken) { t.CA = strings.Repeat("0", 64) }, text: "it does not show the pinned certificate authority"},
		"no pin, private": {token: func(t *order.EnrollToken) { t.CA = "" }, text: "unknown authority"},
		"odd pin":         {token: func(t *order.EnrollToken) { t.CA = "zz" }, text: "is not a SHA-256"},
		"http":            {token: func(t *order.EnrollToken) { t.URL = "http://127.0.0.1" }, text: "is not an https URL"},
		"nobody there":    {token: func(t *order.EnrollToken) { t.URL = "https://127.0.0.1:1" }, text: "connection refused"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, token := enrollServer(t, tt.status, tt.body)
			if tt.token != nil {
				tt.token(&token)
			}
			_, _, err := Enroll(t.Context(), token, newKey(t), order.Facts{})
			if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.HasPrefix(err.Error(), "cannot enroll with ") {
				t.Fatalf("got %v, want %q", err, tt.text)
			}
			if tt.code != "" && api.CodeOf(err) != tt.code {
				t.Errorf("code %s, want %s", api.CodeOf(err), tt.code)
			}
		})
	}
}

// The pinned authority's certificate for another name is not enough.
func TestEnrollWrongHost(t *testing.T) {
	srv, token := enrollServer(t, http.StatusOK, goodAnswer(t))
	viaProxy.target.Store(srv.Listener.Addr().String())
	token.URL = "https://staunch.invalid"
	_, _, err := Enroll(t.Context(), token, newKey(t), order.Facts{})
	if err == nil || !strings.Contains(err.Error(), "certificate is not good for staunch.invalid") {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := Config{URL: "https://s.example", Device: dev, Key: newKey(t), Facts: func() order.Facts { return order.Facts{} }, Handler: &nothing{}}
	for text, change := range map[string]func(*Config){
		"is not 40 hex digits":           func(c *Config) { c.Device = "x" },
		"no device key":                  func(c *Config) { c.Key = nil },
		"facts and handler are required": func(c *Config) { c.Facts = nil },
		"is not an https URL":            func(c *Config) { c.URL = "http://s.example" },
	} {
		c := good
		change(&c)
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
	l, err := New(good)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Send(order.Message{}); !errors.Is(err, ErrOffline) {
		t.Error(err)
	}
}

type nothing struct{ connected chan struct{} }

func (*nothing) Welcome(order.Welcome) {}
func (n *nothing) Connected() {
	if n.connected != nil {
		n.connected <- struct{}{}
	}
}
func (*nothing) Order(context.Context, order.Envelope) (order.Ack, bool) { return order.Ack{}, false }
func (*nothing) ReceiptKept(string)                                      {}
func (*nothing) Ask(context.Context, order.Ask) order.Answer             { return order.Answer{} }

func TestBackoff(t *testing.T) {
	var b Backoff
	b.fill()
	most := map[int]time.Duration{}
	for range 2000 {
		for _, n := range []int{0, 1, 5, 9, 40, 1000} {
			most[n] = max(most[n], b.next(n, errors.New("x")))
		}
	}
	for n, limit := range map[int]time.Duration{0: 200 * time.Millisecond, 1: 400 * time.Millisecond, 5: 6400 * time.Millisecond, 9: time.Minute, 40: time.Minute, 1000: time.Minute} {
		if most[n] > limit+time.Millisecond || most[n] < limit/2 {
			t.Errorf("after %d failures up to %v, want up to %v and spread out", n, most[n], limit)
		}
	}
	if w := b.next(0, &refusal{after: 30 * time.Second}); w < 30*time.Second {
		t.Errorf("Retry-After of 30 s: %v", w)
	}
	if w := b.next(0, &refusal{after: 24 * time.Hour}); w > 11*time.Minute {
		t.Errorf("Retry-After of a day is to be bounded: %v", w)
	}
	if w := b.next(0, &refusal{slow: true}); w < 10*time.Minute || w > 20*time.Minute {
		t.Errorf("refused for good: %v", w)
	}
}

// play runs one session of a link against a server that says the given words
// after the hello (before: instead of the challenge) and returns how it ended.
func play(t *testing.T, challenge string, words ...string) error {
	t.Helper()
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.CloseNow() }()
		_ = conn.Write(r.Context(), websocket.MessageText, []byte(challenge))
		if _, _, err := conn.Read(r.Context()); err != nil {
			return
		}
		for _, s := range words {
			_ = conn.Write(r.Context(), websocket.MessageText, []byte(s))
		}
		_, _, _ = conn.Read(r.Context()) // until the link goes
	}))
	defer srv.Close()
	pool := x509.NewCertPool()
	pool.AddCert(srv.Certificate())
	l, err := New(Config{URL: srv.URL, CA: pool, Device: dev, Key: newKey(t), Facts: func() order.Facts { return order.Facts{} }, Handler: &nothing{}})
	if err != nil {
		t.Fatal(err)
	}
	return l.session(t.Context())
}

func TestServerMisbehaves(t *testing.T) {
	const good = `{"challenge":{"version":1,"nonce":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","server":"s","time":"2026-01-02T03:04:05Z"}}`
	const welcome = `{"welcome":{}}`
	tests := map[string]struct {
		challenge string
		words     []string
		text      string
		slow      bool
	}{
		"no challenge":      {`{"welcome":{}}`, nil, "first message is no challenge", false},
		"garbage":           {`}`, nil, "cannot read message", false},
		"newer version":     {strings.Replace(good, `"version":1`, `"version":2`, 1), nil, "the server speaks version 2 of the link, this agent version 1: upgrade the older one", true},
		"short nonce":       {strings.Replace(good, "AAAAAAAA", "AAAA", 1), nil, "challenge", false},
		"no welcome":        {good, []string{`{"ack":{"order":"x"}}`}, "is no welcome", false},
		"revoked":           {good, []string{`{"bye":{"reason":"shut out","retry":false}}`}, "the server closed the link: shut out", true},
		"stopping":          {good, []string{welcome, `{"bye":{"reason":"stopping","retry":true}}`}, "the server closed the link: stopping", false},
		"garbage, later":    {good, []string{welcome, `{"exec":{}}`}, "unknown field", false},
		"a device's word":   {good, []string{welcome, `{"hello":{"device":"","signature":null,"facts":{}}}`}, "a server does not send such a message", false},
		"too large a hello": {good + strings.Repeat(" ", maxGreeting), nil, "cannot read from the server", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := play(t, tt.challenge, tt.words...)
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Fatalf("got %v, want %q", err, tt.text)
			}
			var r *refusal
			if slow := errors.As(err, &r) && r.slow; slow != tt.slow {
				t.Errorf("slow %v, want %v", slow, tt.slow)
			}
		})
	}
}
