// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"staunch/internal/agent/gate"
	"staunch/internal/agent/index"
	"staunch/internal/durable"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// policy is the server's standing rules on this device. They are kept in a
// folder, so that they hold while the server is away and after a restart:
//
//	rules/set.json       the signed list, as it came: an order.Envelope
//	rules/DIGEST.json    the parts that it names
//
// An attacker who writes there can take rules away or bring an older list back;
// that takes root, who could stop the agent. Nobody can add a rule: the list is
// signed, and the parts are what it names.
type policy struct {
	*Agent
	dir string

	taking   sync.Mutex // one list at a time is taken
	applying sync.Mutex // and put in force

	mu       sync.Mutex
	set      order.RuleSet   // in force; guarded by mu
	sha1s    []rule1         // of it, sorted; guarded by mu
	sha256s  []rule256       // likewise
	newest   order.RuleSet   // that was taken, or is about to be; guarded by mu
	coming   *incoming       // a list whose parts are on their way; guarded by mu
	busy     map[string]bool // contents being contained; guarded by mu
	failed   map[string]time.Time
	expiring *time.Timer // until the first rule's date; guarded by mu
}

// What is held of a rule: 32 and 48 bytes.
type (
	rule1 struct {
		id   int64
		hash filehash.SHA1
		do   byte
	}
	rule256 struct {
		id   int64
		hash filehash.SHA256
		do   byte
	}
)

type incoming struct {
	set      order.RuleSet
	envelope order.Envelope
	missing  []string        // parts
	asked    map[string]bool // of missing, and not here yet
}

// The actions in a byte, and the prefix of the rules' ids at the gate.
const (
	doAudit byte = iota
	doAllow
	doBlock
	doRemediate

	ruleIDs = "i/"
)

func openPolicy(a *Agent) (*policy, error) {
	p := &policy{Agent: a, dir: a.state.path("rules"), busy: map[string]bool{}, failed: map[string]time.Time{}}
	a.cleanup = append(a.cleanup, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.expiring != nil {
			p.expiring.Stop()
		}
		return nil
	})
	return p, durable.Mkdir(p.dir, 0o700)
}

func (p *policy) path(name string) string { return filepath.Join(p.dir, name+".json") }

// restore puts the kept list in force. One that cannot be used is left out, said
// so, and comes again from the server.
func (p *policy) restore() error {
	var e order.Envelope
	b, err := os.ReadFile(p.path("set"))
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	var set order.RuleSet
	if err == nil {
		set, err = order.VerifyRules(e, p.deviceID(), p.orderKeys...)
	}
	if err == nil {
		err = p.apply(set)
	}
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		p.log.Error("the standing rules that were kept are of no use; the server will send them again", "error", err)
	}
	return p.enforce(nil) // a gate that outlived an agent may have some
}

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

func (p *policy) part(digest string) ([]order.Rule, error) {
	b, err := os.ReadFile(p.path(digest))
	if err != nil {
		return nil, fmt.Errorf("cannot read standing rules: %w", err)
	}
	return order.DecodePart(digest, b)
}

