// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/gobwas/ws"

	"staunch/api"
	"staunch/internal/order"
)

// conn is one connection, from the upgrade on. Its reader runs serve; writing
// and fetching orders each borrow a goroutine while there is something to do.
type conn struct {
	g      *Gateway
	id     string // of the connection: a kick names the one that stays
	ip     string
	device string // set once, by a good hello

	strikes int // refused receipts and acknowledgements; the reader's

	mu      sync.Mutex
	quiet   sync.Cond // of mu: writing has become false
	nc      net.Conn
	queue   [][]byte // frames to write
	queued  int      // bytes in queue
	writing bool     // a goroutine is writing
	closing bool     // a goodbye is queued, or the reader has ended
	aborted bool     // nothing more is written, not even TLS's own goodbye
	last    time.Time
	pinged  time.Time

	linked   bool                 // welcomed
	sent     map[string]time.Time // orders on their way, by when they were sent
	done     map[string]bool      // acknowledged while a fetch was under way: its list may name them still
	more     bool                 // the last fetch was full
	dirty    bool                 // there may be something to fetch
	fetching bool                 // a goroutine is fetching
	polled   time.Time
	asks     map[string]asking

	rules        string    // the word of the list of rules that was sent last
	rulesVersion int64     //
	rulesSent    time.Time // or heard of
	rulesDone    bool      // it is in force on the device
	rulesDirty   bool      // there may be another list
	offering     bool      // a goroutine is at it
}

type asking struct {
	reply func(order.Answer)
	since time.Time
}

const (
	maxHello   = 256 << 10        // bytes of a message before the peer is known
	maxQueue   = 512              // frames that wait for a slow reader
	maxQueued  = 4 << 20          // bytes that wait for a slow reader
	maxAsks    = 64               // questions that wait for an answer
	maxStrikes = 16               // refusals before a link is closed
	workTime   = 30 * time.Second // for one call into the domain
)

func newConn(g *Gateway, ip string) *conn {
	c := &conn{g: g, id: rand.Text(), ip: ip, last: g.Now()}
	c.quiet.L = &c.mu
	return c
}

// begin gives c its connection, unless a goodbye came first.
func (c *conn) begin(nc net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nc = nc
	return !c.closing
}

// serve is the life of a connection. It greets in one goroutine and reads in
// another, so that the stack that the greeting grew is given back.
func (c *conn) serve() {
	stop, err := c.greet()
	<-c.g.greeting
	if err != nil {
		c.end(err)
		return
	}
	go func() {
		err := c.read()
		stop()
		c.end(err)
	}()
}

// greet runs challenge and hello, opens the link and returns what closes it.
func (c *conn) greet() (stop func(), err error) {
	deadline := time.Now().Add(c.g.Limits.Handshake)
	ctx, cancel := context.WithDeadline(c.g.ctx, deadline)
	defer cancel()
	ch := order.Challenge{Version: order.LinkVersion, Nonce: make([]byte, 32), Server: c.g.Server, Time: c.g.Now().UTC()}
	_, _ = rand.Read(ch.Nonce) // crypto/rand.Read never fails
	c.send(order.Message{Challenge: &ch})

	f := c.frames(maxHello)
	f.wait = func(bool) error { return c.readBy(deadline) }
	raw, err := f.next()
	if err != nil {
		return nil, err
	}
	m, err := order.DecodeMessage(raw)
	if err != nil {
		return nil, breach(ws.StatusPolicyViolation, "%v", err)
	}
	if m.Hello == nil {
		return nil, breach(ws.StatusPolicyViolation, "the first message must be hello")
	}
	if err := c.authenticate(ctx, *m.Hello, ch); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.device = m.Hello.Device
	c.mu.Unlock()
	return c.open(ctx)
}

func (c *conn) authenticate(ctx context.Context, h order.Hello, ch order.Challenge) error {
	if !order.ValidDevice(h.Device) {
		return breach(ws.StatusPolicyViolation, "device id is not 40 lower-case hex digits")
	}
	select {
	case c.g.verifying <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.g.verifying }()
	return c.g.Authenticate(ctx, h, ch, c.ip)
}

