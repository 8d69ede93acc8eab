// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
)

func itemIDs[T any](items []T, id func(T) string) map[string]bool {
	set := map[string]bool{}
	for _, it := range items {
		set[id(it)] = true
	}
	return set
}

func onDevice(t testing.TB, s Store, device string) map[string]bool {
	t.Helper()
	items, _, err := s.Items(t.Context(), action.ItemFilter{Device: device, Limit: 1000})
	must(t, err)
	return itemIDs(items, func(it action.Item) string { return it.ID })
}

func testItems(t *testing.T, _ *Harness, s Store) {
	d := enroll(t, s, NewDevice("host.example"))
	a, b, c := NewItem(start), NewItem(start), NewItem(start)
	a.Order, a.Comment = newGUID(), "ünï"
	must(t, s.PutItems(t.Context(), d.ID, []order.Item{a, b}, false))
	must(t, s.PutItems(t.Context(), "other", []order.Item{NewItem(start)}, true))

	got, err := s.Item(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(action.Item{Item: a, MachineID: d.ID, MachineName: d.Name}, got); diff != "" {
		t.Errorf("item (-put +got):\n%s", diff)
	}
	a.State = "restored"
	must(t, s.PutItems(t.Context(), d.ID, []order.Item{a, c}, false))
	if diff := cmp.Diff(map[string]bool{a.ID: true, b.ID: true, c.ID: true}, onDevice(t, s, d.ID)); diff != "" {
		t.Errorf("after a part (-want +got):\n%s", diff)
	}
	if got, err = s.Item(t.Context(), a.ID); err != nil || got.State != "restored" {
		t.Errorf("item was not replaced: %v, %v", got, err)
	}
	must(t, s.PutItems(t.Context(), d.ID, []order.Item{c}, true))
	if diff := cmp.Diff(map[string]bool{c.ID: true}, onDevice(t, s, d.ID)); diff != "" {
		t.Errorf("after the whole (-want +got):\n%s", diff)
	}
	must(t, s.PutItems(t.Context(), d.ID, nil, true))
	if n := len(onDevice(t, s, d.ID)); n != 0 {
		t.Errorf("%d items in an empty vault", n)
	}
	if n := len(onDevice(t, s, "other")); n != 1 {
		t.Errorf("the other device has %d items, want its own", n)
	}
	for _, id := range []string{a.ID, "", "\x00", "\xff"} {
		_, err = s.Item(t.Context(), id)
		wantCode(t, err, api.ResourceNotFound, "was not found")
	}
}

func testItemPages(t *testing.T, _ *Harness, s Store) {
	var items []order.Item
	for i := range 23 {
		it := NewItem(start.Add(time.Duration(i/5) * time.Second)) // five of a time
		it.State = []string{"sealed", "purged"}[i%2]
		it.Order = fmt.Sprint("order", i%3)
		items = append(items, it)
	}
	must(t, s.PutItems(t.Context(), "machine", items[:12], true))
	must(t, s.PutItems(t.Context(), "machine2", items[12:], true))
	for _, test := range []struct {
		filter action.ItemFilter
		want   int
	}{
		{action.ItemFilter{}, 23},
		{action.ItemFilter{Device: "machine"}, 12},
		{action.ItemFilter{State: "purged"}, 11},
		{action.ItemFilter{Order: "order1"}, 8},
		{action.ItemFilter{File: sha1Of(t, items[3].SHA1.String())}, 1},
		{action.ItemFilter{File: sha1Of(t, items[3].SHA256.String())}, 1},
		{action.ItemFilter{Device: "machine2", State: "purged", Order: "order1"}, 2},
		{action.ItemFilter{Device: "nobody"}, 0},
		{action.ItemFilter{Device: "\x00"}, 0},
	} {
		seen := map[string]bool{}
		last, pages := start.Add(time.Hour), 0
		for f := test.filter; ; pages++ {
			f.Limit = 4
			page, next, err := s.Items(t.Context(), f)
			must(t, err)
			for _, it := range page {
				if it.Sealed.After(last) {
					t.Error("sealing times rise")
				}
				last, seen[it.ID] = it.Sealed, true
			}
			if next == "" {
				break
			}
			if f.After = next; len(page) != 4 || pages > 10 {
				t.Fatalf("%d items in page %d which is not the last", len(page), pages)
			}
		}
		if len(seen) != test.want {
			t.Errorf("%+v: %d items, want %d", test.filter, len(seen), test.want)
		}
	}
	for _, after := range []string{"x", "§", "MTIz", "bm8gbnVtYmVy", "MSAA"} {
		_, _, err := s.Items(t.Context(), action.ItemFilter{After: after, Limit: 1})
		wantCode(t, err, api.InvalidInput, "is not a cursor of this list", "nextLink")
	}
	for _, limit := range []int{0, -1, 1001} {
		_, _, err := s.Items(t.Context(), action.ItemFilter{Limit: limit})
		wantCode(t, err, api.InvalidInput, "want 1 to 1000")
	}
}

func testItemForeign(t *testing.T, _ *Harness, s Store) {
	it, own := NewItem(start), NewItem(start)
	must(t, s.PutItems(t.Context(), "owner", []order.Item{it}, true))
	claim := it
	claim.State = "purged"
	must(t, s.PutItems(t.Context(), "thief", []order.Item{claim, own}, true))
	got, err := s.Item(t.Context(), it.ID)
	must(t, err)
	if got.MachineID != "owner" || got.State != "sealed" {
		t.Errorf("another device's word was taken: %+v", got)
	}
	if diff := cmp.Diff(map[string]bool{own.ID: true}, onDevice(t, s, "thief")); diff != "" {
		t.Errorf("the other's own items (-want +got):\n%s", diff)
	}
	must(t, s.PutItems(t.Context(), "thief", nil, true))
	if n := len(onDevice(t, s, "owner")); n != 1 {
		t.Errorf("the owner has %d items, want 1", n)
	}
}
