// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

// dial opens a connection to the kit's server below HTTP.
func (k *kit) dial() net.Conn {
	k.t.Helper()
	c, err := tls.Dial("tcp", strings.TrimPrefix(k.url, "https://"), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	check(k.t, err)
	k.t.Cleanup(func() { _ = c.Close() })
	return c
}

// say sends bytes and returns the statuses of all answers until the server
// closes or is silent.
func say(t *testing.T, c net.Conn, text string) (statuses []int) {
	t.Helper()
	check(t, c.SetDeadline(time.Now().Add(time.Minute)))
	go func() { _, _ = io.WriteString(c, text) }()
	r := bufio.NewReader(c)
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return statuses
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		statuses = append(statuses, resp.StatusCode)
		if resp.Close {
			return statuses
		}
	}
}

// Two readers of one connection must not differ on where a request ends.
func TestSmuggling(t *testing.T) {
	k := newKit(t)
	token := k.token("soc", auth.MachineReadAll, auth.MachineStopAndQuarantine)
	head := "POST /api/machineactions/x/cancel HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + token + "\r\n"
	smuggled := "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
	last := "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	final := head + "Connection: close\r\n"
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"two different lengths":                   {head + "Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + smuggled, "[400]"},
		"a length that is no number":              {head + "Content-Length: +3\r\n\r\nabc" + smuggled, "[400]"},
		"an unknown transfer encoding":            {head + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + smuggled, "[501]"},
		"an obfuscated transfer encoding":         {head + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + smuggled, "[501]"},
		"a chunk size that overflows":             {head + "Transfer-Encoding: chunked\r\n\r\n10000000000000002\r\nab\r\n0\r\n\r\n", "[400]"},
		"a bare line feed in a header":            {head + "X: a\rContent-Length: 3\r\n\r\nabc" + smuggled, "[400]"},
		"a blank before the colon":                {head + "Content-Length : 3\r\n\r\nabc" + smuggled, "[400]"},
		"two hosts":                               {"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "[400]"},
		"no host":                                 {"GET /healthz HTTP/1.1\r\n\r\n", "[400]"},
		"not HTTP":                                {"\x00\x01\x02\r\n\r\n", "[400]"},
		"a list of lengths":                       {head + "Content-Length: 2, 2\r\n\r\n{}" + smuggled, "[400]"},
		"a list of two lengths":                   {head + "Content-Length: 2, 44\r\n\r\n{}" + smuggled, "[400]"},
		"a negative length":                       {head + "Content-Length: -1\r\n\r\n" + smuggled, "[400]"},
		"an empty length":                         {head + "Content-Length: \r\n\r\n" + smuggled, "[400]"},
		"two transfer encodings":                  {head + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + smuggled, "[501]"},
		"a vertical tab before chunked":           {head + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + smuggled, "[400]"},
		"a bare line feed after a chunk's size":   {head + "Transfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\n" + smuggled, "[400]"},
		"a bare line feed in a chunk's extension": {head + "Transfer-Encoding: chunked\r\n\r\n2;a\nX\r\n{}\r\n0\r\n\r\n" + smuggled, "[400]"},
		"a bare line feed after the last chunk":   {head + "Transfer-Encoding: chunked\r\n\r\n0\n\n" + smuggled, "[400]"},
		"a length in the trailer":                 {head + "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 44\r\n\r\n" + smuggled, "[400]"},
		"NUL in a header":                         {"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", "[400]"},
		"a folded line before any header":         {"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n", "[400]"},

		// What RFC 9112 lets a server take, it takes in that one meaning.
		"a folded length (5.2)":                   {final + "Content-Length:\r\n " + fmt.Sprint(len(last)) + "\r\n\r\n" + last, "[400]"}, // the request inside is a body that is no JSON
		"a folded encoding ends the connection":   {head + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + smuggled, "[404]"},
		"a length folded into another header":     {head + "X: a\r\n Content-Length: 44\r\n\r\n" + last, "[404 200]"},
		"one length twice (6.3)":                  {head + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + last, "[404 200]"},
		"lines that end with a line feed (2.2)":   {"GET /healthz HTTP/1.1\nHost: localhost\nConnection: close\n\n", "[200]"},
		"chunks by HTTP/1.0 end the connection":   {strings.Replace(head, "1.1", "1.0", 1) + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, "[404]"},
		"a length beside a folded encoding (6.3)": {head + "Content-Length: 5\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n0\r\n\r\n" + smuggled, "[404]"},
	} {
		if got := fmt.Sprint(say(t, k.dial(), c.text)); got != c.want {
			t.Errorf("%s: answers %s, want %s", name, got, c.want)
		}
	}
	// Content-Length beside Transfer-Encoding: the length is void (RFC 9112, 6.3)
	// and the connection ends, so what follows is never taken for a request.
	got := say(t, k.dial(), head+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+smuggled)
	if fmt.Sprint(got) != "[404]" {
		t.Errorf("length and chunks: %v, want one answer and the end", got)
	}
}

func TestHugeHeaders(t *testing.T) {
	k := newKit(t)
	for name, header := range map[string]string{
		"one long":  "X: " + strings.Repeat("a", 200<<10) + "\r\n",
		"many":      strings.Repeat("X: aaaaaaaaaaaaaaaa\r\n", 10_000),
		"long path": "",
	} {
		path := "/healthz"
		if name == "long path" {
			path += strings.Repeat("/a", 100<<10)
		}
		got := say(t, k.dial(), "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n"+header+"\r\n")
		if fmt.Sprint(got) != "[431]" {
			t.Errorf("%s: %v", name, got)
		}
	}
	// A token of the largest size passes the header's bound and fails as a token.
	if resp, _ := k.raw("GET", "/api/machines", strings.Repeat("a", auth.MaxToken), ""); resp.StatusCode != 401 {
		t.Errorf("long token: %d", resp.StatusCode)
	}
}

// Slow clients are cut off by the server's own clocks. The times of the real
// server are looked at; to wait for them, a server with shorter ones is used.
func TestSlowClients(t *testing.T) {
	s := Server(http.NotFoundHandler(), newKit(t).handler.cfg.Log)
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Fatalf("the server waits for ever: %+v", s)
	}
	k := newKit(t)
	token := k.token("soc", auth.MachineStopAndQuarantine)
	quick := httptest.NewUnstartedServer(k.handler)
	quick.Config.ReadHeaderTimeout, quick.Config.ReadTimeout = 200*time.Millisecond, 200*time.Millisecond
	quick.Start()
	defer quick.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(quick.URL, "http://"))
		check(t, err)
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	if got := say(t, dial(), "GET /healthz HTTP/1.1\r\nHost: x\r\nX: "); len(got) != 0 && got[0] < 400 {
		t.Errorf("half a header: %v", got)
	}
	got := say(t, dial(), "POST /api/machineactions/x/cancel HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+token+"\r\nContent-Length: 100\r\n\r\n{\"Comment\":")
	if fmt.Sprint(got) != "[400]" {
		t.Errorf("half a body: %v", got)
	}
}