// open makes this the device's link: the only one, on any replica.
func (c *conn) open(ctx context.Context) (stop func(), err error) {
	g := c.g
	var w order.Welcome
	if g.Welcome != nil {
		w = g.Welcome(ctx, c.device)
	}
	g.mu.Lock()
	old := g.links[c.device]
	g.links[c.device] = c
	g.mu.Unlock()
	if old != nil {
		old.Kick(c.id)
	}
	stop, err = g.Bus.Serve(c.device, c)
	if err != nil {
		return nil, err
	}
	g.Bus.Kick(c.device, c.id)
	// Whoever has read the welcome can be rung and asked; nothing is sent before it.
	raw, err := json.Marshal(order.Message{Welcome: &w})
	if err != nil {
		stop()
		return nil, fmt.Errorf("cannot encode welcome: %w", err)
	}
	c.mu.Lock()
	c.push(encode(ws.NewTextFrame(raw)))
	c.linked = true
	c.mu.Unlock()
	g.Log.Info("device connected", "device", c.device, "ip", c.ip)
	c.deliver()
	c.offerRules()
	return stop, nil
}

// read takes messages until the link ends.
func (c *conn) read() error {
	f := c.frames(order.MaxMessage)
	var began time.Time
	f.wait = func(within bool) error {
		now := time.Now()
		if !within {
			began = time.Time{}
			return c.readBy(now.Add(c.g.Limits.Idle))
		}
		if began.IsZero() {
			began = now
		}
		return c.readBy(earlier(now.Add(c.g.Limits.Stall), began.Add(c.g.Limits.Message)))
	}
	for {
		raw, err := f.next()
		if err != nil {
			return err
		}
		if err := c.take(raw); err != nil {
			return err
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (c *conn) frames(limit int) *frames {
	return &frames{
		r: c.nc, limit: limit,
		pong: func(p []byte) { c.write(ws.NewPongFrame(bytes.Clone(p))) },
		gone: func(ws.StatusCode) { c.write(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))) },
	}
}

// readBy sets the deadline of the next read and notes that the peer was heard
// up to here. Once a goodbye is queued its deadline stands.
func (c *conn) readBy(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = c.g.Now()
	if c.closing {
		return nil
	}
	return c.nc.SetReadDeadline(t)
}

// end closes the connection, telling the peer why if it is still there to hear.
func (c *conn) end(err error) {
	var v *violation
	var refusal *api.Error
	var timeout net.Error
	switch {
	case errors.As(err, &v):
		c.bye(v.code, v.reason, true)
	case errors.As(err, &refusal):
		c.bye(ws.StatusPolicyViolation, refusal.Message, false)
	case errors.Is(err, errClosed), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
	case errors.As(err, &timeout) && timeout.Timeout():
		c.bye(ws.StatusGoingAway, "nothing was heard for too long", true)
	default:
		c.bye(ws.StatusInternalServerError, "the server could not go on", true)
	}
	c.g.Log.Info("link closed", "device", c.device, "ip", c.ip, "error", err)
	c.drainPeer()
	c.mu.Lock()
	c.closing = true
	asks := c.asks
	c.asks, c.sent = nil, nil
	for c.writing { // no longer than Limits.Write
		c.quiet.Wait()
	}
	nc := c.nc
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok && c.aborted {
		nc = t.NetConn() // closing the TLS connection would wait for a peer that takes nothing
	}
	c.mu.Unlock()
	for id, a := range asks {
		a.reply(order.Answer{ID: id, Has: "unknown", Progress: "the device has gone"})
	}
	_ = nc.Close() // the peer has been told or is gone
	c.g.forget(c)
}

// drainPeer reads and drops what the peer still sends after a goodbye, for a
// moment: closing on unread data would reset the connection and lose the words.
func (c *conn) drainPeer() {
	c.mu.Lock()
	told := c.closing
	c.mu.Unlock()
	if told {
		_, _ = io.Copy(io.Discard, c.nc) // until the peer closes or the goodbye's deadline
	}
}

// bye queues a goodbye and leaves the peer a moment to take it.
func (c *conn) bye(code ws.StatusCode, reason string, retry bool) {
	if len(reason) > 500 {
		reason = reason[:500]
	}
	c.send(order.Message{Bye: &order.Bye{Reason: reason, Retry: retry}})
	short := reason
	if len(short) > 100 { // a close frame holds 125 bytes
		short = short[:100]
	}
	c.write(ws.NewCloseFrame(ws.NewCloseFrameBody(code, string(bytes.ToValidUTF8([]byte(short), nil)))))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return
	}
	c.closing = true
	if c.nc != nil {
		_ = c.nc.SetReadDeadline(time.Now().Add(c.g.Limits.Linger)) // fails only when it is closed
	}
}

