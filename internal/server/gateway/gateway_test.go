// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
)

// A device hears that its sightings are on record, or never will be; of a fault
// of ours it hears nothing, and sends them again.
func TestSightingsKept(t *testing.T) {
	answers := make(chan error, 1)
	k := newKit(t, func(c *Config) {
		c.Sightings = func(context.Context, string, []order.Sighting) error { return <-answers }
	})
	for _, c := range []struct {
		err  error
		want order.SightingsKept
	}{
		{nil, order.SightingsKept{Seq: 7}},
		{api.Errorf(api.InvalidInput, "no such thing"), order.SightingsKept{Seq: 7, Refused: "no such thing"}},
	} {
		answers <- c.err
		d := k.link(dev1)
		d.send(order.Message{Sightings: &order.SightingsOf{Seq: 7, Files: []order.Sighting{}}})
		if m := d.next(); m.SightingsKept == nil || *m.SightingsKept != c.want {
			t.Errorf("%v: got %+v", c.err, m)
		}
	}
	answers <- errors.New("no disk")
	d := k.link(dev1)
	d.send(order.Message{Sightings: &order.SightingsOf{Seq: 7, Files: []order.Sighting{}}})
	if m, err := d.read(); err == nil && m.SightingsKept != nil {
		t.Errorf("got %+v of a fault", m)
	}
}

func TestOneOrder(t *testing.T) {
	facts := make(chan string, 1)
	k := newKit(t, func(c *Config) {
		c.Welcome = func(context.Context, string) order.Welcome { return order.Welcome{OrderKeys: []string{"k"}} }
		c.Facts = func(_ context.Context, device string, f order.Facts, ip string) error {
			facts <- device[:2] + " " + f.Hostname + " " + ip
			return nil
		}
	})
	k.acts.add(1, 10)
	id := k.acts.waiting[0].ID
	d := k.link(dev1)
	if m := d.next(); m.Order == nil || m.Order.PayloadType != id {
		t.Fatalf("got %+v, want the pending order", m)
	}
	if !k.Connected(dev1) || k.Connected(dev2) || k.Count() != 1 {
		t.Error("presence is wrong")
	}
	d.send(order.Message{Ack: &order.Ack{Order: id}})
	d.send(order.Message{Receipt: &order.ReceiptOf{Order: id}})
	if m := d.next(); m.ReceiptKept == nil || m.ReceiptKept.Order != id {
		t.Fatalf("got %+v, want receiptKept", m)
	}
	if d := cmp.Diff([]order.Ack{{Order: id}}, k.acts.acked); d != "" {
		t.Error(d)
	}
	d.send(order.Message{Facts: &order.Facts{Hostname: "h"}})
	if got := <-facts; got != "11 h 127.0.0.1" {
		t.Errorf("facts %q", got)
	}
	d.send(order.Message{Inventory: &order.Inventory{Items: []order.Item{{ID: "i"}}}})
	until(t, "inventory", func() bool { k.acts.mu.Lock(); defer k.acts.mu.Unlock(); return len(k.acts.items) == 1 })

	k.acts.add(1, 10) // and one that comes while connected
	Door{k.bus}.Ring(dev1)
	if m := d.next(); m.Order == nil {
		t.Fatalf("got %+v, want the rung order", m)
	}
}

func TestAsk(t *testing.T) {
	k := newKit(t)
	door := Door{k.bus}
	file, _ := filehash.Parse(strings.Repeat("a", 40))
	if _, ok := door.Ask(t.Context(), dev1, file); ok {
		t.Error("a device that is not connected answered")
	}
	d := k.link(dev1)
	go func() {
		m, err := d.read()
		if err != nil || m.Ask == nil {
			return
		}
		d.send(order.Message{Answer: &order.Answer{ID: "nobody asked this", Has: "no"}})
		d.send(order.Message{Answer: &order.Answer{ID: m.Ask.ID, Has: "maybe", SHA1: strings.Repeat("x", 99), Paths: []order.Text{order.Text(strings.Repeat("p", 90<<10))}}})
	}()
	a, ok := door.Ask(t.Context(), dev1, file)
	if !ok || a.Has != "unknown" || len(a.Paths) != 0 || a.SHA1 != "" {
		t.Errorf("got %v %+v: an answer is to be trimmed to what is allowed", ok, a)
	}
}

