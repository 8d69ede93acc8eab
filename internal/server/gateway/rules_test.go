// SPDX-License-Identifier: Apache-2.0

package gateway

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"staunch/internal/order"
)

// rulebook stands for the standing rules: one list for all, of a version.
type rulebook struct {
	mu      sync.Mutex
	version int64
	parts   map[string][]byte
}

func (b *rulebook) Rules(_ context.Context, _, have string) (*order.Indicators, string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	word := string(rune('a' + b.version))
	if have == word {
		return nil, word, nil
	}
	return &order.Indicators{Version: b.version}, word, nil
}

func (b *rulebook) Part(_ context.Context, _, digest string) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.parts[digest], nil
}

func (b *rulebook) set(version int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.version = version
}

// A device is offered its rules on connecting and on a change, gets the parts it
// asks for, and is left alone once it has them.
func TestRules(t *testing.T) {
	part := strings.Repeat("a", 64)
	book := &rulebook{version: 1, parts: map[string][]byte{part: []byte("rules")}}
	k := newKit(t, func(c *Config) { c.Rules = book })
	d := k.link(dev1)
	if m := d.next(); m.Block == nil || m.Block.Version != 1 {
		t.Fatalf("got %+v, want rules", m)
	}
	d.send(order.Message{BlockWant: &order.RulesWanted{Version: 1, Parts: []string{part}}})
	if m := d.next(); m.BlockPart == nil || m.BlockPart.Digest != part || string(m.BlockPart.Data) != "rules" {
		t.Fatalf("got %+v, want a part", m)
	}
	d.send(order.Message{BlockWant: &order.RulesWanted{Version: 1}})
	book.set(2)
	k.RulesChanged("")
	if m := d.next(); m.Block == nil || m.Block.Version != 2 {
		t.Fatalf("got %+v, want the changed rules alone", m)
	}
	d.send(order.Message{BlockWant: &order.RulesWanted{Version: 2}})
	until(t, "confirmation", func() bool {
		k.mu.Lock()
		c := k.links[dev1]
		k.mu.Unlock()
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.rulesDone
	})
	k.RulesChanged(dev1) // nothing did
	// A part of a list that is no more: the list of now instead.
	book.set(3)
	d.send(order.Message{BlockWant: &order.RulesWanted{Version: 2, Parts: []string{strings.Repeat("b", 64)}}})
	if m := d.next(); m.Block == nil || m.Block.Version != 3 {
		t.Fatalf("got %+v, want the rules of now", m)
	}
}

// What a device asks for wrongly ends its link, with the reason.
func TestRulesAskedWrongly(t *testing.T) {
	for want, w := range map[string]order.RulesWanted{
		"17 parts are asked for at once, 16 are allowed": {Parts: make([]string, 17)},
		"a part's name is not 64 hex digits":             {Parts: []string{"../../etc/passwd"}},
	} {
		k := newKit(t, func(c *Config) { c.Rules = &rulebook{version: 1} })
		d := k.link(dev1)
		d.next()
		d.send(order.Message{BlockWant: &w})
		d.wantBye(want, true)
	}
}

// Rules that a device refuses, or whose loss nobody noticed, are offered again.
func TestRulesAgain(t *testing.T) {
	k := newKit(t, func(c *Config) {
		c.Rules = &rulebook{version: 1}
		c.Limits.Resend, c.Limits.Poll, c.Limits.Tick = time.Millisecond, time.Millisecond, time.Millisecond
	})
	d := k.link(dev1)
	d.next()
	d.send(order.Message{BlockWant: &order.RulesWanted{Version: 1, Refused: "no room"}})
	if m := d.next(); m.Block == nil {
		t.Errorf("got %+v", m)
	}
}
