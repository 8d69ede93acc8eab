// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"encoding/json"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/test/rig"
)

// TestAgentKilledDuringRestore: behind each step of giving a file back, and
// behind each record that such an order writes. The file is back once, in its
// place, as it was.
func TestAgentKilledDuringRestore(t *testing.T) {
	needRoot(t)
	s := startServer(t)
	t.Cleanup(func() { verifyAudit(t, s) })
	t.Run("behind", func(t *testing.T) {
		for _, step := range []string{"1", "2", "3", "restore:filled", "restore:intent", "restore:linked", "restore:synced", "restore:noted"} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				d := newDevice(t, s)
				d.live()
				a := d.order()
				d.done(d.final(a.ID))
				d.inventory(a.ID)
				must(t, d.Process.End(syscall.SIGTERM))

				items, err := d.items(a.ID)
				must(t, err)
				var restores []api.MachineAction
				for _, i := range items {
					r, err := d.client.Restore(t.Context(), i.ID, api.RestoreRequest{Comment: "fault"})
					must(t, err)
					restores = append(restores, r)
				}
				p := d.die(step)
				select {
				case <-p.Gone():
					if err := p.End(syscall.SIGKILL); err == nil || !struck(err) {
						t.Fatalf("the agent ended otherwise than it was to: %v\n%s", err, p.Tail())
					}
				case <-time.After(rig.Patience):
					t.Fatalf("the agent was not killed: there is no step %s any more\n%s", step, p.Tail())
				}
				d.live()
				for _, r := range restores {
					d.restored(d.final(r.ID))
				}
				d.asBefore()
				d.end()
			})
		}
	})
}

// restored checks the account of a restore.
func (d *device) restored(a api.MachineAction) {
	d.t.Helper()
	e, err := d.client.Evidence(d.t.Context(), a.ID)
	must(d.t, err)
	var r order.Receipt
	must(d.t, json.Unmarshal(e.Receipt, &r))
	if a.Status != api.Succeeded || r.Outcome != order.Proven || r.Restored == nil || r.Restored.Side {
		d.t.Errorf("the restore ended as %s: %s", a.Status, e.Receipt)
	}
}

// asBefore compares every name with what it was, and looks for further copies.
func (d *device) asBefore() {
	d.t.Helper()
	for i, n := range d.names {
		after, err := rig.Looks(d.t.Context(), n)
		must(d.t, err)
		if after != d.looks[i] {
			d.t.Errorf("not as it was:\n%s\n%s", d.looks[i], after)
		}
	}
	for dir, want := range map[string]int{d.Disk: len(d.names), filepath.Join(d.State, "vault"): 0} {
		if found, err := rig.Copies(dir, d.sum); err != nil || len(found) != want {
			d.t.Errorf("copies in %s: %q, want %d (%v)", dir, found, want, err)
		}
	}
}
