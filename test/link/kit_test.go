// SPDX-License-Identifier: Apache-2.0

// Package link proves the link end to end: the real service of machine actions
// on a real database, the real gateway and bus, TLS, a network that cuts and
// delays, and the real agent's end. Only what the agent does with an order is
// played.
package link

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"golang.org/x/mod/sumdb/note"

	"staunch/api"
	"staunch/internal/agent/link"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
	"staunch/internal/server/bus"
	"staunch/internal/server/gateway"
	"staunch/internal/server/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 60 * time.Second // a test that waits so long has failed
	dev      = "1111111111111111111111111111111111111111"
)

var soc = auth.Caller{Kind: auth.App, ID: "app-1", Name: "soc", Permissions: []auth.Permission{auth.MachineStopAndQuarantine, auth.MachineReadAll}}

// server is one replica on a database and a bus that it may share.
type server struct {
	t        *testing.T
	store    *store.Store
	actions  *action.Service
	gateway  *gateway.Gateway
	bus      *bus.Bus
	http     *httptest.Server
	orderKey ed25519.PrivateKey
	devKey   ed25519.PrivateKey

	mu      sync.Mutex
	revoked bool
}

func newServer(t *testing.T, limits gateway.Limits) *server {
	t.Helper()
	skey, _, err := note.GenerateKey(rand.Reader, "test")
	must(t, err)
	signer, err := note.NewSigner(skey)
	must(t, err)
	st, err := store.Open(t.Context(), store.Config{Path: filepath.Join(t.TempDir(), "s.db"), Checkpoint: signer, Log: quiet()})
	must(t, err)
	t.Cleanup(func() { must(t, st.Close()) })
	b, err := bus.New(bus.Config{})
	must(t, err)
	t.Cleanup(b.Close)
	_, orderKey, err := ed25519.GenerateKey(nil)
	must(t, err)
	_, devKey, err := ed25519.GenerateKey(nil)
	must(t, err)
	s := &server{t: t, store: st, bus: b, orderKey: orderKey, devKey: devKey}
	s.serve(b, limits)
	return s
}

// replica is a second server on the same database and bus.
func (s *server) replica() *server {
	s.t.Helper()
	b, err := s.bus.Peer()
	must(s.t, err)
	s.t.Cleanup(b.Close)
	r := &server{t: s.t, store: s.store, bus: b, orderKey: s.orderKey, devKey: s.devKey}
	r.serve(b, gateway.Limits{})
	return r
}

func (s *server) serve(b *bus.Bus, limits gateway.Limits) {
	door := gateway.Door{Bus: b}
	var err error
	s.actions, err = action.New(action.Config{Store: s.store, Devices: s, Bell: door, Asker: door, OrderKey: s.orderKey})
	must(s.t, err)
	s.gateway, err = gateway.New(gateway.Config{
		Actions: s.actions, Bus: b, Limits: limits, Server: "https://test",
		Authenticate: func(_ context.Context, h order.Hello, c order.Challenge, _ string) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.revoked || h.Device != dev || !h.Proves(c, s.devKey.Public().(ed25519.PublicKey)) {
				return api.Errorf(api.Forbidden, "This device may not connect.")
			}
			return nil
		},
	})
	must(s.t, err)
	s.http = httptest.NewTLSServer(s.gateway)
	s.t.Cleanup(func() {
		s.gateway.Close()
		s.http.Close()
	})
}

func (s *server) Lookup(_ context.Context, _ auth.Caller, id string) (action.Device, error) {
	if id != dev {
		return action.Device{}, api.Errorf(api.ResourceNotFound, "Machine %s was not found", id)
	}
	return action.Device{ID: dev, Name: "host", Platform: "Debian", Version: "1.0.0", Key: s.devKey.Public().(ed25519.PublicKey), Can: []order.Kind{order.StopAndQuarantine}}, nil
}

func (s *server) Visible(_ context.Context, _ auth.Caller, id string) (bool, error) {
	return id == dev, nil
}

func (s *server) submit(n int) action.Action {
	s.t.Helper()
	a, err := s.actions.StopAndQuarantine(s.t.Context(), soc, dev, stopRequest(s.t, n))
	must(s.t, err)
	return a
}

