// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"time"

	"staunch/internal/agent/vault"
)

// settleTick is how often work that could not be ended is tried again.
const settleTick = time.Minute

// settle ends what an earlier run left under way in the vault. What cannot be
// ended now (a disk that does not answer, a damaged intent) stays as it is and
// is said; it must not keep the agent from the orders that it can carry out.
func (a *Agent) settle() (stuck bool, err error) {
	recovered, err := a.vault.Recover(a.ctx)
	for _, r := range recovered {
		if r.Ended == vault.Stuck {
			a.log.Error("cannot end what was under way; it is tried again, see staunch-agent fsck", "item", r.ID, "paths", r.Paths, "note", r.Note)
			continue
		}
		a.log.Info("ended what was under way", "item", r.ID, "ended", r.Ended, "paths", r.Paths, "note", r.Note)
	}
	stuck = slices.ContainsFunc(recovered, func(r vault.Recovered) bool { return r.Ended == vault.Stuck })
	if stuck && a.ctx.Err() == nil {
		return true, nil
	}
	return stuck, err
}

// keepSettling tries again until nothing is stuck or the agent stops.
func (a *Agent) keepSettling() {
	for {
		t := time.NewTimer(settleTick)
		select {
		case <-t.C:
		case <-a.ctx.Done():
			t.Stop()
			return
		}
		if stuck, err := a.settle(); !stuck {
			if err != nil {
				a.log.Warn("the vault could not be looked through", "error", err)
			}
			return
		}
	}
}
