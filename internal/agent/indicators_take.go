// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"staunch/internal/durable"
	"staunch/internal/order"
)

// Rules implements link.RuleHandler.
func (a *Agent) Rules(in order.Indicators) *order.RulesWanted { return a.policy.Rules(in) }

// Part implements link.RuleHandler.
func (a *Agent) Part(p order.RulesPart) *order.RulesWanted { return a.policy.Part(p) }

// Rules takes a signed list in. It returns what to answer at once, if anything.
func (p *policy) Rules(in order.Indicators) *order.RulesWanted {
	set, err := order.VerifyRules(in.Envelope, p.deviceID(), p.orderKeys...)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err != nil:
	case set.Version < p.set.Version || set.Version == p.set.Version && set.Issued.Before(p.set.Issued):
		err = fmt.Errorf("version %d is older than the %d in force", set.Version, p.set.Version)
	case set.Version == p.set.Version && slices.Equal(set.Parts, p.set.Parts):
		return &order.RulesWanted{Version: set.Version}
	}
	if err != nil {
		p.log.Warn("standing rules refused", "error", err)
		return &order.RulesWanted{Version: in.Version, Refused: err.Error()}
	}
	c := &incoming{set: set, envelope: in.Envelope, asked: map[string]bool{}}
	for _, digest := range set.Parts {
		if _, err := p.part(digest); err != nil {
			c.missing = append(c.missing, digest)
		}
	}
	p.coming = c
	return p.next()
}

// Part takes a part in.
func (p *policy) Part(part order.RulesPart) *order.RulesWanted {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.coming
	if c == nil || !c.asked[part.Digest] {
		return nil
	}
	_, err := order.DecodePart(part.Digest, part.Data)
	if err == nil {
		err = durable.WriteFile(p.path(part.Digest), part.Data, 0o600)
	}
	if err != nil {
		p.log.Error("cannot keep standing rules", "error", err)
		p.coming = nil
		return &order.RulesWanted{Version: c.set.Version, Refused: err.Error()}
	}
	delete(c.asked, part.Digest)
	c.missing = slices.DeleteFunc(c.missing, func(d string) bool { return d == part.Digest })
	if len(c.asked) > 0 {
		return nil
	}
	return p.next()
}

// next asks for further parts, or has a whole list put in force. p.mu is held.
func (p *policy) next() *order.RulesWanted {
	c := p.coming
	if len(c.missing) > 0 {
		want := &order.RulesWanted{Version: c.set.Version, Parts: slices.Clone(c.missing[:min(len(c.missing), order.MaxWant)])}
		for _, d := range want.Parts {
			c.asked[d] = true
		}
		return want
	}
	p.coming, p.newest = nil, c.set
	p.work.Go(func() { p.take(c) })
	return nil
}

// take keeps a list, puts it in force and tells the server. When another has
// come meanwhile, that one will do: its parts are here too.
func (p *policy) take(c *incoming) {
	p.taking.Lock()
	defer p.taking.Unlock()
	p.mu.Lock()
	stale := p.newest.Version > c.set.Version || p.newest.Version == c.set.Version && p.newest.Issued.After(c.set.Issued)
	p.mu.Unlock()
	if stale {
		return
	}
	answer := order.RulesWanted{Version: c.set.Version}
	b, err := json.Marshal(c.envelope)
	if err == nil {
		err = durable.WriteFile(p.path("set"), b, 0o600)
	}
	if err == nil {
		err = p.apply(c.set)
	}
	if err != nil {
		p.log.Error("cannot put standing rules in force", "version", c.set.Version, "error", err)
		answer.Refused = err.Error()
	} else {
		p.log.Info("standing rules in force", "version", c.set.Version, "rules", c.set.Rules)
		p.tidy(c.set)
	}
	p.Agent.mu.Lock()
	up := p.uplink
	p.Agent.mu.Unlock()
	if up != nil {
		_ = up.Send(order.Message{BlockWant: &answer}) // else the server offers them again
	}
}

// tidy removes parts that no list names any more, neither this one nor one on its way.
func (p *policy) tidy(set order.RuleSet) {
	keep := map[string]bool{}
	for _, d := range set.Parts {
		keep[d] = true
	}
	p.mu.Lock()
	defer p.mu.Unlock() // nothing comes meanwhile
	for _, d := range p.newest.Parts {
		keep[d] = true
	}
	if p.coming != nil {
		for _, d := range p.coming.set.Parts {
			keep[d] = true
		}
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return // the next list tries again
	}
	for _, e := range entries {
		digest, ok := strings.CutSuffix(e.Name(), ".json")
		if ok && order.ValidDigest(digest) && !keep[digest] {
			if err := durable.Remove(filepath.Join(p.dir, e.Name())); err != nil {
				p.log.Warn("an old part of the standing rules stays", "error", err)
			}
		}
	}
}