// More orders than fit are sent as the device acknowledges, never more than a
// batch at a time, each once.
func TestWindow(t *testing.T) {
	k := newKit(t)
	const n = 5*action.PendingBatch + 3
	k.acts.add(n, 10)
	d := k.link(dev1)
	seen := map[string]int{}
	unacked := 0
	for len(seen) < n {
		m := d.next()
		if m.Order == nil {
			t.Fatalf("got %+v", m)
		}
		seen[m.Order.PayloadType]++
		if unacked++; unacked > action.PendingBatch {
			t.Fatalf("%d orders on their way", unacked)
		}
		if unacked > action.PendingBatch/2 || len(seen) == n { // more come only when half are acknowledged
			for id := range seen {
				if seen[id] == 1 {
					d.send(order.Message{Ack: &order.Ack{Order: id}})
					seen[id] = 2
					unacked--
				}
			}
		}
	}
	until(t, "all acknowledged", func() bool { k.acts.mu.Lock(); defer k.acts.mu.Unlock(); return len(k.acts.waiting) == 0 })
}

// An order without acknowledgement comes again, and one whose bell was lost
// comes without it.
func TestResendAndLostBell(t *testing.T) {
	k := newKit(t, func(c *Config) {
		c.Limits.Tick, c.Limits.Resend, c.Limits.Poll = 5*time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	})
	d := k.link(dev1)
	k.acts.add(1, 10) // nobody rings
	for range 3 {
		if m := d.next(); m.Order == nil {
			t.Fatalf("got %+v, want the order", m)
		}
	}
}

func TestSecondConnectionClosesFirst(t *testing.T) {
	k := newKit(t)
	peer, err := k.bus.Peer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.Close)
	other := kitOn(t, peer)

	first := k.link(dev1)
	bystander := k.link(dev2)
	second := k.link(dev1)
	first.wantBye("another connection", true)
	until(t, "the first is gone", func() bool { return k.Count() == 2 })
	if !k.Connected(dev1) {
		t.Error("the second is not there")
	}
	third := other.link(dev1) // on another replica
	second.wantBye("another connection", true)
	until(t, "the second is gone", func() bool { return !k.Connected(dev1) && other.Connected(dev1) })

	k.acts.add(1, 1)
	Door{k.bus}.Ring(dev2)
	if m := bystander.next(); m.Order == nil {
		t.Errorf("the bystander got %+v", m)
	}
	other.acts.add(1, 1)
	Door{k.bus}.Ring(dev1) // from one replica to a device on the other
	if m := third.next(); m.Order == nil {
		t.Errorf("the third got %+v", m)
	}
}

func TestHelloRefused(t *testing.T) {
	k := newKit(t)
	sign := func(id string, ch order.Challenge) []byte {
		return ed25519.Sign(k.keys[dev1], order.ChallengeText(id, ch))
	}
	tests := map[string]struct {
		hello func(order.Challenge) order.Hello
		text  string
		retry bool
	}{
		"unknown device": {func(ch order.Challenge) order.Hello {
			id := strings.Repeat("9", 40)
			return order.Hello{Device: id, Signature: sign(id, ch)}
		}, "not known", false},
		"another's key": {func(ch order.Challenge) order.Hello { return order.Hello{Device: dev2, Signature: sign(dev2, ch)} }, "not known", false},
		"no signature":  {func(order.Challenge) order.Hello { return order.Hello{Device: dev1} }, "not known", false},
		"an older challenge": {func(ch order.Challenge) order.Hello {
			ch.Nonce = make([]byte, 32)
			return order.Hello{Device: dev1, Signature: sign(dev1, ch)}
		}, "not known", false},
		"another server's": {func(ch order.Challenge) order.Hello {
			ch.Server = "https://evil.example"
			return order.Hello{Device: dev1, Signature: sign(dev1, ch)}
		}, "not known", false},
		"a wildcard": {func(order.Challenge) order.Hello { return order.Hello{Device: "*"} }, "device id is not 40 lower-case hex digits", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			d, ch := k.dial()
			h := tt.hello(ch)
			d.send(order.Message{Hello: &h})
			d.wantBye(tt.text, tt.retry)
		})
	}
	if k.Count() != 0 {
		t.Error("somebody came in")
	}
}

