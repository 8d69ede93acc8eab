// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"crypto/ed25519"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"staunch/internal/agent"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/test/rig"
)

const (
	thisDevice  = "1111111111111111111111111111111111111111"
	otherDevice = "2222222222222222222222222222222222222222"
	anyID       = "7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913"
)

// door is an agent that obeys one key, with a program that an order may be for.
type door struct {
	*agent.Agent
	key  ed25519.PrivateKey
	disk string
	sum  filehash.Sum
}

func newDoor(t *testing.T) *door {
	t.Helper()
	dir := scratch(t)
	d := &door{disk: filepath.Join(dir, "disk")}
	_, unmount, err := rig.MountDisk(d.disk)
	must(t, err)
	t.Cleanup(unmount)
	d.sum, err = rig.Program(filepath.Join(d.disk, "evil"))
	must(t, err)
	var pub ed25519.PublicKey
	pub, d.key, err = ed25519.GenerateKey(nil)
	must(t, err)
	state, err := agent.OpenState(filepath.Join(dir, "agent"))
	must(t, err)
	must(t, state.Enroll(agent.Enrollment{URL: "https://127.0.0.1:1", DeviceID: thisDevice, OrderKeys: []string{order.FormatKey(pub)}}))
	d.Agent, err = agent.New(agent.Config{State: state, Roots: []string{d.disk}, GateOff: "not in this test", Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	must(t, d.Start())
	t.Cleanup(func() { must(t, d.Stop()) })
	return d
}

// order is one that the agent must carry out, but for what change does to it.
func (d *door) order(change func(*order.Order)) order.Order {
	now := time.Now()
	o := order.Order{ID: anyID, Device: thisDevice, Kind: order.StopAndQuarantine, Issued: now, Expires: now.Add(time.Hour), File: d.sum.Hash(), Comment: "c", Requestor: "r"}
	if change != nil {
		change(&o)
	}
	return o
}

func (d *door) untouched(t *testing.T) {
	t.Helper()
	if left, err := rig.Copies(d.disk, d.sum); err != nil || len(left) != 1 {
		t.Errorf("the file was touched: %q (%v)", left, err)
	}
	st, err := d.Status(t.Context())
	must(t, err)
	if st.Orders != 0 || st.Unsent != 0 || st.Items != 0 {
		t.Errorf("something was begun: %+v", st)
	}
}

// TestForgedOrders: what the server's order key did not sign for this device,
// for now, is refused with a text, and nothing is begun.
func TestForgedOrders(t *testing.T) {
	d := newDoor(t)
	_, foreign, err := ed25519.GenerateKey(nil)
	must(t, err)
	sign := func(o order.Order, key ed25519.PrivateKey) order.Envelope {
		e, err := order.Sign(o, key)
		must(t, err)
		return e
	}
	good := sign(d.order(nil), d.key)
	changed := good
	changed.Payload = []byte(strings.Replace(string(good.Payload), `"comment":"c"`, `"comment":"d"`, 1))
	retyped := good
	retyped.PayloadType = order.ReceiptType
	unsigned := good
	unsigned.Signatures = nil
	other := sign(d.order(func(o *order.Order) { o.Comment = "another" }), d.key)
	swapped := good
	swapped.Payload = other.Payload

	for _, c := range []struct {
		name    string
		e       order.Envelope
		refusal string
		silent  bool // not even the id can be believed, so there is nothing to answer
	}{
		{"signed by another key", sign(d.order(nil), foreign), "cannot accept order: ", true},
		{"payload changed", changed, "cannot accept order: ", true},
		{"payload of another order", swapped, "cannot accept order: ", true},
		{"no signature", unsigned, "cannot accept order: ", true},
		{"a receipt's type", retyped, "cannot accept order: ", true},
		{"empty", order.Envelope{}, "cannot accept order: ", true},
		{"for another device", sign(d.order(func(o *order.Order) { o.Device = otherDevice }), d.key), order.ErrOtherDevice.Error(), true},
		{"past its date", sign(d.order(func(o *order.Order) { o.Issued, o.Expires = o.Issued.Add(-2*time.Hour), o.Issued.Add(-time.Second) }), d.key), order.ErrExpired.Error(), false},
		{"from the future", sign(d.order(func(o *order.Order) { o.Issued = o.Issued.Add(6 * time.Minute) }), d.key), order.ErrNotYet.Error(), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ack, answer := d.Order(t.Context(), c.e)
			if !strings.Contains(ack.Refused, c.refusal) {
				t.Errorf("refused with %q, want %q in it", ack.Refused, c.refusal)
			}
			if answer == c.silent {
				t.Errorf("answered: %v, acknowledgement %+v", answer, ack)
			}
			if !c.silent && ack.Order != anyID {
				t.Errorf("the refusal names order %q", ack.Order)
			}
			d.untouched(t)
		})
	}
}

// TestReplayedOrder: the same order again, in any number, is acknowledged and
// carried out once, also by the agent's next run.
func TestReplayedOrder(t *testing.T) {
	needRoot(t)
	d := newDoor(t)
	e, err := order.Sign(d.order(nil), d.key)
	must(t, err)
	for range 20 {
		if ack, ok := d.Order(t.Context(), e); !ok || ack.Refused != "" || ack.Order != anyID {
			t.Fatalf("acknowledged %+v, %v", ack, ok)
		}
	}
	must(t, rig.Until("the order was over", func() (bool, error) {
		st, err := d.Status(t.Context())
		return st.Orders == 0 && st.Unsent == 1, err
	}))
	items, err := d.Items(t.Context())
	must(t, err)
	if len(items) != 1 {
		t.Fatalf("%d items, want 1", len(items))
	}
	if _, err := d.Restore(t.Context(), agent.RestoreRequest{Item: items[0].ID}); err != nil {
		t.Fatal(err)
	}
	// Replayed after its file is back: nothing is done.
	if ack, ok := d.Order(t.Context(), e); !ok || ack.Refused != "" {
		t.Fatalf("acknowledged %+v, %v", ack, ok)
	}
	st, err := d.Status(t.Context())
	must(t, err)
	if st.Orders != 0 {
		t.Error("a replayed order was begun again")
	}
	if left, err := rig.Copies(d.disk, d.sum); err != nil || len(left) != 1 {
		t.Errorf("a replayed order took %q (%v)", left, err)
	}
}

// TestCancelOvertakesOrder: a cancel that comes first keeps its order from being
// carried out.
func TestCancelOvertakesOrder(t *testing.T) {
	d := newDoor(t)
	now := time.Now()
	cancel, err := order.Sign(order.Order{
		ID: "7f3b0c52-9d7e-8a6b-8c11-2e5f60a4d913", Device: thisDevice, Kind: order.Cancel, Issued: now, Expires: now.Add(time.Hour), Target: anyID,
	}, d.key)
	must(t, err)
	if ack, ok := d.Order(t.Context(), cancel); !ok || ack.Refused != "" {
		t.Fatalf("acknowledged %+v, %v", ack, ok)
	}
	e, err := order.Sign(d.order(nil), d.key)
	must(t, err)
	if ack, ok := d.Order(t.Context(), e); !ok || ack.Refused != "" {
		t.Fatalf("acknowledged %+v, %v", ack, ok)
	}
	must(t, rig.Until("the order was over", func() (bool, error) {
		st, err := d.Status(t.Context())
		return st.Orders == 0 && st.Unsent == 1, err
	}))
	if left, err := rig.Copies(d.disk, d.sum); err != nil || len(left) != 1 {
		t.Errorf("a cancelled order took the file: %q (%v)", left, err)
	}
}