func TestUnknownPathsAndMethods(t *testing.T) {
	k := newKit(t)
	for _, path := range []string{"/", "/api", "/api/exposureScore", "/api/v1.0", "/api/machines/a/b/c", "/v1", "/v1/nothing", "/api/machines/x(y)", "/api/%ff", "/api/machines/a%00b", "/v1/link", "/api/machines/../machines/../../etc"} {
		resp, body := k.raw("GET", path, "", "")
		if resp.StatusCode != 404 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
			continue
		}
		checkError(t, body, "NotFound", "")
	}
	for _, c := range []struct{ method, path, allow string }{
		{"DELETE", "/api/machineactions", "GET"},
		{"GET", "/api/machines/x/isolate", "POST"},
		{"OPTIONS", "/v1/quarantine/x", "DELETE, GET"},
		{"PROPFIND", "/healthz", "GET"},
	} {
		resp, body := k.raw(c.method, c.path, "", "")
		if resp.StatusCode != 405 || resp.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d, Allow %q", c.method, c.path, resp.StatusCode, resp.Header.Get("Allow"))
		}
		checkError(t, body, "MethodNotAllowed", "The requested resource does not support http method '"+c.method+"'.")
	}
	if resp, body := k.raw("HEAD", "/healthz", "", ""); resp.StatusCode != 200 || body != "" {
		t.Errorf("HEAD: %d %q", resp.StatusCode, body)
	}
}

