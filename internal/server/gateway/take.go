// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"

	"github.com/gobwas/ws"

	"staunch/api"
	"staunch/internal/order"
)

// largeMessage is the size, in bytes, from which a message waits for one of a
// few slots: decoding it takes several times its size.
const largeMessage = 64 << 10

// take handles one message of a welcomed device. An error ends the link.
func (c *conn) take(raw []byte) error {
	ctx, cancel := context.WithTimeout(c.g.ctx, workTime)
	defer cancel()
	if len(raw) > largeMessage {
		select {
		case c.g.large <- struct{}{}:
			defer func() { <-c.g.large }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	m, err := order.DecodeMessage(raw)
	if err != nil {
		return breach(ws.StatusPolicyViolation, "%v", err)
	}
	switch {
	case m.Ack != nil:
		return c.ack(ctx, *m.Ack)
	case m.Receipt != nil:
		return c.receipt(ctx, *m.Receipt)
	case m.Answer != nil:
		c.answer(*m.Answer)
		return nil
	case m.Facts != nil:
		if c.g.Facts == nil {
			return nil
		}
		return c.strike("facts", c.g.Facts(ctx, c.device, *m.Facts, c.ip))
	case m.Inventory != nil:
		return c.strike("inventory", c.g.Actions.Inventory(ctx, c.device, m.Inventory.Items))
	case m.Sightings != nil:
		if c.g.Sightings == nil {
			return nil
		}
		return c.sightings(ctx, *m.Sightings)
	case m.BlockWant != nil:
		return c.wanted(ctx, *m.BlockWant)
	case m.Bye != nil:
		c.g.Log.Info("device says goodbye", "device", c.device, "reason", m.Bye.Reason)
		return errClosed
	}
	return breach(ws.StatusPolicyViolation, "a device does not send such a message")
}

func (c *conn) ack(ctx context.Context, a order.Ack) error {
	if err := c.g.Actions.Acknowledge(ctx, c.device, a); err != nil {
		return c.strike("acknowledgement of "+a.Order, err)
	}
	if a.Refused != "" {
		c.g.Log.Warn("device refuses an order", "device", c.device, "order", a.Order, "reason", a.Refused)
	}
	c.acknowledged(a.Order)
	return nil
}

func (c *conn) receipt(ctx context.Context, r order.ReceiptOf) error {
	if err := c.g.Actions.Finish(ctx, c.device, r); err != nil {
		return c.strike("receipt of "+r.Order, err)
	}
	c.acknowledged(r.Order) // a receipt says more than an acknowledgement
	c.send(order.Message{ReceiptKept: &order.Ack{Order: r.Order}})
	return nil
}

// sightings keeps what the device met, and tells it so: it sends again what it
// does not hear of. What is refused would be refused again.
func (c *conn) sightings(ctx context.Context, of order.SightingsOf) error {
	err := c.g.Sightings(ctx, c.device, of.Files)
	kept := order.SightingsKept{Seq: of.Seq}
	var refusal *api.Error
	switch {
	case errors.As(err, &refusal):
		kept.Refused = refusal.Message
	case err != nil:
		return err
	}
	c.send(order.Message{SightingsKept: &kept})
	return c.strike("sightings", err)
}

func (c *conn) answer(a order.Answer) {
	c.mu.Lock()
	q, ok := c.asks[a.ID]
	delete(c.asks, a.ID)
	c.mu.Unlock()
	if !ok {
		return // nobody asked, or the asker has given up
	}
	q.reply(trim(a))
}

// trim keeps an answer within what one message on the bus holds: the count of
// the paths matters less than that there are some.
func trim(a order.Answer) order.Answer {
	const most = 256 << 10 // bytes
	size := 0
	for i, p := range a.Paths {
		if size += 6 * len(p); size > most { // a byte takes at most six in JSON
			a.Paths = a.Paths[:i]
			break
		}
	}
	if len(a.Progress) > 1000 {
		a.Progress = a.Progress[:1000]
	}
	if len(a.SHA1) > 40 || len(a.SHA256) > 64 {
		a.SHA1, a.SHA256 = "", ""
	}
	if a.Has != "yes" && a.Has != "no" {
		a.Has = "unknown"
	}
	return a
}

// strike counts what was refused of a device and closes the link when it goes
// on; a fault of ours closes it at once, and the device sends again on its next.
func (c *conn) strike(what string, err error) error {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		return err
	}
	c.g.Log.Warn("refused what a device sent", "device", c.device, "what", what, "code", refusal.Code, "reason", refusal.Message)
	if c.strikes++; c.strikes >= maxStrikes {
		return breach(ws.StatusPolicyViolation, "too much of what this device sends is refused; last: %s", refusal.Message)
	}
	return nil
}
