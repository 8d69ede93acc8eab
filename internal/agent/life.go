// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"staunch/internal/agent/gate"
	"staunch/internal/agent/journal"
	"staunch/internal/agent/link"
	"staunch/internal/agent/process"
	"staunch/internal/order"
)

// Facts is what this device says of itself.
func Facts() order.Facts { return facts() }

// Run starts the agent, answers on its socket, keeps the link to the server
// where there is one, and stops in good order when ctx ends.
func (a *Agent) Run(ctx context.Context) error {
	if err := a.Start(); err != nil {
		return errors.Join(err, a.Stop())
	}
	err := a.serve(ctx)
	return errors.Join(err, a.Stop())
}

func (a *Agent) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l, err := a.state.Listen()
	if err != nil {
		return err
	}
	parts := []func(context.Context) error{func(ctx context.Context) error { return Serve(ctx, l, a) }}
	if a.enrollment.DeviceID != "" {
		up, err := a.openLink()
		if err != nil {
			return errors.Join(err, l.Close())
		}
		parts = append(parts, up.Run)
	} else {
		a.log.Warn("not connected", "error", ErrNotEnrolled)
	}
	ended := make(chan error, len(parts))
	for _, part := range parts {
		go func() { ended <- part(ctx) }()
	}
	a.log.Info("agent ready", "state_dir", a.state.Dir, "device_id", a.enrollment.DeviceID, "version", Version)
	var first error
	waiting := len(parts)
	select {
	case <-ctx.Done():
	case first = <-a.fatal:
	case first = <-ended:
		waiting--
	}
	cancel()
	for range waiting {
		if err := <-ended; first == nil && !errors.Is(err, context.Canceled) {
			first = err
		}
	}
	return first
}

func (a *Agent) openLink() (*link.Link, error) {
	roots, err := a.enrollment.Roots()
	if err != nil {
		return nil, err
	}
	up, err := link.New(link.Config{
		URL: a.enrollment.URL, CA: roots, Device: a.enrollment.DeviceID, Key: a.key, Facts: facts, Handler: a, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.uplink = up
	a.mu.Unlock()
	return up, nil
}

// StartLocal is Start for one command: it finishes what was under way and
// takes no orders.
func (a *Agent) StartLocal() error {
	if err := process.ThawLeftover(a.state.Dir); err != nil {
		return err
	}
	if _, err := a.settle(); err != nil {
		return err
	}
	if err := a.gates.liftRestored(a.vault); err != nil {
		return err
	}
	if a.gates.on() {
		if err := a.gates.restore(); err != nil {
			return err
		}
	}
	return a.policy.restore() // what the organisation allows is spared by hand too
}

// newID makes the GUID (RFC 9562, version 4) of a containment by hand.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// Contain implements Service: a containment by hand, journalled like an order.
func (a *Agent) Contain(ctx context.Context, r Request) (order.Receipt, error) {
	if r.File.IsZero() {
		return order.Receipt{}, errors.New("cannot contain: no hash was given")
	}
	if r.ID == "" {
		r.ID = newID()
	}
	receipt := a.contain(ctx, r)
	return receipt, a.finishLocal(receipt)
}

// finishLocal journals the account of what was done by hand; nobody waits for it.
func (a *Agent) finishLocal(r order.Receipt) error {
	signed, err := order.SignReceipt(r, a.key)
	if err != nil {
		return err
	}
	if !a.write(journal.Receipt, r.Order, string(r.Outcome), signed) || !a.write(journal.Kept, r.Order, "", nil) {
		return errJournal
	}
	a.sendInventory()
	return nil
}

// Restore implements Service.
func (a *Agent) Restore(ctx context.Context, r RestoreRequest) (order.Receipt, error) {
	receipt := a.restore(ctx, newID(), r.Item, r.Destination, time.Time{})
	return receipt, a.finishLocal(receipt)
}

// Purge implements Service.
func (a *Agent) Purge(ctx context.Context, r PurgeRequest) (order.Receipt, error) {
	receipt := a.purge(ctx, newID(), r.Item)
	return receipt, a.finishLocal(receipt)
}

// Items implements Service.
func (a *Agent) Items(context.Context) ([]order.Item, error) { return a.vault.List() }

// Find implements Service.
func (a *Agent) Find(ctx context.Context, q FindRequest) (Found, error) {
	if q.File.IsZero() {
		return Found{}, errors.New("cannot find: no hash was given")
	}
	c := &containment{Agent: a, Request: Request{File: q.File, Scan: q.Scan}, begun: a.now(), ran: -1, sums: newSums(q.File)}
	defer c.close()
	if err := errors.Join(c.look(ctx), c.searchForeign(ctx)); err != nil {
		return Found{}, err
	}
	f := Found{Searched: c.receipt.Searched, NotCovered: c.receipt.NotCovered, Complete: len(c.receipt.NotCovered) == 0, Files: []order.Copy{}, Processes: []order.Match{}}
	if !f.Complete {
		f.Why = "some places could not be searched"
	}
	for _, t := range c.copies {
		f.Files = append(f.Files, t.wire())
	}
	matches, err := a.holder.Look(ctx, c.target())
	for _, m := range matches {
		f.Processes = append(f.Processes, m.Wire(c.begun))
		if m.File != nil {
			_ = m.File.Close() // read only
		}
	}
	return f, c.notAll(err)
}

// Status implements Service.
func (a *Agent) Status(context.Context) (Status, error) {
	s := Status{
		Version: Version, Running: a.index != nil, StateDir: a.state.Dir, DeviceID: a.enrollment.DeviceID, Server: a.enrollment.URL,
		Privileged: facts().Privileged,
	}
	if !s.Privileged {
		s.Off = append(s.Off, "not root: only your own files and processes are covered, and there is no gate")
	}
	if !a.gates.on() {
		s.Off = append(s.Off, "gate: "+a.gateOff)
	} else {
		st, err := a.gates.client.Status()
		if err != nil {
			s.Off = append(s.Off, "gate: "+err.Error())
		} else {
			s.Gate = &st
		}
		s.Gates = a.gates.list()
	}
	s.Rung, s.RungWhy = a.holder.Rung()
	s.Unread = a.rules.Unread()
	if err := a.gates.pinStatus(&s); err != nil {
		return s, err
	}
	if a.index != nil {
		st := a.index.Status()
		s.Index = IndexStatus{Complete: st.Complete, Progress: st.Progress, Files: st.Files, Status: st}
	}
	if t, ok := a.holder.Table(); ok {
		s.Processes = &t
	}
	items, err := a.vault.List()
	if err != nil {
		return s, err
	}
	for _, i := range items {
		if i.State == "sealed" {
			s.Items++
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s.Orders = a.busy()
	for _, l := range a.lanes {
		if l.receipt != nil && !l.kept && l.order.ID != "" {
			s.Unsent++
		}
	}
	if up, ok := a.uplink.(*link.Link); ok {
		s.Connected = up.Connected()
	}
	return s, nil
}

// Welcome takes note of the server's order keys; see order.Welcome.
func (a *Agent) Welcome(order.Welcome) {}

// Check is one thing the doctor looked at.
type Check = gate.Check

// wait sleeps for d, or until ctx ends.
func (c *containment) wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
