// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/gobwas/ws"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
)

// Ring implements bus.Handler.
func (c *conn) Ring() { c.deliver() }

// Kick implements bus.Handler.
func (c *conn) Kick(keep string) {
	if keep != c.id {
		c.bye(ws.StatusPolicyViolation, "another connection of this device has opened, or the device was shut out", true)
	}
}

// Ask implements bus.Handler.
func (c *conn) Ask(a order.Ask, reply func(order.Answer)) {
	c.mu.Lock()
	refuse := !c.linked || c.closing || len(c.asks) >= maxAsks
	if !refuse {
		if c.asks == nil {
			c.asks = map[string]asking{}
		}
		c.asks[a.ID] = asking{reply, c.g.Now()}
	}
	c.mu.Unlock()
	if refuse {
		reply(order.Answer{ID: a.ID, Has: "unknown", Progress: "the link is busy"})
		return
	}
	c.send(order.Message{Ask: &a})
}

// deliver fetches the device's orders and sends them, unless that is under way.
func (c *conn) deliver() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.linked || c.closing {
		return // open fetches once it has linked
	}
	c.dirty = true
	if !c.fetching {
		c.fetching = true
		c.g.wg.Go(c.fetch)
	}
}

func (c *conn) fetch() {
	for {
		c.mu.Lock()
		if c.closing || !c.dirty {
			c.fetching = false
			c.mu.Unlock()
			return
		}
		c.dirty, c.done = false, nil
		poll := c.g.Now().Sub(c.polled) >= c.g.Limits.Poll
		c.polled = c.g.Now()
		c.mu.Unlock()

		ctx, cancel := context.WithTimeout(c.g.ctx, workTime)
		list, err := c.g.Actions.Pending(ctx, c.device)
		if err == nil && poll && c.g.Still != nil {
			err = c.g.Still(ctx, c.device)
		}
		cancel()
		var refusal *api.Error
		switch {
		case errors.As(err, &refusal):
			c.bye(ws.StatusPolicyViolation, refusal.Message, false)
		case err != nil: // the next look tries again
			c.g.Log.Error("cannot fetch orders", "device", c.device, "error", err)
		default:
			c.offer(list)
		}
		if poll {
			c.offerRules()
		}
	}
}

// offer sends those of list that are not on their way. The list is the oldest
// action.PendingBatch orders without acknowledgement, so what is on its way is
// always among them, and never more than that.
func (c *conn) offer(list []action.Delivery) {
	now := c.g.Now()
	sent := make(map[string]time.Time, len(list))
	var send []action.Delivery
	c.mu.Lock()
	for _, d := range list {
		if c.done[d.ID] {
			continue
		}
		t, ok := c.sent[d.ID]
		if !ok || now.Sub(t) >= c.g.Limits.Resend {
			send = append(send, d)
			t = now
		}
		sent[d.ID] = t
	}
	if c.sent = sent; len(sent) == 0 {
		c.sent = nil // an idle link keeps no map
	}
	c.more = len(list) == action.PendingBatch
	c.mu.Unlock()
	for _, d := range send {
		c.send(order.Message{Order: &d.Envelope})
	}
}

// acknowledged takes an order off the list of those on their way and fetches
// more when half of a full list is done.
func (c *conn) acknowledged(id string) {
	c.mu.Lock()
	delete(c.sent, id)
	if c.fetching {
		if c.done == nil {
			c.done = map[string]bool{}
		}
		c.done[id] = true
	}
	next := c.more && len(c.sent) <= action.PendingBatch/2
	c.mu.Unlock()
	if next {
		c.deliver()
	}
}