func (s *server) status(id string) string {
	s.t.Helper()
	a, err := s.actions.Get(s.t.Context(), soc, id)
	must(s.t, err)
	return a.Status
}

// agent plays the engine behind the real link: a journal in memory that takes
// each order once, carries it out at once, and keeps its receipt until the
// server has it.
type agent struct {
	t    *testing.T
	srv  *server
	link *link.Link

	mu       sync.Mutex
	journal  map[string]order.ReceiptOf // by order
	unkept   map[string]bool
	ran      map[string]int // how often each order was carried out
	cancels  []string
	welcomed int
	mute     bool // take orders, send no receipt
	deaf     bool // take no orders
	missed   int  // orders not taken
	answer   order.Answer
}

// newAgent runs an agent against the server, through via if it is not "".
func newAgent(s *server, via string, change ...func(*agent, *link.Config)) *agent {
	s.t.Helper()
	a := &agent{t: s.t, srv: s, journal: map[string]order.ReceiptOf{}, unkept: map[string]bool{}, ran: map[string]int{}}
	pool := x509.NewCertPool()
	pool.AddCert(s.http.Certificate())
	url := s.http.URL
	if via != "" {
		url = "https://" + via
	}
	conf := link.Config{
		URL: url, CA: pool, Device: dev, Key: s.devKey, Handler: a, Log: quiet(),
		Facts:   func() order.Facts { return order.Facts{Hostname: "host"} },
		Backoff: link.Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond},
	}
	for _, f := range change {
		f(a, &conf)
	}
	var err error
	a.link, err = link.New(conf)
	must(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- a.link.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		must(s.t, <-ended)
	})
	return a
}

func (a *agent) Welcome(order.Welcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.welcomed++
}

func (a *agent) Connected() {
	a.mu.Lock()
	var list []order.ReceiptOf
	for id := range a.unkept {
		if a.mute {
			break
		}
		list = append(list, a.journal[id])
	}
	a.mu.Unlock()
	for _, r := range list {
		if a.link.Send(order.Message{Receipt: &r}) != nil {
			return // the next Connected sends it
		}
	}
}

func (a *agent) Order(_ context.Context, e order.Envelope) (order.Ack, bool) {
	o, err := order.Verify(e, dev, time.Now(), a.srv.orderKey.Public().(ed25519.PublicKey))
	if err != nil {
		return order.Ack{Order: o.ID, Refused: err.Error()}, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.deaf {
		a.missed++
		return order.Ack{}, false
	}
	if o.Kind == order.Cancel {
		a.cancels = append(a.cancels, o.Target)
		return order.Ack{Order: o.ID}, true
	}
	if _, ok := a.journal[o.ID]; !ok {
		a.ran[o.ID]++
		digest := e.Digest()
		env, err := order.SignReceipt(order.Receipt{
			Order: o.ID, Digest: hex.EncodeToString(digest[:]), Device: dev, Kind: o.Kind, Outcome: order.Proven,
			Accepted: time.Now().UTC(), Finished: time.Now().UTC(),
		}, a.srv.devKey)
		must(a.t, err)
		a.journal[o.ID] = order.ReceiptOf{Order: o.ID, Envelope: env}
		a.unkept[o.ID] = true
	}
	if r := a.journal[o.ID]; a.unkept[o.ID] && !a.mute {
		go func() { _ = a.link.Send(order.Message{Receipt: &r}) }() // Connected sends it again
	}
	return order.Ack{Order: o.ID}, true
}

func (a *agent) ReceiptKept(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.unkept, id)
}

func (a *agent) Ask(context.Context, order.Ask) order.Answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.answer
}

// see looks at the agent's state.
func (a *agent) see(f func() bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return f()
}

func parse(n int) (filehash.Hash, error) { return filehash.Parse(fmt.Sprintf("%040x", n+1)) }

// wsHandler upgrades and lets say speak.
func wsHandler(say func(send func(string))) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		say(func(s string) { _ = conn.Write(r.Context(), websocket.MessageText, []byte(s)) })
		_, _, _ = conn.Read(r.Context()) // until the peer goes
		_ = conn.CloseNow()
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}
