// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/agent/link"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/gateway"
)

func TestOrderToReceipt(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	before := s.submit(0) // waits for the device
	a := newAgent(s, "")
	until(t, "the waiting order succeeds", func() bool { return s.status(before.ID) == api.Succeeded })
	during := s.submit(1)
	until(t, "the rung order succeeds", func() bool { return s.status(during.ID) == api.Succeeded })
	until(t, "both receipts kept", func() bool { return a.see(func() bool { return len(a.unkept) == 0 }) })
	if !a.link.Connected() || !s.gateway.Connected(dev) {
		t.Error("not connected")
	}
}

func TestAskBeforeSubmit(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	a := newAgent(s, "", func(a *agent, _ *link.Config) { a.answer.Has = "no" })
	until(t, "connected", a.link.Connected)
	until(t, "served", func() bool { return s.gateway.Connected(dev) })
	_, err := s.actions.StopAndQuarantine(t.Context(), soc, dev, stopRequest(t, 7))
	if api.CodeOf(err) != api.ResourceNotFound || !strings.Contains(err.Error(), "was not found in machine "+dev) {
		t.Errorf("got %v, want row 12", err)
	}
	a.see(func() bool { a.answer.Has = "yes"; return true })
	s.submit(7)
}

// Orders, acknowledgements, receipts and their answers are cut off at random
// places, again and again. Each order is carried out once and ends once.
func TestCutNetwork(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			s := newServer(t, gateway.Limits{Tick: 10 * time.Millisecond, Resend: 50 * time.Millisecond, Poll: 100 * time.Millisecond})
			p := newProxy(t, s.http.Listener.Addr().String(), seed)
			a := newAgent(s, p.listener.Addr().String())
			var ids []string
			for n := range 150 {
				ids = append(ids, s.submit(n).ID)
			}
			until(t, "some reconnects", func() bool { return a.see(func() bool { return a.welcomed >= 3 }) })
			p.heal()
			until(t, "all succeeded", func() bool {
				for _, id := range ids {
					if s.status(id) != api.Succeeded {
						return false
					}
				}
				return true
			})
			until(t, "all receipts kept", func() bool { return a.see(func() bool { return len(a.unkept) == 0 }) })
			a.see(func() bool {
				for _, id := range ids {
					if a.ran[id] != 1 {
						t.Errorf("order %s was carried out %d times", id, a.ran[id])
					}
				}
				return true
			})
		})
	}
}

// The server dies and another takes over the same database.
func TestServerGone(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	p := newProxy(t, s.http.Listener.Addr().String(), 1)
	p.heal()
	a := newAgent(s, p.listener.Addr().String(), func(a *agent, _ *link.Config) { a.mute = true })
	x := s.submit(0)
	until(t, "accepted", func() bool { return s.status(x.ID) == api.InProgress })
	next := s.replica()
	p.mu.Lock()
	p.target = next.http.Listener.Addr().String()
	p.mu.Unlock()
	a.see(func() bool { a.mute = false; return true })
	s.gateway.Close()
	until(t, "the receipt reaches the next server", func() bool { return next.status(x.ID) == api.Succeeded })
}

// An action made at one replica reaches a device that is connected to another.
func TestTwoReplicas(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	r := s.replica()
	a := newAgent(r, "", func(a *agent, _ *link.Config) { a.answer.Has = "yes" })
	until(t, "connected", func() bool { return a.link.Connected() && r.gateway.Connected(dev) })
	x := s.submit(0)
	until(t, "succeeded", func() bool { return s.status(x.ID) == api.Succeeded })
}

func TestCancelReachesDevice(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	a := newAgent(s, "", func(a *agent, _ *link.Config) { a.deaf = true })
	x := s.submit(0)
	until(t, "the order was sent", func() bool { return a.see(func() bool { return a.missed > 0 }) })
	a.see(func() bool { a.deaf = false; return true })
	got, err := s.actions.Cancel(t.Context(), soc, x.ID, "wrong file")
	must(t, err)
	if got.Status != api.Cancelled {
		t.Errorf("%s", got.Status)
	}
	until(t, "the device hears of it", func() bool { return a.see(func() bool { return len(a.cancels) == 1 && a.cancels[0] == x.ID }) })
	a.see(func() bool {
		if a.ran[x.ID] != 0 {
			t.Error("a cancelled order was carried out")
		}
		return true
	})
}

