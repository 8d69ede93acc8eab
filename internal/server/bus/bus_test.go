// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"staunch/internal/filehash"
	"staunch/internal/order"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var dev = strings.Repeat("ab", 20)

// link records what it is told.
type link struct {
	heard  chan string
	answer func(order.Ask, func(order.Answer))
}

func newLink() *link { return &link{heard: make(chan string, 1000)} }

func (l *link) Ring()            { l.heard <- "ring" }
func (l *link) Kick(keep string) { l.heard <- "kick " + keep }
func (l *link) Ask(a order.Ask, reply func(order.Answer)) {
	if l.answer != nil {
		l.answer(a, reply)
	}
}

func (l *link) next(t *testing.T) string {
	t.Helper()
	select {
	case s := <-l.heard:
		return s
	case <-time.After(time.Minute):
		t.Fatal("nothing heard")
		return ""
	}
}

func pair(t *testing.T) map[string][2]*Bus {
	t.Helper()
	embedded, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(embedded.Close)
	peer, err := embedded.Peer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(peer.Close)

	srv, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("no server")
	}
	var remote [2]*Bus
	for i := range remote {
		if remote[i], err = New(Config{URL: srv.ClientURL()}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(remote[i].Close)
	}
	return map[string][2]*Bus{"alone": {embedded, embedded}, "in process": {embedded, peer}, "by URL": remote}
}

// settle waits until both ends know of the subscriptions.
func settle(t *testing.T, buses [2]*Bus) {
	t.Helper()
	for _, b := range buses {
		if err := b.conn.Flush(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRingKickAsk(t *testing.T) {
	for name, buses := range pair(t) {
		t.Run(name, func(t *testing.T) {
			here, there := buses[0], buses[1]
			l := newLink()
			l.answer = func(a order.Ask, reply func(order.Answer)) {
				go reply(order.Answer{ID: a.ID, Has: "yes", Paths: []order.Text{"/opt/x"}})
			}
			stop, err := there.Serve(dev, l)
			if err != nil {
				t.Fatal(err)
			}
			settle(t, buses)

			here.Ring(dev)
			if got := l.next(t); got != "ring" {
				t.Errorf("heard %q, want ring", got)
			}
			here.Kick(dev, "c1")
			if got := l.next(t); got != "kick c1" {
				t.Errorf("heard %q, want kick c1", got)
			}
			file, _ := filehash.Parse(strings.Repeat("1", 40))
			got, err := here.Ask(t.Context(), dev, order.Ask{ID: "q", File: file})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(order.Answer{ID: "q", Has: "yes", Paths: []order.Text{"/opt/x"}}, got); d != "" {
				t.Error(d)
			}

			stop()
			settle(t, buses)
			if _, err := here.Ask(t.Context(), dev, order.Ask{ID: "q"}); !errors.Is(err, ErrOffline) {
				t.Errorf("asked a device that is gone: %v, want ErrOffline", err)
			}
		})
	}
}

// A device that is connected and says nothing holds the asker no longer than
// the asker wants.
func TestAskBounded(t *testing.T) {
	b := pair(t)["alone"][0]
	l := newLink()
	if _, err := b.Serve(dev, l); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := b.Ask(ctx, dev, order.Ask{ID: "q"})
	if err == nil || errors.Is(err, ErrOffline) {
		t.Errorf("got %v, want a deadline", err)
	}
}

// Messages of one device keep their order although several workers serve.
func TestOrderPerDevice(t *testing.T) {
	b := pair(t)["alone"][0]
	var wg sync.WaitGroup
	for d := range 20 {
		id := fmt.Sprintf("%040x", d)
		l := newLink()
		if _, err := b.Serve(id, l); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := range 200 {
				b.Kick(id, fmt.Sprint(i))
			}
		})
		t.Cleanup(func() {
			for i := range 200 {
				if got, want := l.next(t), fmt.Sprintf("kick %d", i); got != want {
					t.Fatalf("heard %q, want %q", got, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestEvents(t *testing.T) {
	for name, buses := range pair(t) {
		t.Run(name, func(t *testing.T) {
			got := make(chan Event, 1)
			stop, err := buses[1].Subscribe(func(e Event) { got <- e })
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			settle(t, buses)
			want := Event{Type: "action", ID: "1", Device: dev, Status: "Pending"}
			buses[0].Publish(want)
			if d := cmp.Diff(want, <-got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Whatever is on the bus, a replica stays up.
func TestGarbage(t *testing.T) {
	b := pair(t)["alone"][0]
	l := newLink()
	if _, err := b.Serve(dev, l); err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"", "{", "null", "{}", `{"ask":{"id":1}}`, `{"kick":null}`, "\xff"} {
		if err := b.conn.Publish(deviceTopic+dev, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	b.Ring(dev)
	if got := l.next(t); got != "ring" {
		t.Errorf("heard %q, want ring", got)
	}
}

func TestRefusals(t *testing.T) {
	b := pair(t)["alone"][0]
	if _, err := b.Serve("a.>", newLink()); err == nil || !strings.Contains(err.Error(), "not a device id") {
		t.Errorf("served a wildcard: %v", err)
	}
	if _, err := b.Ask(t.Context(), "*", order.Ask{}); !errors.Is(err, ErrOffline) {
		t.Errorf("asked a wildcard: %v", err)
	}
	if _, err := New(Config{URL: "nats://127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "cannot connect to the bus") {
		t.Errorf("connected to nowhere: %v", err)
	}
	b.Ring("a b") // refused by NATS as a subject: logged, no panic
	b.Close()
	b.Close()
	b.Ring(dev)
	if _, err := b.Serve(dev, newLink()); err == nil {
		t.Error("served on a closed bus")
	}
}
