// SPDX-License-Identifier: Apache-2.0

package action_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func cancelOf(id string) string { return id[:14] + "8" + id[15:] }

func TestAcknowledge(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	if err := k.Acknowledge(t.Context(), dev2, order.Ack{Order: a.ID}); api.CodeOf(err) != api.ResourceNotFound {
		t.Errorf("another device's acknowledgement: %v", err)
	}
	if err := k.Acknowledge(t.Context(), dev1, order.Ack{Order: "x"}); api.CodeOf(err) != api.ResourceNotFound {
		t.Errorf("no id: %v", err)
	}
	for range 2 { // at least once: the second changes nothing
		k.ack(a.ID)
		if got := k.get(a.ID); got.Status != api.InProgress || len(k.pending(dev1)) != 0 {
			t.Errorf("%s, %v to send", got.Status, k.pending(dev1))
		}
	}
	b := k.submit("b")
	if err := k.Acknowledge(t.Context(), dev1, order.Ack{Order: b.ID, Refused: "the order is for another device"}); err != nil {
		t.Fatal(err)
	}
	if got := k.get(b.ID); got.Status != api.Failed || got.TroubleshootInfo != "Refused by the device: the order is for another device" || len(k.pending(dev1)) != 0 {
		t.Errorf("ended as %s %q", got.Status, got.TroubleshootInfo)
	}
}

// TestOutcomes has the rows of the contract's outcome table, and the codes that
// the table leaves to us.
func TestOutcomes(t *testing.T) {
	three := func(errno int) []order.Copy {
		return []order.Copy{{State: order.Sealed}, {State: order.Sealed}, {State: order.InPlace, Errno: errno}}
	}
	tests := map[string]struct {
		r       order.Receipt
		status  string
		hresult int32
		info    string
	}{
		"all quarantined":     {order.Receipt{Outcome: order.Proven}, api.Succeeded, 0, ""},
		"already quarantined": {order.Receipt{Outcome: order.Proven, Code: order.AlreadyQuarantined}, api.Succeeded, 0, "AlreadyQuarantined"},
		"not found":           {order.Receipt{Outcome: order.Failed, Code: order.FileNotFound}, api.Failed, -2147024894, "FileNotFoundOnDevice"},
		"partial, denied":     {order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: three(1)}, api.Failed, -2147024891, "Partial: 2 of 3 copies quarantined"},
		"partial, in use":     {order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: three(16)}, api.Failed, -2147024864, "Partial: 2 of 3 copies quarantined"},
		"partial, full":       {order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: three(28)}, api.Failed, -2147024784, "Partial: 2 of 3 copies quarantined"},
		"partial, read-only":  {order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: three(30)}, api.Failed, -2147024846, "Partial: 2 of 3 copies quarantined"},
		"partial, gone":       {order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: three(2)}, api.Failed, -2147024894, "Partial: 2 of 3 copies quarantined"},
		"partial, else":       {order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: three(0)}, api.Failed, -2147467259, "Partial: 2 of 3 copies quarantined"},
		"protected":           {order.Receipt{Outcome: order.Failed, Code: order.Protected, Reason: "libc"}, api.Failed, -2147023636, "ProtectedFile"},
		"still running":       {order.Receipt{Outcome: order.Failed, Code: order.ProcessRunning}, api.Failed, -2147024891, "ProcessStillRunning"},
		"cancelled":           {order.Receipt{Outcome: order.Cancelled}, api.Cancelled, -2147467260, ""},
		"no space":            {order.Receipt{Outcome: order.Failed, Code: order.NoSpace, Reason: "12 MiB short"}, api.Failed, -2147024784, "NoSpace: 12 MiB short"},
		"access denied":       {order.Receipt{Outcome: order.Failed, Code: order.AccessDenied}, api.Failed, -2147024891, "AccessDenied"},
		"not supported":       {order.Receipt{Outcome: order.Failed, Code: order.NotSupported}, api.Failed, -2147024846, "NotSupported"},
		"no item":             {order.Receipt{Outcome: order.Failed, Code: order.ItemNotFound}, api.Failed, -2147024894, "ItemNotFound"},
		"expired":             {order.Receipt{Outcome: order.Failed, Code: order.Expired}, api.TimeOut, -2145844840, "Expired"},
		"reappeared":          {order.Receipt{Outcome: order.Failed, Code: order.Reappeared}, api.Failed, -2147467259, "Reappeared"},
		"no code":             {order.Receipt{Outcome: order.Failed}, api.Failed, -2147467259, "Unspecified"},
		"reason only":         {order.Receipt{Outcome: order.Failed, Reason: "odd\x00"}, api.Failed, -2147467259, "odd\uFFFD"},
		"proven, yet a copy is in place": {
			order.Receipt{Outcome: order.Proven, Copies: three(0)}, api.Failed, -2147467259, "Partial: 2 of 3 copies quarantined",
		},
		"proven, yet a match runs": {
			order.Receipt{Outcome: order.Proven, Matches: []order.Match{{State: "running"}}}, api.Failed, -2147467259, "ProcessStillRunning",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := newKit(t)
			a := k.submit("a")
			k.ack(a.ID)
			k.finish(k.receipt(a, func(r *order.Receipt) {
				r.Outcome, r.Code, r.Reason, r.Copies, r.Matches = tt.r.Outcome, tt.r.Code, tt.r.Reason, tt.r.Copies, tt.r.Matches
			}))
			got := k.get(a.ID)
			if got.Status != tt.status || got.ErrorHResult != tt.hresult || got.TroubleshootInfo != tt.info {
				t.Errorf("got %s %d %q, want %s %d %q", got.Status, got.ErrorHResult, got.TroubleshootInfo, tt.status, tt.hresult, tt.info)
			}
		})
	}
}

