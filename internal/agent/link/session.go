// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"staunch/internal/order"
)

const (
	greetTime   = 30 * time.Second // from dialling to the welcome
	writeTime   = 30 * time.Second // for one message to be taken
	pingEvery   = 45 * time.Second // a lost connection is noticed within pingEvery and pingTime
	pingTime    = 30 * time.Second
	maxQueue    = 256 // messages that wait to be written
	maxAsks     = 8   // questions worked on at once
	maxGreeting = 64 << 10
)

// session is one connection.
type session struct {
	l     *Link
	conn  *websocket.Conn
	ctx   context.Context
	end   context.CancelCauseFunc
	queue chan []byte
	asks  chan struct{}
	wg    sync.WaitGroup
}

// session runs one connection from dial to end and says why it ended.
func (l *Link) session(ctx context.Context) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s := &session{l: l, ctx: ctx, end: end, queue: make(chan []byte, maxQueue), asks: make(chan struct{}, maxAsks)}
	if err := s.greet(); err != nil {
		return err
	}
	l.cfg.Log.Info("connected to the server", "url", l.cfg.URL)
	l.setOpen(s)
	s.wg.Go(s.write)
	s.wg.Go(s.ping)
	s.wg.Go(l.cfg.Handler.Connected)
	err := s.read()
	l.setOpen(nil)
	if cause := context.Cause(ctx); cause != nil {
		err = cause // the writer or the pinger knows better why reading failed
	}
	end(err)
	_ = s.conn.CloseNow() // it has ended already
	s.wg.Wait()
	return err
}

// greet dials, answers the challenge and waits for the welcome.
func (s *session) greet() error {
	ctx, cancel := context.WithTimeout(s.ctx, greetTime)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, s.l.url, &websocket.DialOptions{HTTPClient: s.l.http, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return dialError(err, resp)
	}
	s.conn = conn
	if err := s.hello(ctx); err != nil {
		_ = conn.CloseNow() // the error says more
		return err
	}
	conn.SetReadLimit(order.MaxMessage)
	return nil
}

func (s *session) hello(ctx context.Context) error {
	cfg := s.l.cfg
	s.conn.SetReadLimit(maxGreeting)
	m, err := s.next(ctx)
	if err != nil {
		return err
	}
	ch := m.Challenge
	switch {
	case ch == nil:
		return fmt.Errorf("the server's first message is no challenge")
	case ch.Version != order.LinkVersion:
		return &refusal{reason: fmt.Sprintf("the server speaks version %d of the link, this agent version %d: upgrade the older one", ch.Version, order.LinkVersion), slow: true}
	case len(ch.Nonce) < 32:
		return fmt.Errorf("the server's challenge is too short")
	}
	if skew := ch.Time.Sub(cfg.Now()).Abs(); skew > order.MaxClockSkew {
		cfg.Log.Warn("this clock and the server's differ: orders may be refused", "skew", skew.Round(time.Second))
	}
	h := order.Hello{Device: cfg.Device, Facts: cfg.Facts()}
	h.Signature = ed25519.Sign(cfg.Key, order.ChallengeText(cfg.Device, *ch))
	raw, err := json.Marshal(order.Message{Hello: &h})
	if err != nil {
		return fmt.Errorf("cannot encode hello: %w", err)
	}
	if err := s.conn.Write(ctx, websocket.MessageText, raw); err != nil {
		return fmt.Errorf("cannot send hello: %w", err)
	}
	m, err = s.next(ctx)
	switch {
	case err != nil:
		return err
	case m.Welcome == nil:
		return fmt.Errorf("the server's answer to hello is no welcome")
	}
	cfg.Handler.Welcome(*m.Welcome)
	return nil
}

// next reads one message; a goodbye comes back as an error.
func (s *session) next(ctx context.Context) (order.Message, error) {
	kind, raw, err := s.conn.Read(ctx)
	if err != nil {
		return order.Message{}, fmt.Errorf("cannot read from the server: %w", err)
	}
	if kind != websocket.MessageText {
		return order.Message{}, fmt.Errorf("the server sent a binary message")
	}
	m, err := order.DecodeMessage(raw)
	if err != nil {
		return order.Message{}, err
	}
	if m.Bye != nil {
		_ = s.conn.Close(websocket.StatusNormalClosure, "") // it is gone either way
		return order.Message{}, &refusal{reason: "the server closed the link: " + m.Bye.Reason, slow: !m.Bye.Retry}
	}
	return m, nil
}

