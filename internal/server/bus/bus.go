// SPDX-License-Identifier: Apache-2.0

package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"staunch/internal/order"
)

// Config is how a Bus is made.
type Config struct {
	URL         string       // of a NATS server or cluster, comma-separated; "": one in this process, without a port
	Credentials string       // file of NATS user credentials for URL; "": none
	Workers     int          // that serve all links; 0: 4
	Log         *slog.Logger // nil: nowhere
}

// Bus is one replica's connection. Make one with New, end it with Close.
type Bus struct {
	log      *slog.Logger
	embedded *server.Server // nil with a URL, and of a Peer
	conn     *nats.Conn
	lanes    []chan *nats.Msg // one a worker; a device's messages keep to one lane
	links    sync.Map         // *nats.Subscription → Handler
	dropped  atomic.Int64
	quit     chan struct{}
	workers  sync.WaitGroup
	close    sync.Once
}

const (
	laneSize    = 16384   // messages; what overflows is dropped, and nothing is lost by it
	maxMessage  = 1 << 20 // NATS's own default, so that an external server takes the same
	flushTime   = 5 * time.Second
	deviceTopic = "staunch.device."
	eventTopic  = "staunch.event"
)

// New connects, starting a server in this process where no URL is given.
func New(c Config) (*Bus, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Workers == 0 {
		c.Workers = 4
	}
	if c.URL != "" {
		opts := []nats.Option{nats.MaxReconnects(-1), nats.RetryOnFailedConnect(false)}
		if c.Credentials != "" {
			opts = append(opts, nats.UserCredentials(c.Credentials))
		}
		return connect(c, c.URL, nil, opts...)
	}
	srv, err := server.NewServer(&server.Options{
		ServerName: "staunch", DontListen: true, NoLog: true, NoSigs: true, NoSystemAccount: true, MaxPayload: maxMessage,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot make the bus: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, errors.New("cannot start the bus: it was not ready within 10 seconds")
	}
	b, err := connect(c, "", srv, nats.InProcessServer(srv))
	if err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	return b, err
}

func connect(c Config, url string, srv *server.Server, opts ...nats.Option) (*Bus, error) {
	b := &Bus{log: c.Log, embedded: srv, quit: make(chan struct{})}
	opts = append(opts, nats.Name("staunch"), nats.ErrorHandler(b.failed))
	conn, err := nats.Connect(url, opts...)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the bus: %w", err)
	}
	b.conn = conn
	for range c.Workers {
		lane := make(chan *nats.Msg, laneSize)
		b.lanes = append(b.lanes, lane)
		b.workers.Go(func() { b.work(lane) })
	}
	return b, nil
}

// Peer makes a second connection to the server in b's process, as another
// replica has one. Close it before b.
func (b *Bus) Peer() (*Bus, error) {
	if b.embedded == nil {
		return nil, errors.New("cannot make a peer: the bus is not in this process")
	}
	return connect(Config{Log: b.log, Workers: len(b.lanes)}, "", nil, nats.InProcessServer(b.embedded))
}

// failed is told by the NATS client of what goes wrong outside a call: above
// all of messages dropped because a lane was full.
func (b *Bus) failed(_ *nats.Conn, _ *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) {
		b.dropped.Add(1)
	}
	b.log.Warn("bus", "error", err)
}

// Dropped counts how often messages had to be dropped.
func (b *Bus) Dropped() int64 { return b.dropped.Load() }

// Close ends the connection, and the server if it is in this process.
func (b *Bus) Close() {
	b.close.Do(func() {
		b.conn.Close()
		close(b.quit)
		b.workers.Wait()
		if b.embedded != nil {
			b.embedded.Shutdown()
			b.embedded.WaitForShutdown()
		}
	})
}

// Ring tells the replica that holds the device's link that there is something
// to fetch. It may be lost.
func (b *Bus) Ring(device string) { b.send(device, note{Ring: true}) }

// Kick closes every link of the device, on any replica, whose connection id is
// not keep. It may be lost.
func (b *Bus) Kick(device, keep string) { b.send(device, note{Kick: &kick{Keep: keep}}) }