func TestReceiptKeepsItemsAndEvidence(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	item := strings.Repeat("e", 32)
	r := k.receipt(a, func(r *order.Receipt) {
		r.Copies = []order.Copy{{State: order.Sealed, Item: item, Paths: []order.Text{"/opt/x"}, SHA1: hash(t, "a").SHA1, Size: 3, Mode: 0o755}}
	})
	k.finish(r) // without an acknowledgement: that was lost
	it, err := k.Item(t.Context(), soc, item)
	if err != nil || it.Order != a.ID || it.State != "sealed" || it.MachineID != dev1 {
		t.Errorf("item %+v, %v", it, err)
	}
	ev, err := k.Evidence(t.Context(), soc, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := order.ParseKey(ev.DeviceKey)
	if err != nil {
		t.Fatal(err)
	}
	var env, ord order.Envelope
	if json.Unmarshal(ev.Envelope, &env) != nil || json.Unmarshal(ev.Order, &ord) != nil {
		t.Fatal("unreadable evidence")
	}
	if _, err := order.VerifyReceipt(env, ord, dev1, key); err != nil {
		t.Errorf("the evidence cannot be checked: %v", err)
	}

	// The same receipt again, after the item was restored: kept, and nothing is undone.
	restored := it.Item
	restored.State = "restored"
	if err := k.Inventory(t.Context(), dev1, []order.Item{restored}); err != nil {
		t.Fatal(err)
	}
	before := k.get(a.ID)
	k.finish(r)
	if d := cmp.Diff(before, k.get(a.ID)); d != "" {
		t.Error(d)
	}
	if it, _ := k.Item(t.Context(), soc, item); it.State != "restored" {
		t.Errorf("a replayed receipt made the item %s", it.State)
	}
}

func TestReceiptRefused(t *testing.T) {
	k := newKit(t)
	a, b := k.submit("a"), k.submit("b")
	k.ack(a.ID)
	good := k.receipt(a, nil)

	err := k.Finish(t.Context(), dev2, good)
	k.wantRefused(err, api.ResourceNotFound, "Order "+a.ID+" was not found")

	forged := good
	_, other, _ := ed25519.GenerateKey(nil)
	forged.Envelope, _ = order.SignReceipt(order.Receipt{Order: a.ID, Device: dev1, Outcome: order.Proven}, other)
	err = k.Finish(t.Context(), dev1, forged)
	k.wantRefused(err, api.Forbidden, "no valid signature by a known key")

	tampered := good
	tampered.Envelope.Payload = append([]byte{' '}, good.Envelope.Payload...)
	err = k.Finish(t.Context(), dev1, tampered)
	k.wantRefused(err, api.Forbidden, "no valid signature by a known key")

	swapped := good
	swapped.Order = b.ID
	err = k.Finish(t.Context(), dev1, swapped)
	k.wantRefused(err, api.Forbidden, "it answers another order of that id")

	misnamed := k.receipt(a, func(r *order.Receipt) { r.Order = b.ID })
	misnamed.Order = a.ID
	err = k.Finish(t.Context(), dev1, misnamed)
	k.wantRefused(err, api.Forbidden, "it names order")

	strange := k.receipt(a, func(r *order.Receipt) { r.Outcome = "fine" })
	err = k.Finish(t.Context(), dev1, strange)
	k.wantRefused(err, api.Forbidden, `outcome "fine" is not known`)

	unknown := good
	unknown.Order = "7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913"
	err = k.Finish(t.Context(), dev1, unknown)
	k.wantRefused(err, api.ResourceNotFound, "was not found")

	if got := k.get(a.ID); got.Status != api.InProgress || got.Receipt != nil {
		t.Errorf("a refused receipt changed the action: %s", got.Status)
	}
	k.finish(good)
	if got := k.get(a.ID); got.Status != api.Succeeded {
		t.Errorf("%s, want Succeeded", got.Status)
	}
}

func TestCancelPending(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	got, err := k.Cancel(t.Context(), soc, a.ID, "wrong hash")
	if err != nil {
		t.Fatal(err)
	}
	if got.Status != api.Cancelled || got.ErrorHResult != -2147467260 || got.CancelComment != "wrong hash" || got.CancelledBy.ID != "app-1" || got.CancelRequested.IsZero() {
		t.Errorf("unexpected %+v", got)
	}
	_, err = k.Cancel(t.Context(), soc, a.ID, "")
	k.wantRefused(err, api.BadRequest, "is Cancelled already and cannot be cancelled")

	// The order may be on its way: the cancel follows it, the order itself is
	// not sent any more, and an acknowledgement that crosses changes nothing.
	if d := cmp.Diff([]string{cancelOf(a.ID)}, k.pending(dev1)); d != "" {
		t.Error(d)
	}
	k.ack(a.ID)
	if got := k.get(a.ID); got.Status != api.Cancelled || len(k.pending(dev1)) != 1 {
		t.Errorf("%s, %d to send", got.Status, len(k.pending(dev1)))
	}
	k.submit("a") // the key is free
	k.ack(cancelOf(a.ID))
	if n := len(k.pending(dev1)); n != 1 {
		t.Errorf("%d to send, want the new order only", n)
	}
}

// The device had done the work before the cancel reached it: nobody may think
// that nothing happened.
func TestCancelledYetDone(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	if _, err := k.Cancel(t.Context(), soc, a.ID, ""); err != nil {
		t.Fatal(err)
	}
	k.finish(k.receipt(a, nil))
	got := k.get(a.ID)
	if got.Status != api.Cancelled || !strings.Contains(got.TroubleshootInfo, "carried the order out all the same: Succeeded") || got.Receipt == nil {
		t.Errorf("%s %q", got.Status, got.TroubleshootInfo)
	}
	if n := len(k.pending(dev1)); n != 0 {
		t.Errorf("%d to send", n)
	}
	if _, err := k.Evidence(t.Context(), soc, a.ID); err != nil {
		t.Error(err)
	}

	b := k.submit("b")
	if _, err := k.Cancel(t.Context(), soc, b.ID, ""); err != nil {
		t.Fatal(err)
	}
	k.finish(k.receipt(b, func(r *order.Receipt) { r.Outcome = order.Cancelled }))
	if got := k.get(b.ID); got.Status != api.Cancelled || got.TroubleshootInfo != "" || got.Receipt == nil {
		t.Errorf("%s %q", got.Status, got.TroubleshootInfo)
	}
}

func TestCancelInProgress(t *testing.T) {
	for outcome, want := range map[order.Outcome]string{order.Proven: api.Succeeded, order.Cancelled: api.Cancelled, order.Failed: api.Failed} {
		t.Run(string(outcome), func(t *testing.T) {
			k := newKit(t)
			a := k.submit("a")
			k.ack(a.ID)
			for range 2 { // asking twice is on record twice and sends one cancel
				got, err := k.Cancel(t.Context(), soc, a.ID, "stop")
				if err != nil {
					t.Fatal(err)
				}
				if got.Status != api.InProgress || got.ErrorHResult != 0 || got.CancelComment != "stop" {
					t.Errorf("unexpected %+v", got)
				}
			}
			if d := cmp.Diff([]string{cancelOf(a.ID)}, k.pending(dev1)); d != "" {
				t.Error(d)
			}
			k.ack(cancelOf(a.ID))
			k.ack(cancelOf(a.ID))
			if n := len(k.pending(dev1)); n != 0 {
				t.Errorf("%d to send", n)
			}
			k.finish(k.receipt(a, func(r *order.Receipt) { r.Outcome = outcome }))
			if got := k.get(a.ID); got.Status != want {
				t.Errorf("ended as %s, want %s", got.Status, want)
			}
		})
	}
}

func TestCancelRefused(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	scan := auth.Caller{Kind: auth.App, ID: "x", Permissions: []auth.Permission{auth.MachineScan}}
	_, err := k.Cancel(t.Context(), scan, a.ID, "")
	k.wantRefused(err, api.Forbidden, "(Machine.StopAndQuarantine)")
	_, err = k.Cancel(t.Context(), auth.Caller{Kind: auth.App}, a.ID, "")
	k.wantRefused(err, api.Forbidden, "Machine.CollectForensics")
	_, err = k.Cancel(t.Context(), soc, "nope", "")
	k.wantRefused(err, api.ResourceNotFound, "Machine action nope was not found")
	_, err = k.Cancel(t.Context(), soc, a.ID, strings.Repeat("x", 4097))
	k.wantRefused(err, api.InvalidInput, "4097")

	k2 := newKit(t, func(c *action.Config) { c.Settings.CancelAnyOf = func() bool { return true } })
	b := k2.submit("a")
	if _, err := k2.Cancel(t.Context(), scan, b.ID, ""); err != nil {
		t.Errorf("any-of: %v", err)
	}
}

// Whichever of cancel, acknowledgement and receipt comes first, one end stands.
func TestCancelRaces(t *testing.T) {
	k := newKit(t)
	for i := range 40 {
		a := k.submit(fmt.Sprintf("%x", i%15+1))
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = k.Cancel(t.Context(), soc, a.ID, "") }) // may come too late
		wg.Go(func() { _ = k.Acknowledge(t.Context(), dev1, order.Ack{Order: a.ID}) })
		wg.Go(func() { k.finish(k.receipt(a, nil)) })
		wg.Wait()
		got := k.get(a.ID)
		switch {
		case got.Receipt == nil, !got.Acknowledged:
			t.Fatalf("receipt lost, or something left to send: %+v", got)
		case got.Status == api.Succeeded && got.ErrorHResult == 0:
		case got.Status == api.Cancelled && strings.Contains(got.TroubleshootInfo, "Succeeded"):
		default:
			t.Fatalf("ended as %s %d %q", got.Status, got.ErrorHResult, got.TroubleshootInfo)
		}
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.Start(context.Background())
		defer k.Stop()
		pending, running, cancelled := k.submit("a"), k.submit("b"), k.submit("c")
		time.Sleep(time.Hour)
		k.ack(running.ID)
		if _, err := k.Cancel(t.Context(), soc, cancelled.ID, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(71*time.Hour - time.Second)
		if got := k.get(pending.ID); got.Status != api.Pending {
			t.Fatalf("%s one second before its date", got.Status)
		}
		time.Sleep(time.Minute)
		got := k.get(pending.ID)
		if got.Status != api.TimeOut || got.ErrorHResult != -2145844840 || got.TroubleshootInfo != "" {
			t.Errorf("%s %d %q", got.Status, got.ErrorHResult, got.TroubleshootInfo)
		}
		if got := k.get(running.ID); got.Status != api.InProgress {
			t.Errorf("an order in the device's hand is %s: it has as long again", got.Status)
		}
		if ids := k.pending(dev1); len(ids) != 0 { // the cancel is past its date too
			t.Errorf("%v to send", ids)
		}
		if !k.get(cancelled.ID).Acknowledged {
			t.Error("a cancel past its date still waits")
		}
		time.Sleep(2 * time.Hour)
		if got := k.get(running.ID); got.Status != api.TimeOut || !strings.Contains(got.TroubleshootInfo, "sent no receipt") {
			t.Errorf("%s %q", got.Status, got.TroubleshootInfo)
		}

		// A receipt that comes now is evidence; the status stands.
		k.finish(k.receipt(running, nil))
		got = k.get(running.ID)
		if got.Status != api.TimeOut || got.Receipt == nil || !strings.Contains(got.TroubleshootInfo, "all the same: Succeeded") {
			t.Errorf("%s %q", got.Status, got.TroubleshootInfo)
		}
		_, err := k.Cancel(t.Context(), soc, pending.ID, "")
		k.wantRefused(err, api.BadRequest, "is TimeOut already")
	})
}

