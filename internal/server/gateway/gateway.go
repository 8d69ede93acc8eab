// SPDX-License-Identifier: Apache-2.0

// Package gateway holds the links of devices on this replica: it greets them,
// hands them their orders, takes their acknowledgements and receipts, and passes
// questions and answers. An idle link costs one goroutine and some sixteen
// kilobytes.
//
// It promises that an order is sent until the device acknowledges it, that at
// most action.PendingBatch orders are on their way to one device at a time, that
// a receipt is answered only once it is kept, and that whatever a peer sends is
// met with a reason and a closed link, never with a crash.
package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/bus"
)

// Actions is what the gateway asks of machine actions.
type Actions interface {
	Pending(ctx context.Context, device string) ([]action.Delivery, error)
	Acknowledge(ctx context.Context, device string, a order.Ack) error
	Finish(ctx context.Context, device string, r order.ReceiptOf) error
	Inventory(ctx context.Context, device string, items []order.Item) error
}

// Config is what a Gateway works with.
type Config struct {
	Actions Actions  // required
	Bus     *bus.Bus // required
	// Authenticate says whether h answers c for a device that may connect.
	// Required. An api.Error is told to the device, which then retries slowly;
	// any other error is our own fault and it retries as usual.
	Authenticate func(ctx context.Context, h order.Hello, c order.Challenge, ip string) error
	// Still is asked now and then whether a connected device may stay, so that a
	// revocation whose kick was lost takes effect too. nil: it may.
	Still func(ctx context.Context, device string) error
	// Welcome is sent to each device first. nil: an empty one.
	Welcome func(ctx context.Context, device string) order.Welcome
	// Facts keeps what a device says of itself after its hello. nil: dropped.
	Facts func(ctx context.Context, device string, f order.Facts, ip string) error
	// Sightings keeps the files a device met. nil: dropped.
	Sightings func(ctx context.Context, device string, files []order.Sighting) error
	// Rules are the standing rules of devices. nil: there are none.
	Rules Rules

	Server string           // name of this server in the challenge: its public URL
	Limits Limits           //
	Log    *slog.Logger     // nil: nowhere
	Now    func() time.Time // nil: time.Now
}

// Limits bound what links may cost. Zero fields are the defaults.
type Limits struct {
	Handshakes int           // connections that have not said hello yet; 1024
	Verifying  int           // hellos verified at the same time; 4 a processor
	Handshake  time.Duration // from the upgrade to a good hello; 10 s
	Idle       time.Duration // without a word, a ping's answer included; 100 s
	Ping       time.Duration // of silence after which the server pings; 60 s
	Stall      time.Duration // between two pieces of one message; 30 s
	Message    time.Duration // for a whole message; 5 min
	Write      time.Duration // for what is queued to be taken; 10 s
	Linger     time.Duration // for a goodbye to be taken; 2 s
	Resend     time.Duration // after which an order without acknowledgement is sent again; 30 s
	Poll       time.Duration // after which a link looks for orders though no bell rang; 60 s
	Tick       time.Duration // between looks at all links; 5 s
}

func (l *Limits) fill() {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if l.Handshakes == 0 {
		l.Handshakes = 1024
	}
	if l.Verifying == 0 {
		l.Verifying = 4 * runtime.NumCPU()
	}
	set(&l.Handshake, 10*time.Second)
	set(&l.Idle, 100*time.Second)
	set(&l.Ping, 60*time.Second)
	set(&l.Stall, 30*time.Second)
	set(&l.Message, 5*time.Minute)
	set(&l.Write, 10*time.Second)
	set(&l.Linger, 2*time.Second)
	set(&l.Resend, 30*time.Second)
	set(&l.Poll, 60*time.Second)
	set(&l.Tick, 5*time.Second)
}

// Gateway is the http.Handler of GET /v1/link. Make one with New, end it with Close.
type Gateway struct {
	Config
	ctx    context.Context // of all work for links; ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine

	greeting  chan struct{} // one slot a connection without a good hello
	verifying chan struct{} // one slot a hello under verification
	large     chan struct{} // one slot a large message under decoding
	signing   chan struct{} // one slot a list of rules under making

	mu      sync.Mutex
	closing bool
	all     map[*conn]struct{} // every open connection
	links   map[string]*conn   // the welcomed ones, by device
}

