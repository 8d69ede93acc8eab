// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"time"

	"staunch/internal/agent/journal"
	"staunch/internal/order"
)

// compactSize is how large the journal may grow, in bytes, before what nobody
// needs any more is dropped from it.
const compactSize = 8 << 20

// tombstoneLife is how long a cancel waits for the order that it overtook:
// longer than any order is good for.
const tombstoneLife = 31 * 24 * time.Hour

// compact drops from the journal what nobody needs any more: an order that is
// past its date cannot be carried out again whoever repeats it, and one whose
// receipt the server has is remembered only so as not to be repeated. The
// caller holds a.mu.
func (a *Agent) compact() error {
	now := a.now()
	gone := map[string]bool{}
	for id, l := range a.lanes {
		if l.kept && !now.Before(l.order.Expires.Add(order.MaxClockSkew)) {
			gone[id] = true
		}
		if l.kept {
			l.receipt = nil
		}
	}
	err := a.journal.Rewrite(func(records []journal.Record) []journal.Record {
		kept := records[:0:0]
		for _, r := range records {
			l := a.lanes[r.Order]
			switch {
			case l == nil, gone[r.Order]:
			case l.kept && r.Kind != journal.Accepted && r.Kind != journal.Kept:
			case r.Kind == journal.Cancelled && l.order.ID == "" && now.Sub(r.Time) > tombstoneLife:
				gone[r.Order] = true
			default:
				kept = append(kept, r)
			}
		}
		return kept
	})
	if err != nil {
		return err
	}
	for id := range gone {
		delete(a.lanes, id)
	}
	return nil
}
