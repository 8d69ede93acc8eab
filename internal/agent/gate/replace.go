// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"runtime/debug"
	"strings"
	"sync"

	"staunch/internal/filehash"
)

// What a rule of a set (see Client.Replace) wants done. A rule by itself, of
// Client.DenyHash, has none of these: it refuses, unless a rule of a set allows.
const (
	DoDeny  = "deny"  // refuse and report
	DoAudit = "audit" // let it run and report
	DoAllow = "allow" // let it run, whatever other rule refuses
)

// bulk is how many rules travel in one message.
const bulk = 200

// Replace makes rules the set of those whose id begins with prefix: they are
// added, in place of those with the same content and id, and only then is what
// is not among them lifted. Each must have such an id, and say what to do. Of
// two rules about one content, one that names its SHA-256 decides before one
// that names its SHA-1 alone. When it fails, the set may be mixed: do it again.
func (c *Client) Replace(prefix string, rules iter.Seq[Rule]) error {
	if prefix == "" {
		return errors.New("cannot replace rules: the prefix of their ids is missing")
	}
	token := rand.Text()
	if _, err := c.request(message{Op: opReplace, Text: token, ID: prefix}, nil); err != nil {
		return err
	}
	batch := make([]Rule, 0, bulk)
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		_, err := c.request(message{Op: opAddRules, Text: token, Rules: batch}, nil)
		batch = batch[:0]
		return err
	}
	for r := range rules {
		if batch = append(batch, r); len(batch) == bulk {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	_, err := c.request(message{Op: opReplaced, Text: token}, nil)
	return err
}

// replacing is a set on its way in.
type replacing struct {
	mu     sync.Mutex
	token  string
	prefix string
	kept   []bool // by slot: it is of the set; nil: none is on its way
}

func (r *replacing) begin(token, prefix string) error {
	if token == "" || prefix == "" {
		return errors.New("cannot replace rules: the token or the prefix is missing")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.token != token { // else the request came twice
		r.token, r.prefix, r.kept = token, prefix, make([]bool, maxSlots)
	}
	return nil
}

// errOtherSet is told to a worker whose set another gate, or another call, began.
var errOtherSet = errors.New("cannot replace rules: the gate or the set is another one by now; begin again")

func (r *replacing) add(b *book, token string, rules []Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.token != token || r.kept == nil { // ended: the message came twice
		return errOtherSet
	}
	for _, rule := range rules {
		e, err := rule.entry()
		if err != nil {
			return err
		}
		if e.do == doAlone || !strings.HasPrefix(e.id, r.prefix) {
			return fmt.Errorf("cannot replace rules: %q is not of the set %q, or says not what to do", e.id, r.prefix)
		}
		slot, err := b.put(e)
		if err != nil {
			return err
		}
		r.kept[slot] = true
	}
	return nil
}

func (r *replacing) end(b *book, token string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.token != token {
		return errOtherSet
	}
	if err := b.liftRest(r.prefix, r.kept); err != nil {
		return err
	}
	if r.kept != nil {
		// What a large set took on its way in is several times what stays.
		go debug.FreeOSMemory()
	}
	r.kept, r.prefix = nil, "" // the token stays, should the request come again
	return nil
}

// liftRest drops every rule whose id begins with prefix and whose slot is not kept.
func (b *book) liftRest(prefix string, kept []bool) error {
	if prefix == "" {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for slot := int32(1); slot < b.used; slot++ {
		if b.slot(slot)[0] == slotFree || kept[slot] {
			continue
		}
		if e, err := decodeSlot(b.slot(slot)); err == nil && strings.HasPrefix(e.id, prefix) {
			if err := b.drop(slot); err != nil {
				return err
			}
		}
	}
	return nil
}

// entry is the rule as the book keeps it.
func (r Rule) entry() (entry, error) {
	e := entry{kind: slotContent, hash: r.File, size: r.Size, id: r.ID}
	switch r.Do {
	case "":
		e.do = doAlone
	case DoDeny:
		e.do = doDeny
	case DoAudit:
		e.do = doAudit
	case DoAllow:
		e.do = doAllow
	default:
		return e, fmt.Errorf("cannot keep a rule that says %q: want deny, audit or allow", r.Do)
	}
	switch {
	case r.File.IsZero():
		return e, errors.New("cannot deny a content: its hash is missing")
	case r.File.Empty():
		return e, errors.New("cannot deny the empty content: countless harmless files have it")
	case r.Size < -1:
		return e, fmt.Errorf("cannot deny a content of %d bytes: say -1 where the size is not known", r.Size)
	}
	return e, nil
}

// rule finds what decides about a content: refuse, report, or (ok is false) nothing.
func (b *book) rule(s filehash.Sum) (e entry, ok bool) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var alone, policy entry
	var found, decided bool
	keys, n := hashKeys(s.Hash())
	for _, k := range keys[:n] {
		for slot := range b.under(k) {
			e, err := decodeSlot(b.slot(slot))
			if err != nil || e.kind != slotContent || !e.hash.Matches(s) || e.size >= 0 && e.size != s.Size {
				continue
			}
			switch {
			case e.do == doAlone:
				alone, found = e, true
			case !decided || e.precedes(policy):
				policy, decided = e, true
			}
		}
	}
	switch {
	case decided && policy.do == doAllow:
		return entry{}, false
	case decided && policy.do == doDeny, decided && !found:
		return policy, true
	}
	return alone, found
}

// precedes tells which of two rules of a set decides: SHA-256 before SHA-1, then
// refusing before allowing before reporting.
func (e entry) precedes(o entry) bool {
	if x, y := !e.hash.SHA256.IsZero(), !o.hash.SHA256.IsZero(); x != y {
		return x
	}
	return e.do < o.do
}
