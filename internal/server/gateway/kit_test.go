// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/bus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second // a test that waits so long has failed

var (
	dev1 = strings.Repeat("1", 40)
	dev2 = strings.Repeat("2", 40)
)

// actions plays the domain: orders that wait until acknowledged.
type actions struct {
	mu       sync.Mutex
	waiting  []action.Delivery
	acked    []order.Ack
	finished []string
	items    []order.Item
	err      error // of the next calls
}

func (a *actions) Pending(context.Context, string) ([]action.Delivery, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.waiting), action.PendingBatch)
	return append([]action.Delivery(nil), a.waiting[:n]...), nil
}

func (a *actions) Acknowledge(_ context.Context, _ string, ack order.Ack) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	a.acked = append(a.acked, ack)
	for i, d := range a.waiting {
		if d.ID == ack.Order {
			a.waiting = append(a.waiting[:i], a.waiting[i+1:]...)
			break
		}
	}
	return nil
}

func (a *actions) Finish(_ context.Context, _ string, r order.ReceiptOf) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	a.finished = append(a.finished, r.Order)
	return nil
}

func (a *actions) Inventory(_ context.Context, _ string, items []order.Item) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.items = items
	return a.err
}

// add makes n more orders wait; each carries size bytes.
func (a *actions) add(n, size int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for range n {
		id := fmt.Sprintf("00000000-0000-4000-8000-%012x", len(a.waiting)+len(a.acked))
		a.waiting = append(a.waiting, action.Delivery{ID: id, Envelope: order.Envelope{PayloadType: id, Payload: make([]byte, size)}})
	}
}

func (a *actions) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

type kit struct {
	*Gateway
	t    *testing.T
	acts *actions
	bus  *bus.Bus
	url  string
	srv  *httptest.Server
	keys map[string]ed25519.PrivateKey
}

func newKit(t *testing.T, change ...func(*Config)) *kit {
	t.Helper()
	b, err := bus.New(bus.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return kitOn(t, b, change...)
}

func kitOn(t *testing.T, b *bus.Bus, change ...func(*Config)) *kit {
	t.Helper()
	k := &kit{t: t, acts: &actions{}, bus: b, keys: map[string]ed25519.PrivateKey{}}
	for _, id := range []string{dev1, dev2} {
		k.keys[id] = ed25519.NewKeyFromSeed([]byte(id[:32]))
	}
	conf := Config{Actions: k.acts, Bus: b, Server: "https://staunch.example", Authenticate: func(_ context.Context, h order.Hello, c order.Challenge, _ string) error {
		key, ok := k.keys[h.Device]
		if !ok || !h.Proves(c, key.Public().(ed25519.PublicKey)) {
			return api.Errorf(api.Forbidden, "The device is not known or its signature is wrong.")
		}
		return nil
	}}
	for _, f := range change {
		f(&conf)
	}
	var err error
	if k.Gateway, err = New(conf); err != nil {
		t.Fatal(err)
	}
	k.srv = httptest.NewTLSServer(k.Gateway)
	k.url = "wss" + strings.TrimPrefix(k.srv.URL, "https")
	t.Cleanup(func() {
		k.Gateway.Close()
		k.srv.Close()
	})
	return k
}

// device is the bare end of a link, for saying what no agent would.
type device struct {
	t    *testing.T
	conn *websocket.Conn
}

// dial opens a connection and returns it with the challenge.
func (k *kit) dial() (*device, order.Challenge) {
	k.t.Helper()
	conn, _, err := websocket.Dial(k.t.Context(), k.url, &websocket.DialOptions{HTTPClient: k.srv.Client()})
	if err != nil {
		k.t.Fatal(err)
	}
	conn.SetReadLimit(order.MaxMessage)
	k.t.Cleanup(func() { _ = conn.CloseNow() })
	d := &device{k.t, conn}
	m := d.next()
	if m.Challenge == nil || len(m.Challenge.Nonce) != 32 || m.Challenge.Version != order.LinkVersion {
		k.t.Fatalf("first message is %+v, want a challenge", m)
	}
	return d, *m.Challenge
}

// link opens a connection as a device and waits for the welcome.
func (k *kit) link(id string) *device {
	k.t.Helper()
	d, ch := k.dial()
	d.send(order.Message{Hello: &order.Hello{Device: id, Signature: ed25519.Sign(k.keys[id], order.ChallengeText(id, ch))}})
	if m := d.next(); m.Welcome == nil {
		k.t.Fatalf("got %+v, want welcome", m)
	}
	return d
}

func (d *device) send(m order.Message) {
	d.t.Helper()
	raw, err := json.Marshal(m)
	if err != nil {
		d.t.Fatal(err)
	}
	d.say(string(raw))
}

func (d *device) say(s string) {
	d.t.Helper()
	if err := d.conn.Write(d.t.Context(), websocket.MessageText, []byte(s)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) read() (order.Message, error) {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	_, raw, err := d.conn.Read(ctx)
	if err != nil {
		return order.Message{}, err
	}
	return order.DecodeMessage(raw)
}

func (d *device) next() order.Message {
	d.t.Helper()
	m, err := d.read()
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// wantBye reads the goodbye and the end.
func (d *device) wantBye(text string, retry bool) {
	d.t.Helper()
	for {
		m, err := d.read()
		if err != nil {
			d.t.Fatalf("closed without a goodbye: %v", err)
		}
		if m.Bye == nil {
			continue
		}
		if !strings.Contains(m.Bye.Reason, text) || m.Bye.Retry != retry {
			d.t.Fatalf("goodbye %+v, want %q, retry %v", *m.Bye, text, retry)
		}
		if _, err := d.read(); err == nil {
			d.t.Fatal("spoke after the goodbye")
		}
		return
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}