// An order past its date is not sent even when the sweep has not come by.
func TestPendingSettlesThePast(t *testing.T) {
	now := time.Now()
	k := newKit(t, func(c *action.Config) { c.Now = func() time.Time { return now } })
	for i := range 2*action.PendingBatch + 7 {
		file, err := filehash.Parse(fmt.Sprintf("%040x", i+1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.StopAndQuarantine(t.Context(), soc, dev1, action.StopRequest{Comment: "c", File: file}); err != nil {
			t.Fatal(err)
		}
	}
	old := k.pending(dev1)
	if len(old) != action.PendingBatch {
		t.Errorf("%d at a time, want %d", len(old), action.PendingBatch)
	}
	now = now.Add(73 * time.Hour)
	fresh := k.submit("f")
	list, err := k.Pending(t.Context(), dev1)
	if err != nil || len(list) != 1 || list[0].ID != fresh.ID {
		t.Fatalf("%d to send, %v", len(list), err)
	}
	for _, id := range old {
		if got := k.get(id); got.Status != api.TimeOut {
			t.Errorf("%s is %s", id, got.Status)
		}
	}
}

// A bell that was lost is rung again.
func TestRingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		a := k.submit("a")
		k.Start(context.Background())
		defer k.Stop()
		time.Sleep(100 * time.Second)
		if n := k.rings(); n != 4 {
			t.Errorf("rung %d times, want once and three times again", n)
		}
		k.ack(a.ID)
		n := k.rings()
		time.Sleep(100 * time.Second)
		if k.rings() != n {
			t.Error("rung for an order that was acknowledged")
		}
	})
}

func TestNewRefuses(t *testing.T) {
	for want, c := range map[string]action.Config{
		"no store": {}, "no devices": {Store: &watched{}}, "no order key": {Store: &watched{}, Devices: &kit{}},
	} {
		if _, err := action.New(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