func (b *Bus) send(device string, n note) {
	msg, err := json.Marshal(n)
	if err == nil {
		err = b.conn.Publish(deviceTopic+device, msg)
	}
	if err != nil {
		b.log.Warn("cannot publish on the bus", "device", device, "error", err)
	}
}

// Ask asks the device over whichever replica holds it. It returns ErrOffline at
// once when none does.
func (b *Bus) Ask(ctx context.Context, device string, a order.Ask) (order.Answer, error) {
	if !order.ValidDevice(device) {
		return order.Answer{}, ErrOffline
	}
	msg, err := json.Marshal(note{Ask: &a})
	if err != nil {
		return order.Answer{}, fmt.Errorf("cannot encode question: %w", err)
	}
	reply, err := b.conn.RequestWithContext(ctx, deviceTopic+device, msg)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return order.Answer{}, ErrOffline
	case err != nil:
		return order.Answer{}, fmt.Errorf("cannot ask device %s: %w", device, err)
	}
	var answer order.Answer
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return order.Answer{}, fmt.Errorf("cannot read the answer of device %s: %w", device, err)
	}
	return answer, nil
}

// Serve makes h the device's link on this replica until stop is called. After
// stop has returned, h may still see a message that was under way.
func (b *Bus) Serve(device string, h Handler) (stop func(), err error) {
	if !order.ValidDevice(device) {
		return nil, fmt.Errorf("cannot serve %q on the bus: not a device id", device)
	}
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(device)) // hash.Hash: never returns an error
	lane := b.lanes[int(sum.Sum32())%len(b.lanes)]
	sub, err := b.conn.ChanSubscribe(deviceTopic+device, lane)
	if err != nil {
		return nil, fmt.Errorf("cannot serve device %s on the bus: %w", device, err)
	}
	b.links.Store(sub, h)
	// From here on a ring is heard: who fetches after Serve misses none.
	if err := b.conn.FlushTimeout(flushTime); err != nil {
		b.links.Delete(sub)
		_ = sub.Unsubscribe() // fails only when the connection is closed already
		return nil, fmt.Errorf("cannot serve device %s on the bus: %w", device, err)
	}
	return func() {
		b.links.Delete(sub)
		_ = sub.Unsubscribe() // fails only when the connection is closed already
	}, nil
}

func (b *Bus) work(lane chan *nats.Msg) {
	for {
		select {
		case <-b.quit:
			return
		case msg := <-lane:
			b.handle(msg)
		}
	}
}

func (b *Bus) handle(msg *nats.Msg) {
	link, ok := b.links.Load(msg.Sub)
	if !ok {
		return
	}
	h := link.(Handler)
	var n note
	if err := json.Unmarshal(msg.Data, &n); err != nil {
		b.log.Warn("unreadable message on the bus", "error", err)
		return
	}
	switch {
	case n.Ring:
		h.Ring()
	case n.Kick != nil:
		h.Kick(n.Kick.Keep)
	case n.Ask != nil:
		h.Ask(*n.Ask, func(a order.Answer) { b.answer(msg, a) })
	}
}

func (b *Bus) answer(msg *nats.Msg, a order.Answer) {
	data, err := json.Marshal(a)
	if err == nil {
		err = msg.Respond(data)
	}
	if err != nil {
		b.log.Warn("cannot answer on the bus", "error", err)
	}
}

// Publish tells every watcher on every replica. It may be lost.
func (b *Bus) Publish(e Event) {
	data, err := json.Marshal(e)
	if err == nil {
		err = b.conn.Publish(eventTopic, data)
	}
	if err != nil {
		b.log.Warn("cannot publish event", "error", err)
	}
}

// Subscribe delivers events to f, one at a time, until stop is called. A
// watcher that is too slow misses some.
func (b *Bus) Subscribe(f func(Event)) (stop func(), err error) {
	sub, err := b.conn.Subscribe(eventTopic, func(msg *nats.Msg) {
		var e Event
		if err := json.Unmarshal(msg.Data, &e); err != nil {
			b.log.Warn("unreadable event on the bus", "error", err)
			return
		}
		f(e)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot subscribe to events: %w", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil // fails only when the connection is closed already
}
