// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"iter"
	"slices"
	"strconv"
	"sync"
	"time"

	"staunch/internal/agent/index"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

const (
	remediesAtOnce = 4      // contained at once
	maxRemedies    = 10_000 // contents waiting for it
	patrolRate     = 100    // contents looked up a second, in turn
)

// setback is a content whose containment failed, how often and when last.
type setback struct {
	times int
	at    time.Time
}

// until is when it is tried again: soon, for a full disk may have room in
// seconds, and then less and less often, for what cannot be done should not be
// tried all day.
func (s setback) until() time.Time {
	if s.times == 0 {
		return s.at
	}
	return s.at.Add(min(5*time.Second<<min(s.times-1, 10), time.Hour))
}

// remedies are the contents that standing rules want contained and that were
// met here: when the rule came, when the index read a file, when one was started.
type remedies struct {
	mu      sync.Mutex
	queue   []remedyOf         // guarded by mu
	known   map[string]bool    // rules, in the queue or at work; guarded by mu
	working int                // guarded by mu
	failed  map[string]setback // rules; guarded by mu
}

type remedyOf struct {
	file filehash.Hash
	rule string // its id, which stands for the content
}

func newRemedies() remedies {
	return remedies{known: map[string]bool{}, failed: map[string]setback{}}
}

// sweep looks at once for what lies here already of contents that were not to
// be contained before: it asks the index for each.
func (p *policy) sweep(was []rule1, was256 []rule256) {
	if p.index == nil {
		return
	}
	p.work.Go(func() {
		for h, id := range p.remediable() {
			if p.ctx.Err() != nil {
				return
			}
			if !remediated(was, was256, h) {
				p.look(h, id)
			}
		}
	})
}

// remediated tells whether sorted rules had the content contained.
func remediated(was []rule1, was256 []rule256, h filehash.Hash) bool {
	if !h.SHA256.IsZero() {
		at, ok := slices.BinarySearchFunc(was256, h.SHA256, func(r rule256, h filehash.SHA256) int { return bytes.Compare(r.hash[:], h[:]) })
		return ok && was256[at].do == doRemediate
	}
	at, ok := slices.BinarySearchFunc(was, h.SHA1, func(r rule1, h filehash.SHA1) int { return bytes.Compare(r.hash[:], h[:]) })
	return ok && was[at].do == doRemediate
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

// read is told by the index of each content that it has read: of a file that
// appeared, was changed, or lay here before the index was complete.
func (p *policy) read(sum filehash.Sum) {
	if id, do, ok := p.decide(sum.Hash()); ok && do == doRemediate {
		p.remedy(sum.Hash(), strconv.FormatInt(id, 10))
	}
}

// patrol looks for all of them once the index is whole, and from then on in turn,
// without end, for what was missed or could not be contained: it costs next to
// nothing.
func (p *policy) patrol() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for whole := false; ; {
		if now := p.index.Status().Complete; now && !whole {
			p.sweep(nil, nil)
			whole = true
		}
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

// remedy has a content contained on behalf of a standing rule. Several rules and
// refusals make one.
func (p *policy) remedy(h filehash.Hash, id string) {
	r := &p.remedies
	next := remedyOf{h, id}
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.ctx.Err() != nil || r.known[next.rule] || p.now().Before(r.failed[next.rule].until()) {
		return
	}
	if len(r.queue) >= maxRemedies {
		return // the patrol comes by
	}
	r.known[next.rule] = true
	r.queue = append(r.queue, next)
	if r.working < remediesAtOnce {
		r.working++
		p.work.Go(p.remedyAll)
	}
}

// remedyAll contains what is in the queue.
func (p *policy) remedyAll() {
	r := &p.remedies
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 && p.ctx.Err() == nil {
		next := r.queue[0]
		r.queue = r.queue[1:]
		r.mu.Unlock()
		ok := p.contained(next)
		r.mu.Lock()
		delete(r.known, next.rule)
		if ok {
			delete(r.failed, next.rule)
			continue
		}
		if len(r.failed) > 10_000 {
			clear(r.failed)
		}
		r.failed[next.rule] = setback{r.failed[next.rule].times + 1, p.now()}
	}
	r.working--
}

// contained is a containment of its own, journalled like one by hand.
func (p *policy) contained(r remedyOf) bool {
	// The rule may have gone, or another one have taken its place, in the queue.
	if id, do, ok := p.decide(r.file); !ok || do != doRemediate || strconv.FormatInt(id, 10) != r.rule {
		return true
	}
	receipt, err := p.Contain(p.ctx, Request{File: r.file, Comment: "indicator " + r.rule + ": block and remediate", Requestor: "indicator " + r.rule})
	log := p.log.With("indicator", r.rule, "hash", r.file.String())
	if err != nil {
		log.Error("cannot contain for a standing rule", "error", err)
	} else {
		log.Info("contained for a standing rule", "outcome", receipt.Outcome, "code", receipt.Code, "reason", receipt.Reason)
	}
	for _, c := range receipt.Copies {
		s := order.Sighting{SHA1: c.SHA1, SHA256: c.SHA256, Size: c.Size, Seen: p.now().UTC(), What: "found", Blocked: r.rule}
		if len(c.Paths) > 0 {
			s.Path = c.Paths[0]
		}
		p.sightings.add(s)
	}
	return err == nil && (receipt.Outcome == order.Proven || receipt.Code == order.FileNotFound)
}