// New checks the configuration and begins to look after links.
func New(c Config) (*Gateway, error) {
	switch {
	case c.Actions == nil, c.Bus == nil, c.Authenticate == nil:
		return nil, errors.New("cannot make the gateway: actions, bus and authenticate are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Limits.fill()
	g := &Gateway{
		Config:    c,
		greeting:  make(chan struct{}, c.Limits.Handshakes),
		verifying: make(chan struct{}, c.Limits.Verifying),
		large:     make(chan struct{}, 2*runtime.NumCPU()),
		signing:   make(chan struct{}, 2*runtime.NumCPU()),
		all:       map[*conn]struct{}{},
		links:     map[string]*conn{},
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.wg.Go(g.watch)
	return g, nil
}

// ServeHTTP upgrades a request to a link and hands it to a goroutine of its
// own, so that net/http's buffers and stack are freed.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		refuse(w, http.StatusUpgradeRequired, api.BadRequest, "This is the link of Staunch agents: it speaks WebSocket over HTTP/1.1 only.")
		return
	}
	select {
	case g.greeting <- struct{}{}:
	default:
		busy(w, "Too many devices are connecting at this moment.")
		return
	}
	c := newConn(g, hostOf(r.RemoteAddr))
	if !g.admit(c) {
		<-g.greeting
		busy(w, "The server is stopping.")
		return
	}
	nc, rw, _, err := ws.HTTPUpgrader{Timeout: g.Limits.Write}.Upgrade(r, w)
	if err == nil && rw.Reader.Buffered() > 0 {
		err = errors.New("the peer spoke before the challenge")
	}
	if err != nil {
		if nc != nil {
			_ = nc.Close() // refused already
		}
		g.Log.Info("link refused", "ip", c.ip, "error", err)
		<-g.greeting
		g.forget(c)
		return
	}
	if !c.begin(nc) { // Close came first
		_ = nc.Close()
		<-g.greeting
		g.forget(c)
		return
	}
	go c.serve()
}

// admit counts c in unless the gateway is closing; forget counts it out.
func (g *Gateway) admit(c *conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closing {
		return false
	}
	g.all[c] = struct{}{}
	g.wg.Add(1)
	return true
}

func (g *Gateway) forget(c *conn) {
	g.mu.Lock()
	delete(g.all, c)
	if g.links[c.device] == c {
		delete(g.links, c.device)
	}
	g.mu.Unlock()
	g.wg.Done()
}

// Connected reports whether the device has a link on this replica.
func (g *Gateway) Connected(device string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.links[device] != nil
}

// Count is how many devices have a link on this replica.
func (g *Gateway) Count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.links)
}

// Close says goodbye to every device, which then connects elsewhere or again,
// and waits until all is done.
func (g *Gateway) Close() {
	g.mu.Lock()
	g.closing = true
	open := g.open()
	g.mu.Unlock()
	for _, c := range open {
		c.bye(ws.StatusGoingAway, "the server is stopping", true)
	}
	g.cancel()
	g.wg.Wait()
}

// open lists the connections; g.mu is held.
func (g *Gateway) open() []*conn {
	list := make([]*conn, 0, len(g.all))
	for c := range g.all {
		list = append(list, c)
	}
	return list
}

// watch looks at every link now and then: one goroutine for all, no timer each.
func (g *Gateway) watch() {
	tick := time.NewTicker(g.Limits.Tick)
	defer tick.Stop()
	for {
		select {
		case <-g.ctx.Done():
			return
		case <-tick.C:
		}
		g.mu.Lock()
		open := g.open()
		g.mu.Unlock()
		for _, c := range open {
			c.look(g.Now())
		}
	}
}

// Door is the way to any device on any replica: action.Bell and action.Asker.
type Door struct{ Bus *bus.Bus }

// Ring implements action.Bell.
func (d Door) Ring(device string) { d.Bus.Ring(device) }

// Ask implements action.Asker.
func (d Door) Ask(ctx context.Context, device string, file filehash.Hash) (order.Answer, bool) {
	a, err := d.Bus.Ask(ctx, device, order.Ask{ID: rand.Text(), File: file})
	return a, err == nil
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// busy answers 503 with a spread-out time to come back.
func busy(w http.ResponseWriter, text string) {
	w.Header().Set("Retry-After", strconv.Itoa(1+mathrand.IntN(5)))
	refuse(w, http.StatusServiceUnavailable, api.ServiceUnavailable, text)
}

func refuse(w http.ResponseWriter, status int, code api.Code, text string) {
	body, err := json.Marshal(api.ErrorBody{Error: api.Errorf(code, "%s", text)})
	if err != nil { // strings always encode
		body = nil
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "%s", body) // the peer may be gone
}
