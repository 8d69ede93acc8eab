// SPDX-License-Identifier: Apache-2.0

package action_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/store"
)

const (
	dev1 = "1111111111111111111111111111111111111111"
	dev2 = "2222222222222222222222222222222222222222"
)

var soc = auth.Caller{Kind: auth.App, ID: "app-1", Name: "soc-automation", AppID: "app-1", Permissions: []auth.Permission{auth.MachineStopAndQuarantine, auth.MachineReadAll}}

// kit is a service on a real store, with devices that it can play.
type kit struct {
	*action.Service
	t     *testing.T
	store *watched
	conf  action.Config
	keys  map[string]ed25519.PrivateKey
	devs  map[string]action.Device

	mu     sync.Mutex
	rung   []string
	answer order.Answer
	online bool
	asked  int
}

// watched is the real store; it remembers the entries that stand alone.
type watched struct {
	*store.Store
	mu      sync.Mutex
	refused []audit.Entry
}

func (w *watched) Record(ctx context.Context, e audit.Entry) error {
	w.mu.Lock()
	w.refused = append(w.refused, e)
	w.mu.Unlock()
	return w.Store.Record(ctx, e)
}

func newKit(t *testing.T, change ...func(*action.Config)) *kit {
	t.Helper()
	skey, _, err := note.GenerateKey(rand.Reader, "test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), store.Config{
		Path: filepath.Join(t.TempDir(), "staunch.db"), Checkpoint: signer, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	k := &kit{t: t, store: &watched{Store: st}, keys: map[string]ed25519.PrivateKey{}, devs: map[string]action.Device{}}
	for _, id := range []string{dev1, dev2} {
		pub, key, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		k.keys[id] = key
		k.devs[id] = action.Device{
			ID: id, Name: "host-" + id[:1] + ".example", Platform: "Debian", Version: "1.0.0", Key: pub,
			Can: []order.Kind{order.StopAndQuarantine, order.Restore, order.Purge, order.Cancel},
		}
	}
	_, orderKey, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k.conf = action.Config{Store: k.store, Devices: k, Bell: k, Asker: k, OrderKey: orderKey}
	for _, f := range change {
		f(&k.conf)
	}
	if k.Service, err = action.New(k.conf); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k *kit) Lookup(_ context.Context, _ auth.Caller, id string) (action.Device, error) {
	if d, ok := k.devs[id]; ok {
		return d, nil
	}
	return action.Device{}, api.Errorf(api.ResourceNotFound, "Machine %s was not found", id)
}

func (k *kit) Visible(_ context.Context, c auth.Caller, id string) (bool, error) {
	_, ok := k.devs[id]
	return ok || c.Kind != auth.User, nil
}

func (k *kit) Ring(device string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rung = append(k.rung, device)
}

func (k *kit) Ask(context.Context, string, filehash.Hash) (order.Answer, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	return k.answer, k.online
}

func (k *kit) rings() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.rung)
}

func hash(t *testing.T, digit string) filehash.Hash {
	t.Helper()
	h, err := filehash.Parse(strings.Repeat(digit, 40))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// submit creates an action on dev1 for the file of that digit.
func (k *kit) submit(digit string) action.Action {
	k.t.Helper()
	a, err := k.StopAndQuarantine(k.t.Context(), soc, dev1, action.StopRequest{Comment: "case 4711", File: hash(k.t, digit)})
	if err != nil {
		k.t.Fatal(err)
	}
	return a
}

func (k *kit) get(id string) action.Action {
	k.t.Helper()
	a, err := k.Get(k.t.Context(), soc, id)
	if err != nil {
		k.t.Fatal(err)
	}
	return a
}

func (k *kit) pending(device string) []string {
	k.t.Helper()
	list, err := k.Pending(k.t.Context(), device)
	if err != nil {
		k.t.Fatal(err)
	}
	ids := []string{}
	for _, d := range list {
		o, err := order.Verify(d.Envelope, device, time.Now(), k.conf.OrderKey.Public().(ed25519.PublicKey))
		if err != nil {
			k.t.Fatal(err)
		}
		if o.ID != d.ID {
			k.t.Fatalf("delivery %s holds order %s", d.ID, o.ID)
		}
		ids = append(ids, d.ID)
	}
	return ids
}

func (k *kit) ack(id string) {
	k.t.Helper()
	if err := k.Acknowledge(k.t.Context(), dev1, order.Ack{Order: id}); err != nil {
		k.t.Fatal(err)
	}
}

// receipt signs what dev1 says of an action, changed by f.
func (k *kit) receipt(a action.Action, f func(*order.Receipt)) order.ReceiptOf {
	k.t.Helper()
	var env order.Envelope
	raw := a.Order
	if err := json.Unmarshal(raw, &env); err != nil {
		k.t.Fatal(err)
	}
	digest := env.Digest()
	r := order.Receipt{
		Order: a.ID, Digest: hex.EncodeToString(digest[:]), Device: a.MachineID, Kind: order.StopAndQuarantine,
		Outcome: order.Proven, Accepted: time.Now().UTC(), Finished: time.Now().UTC(),
	}
	if f != nil {
		f(&r)
	}
	e, err := order.SignReceipt(r, k.keys[dev1])
	if err != nil {
		k.t.Fatal(err)
	}
	return order.ReceiptOf{Order: r.Order, Envelope: e}
}

func (k *kit) finish(r order.ReceiptOf) {
	k.t.Helper()
	if err := k.Finish(k.t.Context(), dev1, r); err != nil {
		k.t.Fatal(err)
	}
}

// wantRefused checks a refusal and that it is on record.
func (k *kit) wantRefused(err error, code api.Code, text string) {
	k.t.Helper()
	if api.CodeOf(err) != code || err == nil || !strings.Contains(err.Error(), text) {
		k.t.Errorf("got %v, want %s %q", err, code, text)
	}
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	n := len(k.store.refused)
	if n == 0 || k.store.refused[n-1].Outcome != "refused: "+string(code) {
		k.t.Errorf("the refusal is not on record: %+v", k.store.refused)
	}
}
