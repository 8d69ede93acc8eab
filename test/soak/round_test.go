// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/test/rig"
)

// play is one round: programs appear, are stopped while things go wrong, are
// looked at, given back while things go wrong, and looked at again.
func (w *world) play() {
	w.t.Helper()
	var all []*target
	for i := range 1 + w.rand.IntN(3) {
		all = append(all, w.newTarget(i))
	}
	w.amid(func() {
		for _, g := range all {
			g.stop()
		}
	})
	w.settled()
	for _, g := range all {
		g.judge()
	}
	w.unharmed()
	w.killAll()
	for _, g := range all {
		g.end() // what an order that failed has left
		if g.rule != "" {
			_, err := call(w, "the end of a rule", func() (any, error) { return nil, w.client.DeleteIndicator(w.t.Context(), g.rule) })
			must(w.t, err)
		}
	}
	for try := 0; ; try++ {
		left := w.restore(all, try < 3)
		if left == 0 {
			break
		}
		if try == 6 {
			w.t.Fatalf("round %d: %d items cannot be given back\n%s", w.round, left, w.words())
		}
	}
	for _, g := range all {
		if g.failed {
			g.allow()
		}
		g.asBefore()
		must(w.t, os.RemoveAll(filepath.Join(w.disk, g.name)))
	}
	w.unharmed()
	w.purge(all)
	w.audit()
	if w.round%4 == 0 {
		w.fsck()
	}
}

// amid does something while things go wrong.
func (w *world) amid(do func()) {
	w.t.Helper()
	chaos := w.choose()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for _, e := range chaos {
			time.Sleep(e.after) // the moment is what this is about
			e.do(w)
		}
	})
	do()
}

// settled waits until no order is under way.
func (w *world) settled() {
	w.t.Helper()
	w.until("every order had ended", func() (bool, error) {
		for _, status := range []string{"Pending", "InProgress"} {
			list, err := w.client.MachineActions(w.t.Context(), client.Query{Filter: "machineId eq '" + w.agent.Device + "' and status eq '" + status + "'"})
			if err != nil || len(list.Value) > 0 {
				return false, nil //nolint:nilerr // asked again
			}
		}
		return true, nil
	})
}

// stop orders the target to be stopped: by one order, by two, by one that is
// cancelled at once or a little later, or by a standing rule.
func (g *target) stop() {
	w := g.w
	w.t.Helper()
	ctx := w.t.Context()
	order := func() (api.MachineAction, error) {
		return call(w, "an order", func() (api.MachineAction, error) {
			return w.client.StopAndQuarantineFile(ctx, w.agent.Device, api.StopAndQuarantineRequest{Comment: g.name, Sha1: g.sum.SHA1.String()})
		})
	}
	switch how := w.rand.IntN(8); how {
	case 0:
		in, err := call(w, "a rule", func() (api.Indicator, error) {
			return w.client.SubmitIndicator(ctx, api.IndicatorRequest{
				IndicatorValue: g.sum.SHA256.String(), IndicatorType: "FileSha256", Action: "BlockAndRemediate", Title: g.name, Description: "soak",
			})
		})
		must(w.t, err)
		g.rule = in.ID
		w.did("a rule")
	case 1, 2:
		a, err := order()
		pause := time.Duration(w.rand.IntN(how * how * 300 * int(time.Millisecond)))
		if err != nil {
			return // a second call may find the order of the first, whose answer was lost
		}
		time.Sleep(pause) // the moment is what this is about
		_, err = call(w, "a cancellation", func() (api.MachineAction, error) { return w.client.Cancel(ctx, a.ID, "soak") })
		g.cancelled = true
		w.did("a cancellation: %v", api.CodeOf(err))
	case 3:
		_, _ = order()
		_, err := order() // refused while the first is under way
		w.did("a second order: %v", api.CodeOf(err))
	default:
		_, _ = order() // its action is looked for afterwards
	}
}

// judge looks at what became of the target.
func (g *target) judge() {
	w := g.w
	w.t.Helper()
	if g.rule != "" {
		w.until("the rule was followed for "+g.name, func() (bool, error) {
			left, err := g.copies()
			return err == nil && len(left) == 0, nil //nolint:nilerr // the gate may be away
		})
		w.until("the vault had all of "+g.name, func() (bool, error) { return len(w.items(g.sum.Hash(), "sealed")) == g.files, nil })
		g.contained()
		return
	}
	done := false
	for _, a := range g.actions() {
		w.did("an order: %s", reason(a))
		done = done || a.Status == api.Succeeded
		g.failed = g.failed || a.Status == api.Failed
		if a.Status == api.TimeOut || a.Status == api.Cancelled && !g.cancelled {
			w.t.Errorf("round %d: %s ended as %s", w.round, g.name, a.Status)
		}
	}
	if done {
		g.contained()
	}
	g.whole()
}

// restore orders everything that is sealed to be given back, once, amid
// trouble or not, and returns how many items were.
func (w *world) restore(all []*target, amid bool) (sealed int) {
	w.t.Helper()
	var ids []string
	for _, g := range all {
		for _, i := range w.items(g.sum.Hash(), "sealed") {
			ids = append(ids, i.ID)
		}
	}
	if len(ids) == 0 {
		return 0
	}
	do := func() {
		for _, id := range ids {
			w.until("the server knew item "+id, func() (bool, error) {
				_, err := w.client.Restore(w.t.Context(), id, api.RestoreRequest{Comment: "soak"})
				code := api.CodeOf(err)
				return err == nil || code != api.InternalServerError && code != api.ServiceUnavailable && code != api.ResourceNotFound, nil
			})
		}
	}
	if amid {
		w.amid(do)
	} else {
		do()
	}
	w.settled()
	w.did("a restore of %d", len(ids))
	return len(ids)
}

// purge deletes what the vault still has of files that were given back, or its
// disk would be full one day.
func (w *world) purge(all []*target) {
	w.t.Helper()
	for _, g := range all {
		for _, i := range w.items(g.sum.Hash(), "restored") {
			w.until("item "+i.ID+" was purged", func() (bool, error) {
				_, err := rig.Run(w.t.Context(), w.agent.Program, "quarantine", "purge", i.ID, "--yes", "--state", w.agent.State)
				return err == nil, nil // the worker may be on its way up
			})
		}
	}
}

// allow has a rule lift what an order that failed goes on refusing: what it
// could not take away must at least not be started.
func (g *target) allow() {
	w := g.w
	w.t.Helper()
	in, err := call(w, "a rule", func() (api.Indicator, error) {
		return w.client.SubmitIndicator(w.t.Context(), api.IndicatorRequest{
			IndicatorValue: g.sum.SHA1.String(), IndicatorType: "FileSha1", Action: "Allowed", Title: g.name, Description: "soak",
		})
	})
	must(w.t, err)
	w.until(g.name+" could be opened", func() (bool, error) {
		for _, n := range g.names {
			if _, err := rig.SumOf(n); errors.Is(err, syscall.EPERM) {
				return false, nil
			}
		}
		return true, nil
	})
	_, err = call(w, "the end of a rule", func() (any, error) { return nil, w.client.DeleteIndicator(w.t.Context(), in.ID) })
	must(w.t, err)
	w.did("a refusal that was lifted")
}