// What is wrong with a message is told, and the link closed.
func TestMalformed(t *testing.T) {
	k := newKit(t)
	for name, tt := range map[string]struct{ say, text string }{
		"no JSON":        {"hello", "cannot read message"},
		"empty":          {"", "cannot read message"},
		"no part":        {"{}", "it has 0 parts"},
		"two parts":      {`{"ack":{"order":"x"},"bye":{"reason":"","retry":true}}`, "it has 2 parts"},
		"unknown part":   {`{"exec":{"command":"sh"}}`, "unknown field"},
		"unknown field":  {`{"ack":{"order":"x","really":true}}`, "unknown field"},
		"null":           {`{"ack":null}`, "a device does not send such a message"},
		"wrong type":     {`{"ack":[]}`, "cannot unmarshal"},
		"a second value": {`{"ack":{"order":"x"}}{}`, "more than one JSON value"},
		"server's part":  {`{"welcome":{}}`, "a device does not send such a message"},
		"hello again":    {`{"hello":{"device":"x","signature":null,"facts":{}}}`, "a device does not send such a message"},
		"deep":           {strings.Repeat("[", 100000), "cannot read message"},
		"not UTF-8":      {"{\"ack\":{\"order\":\"\xff\"}}", "not UTF-8"},
	} {
		t.Run(name, func(t *testing.T) {
			d := k.link(dev1)
			d.say(tt.say)
			d.wantBye(tt.text, true)
		})
	}
	t.Run("before hello", func(t *testing.T) {
		d, _ := k.dial()
		d.send(order.Message{Ack: &order.Ack{Order: "x"}})
		d.wantBye("the first message must be hello", true)
	})
	t.Run("large before hello", func(t *testing.T) {
		d, _ := k.dial()
		d.say(strings.Repeat(" ", maxHello+1))
		d.wantBye("message of more than 262144 bytes", true)
	})
}

// A device whose messages are refused is heard for a while, then not any more;
// a fault of ours ends the link so that the device sends again.
func TestRefusedAndFailed(t *testing.T) {
	k := newKit(t)
	d := k.link(dev1)
	k.acts.fail(api.Errorf(api.Forbidden, "forged"))
	for range maxStrikes {
		d.send(order.Message{Receipt: &order.ReceiptOf{Order: "x"}})
	}
	d.wantBye("too much of what this device sends is refused; last: forged", true)

	k.acts.fail(errors.New("disk on fire"))
	d = k.link(dev1)
	d.send(order.Message{Receipt: &order.ReceiptOf{Order: "x"}})
	d.wantBye("the server could not go on", true) // and no cause is told
	if len(k.acts.finished) != 0 {
		t.Error("kept")
	}
}

// A device that was shut out loses its link although the kick was lost.
func TestStill(t *testing.T) {
	k := newKit(t, func(c *Config) {
		c.Limits.Tick, c.Limits.Poll = 5*time.Millisecond, 10*time.Millisecond
		c.Still = func(context.Context, string) error { return api.Errorf(api.Forbidden, "The device is revoked.") }
	})
	k.link(dev1).wantBye("The device is revoked.", false)
}

func TestSlowReader(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Limits.Write = 50 * time.Millisecond })
	t.Run("more than may wait", func(t *testing.T) {
		k.acts.add(20, 500<<10)
		k.link(dev1) // and reads no more
		until(t, "closed", func() bool { return k.Count() == 0 })
	})
	t.Run("too slow", func(t *testing.T) {
		k := newKit(t, func(c *Config) {
			c.Limits.Write, c.Limits.Tick, c.Limits.Resend = 50*time.Millisecond, 5*time.Millisecond, 10*time.Millisecond
		})
		k.acts.add(1, 2<<20) // sent again and again until the kernel takes no more
		k.link(dev1)
		until(t, "closed", func() bool { return k.Count() == 0 })
	})
}