// read hands on what the server sends until the connection ends.
func (s *session) read() error {
	for {
		m, err := s.next(s.ctx)
		if err != nil {
			return err
		}
		if err := s.take(m); err != nil {
			return err
		}
	}
}

func (s *session) take(m order.Message) error {
	h := s.l.cfg.Handler
	switch {
	case m.Order != nil:
		if ack, send := h.Order(s.ctx, *m.Order); send {
			return s.send(order.Message{Ack: &ack})
		}
	case m.ReceiptKept != nil:
		h.ReceiptKept(m.ReceiptKept.Order)
	case m.Ask != nil:
		return s.ask(*m.Ask)
	case m.Welcome != nil:
		h.Welcome(*m.Welcome)
	case m.Block != nil || m.BlockPart != nil:
		return s.rules(m)
	case m.SightingsKept != nil:
		if h, ok := h.(SightingsHandler); ok {
			h.SightingsKept(*m.SightingsKept)
		}
	default:
		return fmt.Errorf("a server does not send such a message")
	}
	return nil
}

// rules hands on what comes of standing rules, and answers.
func (s *session) rules(m order.Message) error {
	h, ok := s.l.cfg.Handler.(RuleHandler)
	if !ok {
		s.l.cfg.Log.Warn("the server sent standing rules, which this agent does not know")
		return nil
	}
	var want *order.RulesWanted
	if m.Block != nil {
		want = h.Rules(*m.Block)
	} else {
		want = h.Part(*m.BlockPart)
	}
	if want == nil {
		return nil
	}
	return s.send(order.Message{BlockWant: want})
}

// ask answers a question beside whatever else goes on.
func (s *session) ask(a order.Ask) error {
	select {
	case s.asks <- struct{}{}:
	default:
		return s.send(order.Message{Answer: &order.Answer{ID: a.ID, Has: "unknown", Progress: "the agent is busy with other questions"}})
	}
	s.wg.Go(func() {
		defer func() { <-s.asks }()
		answer := s.l.cfg.Handler.Ask(s.ctx, a)
		answer.ID = a.ID
		_ = s.send(order.Message{Answer: &answer}) // the asker does not wait for a lost link
	})
	return nil
}

// send queues a message, waiting for room.
func (s *session) send(m order.Message) error {
	raw, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot encode message: %w", err)
	}
	if len(raw) > order.MaxMessage {
		return fmt.Errorf("cannot send message: %d bytes are more than the %d allowed", len(raw), order.MaxMessage)
	}
	select {
	case <-s.ctx.Done():
		return ErrOffline
	case s.queue <- raw:
		return nil
	}
}

func (s *session) write() {
	for {
		select {
		case <-s.ctx.Done():
			return
		case raw := <-s.queue:
			ctx, cancel := context.WithTimeout(s.ctx, writeTime)
			err := s.conn.Write(ctx, websocket.MessageText, raw)
			cancel()
			if err != nil {
				s.end(fmt.Errorf("cannot write to the server: %w", err))
				return
			}
		}
	}
}

// ping notices a connection that is dead without a word, and keeps it alive in
// the tables of what lies between.
func (s *session) ping() {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(s.ctx, pingTime)
		err := s.conn.Ping(ctx)
		cancel()
		if err != nil {
			s.end(fmt.Errorf("the server does not answer: %w", err))
			return
		}
	}
}

// dialError makes of a refused upgrade what it says about coming back.
func dialError(err error, resp *http.Response) error {
	if resp == nil {
		return fmt.Errorf("cannot connect: %w", err)
	}
	text := fmt.Sprintf("the server answered %s", resp.Status)
	if resp.Body != nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024)) // what there is of it
		_ = resp.Body.Close()
		if m := message(body); m != "" {
			text += ": " + m
		}
	}
	r := &refusal{reason: "cannot connect: " + text}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		r.after = time.Duration(min(n, 86400)) * time.Second
	}
	return r
}