// apply puts the rules of a list in force that are in date, all of whose parts are here.
func (p *policy) apply(set order.RuleSet) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	var one []rule1
	var two []rule256
	var first time.Time
	now := p.now()
	for _, digest := range set.Parts {
		rules, err := p.part(digest)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if !r.Expires.IsZero() {
				if !now.Before(r.Expires) {
					continue
				}
				if first.IsZero() || r.Expires.Before(first) {
					first = r.Expires
				}
			}
			id, err := strconv.ParseInt(r.ID, 10, 64)
			if err != nil {
				return fmt.Errorf("cannot read standing rule: %w", err)
			}
			if r.SHA256.IsZero() {
				one = append(one, rule1{id, r.SHA1, doOf(r.Do)})
			} else {
				two = append(two, rule256{id, r.SHA256, doOf(r.Do)})
			}
		}
	}
	slices.SortFunc(one, func(a, b rule1) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	slices.SortFunc(two, func(a, b rule256) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	one, two = slices.Clip(one), slices.Clip(two)
	if err := p.enforce(gateRules(one, two)); err != nil {
		return err
	}
	p.mu.Lock()
	was := p.sha1s
	was256 := p.sha256s
	p.set, p.sha1s, p.sha256s = set, one, two
	if p.expiring != nil {
		p.expiring.Stop()
	}
	if !first.IsZero() {
		p.expiring = time.AfterFunc(first.Sub(now), func() {
			if p.ctx.Err() == nil { // after Stop nothing is begun any more
				p.work.Go(p.renew)
			}
		})
	}
	p.mu.Unlock()
	p.lift()
	p.startRemedy(was, was256)
	return nil
}

// renew puts the list in force again: the date of one of its rules has come.
func (p *policy) renew() {
	p.mu.Lock()
	set := p.set
	p.mu.Unlock()
	if err := p.apply(set); err != nil {
		p.log.Error("cannot take expired standing rules away", "error", err)
	}
}

func doOf(a order.RuleAction) byte {
	switch a {
	case order.RuleAllow:
		return doAllow
	case order.RuleBlock:
		return doBlock
	case order.RuleRemediate:
		return doRemediate
	}
	return doAudit
}

// gateRules are the rules as the gate takes them.
func gateRules(one []rule1, two []rule256) iter.Seq[gate.Rule] {
	words := [...]string{doAudit: gate.DoAudit, doAllow: gate.DoAllow, doBlock: gate.DoDeny, doRemediate: gate.DoDeny}
	return func(yield func(gate.Rule) bool) {
		for _, r := range two {
			if !yield(gate.Rule{File: filehash.Hash{SHA256: r.hash}, Size: -1, ID: ruleIDs + strconv.FormatInt(r.id, 10), Do: words[r.do]}) {
				return
			}
		}
		for _, r := range one {
			if !yield(gate.Rule{File: filehash.Hash{SHA1: r.hash}, Size: -1, ID: ruleIDs + strconv.FormatInt(r.id, 10), Do: words[r.do]}) {
				return
			}
		}
	}
}

func (p *policy) enforce(rules iter.Seq[gate.Rule]) error {
	if p.gates == nil {
		return nil // status says that there is no gate
	}
	if rules == nil {
		rules = func(func(gate.Rule) bool) {}
	}
	return p.gates.client.Replace(ruleIDs, rules)
}

// decide returns the rule about a content: that of its SHA-256 before that of its SHA-1.
func (p *policy) decide(h filehash.Hash) (id int64, do byte, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !h.SHA256.IsZero() {
		if at, ok := slices.BinarySearchFunc(p.sha256s, h.SHA256, func(r rule256, h filehash.SHA256) int { return bytes.Compare(r.hash[:], h[:]) }); ok {
			return p.sha256s[at].id, p.sha256s[at].do, true
		}
	}
	if !h.SHA1.IsZero() {
		if at, ok := slices.BinarySearchFunc(p.sha1s, h.SHA1, func(r rule1, h filehash.SHA1) int { return bytes.Compare(r.hash[:], h[:]) }); ok {
			return p.sha1s[at].id, p.sha1s[at].do, true
		}
	}
	return 0, 0, false
}

// allows reports whether a rule lets the content run and keeps it from being contained.
func (p *policy) allows(h filehash.Hash) (id int64, ok bool) {
	id, do, ok := p.decide(h)
	return id, ok && do == doAllow
}

// lift ends the refusals of orders for contents that a rule allows now.
func (p *policy) lift() {
	for _, k := range p.kept.list() {
		id, ok := p.allows(k.File)
		if !ok {
			continue
		}
		sum := filehash.Sum{SHA1: k.File.SHA1, SHA256: k.File.SHA256}
		p.held.release(sum)
		if err := p.kept.allow(sum); err != nil {
			p.log.Error("cannot lift the gate on what a standing rule allows", "hash", k.File.String(), "indicator", id, "error", err)
			continue
		}
		p.log.Info("a standing rule lifts the gate", "hash", k.File.String(), "indicator", id)
	}
}

// met handles what the gate refused or reported on behalf of a standing rule.
func (p *policy) met(r gate.Refusal) {
	id, ok := strings.CutPrefix(r.ID, ruleIDs)
	if !ok {
		id = "" // an order's
	}
	what := "blocked"
	if r.Audit || r.Late {
		what = "executed"
	}
	p.sightings.add(order.Sighting{SHA1: r.File.SHA1, SHA256: r.File.SHA256, Path: r.Path, Seen: r.When.UTC(), What: what, Blocked: id})
	if _, do, found := p.decide(r.File); ok && found && do == doRemediate {
		p.remedy(r.File, id)
	}
}

const (
	remedies    = 4         // contained at once
	remedyAgain = time.Hour // after one failed
	patrolRate  = 100       // contents looked up a second, in turn
)

// startRemedy looks at once for what lies here already of contents that were
// not to be contained before.
func (p *policy) startRemedy(was []rule1, was256 []rule256) {
	if p.index == nil {
		return
	}
	before := make(map[string]bool)
	for _, r := range was {
		if r.do == doRemediate {
			before[r.hash.String()] = true
		}
	}
	for _, r := range was256 {
		if r.do == doRemediate {
			before[r.hash.String()] = true
		}
	}
	p.work.Go(func() {
		for h, id := range p.remediable() {
			if p.ctx.Err() != nil {
				return
			}
			if !before[h.String()] {
				p.look(h, id)
			}
		}
	})
}

// remediable yields the contents that are to be contained wherever they are.
func (p *policy) remediable() iter.Seq2[filehash.Hash, string] {
	p.mu.Lock()
	one, two := p.sha1s, p.sha256s // never changed, only replaced
	p.mu.Unlock()
	return func(yield func(filehash.Hash, string) bool) {
		for _, r := range two {
			if r.do == doRemediate && !yield(filehash.Hash{SHA256: r.hash}, strconv.FormatInt(r.id, 10)) {
				return
			}
		}
		for _, r := range one {
			if r.do == doRemediate && !yield(filehash.Hash{SHA1: r.hash}, strconv.FormatInt(r.id, 10)) {
				return
			}
		}
	}
}

// patrol looks in turn, without end, for what has appeared of the contents that
// are to be contained: it costs next to nothing, and what runs is met anyway.
func (p *policy) patrol() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		n := 0
		for h, id := range p.remediable() {
			if n++; n%patrolRate == 0 {
				select {
				case <-p.ctx.Done():
					return
				case <-tick.C:
				}
			}
			p.look(h, id)
		}
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *policy) look(h filehash.Hash, id string) {
	found, err := p.index.Lookup(p.ctx, h)
	if err == nil && slices.ContainsFunc(found.Copies, func(c index.Candidate) bool { return !c.Stale }) {
		p.remedy(h, id)
	}
}