func TestSilence(t *testing.T) {
	t.Run("a device that answers pings stays", func(t *testing.T) {
		k := newKit(t, func(c *Config) {
			c.Limits.Ping, c.Limits.Tick, c.Limits.Idle = 10*time.Millisecond, 5*time.Millisecond, 5*time.Second
		})
		d := k.link(dev1)
		pinged := make(chan struct{})
		go func() {
			defer close(pinged)
			_, _ = d.read() // coder answers pings while it reads
		}()
		var first, second time.Time
		at := func() time.Time {
			k.mu.Lock()
			defer k.mu.Unlock()
			c := k.links[dev1]
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.last
		}
		first = at()
		until(t, "heard after a ping", func() bool { second = at(); return second.After(first) })
		k.acts.add(1, 1)
		Door{k.bus}.Ring(dev1)
		<-pinged
	})
	t.Run("one that does not is closed", func(t *testing.T) {
		k := newKit(t, func(c *Config) { c.Limits.Idle = 30 * time.Millisecond })
		k.link(dev1).wantBye("nothing was heard for too long", true)
	})
	t.Run("no hello", func(t *testing.T) {
		k := newKit(t, func(c *Config) { c.Limits.Handshake = 30 * time.Millisecond })
		d, _ := k.dial()
		d.wantBye("nothing was heard for too long", true)
	})
}

func TestNotWebSocket(t *testing.T) {
	k := newKit(t)
	resp, err := k.srv.Client().Get(k.srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	var e api.ErrorBody
	if err := json.Unmarshal(body, &e); err != nil || resp.StatusCode != http.StatusUpgradeRequired || !strings.Contains(e.Error.Message, "WebSocket") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	k.srv.Client().CloseIdleConnections()
}

func TestTooManyHandshakes(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Limits.Handshakes = 1 })
	d, _ := k.dial() // and says nothing
	status, after := k.upgrade()
	if status != http.StatusServiceUnavailable || after == "" {
		t.Errorf("status %d, Retry-After %q", status, after)
	}
	_ = d.conn.CloseNow()
	until(t, "room again", func() bool { status, _ := k.upgrade(); return status == http.StatusSwitchingProtocols })
}

// upgrade tries a bare upgrade and returns the answer's status and Retry-After.
func (k *kit) upgrade() (int, string) {
	conn := k.raw()
	defer func() { _ = conn.Close() }()
	resp := upgrade(k.t, conn)
	return resp.StatusCode, resp.Header.Get("Retry-After")
}

func (k *kit) raw() net.Conn {
	k.t.Helper()
	conf := k.srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	conf.ServerName = "example.com"
	conn, err := tls.Dial("tcp", k.srv.Listener.Addr().String(), conf)
	if err != nil {
		k.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

func upgrade(t *testing.T, conn net.Conn) *http.Response {
	t.Helper()
	_, err := fmt.Fprintf(conn, "GET /v1/link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// Bytes that are no WebSocket at all end the connection, nothing else.
func TestGarbageBytes(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Limits.Linger = 50 * time.Millisecond })
	for name, garbage := range map[string]string{
		"unmasked":      "\x81\x02{}",
		"reserved bits": "\xf1\x80\x00\x00\x00\x00",
		"reserved code": "\x83\x80\x00\x00\x00\x00",
		"huge":          "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"negative":      "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00",
		"long ping":     "\x89\xfe\x01\x00\x00\x00\x00\x00",
		"binary":        "\x82\x80\x00\x00\x00\x00",
		"continuation":  "\x80\x80\x00\x00\x00\x00",
		"cut ping":      "\x09\x80\x00\x00\x00\x00",
		"HTTP":          "GET / HTTP/1.1\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := k.raw()
			defer func() { _ = conn.Close() }()
			if resp := upgrade(t, conn); resp.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(resp.Status)
			}
			if _, err := conn.Write([]byte(garbage)); err != nil {
				t.Fatal(err)
			}
			rest, err := io.ReadAll(conn)
			if err != nil || !strings.Contains(string(rest), `"bye"`) {
				t.Errorf("%q, %v: want a goodbye and the end", rest, err)
			}
		})
	}
	until(t, "all gone", func() bool { k.mu.Lock(); defer k.mu.Unlock(); return len(k.all) == 0 })
}

func TestClose(t *testing.T) {
	k := newKit(t)
	linked := k.link(dev1)
	greeting, _ := k.dial()
	done := make(chan struct{})
	go func() { defer close(done); k.Gateway.Close() }()
	linked.wantBye("the server is stopping", true)
	greeting.wantBye("the server is stopping", true)
	<-done
	if status, after := k.upgrade(); status != http.StatusServiceUnavailable || after == "" {
		t.Errorf("after Close: status %d", status)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "are required") {
		t.Error(err)
	}
}
