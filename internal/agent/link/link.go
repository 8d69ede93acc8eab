// SPDX-License-Identifier: Apache-2.0

// Package link is the device's end of the link to its server: one outbound
// WebSocket over the server's HTTPS port, through the system's proxy if need be,
// opened again with a spread-out delay whenever it is lost.
//
// It promises that an order is acknowledged only after the handler has taken
// it, and that a peer which sends nonsense costs a reconnect and no more. It
// keeps nothing: what must survive a lost link, the handler sends again when it
// is told Connected.
package link

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"staunch/internal/order"
)

// Handler does what comes over the link.
type Handler interface {
	// Welcome is told first on each connection, before any order.
	Welcome(w order.Welcome)
	// Connected is called on a goroutine of its own after each Welcome: now
	// send the facts, the inventory and every receipt that was not kept.
	Connected()
	// Order takes one order: verifies and journals it. The acknowledgement is
	// sent when send is true; else the server sends the order again later.
	Order(ctx context.Context, e order.Envelope) (ack order.Ack, send bool)
	// ReceiptKept says that the server has the receipt of that order.
	ReceiptKept(id string)
	// Ask answers whether the device has a file. A few may run at once.
	Ask(ctx context.Context, a order.Ask) order.Answer
}

// RuleHandler is a Handler that also follows standing rules.
type RuleHandler interface {
	// Rules takes a signed list, Part one of the parts that were asked for.
	// What they return is answered at once; nil: nothing yet.
	Rules(in order.Indicators) *order.RulesWanted
	Part(p order.RulesPart) *order.RulesWanted
}

// SightingsHandler is a Handler that hears what became of its sightings.
type SightingsHandler interface {
	SightingsKept(k order.SightingsKept)
}

// Config is what a Link works with.
type Config struct {
	URL     string             // of the server, https://…, without a path; required
	CA      *x509.CertPool     // that the server's certificate must come from; nil: the system's
	Device  string             // the device's id; required
	Key     ed25519.PrivateKey // the device's; required
	Facts   func() order.Facts // sent with each hello; required
	Handler Handler            // required
	Backoff Backoff            //
	Log     *slog.Logger       // nil: nowhere
	Now     func() time.Time   // nil: time.Now
}

// Backoff is how long to wait between connections. Zero fields are the defaults.
type Backoff struct {
	Min  time.Duration // the first wait is up to this long, and twice as long each time; 200 ms
	Max  time.Duration // but never longer; 60 s
	Slow time.Duration // at least this long, at most twice, after being refused for good; 10 min
	Good time.Duration // a connection that lasted so long starts over with Min; 30 s
}

// ErrOffline says that there is no connection now: send again when Connected.
var ErrOffline = errors.New("the server is not connected")

// Link keeps the connection. Make one with New, run it with Run.
type Link struct {
	cfg  Config
	url  string // of the WebSocket
	http *http.Client

	mu   sync.Mutex
	open *session // nil: not connected, or not welcomed yet
}

// New checks the configuration.
func New(c Config) (*Link, error) {
	switch {
	case !order.ValidDevice(c.Device):
		return nil, fmt.Errorf("cannot make the link: device id %q is not 40 hex digits", c.Device)
	case len(c.Key) != ed25519.PrivateKeySize:
		return nil, errors.New("cannot make the link: no device key")
	case c.Facts == nil, c.Handler == nil:
		return nil, errors.New("cannot make the link: facts and handler are required")
	}
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("cannot make the link: %q is not an https URL", c.URL)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Backoff.fill()
	return &Link{
		cfg:  c,
		url:  "wss://" + u.Host + strings.TrimSuffix(u.Path, "/") + "/v1/link",
		http: &http.Client{Transport: transport(&tls.Config{RootCAs: c.CA, MinVersion: tls.VersionTLS12})},
	}, nil
}

func (b *Backoff) fill() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	set(&b.Min, 200*time.Millisecond)
	set(&b.Max, 60*time.Second)
	set(&b.Slow, 10*time.Minute)
	set(&b.Good, 30*time.Second)
}

// transport speaks HTTP/1.1 only, which WebSocket needs, through the proxy of
// the environment (HTTPS_PROXY, NO_PROXY).
func transport(c *tls.Config) *http.Transport {
	c.NextProtos = []string{"http/1.1"}
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       c,
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 15 * time.Second,
		DisableKeepAlives:     true,
	}
}

// Run keeps the link up until ctx ends, and then returns nil.
func (l *Link) Run(ctx context.Context) error {
	defer l.http.CloseIdleConnections()
	for failures := 0; ; failures++ {
		start := time.Now()
		err := l.session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(start) >= l.cfg.Backoff.Good {
			failures = 0
		}
		wait := l.cfg.Backoff.next(failures, err)
		l.cfg.Log.Info("not connected to the server", "error", err, "retry_in", wait.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// refusal is an end of the link that says when to come back.
type refusal struct {
	reason string
	after  time.Duration // not before; 0: as usual
	slow   bool          // refused for good: somebody has to do something first
}

func (r *refusal) Error() string { return r.reason }

// next is how long to wait after the given number of failures in a row: full
// jitter, so that a fleet that lost its server does not come back as one.
func (b Backoff) next(failures int, err error) time.Duration {
	var r *refusal
	if errors.As(err, &r) && r.slow {
		return b.Slow + rand.N(b.Slow)
	}
	most := b.Max
	if failures < 30 {
		most = min(b.Max, b.Min<<failures)
	}
	wait := rand.N(most) + time.Millisecond
	if r != nil {
		wait += min(r.after, b.Slow)
	}
	return wait
}

// Send sends a message on the connection of now. It waits while much is queued
// already, and returns ErrOffline when there is no connection or it is lost
// while waiting. Nil does not mean that the server has the message.
func (l *Link) Send(m order.Message) error {
	l.mu.Lock()
	s := l.open
	l.mu.Unlock()
	if s == nil {
		return ErrOffline
	}
	return s.send(m)
}

// Connected reports whether the server has welcomed the device on the connection of now.
func (l *Link) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open != nil
}

func (l *Link) setOpen(s *session) {
	l.mu.Lock()
	l.open = s
	l.mu.Unlock()
}
