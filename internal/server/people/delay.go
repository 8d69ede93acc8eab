// SPDX-License-Identifier: Apache-2.0

package people

import (
	"net/netip"
	"sync"
	"time"
)

// Guessing is slowed down by delays, never by a lock: whoever knows a name could
// lock its owner out. Wrong tries are counted for an account from one network,
// and for a network over all accounts. The owner at another address does not
// notice, and at the same one waits a quarter of an hour at most.
const (
	freeTries     = 5  // wrong tries for an account that cost nothing
	networkTries  = 50 // wrong tries from a network, over all accounts
	firstDelay    = time.Second
	longestDelay  = 15 * time.Minute
	forgetTries   = time.Hour // after the last wrong one
	maxRemembered = 20_000    // counters; when full, those that can be forgotten are
)

// delays counts wrong tries. It is of this process: with several replicas an
// attacker has as many times the tries, which changes nothing that matters.
type delays struct {
	now func() time.Time

	mu    sync.Mutex
	tries map[string]*tries // guarded by mu
}

type tries struct {
	wrong int
	until time.Time // no try before
	last  time.Time
}

// network is the part of an address that one attacker has all of: an IPv6 /64.
func network(address string) string {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	ip = ip.Unmap()
	if p, err := ip.Prefix(64); err == nil && ip.Is6() {
		return p.String()
	}
	return ip.String()
}

func keys(upn, address string) (account, all string) {
	n := network(address)
	return n + " " + upn, n
}

// begin takes one try for the account from the address, and returns how long to
// wait before it; then there was none. Each try that was begun counts as wrong
// until right says otherwise, so that many at once are no way around.
func (d *delays) begin(upn, address string) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	account, all := keys(upn, address)
	for _, k := range []string{account, all} {
		if t := d.tries[k]; t != nil && now.Before(t.until) {
			return t.until.Sub(now)
		}
	}
	d.count(account, freeTries, now)
	d.count(all, networkTries, now)
	return 0
}

// right takes back what begin counted, and forgets the account's wrong tries.
func (d *delays) right(upn, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	account, all := keys(upn, address)
	delete(d.tries, account)
	if t := d.tries[all]; t != nil {
		t.wrong--
		t.until = time.Time{}
	}
}

// count runs under mu.
func (d *delays) count(key string, free int, now time.Time) {
	t := d.tries[key]
	if t == nil || now.Sub(t.last) > forgetTries {
		d.makeRoom(now)
		t = &tries{}
		d.tries[key] = t
	}
	t.wrong++
	t.last = now
	if over := t.wrong - free; over >= 0 {
		t.until = now.Add(min(firstDelay<<min(over, 20), longestDelay))
	}
}

// makeRoom runs under mu. What is past forgetting goes first; when nothing is,
// everything that delays nobody at the moment.
func (d *delays) makeRoom(now time.Time) {
	if d.tries == nil {
		d.tries = map[string]*tries{}
	}
	if len(d.tries) < maxRemembered {
		return
	}
	for k, t := range d.tries {
		if now.Sub(t.last) > forgetTries || !now.Before(t.until) {
			delete(d.tries, k)
		}
	}
	if len(d.tries) >= maxRemembered {
		clear(d.tries)
	}
}
