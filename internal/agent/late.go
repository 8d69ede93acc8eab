// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"strings"

	"staunch/internal/agent/gate"
)

// stopLate stops what the gate had to let pass. What an order has contained is
// contained anew. A standing rule that blocks only blocks: what runs in spite
// of it is killed, and the file stays where it is; one that is to remediate has
// the content contained besides (see policy.met).
func (a *Agent) stopLate(r gate.Refusal) {
	a.work.Go(func() {
		var err error
		if strings.HasPrefix(r.ID, ruleIDs) {
			err = a.stopOnly(r)
		} else {
			_, err = a.Contain(a.ctx, Request{File: r.File, Comment: "started before the gate knew its content"})
		}
		if err != nil {
			a.log.Error("cannot stop what was let pass", "sha1", r.File.SHA1, "rule", r.ID, "error", err)
		}
	})
}

// stopOnly kills the processes that run a content, unless it is one that the
// system needs or that a rule allows by now. It takes nothing.
func (a *Agent) stopOnly(r gate.Refusal) error {
	defer a.hashes.lock(r.File.String())()
	c := &containment{Agent: a, Request: Request{ID: newID(), File: r.File, DryRun: true}, begun: a.now(), ran: -1, sums: newSums(r.File)}
	defer c.close()
	if err := c.running(a.ctx); err != nil || len(c.copies) == 0 {
		return err
	}
	if err := c.guard(a.ctx); err != nil {
		return err
	}
	err := c.hold(a.ctx)
	for _, m := range c.receipt.Matches {
		a.log.Warn("stopped what was let pass", "path", m.Exe, "pid", m.PID, "how", m.How, "state", m.State, "rule", r.ID)
	}
	return err
}