// send queues a message.
func (c *conn) send(m order.Message) {
	raw, err := json.Marshal(m)
	if err != nil { // every type of ours encodes
		c.g.Log.Error("cannot encode message", "device", c.device, "error", err)
		return
	}
	c.write(ws.NewTextFrame(raw))
}

// write queues a frame.
func (c *conn) write(f ws.Frame) {
	b := encode(f)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.push(b)
}

func encode(f ws.Frame) []byte {
	var b bytes.Buffer
	b.Grow(ws.MaxHeaderSize + len(f.Payload))
	_ = ws.WriteFrame(&b, f) // a buffer takes everything
	return b.Bytes()
}

// push queues an encoded frame; c.mu is held. A peer that lets too much pile up
// loses its link.
func (c *conn) push(b []byte) {
	if c.closing || c.nc == nil {
		return
	}
	if len(c.queue) >= maxQueue || c.queued+len(b) > maxQueued {
		c.g.Log.Warn("link closed: the device does not read", "device", c.device)
		c.abort()
		return
	}
	c.queue = append(c.queue, b)
	c.queued += len(b)
	if !c.writing {
		c.writing = true
		c.g.wg.Go(c.flush)
	}
}

// abort ends the link without a word; c.mu is held.
func (c *conn) abort() {
	c.closing, c.aborted = true, true
	c.queue, c.queued = nil, 0
	_ = c.nc.SetDeadline(time.Unix(1, 0)) // wakes reader and writer; fails only when it is closed
}

// flush writes what is queued, then ends.
func (c *conn) flush() {
	for {
		c.mu.Lock()
		frames := c.queue
		c.queue, c.queued = nil, 0
		if len(frames) == 0 {
			c.writing = false
			c.quiet.Broadcast()
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		// One write: one TLS record for many small frames.
		if err := c.put(bytes.Join(frames, nil)); err != nil {
			c.mu.Lock()
			c.g.Log.Info("cannot write to device", "device", c.device, "error", err)
			c.writing = false
			c.quiet.Broadcast()
			c.abort()
			c.mu.Unlock()
			return
		}
	}
}

func (c *conn) put(b []byte) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.g.Limits.Write)); err != nil {
		return err
	}
	if _, err := c.nc.Write(b); err != nil {
		return fmt.Errorf("cannot write %d bytes: %w", len(b), err)
	}
	return nil
}

// look is the watch's visit: ping the silent, send again what was not
// acknowledged, look for orders whose bell was lost.
func (c *conn) look(now time.Time) {
	l := c.g.Limits
	c.mu.Lock()
	silent := now.Sub(c.last) >= l.Ping && now.Sub(c.pinged) >= l.Ping
	if silent {
		c.pinged = now
	}
	linked := c.linked
	overdue := now.Sub(c.polled) >= l.Poll
	for _, t := range c.sent {
		overdue = overdue || now.Sub(t) >= l.Resend
	}
	for id, a := range c.asks {
		if now.Sub(a.since) >= l.Resend { // the asker has long given up
			delete(c.asks, id)
		}
	}
	c.mu.Unlock()
	if silent && linked {
		c.write(ws.NewPingFrame(nil))
	}
	if linked && overdue {
		c.deliver()
	}
}
