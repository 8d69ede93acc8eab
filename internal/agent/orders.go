// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"staunch/internal/agent/journal"
	"staunch/internal/order"
)

// maxLanes bounds the orders at work at once; what comes beyond is not
// acknowledged, so the server sends it again.
const maxLanes = 1024

// Order takes an order in: verified, journalled, then acknowledged and begun.
// The same order again is acknowledged again and not carried out again. ok is
// false when it must be neither acknowledged nor refused: the server will send
// it again.
func (a *Agent) Order(_ context.Context, e order.Envelope) (ack order.Ack, ok bool) {
	o, err := order.Verify(e, a.deviceID(), a.now(), a.orderKeys...)
	if err != nil {
		a.log.Warn("order refused", "order_id", o.ID, "error", err)
		return order.Ack{Order: o.ID, Refused: err.Error()}, o.ID != ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if o.Kind == order.Cancel {
		return order.Ack{Order: o.ID}, a.cancelLane(o.Target)
	}
	l := a.lanes[o.ID]
	if l != nil && l.order.ID != "" {
		return order.Ack{Order: o.ID}, true
	}
	if a.ctx.Err() != nil || a.busy() >= maxLanes {
		return order.Ack{}, false
	}
	if l == nil {
		l = &lane{} // else a cancel has come before the order
	}
	l.envelope, l.order = e, o
	if !a.write(journal.Accepted, o.ID, "", e) {
		return order.Ack{}, false
	}
	a.lanes[o.ID] = l
	a.begin(l)
	return order.Ack{Order: o.ID}, true
}

func (a *Agent) busy() (n int) {
	for _, l := range a.lanes {
		if l.order.ID != "" && !l.over() {
			n++
		}
	}
	return n
}

// cancelLane gives an order up if it has not passed the point of no return; the
// receipt tells. A cancel that overtakes its order waits for it. The caller
// holds a.mu.
func (a *Agent) cancelLane(id string) bool {
	l := a.lanes[id]
	if l == nil {
		l = &lane{}
		a.lanes[id] = l
	}
	if l.cancelled {
		return true
	}
	if !a.write(journal.Cancelled, id, "", nil) {
		return false
	}
	l.cancelled = true
	if l.cancel != nil {
		l.cancel()
	}
	return true
}

// begin starts the lane's work. The caller holds a.mu.
func (a *Agent) begin(l *lane) {
	ctx, cancel := context.WithCancel(a.ctx)
	l.cancel, l.done = cancel, make(chan struct{})
	if l.cancelled {
		cancel()
	}
	a.work.Go(func() {
		defer close(l.done)
		defer cancel()
		a.runLane(ctx, l)
	})
}

// runLane carries the order out and keeps its receipt.
func (a *Agent) runLane(ctx context.Context, l *lane) {
	receipt := a.carryOut(ctx, l)
	if receipt.Outcome == order.Cancelled && a.ctx.Err() != nil && !l.cancelled {
		return // the agent is stopping: the next run takes the order up again
	}
	digest := l.envelope.Digest()
	receipt.Digest = hex.EncodeToString(digest[:])
	signed, err := order.SignReceipt(receipt, a.key)
	if err != nil {
		a.die(err)
		return
	}
	a.mu.Lock()
	if a.write(journal.Receipt, l.order.ID, string(receipt.Outcome), signed) {
		l.receipt = &signed
	}
	a.mu.Unlock()
	a.log.Info("order finished", "order_id", l.order.ID, "kind", l.order.Kind, "outcome", receipt.Outcome, "code", receipt.Code, "reason", receipt.Reason)
	a.sendInventory()
	a.sendReceipt(l)
}

func (a *Agent) carryOut(ctx context.Context, l *lane) order.Receipt {
	o := l.order
	if !l.started && !a.now().Before(o.Expires) {
		return order.Receipt{Order: o.ID, Device: o.Device, Kind: o.Kind, Accepted: a.now().UTC(), Finished: a.now().UTC(),
			Outcome: order.Failed, Code: order.Expired, Reason: "the order was past its date before it was begun"}
	}
	switch o.Kind {
	case order.StopAndQuarantine:
		return a.contain(ctx, Request{ID: o.ID, File: o.File, Force: o.Force, Comment: o.Comment, Requestor: o.Requestor})
	case order.Restore:
		return a.restore(ctx, o.ID, o.Item, o.Destination, l.began)
	case order.Purge:
		return a.purge(ctx, o.ID, o.Item)
	}
	// Verify lets no other kind through.
	return order.Receipt{Order: o.ID, Device: o.Device, Kind: o.Kind, Outcome: order.Failed, Code: order.NotSupported,
		Reason: fmt.Sprintf("this agent does not know how to %s", o.Kind)}
}

// Recover implements Service: it carries out a restore order that came by hand.
// The order is verified and remembered like any other, and its receipt waits
// for the server.
func (a *Agent) Recover(ctx context.Context, r RecoverRequest) (order.Receipt, error) {
	e, err := order.ParseRecoveryCode(r.Code)
	if err != nil {
		return order.Receipt{}, err
	}
	if a.enrollment.DeviceID == "" {
		return order.Receipt{}, ErrNotEnrolled
	}
	o, err := order.Verify(e, a.deviceID(), a.now(), a.orderKeys...)
	if err != nil {
		return order.Receipt{}, err
	}
	if o.Kind != order.Restore {
		return order.Receipt{}, fmt.Errorf("cannot recover: the code is an order to %s, not to restore", o.Kind)
	}
	a.mu.Lock()
	used := a.lanes[o.ID] != nil && a.lanes[o.ID].over()
	a.mu.Unlock()
	if used {
		return order.Receipt{}, fmt.Errorf("cannot recover: the code was used before (order %s); get a new one", o.ID)
	}
	if ack, ok := a.Order(ctx, e); !ok || ack.Refused != "" {
		return order.Receipt{}, fmt.Errorf("cannot recover: the order was not accepted: %s", ack.Refused)
	}
	a.mu.Lock()
	l := a.lanes[o.ID]
	a.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		return order.Receipt{}, ctx.Err()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var receipt order.Receipt
	if l.receipt == nil {
		return receipt, errors.New("cannot recover: the agent is stopping; give the code again")
	}
	return receipt, json.Unmarshal(l.receipt.Payload, &receipt)
}

// ReceiptKept notes that the server has the receipt of an order.
func (a *Agent) ReceiptKept(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l := a.lanes[id]; l != nil && l.receipt != nil && !l.kept && a.write(journal.Kept, id, "", nil) {
		l.kept = true
	}
	if a.journal.Size() > compactSize {
		if err := a.compact(); err != nil {
			a.die(err)
		}
	}
}

// Connected sends what the server may have missed.
func (a *Agent) Connected() {
	a.mu.Lock()
	var unkept []*lane
	for _, l := range a.lanes {
		if l.receipt != nil && !l.kept {
			unkept = append(unkept, l)
		}
	}
	a.mu.Unlock()
	a.sendInventory()
	for _, l := range unkept {
		a.sendReceipt(l)
	}
	a.sightings.again()
	a.flushSightings()
}

// sendReceipt hands the receipt to the link; if that is down, Connected sends it.
func (a *Agent) sendReceipt(l *lane) {
	a.mu.Lock()
	up, receipt := a.uplink, l.receipt
	a.mu.Unlock()
	if up == nil || receipt == nil {
		return
	}
	if err := up.Send(order.Message{Receipt: &order.ReceiptOf{Order: l.order.ID, Envelope: *receipt}}); err != nil {
		a.log.Debug("receipt waits for the link", "order_id", l.order.ID, "error", err)
	}
}

func (a *Agent) sendInventory() {
	a.mu.Lock()
	up := a.uplink
	a.mu.Unlock()
	if up == nil {
		return
	}
	items, err := a.vault.List()
	if err == nil {
		err = up.Send(order.Message{Inventory: &order.Inventory{Items: items}})
	}
	if err != nil {
		a.log.Debug("inventory waits for the link", "error", err)
	}
}

// askTime bounds an answer; the server waits about as long.
const askTime = 1500 * time.Millisecond

// askEnough is how many copies are read for an answer: one says that the file is
// there, a few more where.
const askEnough = 8

// Ask answers whether the device has a file: "no" only when it surely has not.
func (a *Agent) Ask(ctx context.Context, q order.Ask) order.Answer {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	ans := order.Answer{ID: q.ID, Has: "unknown"}
	if sealed, err := a.vault.Find(q.File); err == nil && len(sealed) > 0 {
		ans.Has = "yes"
		return ans
	}
	if a.index == nil {
		ans.Progress = "there is no index"
		return ans
	}
	c := &containment{Agent: a, Request: Request{File: q.File}, begun: a.now(), ran: -1, sums: newSums(q.File)}
	defer c.close()
	found, vouched, err := c.lookupNow(ctx, askEnough)
	if err == nil && len(found) == 0 {
		found, vouched, err = c.lookup(ctx)
	}
	c.add(found...)
	if err == nil && len(c.copies) == 0 {
		err = c.running(ctx)
	}
	for _, t := range c.copies {
		ans.Has, ans.SHA1, ans.SHA256, ans.Size = "yes", t.Sum.SHA1.String(), t.Sum.SHA256.String(), t.Sum.Size
		for _, p := range t.Paths[:min(len(t.Paths), 100)] {
			ans.Paths = append(ans.Paths, order.TextOf(p))
		}
	}
	switch {
	case ans.Has == "yes":
	case c.ran >= 0: // of which there is no file any more
		ans.Has, ans.Size = "yes", c.ran
	case err != nil:
		ans.Progress = err.Error()
	case vouched && len(c.receipt.NotCovered) == 0:
		ans.Has = "no"
	default:
		ans.Progress = "the index cannot vouch for it yet"
	}
	return ans
}

// write journals one record; a failure makes the state unknown and ends the agent.
func (a *Agent) write(kind journal.Kind, id, name string, data any) bool {
	var raw json.RawMessage
	if data != nil {
		b, err := json.Marshal(data)
		if err != nil {
			a.die(err)
			return false
		}
		raw = b
	}
	if err := a.journal.Append(journal.Record{Time: a.now().UTC(), Kind: kind, Order: id, Name: name, Data: raw}); err != nil {
		a.die(err)
		return false
	}
	return true
}

// die reports a state that is no longer known. The first reason is kept.
func (a *Agent) die(err error) {
	a.log.Error("cannot go on", "error", err)
	select {
	case a.fatal <- err:
	default:
	}
}

var errJournal = errors.New("the journal cannot be written")

// intend and outcome journal a step before and after.
func (c *containment) intend(name string) error {
	if !c.write(journal.Intent, c.ID, name, nil) {
		return errJournal
	}
	return nil
}

func (c *containment) outcome(s order.Step) error {
	if !c.write(journal.Outcome, c.ID, s.Name, s) {
		return errJournal
	}
	return nil
}