func TestIssuerIsToldApartByPath(t *testing.T) {
	k := newKit(t)
	for path, want := range map[string]int{
		"/" + testTenant + "/v2.0/.well-known/openid-configuration":                                200,
		"/" + testTenant + "/discovery/v2.0/keys":                                                  200,
		"/common/discovery/instance?authorization_endpoint=https://x/common/oauth2/v2.0/authorize": 200,
		"/api/oauth2/token": 404,
		"/v1/.well-known/x": 404,
	} {
		if resp, body := k.raw("GET", path, "", ""); resp.StatusCode != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

func TestProbes(t *testing.T) {
	var ready error
	k := newKit(t, func(c *Config) { c.Ready = func(context.Context) error { return ready } })
	c, ctx := k.client(client.Config{}), t.Context()
	check(t, c.Healthy(ctx))
	check(t, c.Ready(ctx))
	ready = errors.New("the database at 10.0.0.7 is gone")
	if err := c.Ready(ctx); api.CodeOf(err) != api.ServiceUnavailable || strings.Contains(err.Error(), "10.0.0.7") {
		t.Errorf("not ready: %v", err)
	}
	check(t, c.Healthy(ctx))
	if !strings.Contains(k.log.String(), "10.0.0.7") {
		t.Error("the cause is not in the log")
	}
}

// broken is Actions that fail in ways they should not.
type broken struct {
	Actions
	how func() error
}

func (b broken) List(context.Context, auth.Caller, odata.Query) ([]action.Action, int64, error) {
	return nil, 0, b.how()
}

func TestFaultsStayInside(t *testing.T) {
	var how func() error
	k := newKit(t, func(c *Config) { c.Actions = broken{c.Actions, func() error { return how() }} })
	token := k.token("reader", auth.MachineReadAll)
	for name, c := range map[string]struct {
		how    func() error
		status int
		code   string
	}{
		"error":            {func() error { return errors.New("secret 42: disk is on fire") }, 500, "InternalServerError"},
		"panic":            {func() error { panic("secret 42") }, 500, "InternalServerError"},
		"nil pointer":      {func() error { var e *api.Error; return errors.New(e.Message) }, 500, "InternalServerError"},
		"code we have not": {func() error { return api.Errorf("Made up", "secret 42") }, 500, "InternalServerError"},
		"slow database":    {func() error { return fmt.Errorf("secret 42: %w", context.DeadlineExceeded) }, 503, "ServiceUnavailable"},
		"wrapped refusal":  {func() error { return fmt.Errorf("secret 42: %w", api.Errorf(api.BadRequest, "no")) }, 400, "BadRequest"},
	} {
		how = c.how
		resp, body := k.raw("GET", "/api/machineactions", token, "")
		if resp.StatusCode != c.status || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
		checkError(t, body, c.code, "")
		if target := resp.Header.Get("X-Request-Id"); !strings.Contains(body, target) || !strings.Contains(k.log.String(), target) {
			t.Errorf("%s: the target %s is not in both answer and log", name, target)
		}
		if c.status == 503 && resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s: no Retry-After", name)
		}
	}
	if !strings.Contains(k.log.String(), "disk is on fire") || !strings.Contains(k.log.String(), "http_test.go") {
		t.Error("cause or stack are not in the log")
	}
}

// Whatever is refused to a caller without permission goes on record, once.
func TestRefusalsAreRecorded(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014")
	c, ctx := k.app("intruder", auth.MachineReadAll), t.Context()
	if _, err := c.StopAndQuarantineFile(ctx, machine, stop(testSHA1)); api.CodeOf(err) != api.Forbidden {
		t.Fatal(err)
	}
	if _, err := k.soc2("clumsy").Purge(ctx, strings.Repeat("0", 32), ""); api.CodeOf(err) != api.Forbidden {
		t.Fatal(err)
	}
	page, err := c.Audit(ctx, -1, 1000)
	check(t, err)
	var found []string
	for _, e := range page.Value {
		if e.Outcome == "refused: Forbidden" {
			found = append(found, e.Actor+" "+e.Operation+" "+e.Target)
		}
		if e.Leaf == "" {
			t.Errorf("entry %d has no leaf", e.Index)
		}
	}
	want := "[intruder StopAndQuarantineFile " + machine + " app clumsy DeleteFromQuarantine " + strings.Repeat("0", 32) + "]"
	if fmt.Sprint(found) != want {
		t.Errorf("have %v, want %s", found, want)
	}
	// Page by page it is the same log.
	var seen []int64
	first, err := c.Audit(ctx, -1, 2)
	check(t, err)
	for len(first.Value) > 0 {
		for _, e := range first.Value {
			seen = append(seen, e.Index)
		}
		if first.NextLink == "" {
			break
		}
		link := first.NextLink
		first = api.Page[api.AuditEntry]{}
		check(t, c.Follow(ctx, link, &first))
	}
	if len(seen) != len(page.Value) || seen[0] != 0 {
		t.Errorf("by pages: %v of %d", seen, len(page.Value))
	}
	note, err := c.Checkpoint(ctx)
	check(t, err)
	if !strings.HasPrefix(string(note), "staunch-audit\n") {
		t.Errorf("checkpoint: %s", note)
	}
	for _, q := range []string{"after=x", "after=-2", "limit=0"} {
		if resp, _ := k.raw("GET", "/v1/audit?"+q, k.token("reader "+q, auth.MachineReadAll), ""); resp.StatusCode != 400 {
			t.Errorf("%s: %d", q, resp.StatusCode)
		}
	}
}

func TestEnroll(t *testing.T) {
	k := newKit(t)
	secret := k.secret(1)
	k.enrollWith(secret, "fin-lt-014")
	c, ctx := k.client(client.Config{}), t.Context()
	key := "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
	for body, code := range map[string]string{
		"":  "InvalidRequestBody",
		"7": "InvalidRequestBody",
		`{"secret":7,"publicKey":"k","facts":{}}`:   "InvalidRequestBody",
		`{"publicKey":"k","facts":{}}`:              "MissingRequiredParameter",
		`{"secret":"s","facts":{}}`:                 "MissingRequiredParameter",
		`{"secret":"s","publicKey":"k"}`:            "MissingRequiredParameter",
		`{"secret":"s","publicKey":"k","facts":[]}`: "InvalidRequestBody",
	} {
		_, answer := k.raw("POST", "/v1/enroll", "", body)
		checkError(t, answer, code, "")
	}
	// Those were seven refusals; ten a minute are the bound.
	again := api.EnrollRequest{Secret: secret, PublicKey: key, Facts: []byte(`{"hostname":"x","can":[]}`)}
	for range 3 {
		if _, err := c.Enroll(ctx, again); api.CodeOf(err) == api.TooManyRequests || err == nil {
			t.Fatalf("used up: %v", err)
		}
	}
	_, err := c.Enroll(ctx, again)
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.TooManyRequests || e.RetryAfter < 1 {
		t.Errorf("eleventh refusal: %v", err)
	}
}

// FuzzServe: whatever comes, the answer is not a fault of ours.
func FuzzServe(f *testing.F) {
	f.Add("POST", "/api/machines/x/StopAndQuarantineFile", "$top=1", `{"Comment":"c","Sha1":"`+testSHA1+`"}`)
	f.Add("GET", "/api/machineactions", "$filter=id%20eq%20'a'", "")
	f.Add("DELETE", "/v1/quarantine/%2e%2e", "comment=x", "")
	f.Add("GET", "/api/machines/findbyip(ip='1',timestamp=2)", "&=;", "\x00")
	f.Add("POST", "/v1/enroll", "", `{"secret":"s","publicKey":"k","facts":{"hostname":[]}}`)
	h, caller := fuzzHandler(f)
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		r, err := http.NewRequest(method, "https://localhost/", strings.NewReader(body))
		if err != nil {
			return
		}
		if u, err := r.URL.Parse("/" + strings.TrimLeft(path, "/")); err == nil {
			r.URL = u
		}
		r.URL.RawQuery, r.RemoteAddr, r.Host = query, "192.0.2.1:5", "localhost"
		r.Header.Set("Authorization", "Bearer "+caller)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 200 {
			t.Errorf("%s %s?%s: %d %s", method, r.URL.EscapedPath(), query, w.Code, w.Body)
		}
	})
}
