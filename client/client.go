// SPDX-License-Identifier: Apache-2.0

// Package client calls a Staunch server: the Defender API under /api and what
// Staunch adds under /v1. The command line and the end-to-end tests use nothing
// else.
//
// A refusal of the server comes back as an *api.Error, with the same code that
// the server's domain gave it. The client gets its token itself, keeps it until
// it ends, and gets another once when the server does not accept it. It repeats
// a call only when the server asks for that (429, 503), for a bounded time.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"staunch/api"
)

// Config says which server, and as whom.
type Config struct {
	URL string // required: https://HOST[:PORT]; http only to this machine

	// One of: an application's credentials, or a TokenSource, or neither for the
	// calls that are open to anybody.
	TenantID, ClientID, ClientSecret string
	TokenSource                      TokenSource

	CAFile  string         // PEM of the authority that signed the server's certificate; "": the system's
	RootCAs *x509.CertPool // in place of CAFile
	HTTP    *http.Client   // nil: one made of the above; redirects are never followed

	// MaxWait bounds how long one call waits for a server that says it is busy;
	// 0: two minutes, negative: not at all.
	MaxWait time.Duration
}

// TokenSource returns an access token; refresh asks for one that is not the one
// returned before.
type TokenSource interface {
	Token(ctx context.Context, refresh bool) (string, error)
}

// Client calls one server. It is safe for concurrent use.
type Client struct {
	base    *url.URL
	http    *http.Client
	tokens  TokenSource // nil: calls without a token
	maxWait time.Duration
}

const (
	maxAnswer   = 256 << 20 // bytes; a page of ten thousand actions is some 8 MB
	callTimeout = time.Minute
	maxAttempts = 5
)

// New checks the configuration. It does not call the server yet.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(strings.TrimRight(cfg.URL, "/"))
	switch {
	case err != nil:
		return nil, fmt.Errorf("cannot use server URL: %w", err)
	case base.Scheme == "http" && isLoopback(base.Hostname()):
	case base.Scheme != "https" || base.Host == "":
		return nil, fmt.Errorf("cannot use server URL %q: want https://HOST[:PORT] (http only for this machine)", cfg.URL)
	}
	c := &Client{base: base, http: cfg.HTTP, tokens: cfg.TokenSource, maxWait: cfg.MaxWait}
	if c.maxWait == 0 {
		c.maxWait = 2 * time.Minute
	}
	if c.http == nil {
		if c.http, err = newHTTP(cfg); err != nil {
			return nil, err
		}
	}
	// The token is for this server alone.
	own := *c.http
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.http = &own
	if c.tokens == nil && cfg.ClientID != "" {
		c.tokens = &credentials{client: c, tenant: cfg.TenantID, id: cfg.ClientID, secret: cfg.ClientSecret}
	}
	return c, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func newHTTP(cfg Config) (*http.Client, error) {
	roots := cfg.RootCAs
	if roots == nil && cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read the server's certificate authority: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot read the server's certificate authority: %s holds no PEM certificate", cfg.CAFile)
		}
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck,forcetypeassert // its type is documented
	transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &http.Client{Transport: transport, Timeout: callTimeout}, nil
}

// call is one request.
type call struct {
	method string
	path   string     // below the base, escaped
	query  url.Values // nil: none
	body   any        // as JSON; nil: none
	open   bool       // without a token
}

// do makes the call and decodes the answer into out: *[]byte takes it as it is,
// nil drops it.
func (c *Client) do(ctx context.Context, q call, out any) error {
	var body []byte
	if q.body != nil {
		var err error
		if body, err = json.Marshal(q.body); err != nil {
			return fmt.Errorf("cannot encode request: %w", err)
		}
	}
	var waited time.Duration
	refresh, refreshed := false, false
	for attempt := 1; ; attempt++ {
		b, err := c.once(ctx, q, body, refresh)
		refresh = false
		var refusal *api.Error
		switch {
		case err == nil:
			return decode(b, out)
		case !errors.As(err, &refusal):
			return err
		case refusal.Code == api.Unauthorized && !refreshed && !q.open && c.tokens != nil:
			refresh, refreshed = true, true // the token may have been withdrawn or its key replaced
			continue
		case refusal.RetryAfter == 0 || attempt == maxAttempts:
			return err
		}
		pause := time.Duration(refusal.RetryAfter) * time.Second
		if waited += pause; waited > c.maxWait {
			return err
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

func (c *Client) once(ctx context.Context, q call, body []byte, refresh bool) ([]byte, error) {
	target := c.base.String() + q.path
	if len(q.query) > 0 {
		target += "?" + q.query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, q.method, target, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("cannot make request: %w", err)
	}
	if q.body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if !q.open && c.tokens != nil {
		token, err := c.tokens.Token(ctx, refresh)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return c.send(r)
}

// send returns the body of a success, else what the server refused.
func (c *Client) send(r *http.Request) ([]byte, error) {
	resp, b, err := c.fetch(r)
	if err == nil && resp.StatusCode/100 != 2 {
		err = refusalOf(resp, b)
	}
	return b, err
}

// fetch returns the answer whatever its status, its body read and closed.
func (c *Client) fetch(r *http.Request) (*http.Response, []byte, error) {
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot reach the server: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("cannot read the server's answer: %w", err)
	case len(b) > maxAnswer:
		return nil, nil, fmt.Errorf("cannot read the server's answer: it is larger than %d bytes", maxAnswer)
	}
	return resp, b, nil
}

func refusalOf(resp *http.Response, b []byte) error {
	var e api.ErrorBody
	if json.Unmarshal(b, &e) != nil || e.Error == nil || e.Error.Message == "" {
		// Not our server speaking: a proxy in between, most likely.
		e.Error = api.Errorf(api.InternalServerError, "the server answered %s: %.200q", resp.Status, b)
		switch resp.StatusCode {
		case http.StatusUnauthorized:
			e.Error.Code = api.Unauthorized
		case http.StatusNotFound:
			e.Error.Code = api.NotFound
		case http.StatusTooManyRequests:
			e.Error.Code = api.TooManyRequests
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			e.Error.Code = api.ServiceUnavailable
		}
	}
	if resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable {
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
			e.Error.RetryAfter = n
		}
	}
	return e.Error
}

func decode(b []byte, out any) error {
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = b
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("cannot read the server's answer: %w", err)
	}
	return nil
}

// Follow fetches the next page of a list into out, a pointer to such a list. A
// link that leaves the server is refused: the token is for this one alone.
func (c *Client) Follow(ctx context.Context, link string, out any) error {
	u, err := url.Parse(link)
	if err != nil || u.Scheme != c.base.Scheme || u.Host != c.base.Host {
		return fmt.Errorf("cannot follow the link %q: it does not lead to %s", link, c.base)
	}
	path := u.EscapedPath()
	if u.RawQuery != "" {
		path += "?" + u.RawQuery
	}
	return c.do(ctx, call{method: "GET", path: path}, out)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
