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
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"staunch/internal/agent/gate"
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
	set      order.RuleSet // in force; guarded by mu
	sha1s    []rule1       // of it, sorted; guarded by mu
	sha256s  []rule256     // likewise
	newest   order.RuleSet // that was taken, or is about to be; guarded by mu
	coming   *incoming     // a list whose parts are on their way; guarded by mu
	remedies remedies
	expiring *time.Timer // until the first rule's date; guarded by mu
}

// manyRules is from how many on the memory that they took is given back at once.
const manyRules = 10_000

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
	p := &policy{Agent: a, dir: a.state.path("rules"), remedies: newRemedies()}
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
	was, was256 := p.sha1s, p.sha256s
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
	p.sweep(was, was256)
	if len(one)+len(two)+len(was)+len(was256) > manyRules {
		debug.FreeOSMemory() // what they took on their way is several times what stays
	}
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
	if !p.gates.on() {
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
	for _, k := range p.gates.list() {
		id, ok := p.allows(k.File)
		if !ok {
			continue
		}
		sum := filehash.Sum{SHA1: k.File.SHA1, SHA256: k.File.SHA256}
		p.held.release(sum)
		if err := p.gates.allow(sum); err != nil {
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
