// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"encoding/json"
	"os"
	"regexp"
	"testing"
	"time"

	"staunch/internal/order"
)

// The worked example of docs/orders.md is true: its envelopes hold the payloads
// shown, the keys shown verify them, and the receipt answers the order.
func TestOrdersPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/orders.md")
	must(t, err)
	block := func(name string) []byte {
		m := regexp.MustCompile("(?s)```json " + name + "\n(.*?)```").FindSubmatch(page)
		if m == nil {
			t.Fatalf("no block %q", name)
		}
		return m[1]
	}
	key := func(whose string) []byte {
		m := regexp.MustCompile(whose + " key of the example: `([^`]+)`").FindSubmatch(page)
		if m == nil {
			t.Fatalf("no %s key", whose)
		}
		k, err := order.ParseKey(string(m[1]))
		must(t, err)
		return k
	}
	var ordEnv, recEnv order.Envelope
	must(t, json.Unmarshal(block("order-envelope"), &ordEnv))
	must(t, json.Unmarshal(block("receipt-envelope"), &recEnv))
	for name, env := range map[string]order.Envelope{"order": ordEnv, "receipt": recEnv} {
		var shown bytes.Buffer
		must(t, json.Compact(&shown, block(name)))
		if !bytes.Equal(shown.Bytes(), env.Payload) {
			t.Errorf("the %s shown is not the one in its envelope: %s", name, env.Payload)
		}
	}
	const device = "c3f1d0a98b7e6f5d4c3b2a190817263544536271"
	o, err := order.Verify(ordEnv, device, time.Date(2026, 2, 12, 0, 0, 0, 0, time.UTC), key("Order"))
	must(t, err)
	r, err := order.VerifyReceipt(recEnv, ordEnv, device, key("Device"))
	must(t, err)
	if r.Order != o.ID || r.Outcome != order.Proven {
		t.Errorf("receipt of %s: %s", r.Order, r.Outcome)
	}
}
