// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"staunch/internal/agent/journal"
	"staunch/internal/agent/vault"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// restore puts one item back and lifts the gate on its content. What an agent
// that was interrupted had begun at the time began, and Recover has finished,
// is not done again: the file would come a second time, into a side folder.
func (a *Agent) restore(ctx context.Context, id, item, destination string, began time.Time) (r order.Receipt) {
	start := a.now()
	r = order.Receipt{Order: id, Device: a.deviceID(), Kind: order.Restore, Accepted: start.UTC(), Outcome: order.Failed}
	defer func() { r.Finished = a.now().UTC() }()
	if !a.write(journal.Intent, id, "restore", nil) {
		r.Code, r.Reason = order.Internal, errJournal.Error()
		return r
	}
	it, err := a.vault.Get(item)
	if err != nil {
		r.Code, r.Reason = codeOf(err), err.Error()
		return r
	}
	defer a.hashes.lock(it.SHA1.String())()
	restored, done := restoredSince(it, began)
	if !done {
		restored, err = a.vault.Restore(ctx, item, vault.RestoreOptions{Destination: destination})
	}
	r.Steps = append(r.Steps, order.Step{Name: "restore", EndNs: a.now().Sub(start).Nanoseconds()})
	if err != nil {
		r.Code, r.Reason = codeOf(err), err.Error()
		return r
	}
	r.Outcome, r.Restored = order.Proven, &restored
	switch {
	case restored.Side:
		r.Code, r.Reason = order.PlaceTaken, "the place was taken or had changed, so the file lies in a side folder"
	case len(restored.Lost) > 0:
		r.Code, r.Reason = order.Partial, "the file is back, but without all that it had: "+strings.Join(restored.Lost, "; ")
	}
	a.held.release(filehash.Sum{SHA1: it.SHA1, SHA256: it.SHA256})
	if err := a.gates.allow(filehash.Sum{SHA1: it.SHA1, SHA256: it.SHA256}); err != nil {
		r.Outcome, r.Code = order.Failed, order.Partial
		r.Reason = fmt.Sprintf("the file is back, but its start is refused still: %v; start the agent again, which lifts that", err)
	}
	return r
}

// restoredSince tells how an item was given back, if that was the last thing
// done with it and at or after t; a zero t: it was not.
func restoredSince(m *vault.Manifest, t time.Time) (order.Restored, bool) {
	last := len(m.History) - 1
	if t.IsZero() || last < 0 || m.History[last].State != vault.Restored || m.History[last].Time.Before(t) {
		return order.Restored{}, false
	}
	c := m.History[last]
	return order.Restored{Item: m.ID, Paths: c.Paths, Side: c.Side, Lost: c.Lost}, true
}

// purge deletes one item for good.
func (a *Agent) purge(ctx context.Context, id, item string) order.Receipt {
	r := order.Receipt{Order: id, Device: a.deviceID(), Kind: order.Purge, Accepted: a.now().UTC(), Outcome: order.Failed}
	if !a.write(journal.Intent, id, "purge", nil) {
		r.Code, r.Reason = order.Internal, errJournal.Error()
	} else if err := a.vault.Purge(ctx, item); err != nil {
		r.Code, r.Reason = codeOf(err), err.Error()
	} else {
		r.Outcome = order.Proven
	}
	r.Finished = a.now().UTC()
	return r
}

func codeOf(err error) order.Code {
	switch {
	case errors.Is(err, vault.ErrNotFound):
		return order.ItemNotFound
	case errors.Is(err, vault.ErrNoSpace):
		return order.NoSpace
	}
	return order.Internal
}
