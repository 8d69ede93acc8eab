// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"

	"staunch/internal/agent/journal"
	"staunch/internal/agent/vault"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// restore puts one item back and lifts the gate on its content.
func (a *Agent) restore(ctx context.Context, id, item, destination string) (r order.Receipt) {
	begun := a.now()
	r = order.Receipt{Order: id, Device: a.deviceID(), Kind: order.Restore, Accepted: begun.UTC(), Outcome: order.Failed}
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
	restored, err := a.vault.Restore(ctx, item, vault.RestoreOptions{Destination: destination})
	r.Steps = append(r.Steps, order.Step{Name: "restore", EndNs: a.now().Sub(begun).Nanoseconds()})
	if err != nil {
		r.Code, r.Reason = codeOf(err), err.Error()
		return r
	}
	r.Outcome, r.Restored = order.Proven, &restored
	if restored.Side {
		r.Code, r.Reason = order.PlaceTaken, "the place was taken or had changed, so the file lies in a side folder"
	}
	if a.gates != nil {
		if err := a.gates.allow(filehash.Sum{SHA1: it.SHA1, SHA256: it.SHA256}); err != nil {
			r.Notes = append(r.Notes, "the gate could not be lifted: "+err.Error())
		}
	}
	return r
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

// sealed lists the items of the vault with a content.
func (a *Agent) sealed(h filehash.Hash) ([]order.Item, error) {
	return a.vault.Find(h)
}
