// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"

	"github.com/gobwas/ws"

	"staunch/internal/order"
)

// Rules is where the standing rules of devices come from.
type Rules interface {
	// Rules returns the signed list of the device's rules, with a word that
	// stands for its content; nil when that is the word which the device has.
	Rules(ctx context.Context, device, have string) (*order.Indicators, string, error)
	// Part returns a part that a list names; nil if no list of the device names it any more.
	Part(ctx context.Context, device, digest string) ([]byte, error)
}

// RulesChanged has a device, if it is on this replica, offered its rules anew,
// unless it has them; with "", each.
func (g *Gateway) RulesChanged(device string) {
	g.mu.Lock()
	open := g.open()
	g.mu.Unlock()
	for _, c := range open {
		if device == "" || c.device == device {
			c.offerRules()
		}
	}
}

// offerRules sends the device its rules, unless it has them or that is under way.
func (c *conn) offerRules() {
	if c.g.Rules == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.linked || c.closing {
		return // open offers once it has linked
	}
	c.rulesDirty = true
	if !c.offering {
		c.offering = true
		c.g.wg.Go(c.runOffer)
	}
}

func (c *conn) runOffer() {
	for {
		c.mu.Lock()
		if c.closing || !c.rulesDirty {
			c.offering = false
			c.mu.Unlock()
			return
		}
		c.rulesDirty = false
		have := c.rules
		if !c.rulesDone && c.g.Now().Sub(c.rulesSent) >= c.g.Limits.Resend {
			have = "" // it may have been lost
		}
		c.mu.Unlock()
		c.offerOnce(have)
	}
}

func (c *conn) offerOnce(have string) {
	// A fleet is offered its rules all at once: only so many at a time.
	select {
	case c.g.signing <- struct{}{}:
		defer func() { <-c.g.signing }()
	case <-c.g.ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(c.g.ctx, workTime)
	defer cancel()
	list, word, err := c.g.Rules.Rules(ctx, c.device, have)
	switch {
	case err != nil: // the next look tries again
		if c.g.ctx.Err() == nil {
			c.g.Log.Error("cannot make the rules of a device", "device", c.device, "error", err)
		}
		return
	case list == nil:
		return
	}
	c.mu.Lock()
	c.rules, c.rulesDone, c.rulesSent = word, false, c.g.Now()
	c.rulesVersion = list.Version
	c.mu.Unlock()
	c.send(order.Message{Block: list})
}

// wanted answers what a device says to its rules.
func (c *conn) wanted(ctx context.Context, w order.RulesWanted) error {
	if len(w.Parts) > order.MaxWant {
		return breach(ws.StatusPolicyViolation, "%d parts are asked for at once, %d are allowed", len(w.Parts), order.MaxWant)
	}
	c.mu.Lock()
	c.rulesSent = c.g.Now() // it is at work on them
	if w.Version == c.rulesVersion && len(w.Parts) == 0 {
		c.rulesDone = w.Refused == "" // else they are offered again, by and by
	}
	c.mu.Unlock()
	if w.Refused != "" {
		c.g.Log.Warn("device refuses its rules", "device", c.device, "version", w.Version, "reason", clipReason(w.Refused))
		return nil
	}
	if c.g.Rules == nil {
		return nil
	}
	for _, digest := range w.Parts {
		if !order.ValidDigest(digest) {
			return breach(ws.StatusPolicyViolation, "a part's name is not 64 hex digits")
		}
		data, err := c.g.Rules.Part(ctx, c.device, digest)
		if err != nil {
			return err
		}
		if data == nil {
			c.offerRules() // the list has changed meanwhile
			return nil
		}
		c.send(order.Message{BlockPart: &order.RulesPart{Digest: digest, Data: data}})
	}
	return nil
}

func clipReason(s string) string {
	if r := []rune(s); len(r) > 500 {
		return string(r[:500]) + "…"
	}
	return s
}
