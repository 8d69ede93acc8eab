// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Guessing is slowed down by delays, never by a lock: whoever knows a name could
// lock its owner out. Wrong tries are counted for an account from one network,
// and for a network over all accounts. The owner at another address does not
// notice, and at the same one waits a quarter of an hour at most. The counts are
// in the store, so that an attacker does not get more tries of several replicas.
const (
	freeTries    = 5  // wrong tries for an account that cost nothing
	networkTries = 50 // wrong tries from a network, over all accounts
	firstDelay   = time.Second
	longestDelay = 15 * time.Minute
	// ForgetTries is how long after the last wrong one tries are forgotten.
	ForgetTries = time.Hour
)

// Tries are the wrong tries of one account from one network, or of one network.
type Tries struct {
	Wrong int
	Until time.Time // no try before
	Last  time.Time
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

// beginTry takes one try for the account from the address, and returns how long
// to wait before it; then there was none. Each try that was begun counts as wrong
// until rightTry says otherwise, so that many at once are no way around.
func (s *Service) beginTry(ctx context.Context, upn, address string) (wait time.Duration, err error) {
	now := s.cfg.Now()
	account, all := keys(upn, address)
	err = s.cfg.Store.ChangeTries(ctx, []string{account, all}, func(t []Tries) {
		wait = 0
		for i := range t {
			if now.Sub(t[i].Last) > ForgetTries {
				t[i] = Tries{}
			}
			wait = max(wait, t[i].Until.Sub(now))
		}
		if wait == 0 {
			t[0].count(freeTries, now)
			t[1].count(networkTries, now)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("cannot count a try to sign in: %w", err)
	}
	return min(wait, longestDelay), nil // whatever the clocks of the replicas say
}

// rightTry takes back what beginTry counted, and forgets the account's wrong tries.
func (s *Service) rightTry(ctx context.Context, upn, address string) error {
	account, all := keys(upn, address)
	err := s.cfg.Store.ChangeTries(ctx, []string{account, all}, func(t []Tries) {
		t[0] = Tries{}
		t[1].Wrong, t[1].Until = max(t[1].Wrong-1, 0), time.Time{}
	})
	if err != nil {
		return fmt.Errorf("cannot count a try to sign in: %w", err)
	}
	return nil
}

func (t *Tries) count(free int, now time.Time) {
	t.Wrong++
	t.Last = now
	if over := t.Wrong - free; over >= 0 {
		t.Until = now.Add(min(firstDelay<<min(over, 20), longestDelay))
	}
}