// remedy contains a content on behalf of a standing rule: a containment of its
// own, journalled like one by hand. Several rules and refusals make one.
func (p *policy) remedy(h filehash.Hash, id string) {
	key := h.String()
	if !h.SHA256.IsZero() {
		key = h.SHA256.String()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx.Err() != nil || p.busy[key] || len(p.busy) >= remedies || p.now().Sub(p.failed[key]) < remedyAgain {
		return // the patrol comes again
	}
	p.busy[key] = true
	p.work.Go(func() {
		receipt, err := p.Contain(p.ctx, Request{File: h, Comment: "indicator " + id + ": block and remediate", Requestor: "indicator " + id})
		p.mu.Lock()
		delete(p.busy, key)
		if err != nil || receipt.Outcome != order.Proven && receipt.Code != order.FileNotFound {
			if len(p.failed) > 10_000 {
				clear(p.failed)
			}
			p.failed[key] = p.now()
		}
		p.mu.Unlock()
		p.log.Info("contained for a standing rule", "indicator", id, "hash", key, "outcome", receipt.Outcome, "code", receipt.Code, "error", err)
		for _, c := range receipt.Copies {
			s := order.Sighting{SHA1: c.SHA1, SHA256: c.SHA256, Size: c.Size, Seen: p.now().UTC(), What: "found", Blocked: id}
			if len(c.Paths) > 0 {
				s.Path = c.Paths[0]
			}
			p.sightings.add(s)
		}
	})
}

// Rules implements link.RuleHandler.
func (a *Agent) Rules(in order.Indicators) *order.RulesWanted { return a.policy.Rules(in) }

// Part implements link.RuleHandler.
func (a *Agent) Part(p order.RulesPart) *order.RulesWanted { return a.policy.Part(p) }