// Two agents with one key put each other out, but no order runs lost or the
// server astray.
func TestTwins(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	one, two := newAgent(s, ""), newAgent(s, "")
	until(t, "both were in", func() bool {
		return one.see(func() bool { return one.welcomed > 1 }) && two.see(func() bool { return two.welcomed > 1 })
	})
	x := s.submit(0)
	until(t, "it ends", func() bool { return s.status(x.ID) == api.Succeeded })
	if n := s.gateway.Count(); n > 1 {
		t.Errorf("%d links of one device", n)
	}
}

func TestRevoked(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	a := newAgent(s, "", func(_ *agent, c *link.Config) { c.Backoff.Slow = time.Hour })
	until(t, "connected", func() bool { return a.link.Connected() && s.gateway.Connected(dev) })
	s.mu.Lock()
	s.revoked = true
	s.mu.Unlock()
	s.bus.Kick(dev, "") // as revocation does
	until(t, "out", func() bool { return !a.link.Connected() && !s.gateway.Connected(dev) })
	if err := a.link.Send(order.Message{Facts: &order.Facts{}}); err == nil || err.Error() != "the server is not connected" {
		t.Errorf("Send: %v", err)
	}
}

// A server that is full says when to come back; the link listens.
func TestRetryAfter(t *testing.T) {
	var calls atomic.Int32
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer srv.Close()
	s := newServer(t, gateway.Limits{})
	newAgent(s, "", func(_ *agent, c *link.Config) {
		c.URL = srv.URL
		c.CA.AddCert(srv.Certificate())
	})
	until(t, "a call", func() bool { return calls.Load() == 1 })
	time.Sleep(100 * time.Millisecond) // several times the longest back-off
	if n := calls.Load(); n != 1 {
		t.Errorf("called %d times", n)
	}
}

// Many devices' worth of questions at once.
func TestManyAsks(t *testing.T) {
	s := newServer(t, gateway.Limits{})
	a := newAgent(s, "", func(a *agent, _ *link.Config) { a.answer.Has = "yes" })
	until(t, "connected", func() bool { return a.link.Connected() && s.gateway.Connected(dev) })
	door := gateway.Door{Bus: s.bus}
	var wg sync.WaitGroup
	var yes atomic.Int32
	for range 200 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if ans, ok := door.Ask(ctx, dev, stopRequest(t, 1).File); ok && ans.Has == "yes" {
				yes.Add(1)
			}
		})
	}
	wg.Wait() // none hangs; some may be told that the agent is busy
	if yes.Load() == 0 {
		t.Error("nobody was answered")
	}
}

func stopRequest(t *testing.T, n int) action.StopRequest {
	t.Helper()
	file, err := parse(n)
	must(t, err)
	return action.StopRequest{Comment: "c", File: file}
}

func TestForgedServerWords(t *testing.T) {
	// What a server must not say costs the connection, and the agent stays.
	for name, say := range map[string]string{
		"no JSON": "x", "not a challenge": `{"ack":{"order":"x"}}`, "short nonce": `{"challenge":{"version":1,"nonce":"","server":"","time":"2026-01-02T03:04:05Z"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			srv := httptest.NewTLSServer(wsHandler(func(send func(string)) {
				calls.Add(1)
				send(say)
			}))
			defer srv.Close()
			s := newServer(t, gateway.Limits{})
			newAgent(s, "", func(_ *agent, c *link.Config) {
				c.URL = srv.URL
				c.CA.AddCert(srv.Certificate())
			})
			until(t, "it tries again", func() bool { return calls.Load() >= 3 })
		})
	}
	t.Run("an order of nobody", func(t *testing.T) {
		s := newServer(t, gateway.Limits{})
		a := newAgent(s, "")
		_, other, err := ed25519.GenerateKey(nil)
		must(t, err)
		env, err := order.Sign(order.Order{
			ID: "7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913", Device: dev, Kind: order.StopAndQuarantine, File: stopRequest(t, 1).File,
			Issued: time.Now(), Expires: time.Now().Add(time.Hour),
		}, other)
		must(t, err)
		if ack, _ := a.Order(t.Context(), env); ack.Refused == "" {
			t.Error("accepted")
		}
	})
}
