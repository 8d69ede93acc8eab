// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/device"
	"staunch/internal/server/issuer"
)

// write is one way to put text into the store.
type write struct {
	name string
	do   func(text string) error
}

func writes(t *testing.T, s Store) []write {
	a := create(t, s, NewAction("machine"))
	d := enroll(t, s, NewDevice("host"))
	e := Entry(audit.ChangeSetting, "target")
	with := func(change func(*action.Action)) error {
		b := NewAction("machine")
		change(b)
		return s.CreateAction(t.Context(), b, e)
	}
	return []write{
		{"Comment", func(x string) error { return with(func(a *action.Action) { a.Comment = x }) }},
		{"ExternalId", func(x string) error { return with(func(a *action.Action) { a.ExternalID = x }) }},
		{"requestor", func(x string) error { return with(func(a *action.Action) { a.Requestor.Name = x }) }},
		{"computerDnsName", func(x string) error { return with(func(a *action.Action) { a.MachineName = x }) }},
		{"troubleshootInfo", func(x string) error {
			_, err := s.ChangeAction(t.Context(), a.ID, func(a *action.Action) (*audit.Entry, error) { a.TroubleshootInfo = x; return nil, nil })
			return err
		}},
		{"device name", func(x string) error {
			_, err := s.ChangeDevice(t.Context(), d.ID, func(d *device.Device) (*audit.Entry, error) { d.Name = x; return nil, nil })
			return err
		}},
		{"tag", func(x string) error {
			_, err := s.ChangeDevice(t.Context(), d.ID, func(d *device.Device) (*audit.Entry, error) { d.Tags = []string{x}; return nil, nil })
			return err
		}},
		{"item comment", func(x string) error {
			it := NewItem(start)
			it.Comment = x
			return s.PutItems(t.Context(), d.ID, []order.Item{it}, false)
		}},
		{"app name", func(x string) error {
			return s.CreateApp(t.Context(), issuer.App{ID: newGUID(), Name: x, Created: start}, e)
		}},
		{"value of setting", func(x string) error { return s.SetSetting(t.Context(), "k", x, e) }},
		{"setting", func(x string) error { return s.SetSetting(t.Context(), x, "v", e) }},
		{"audit target", func(x string) error { return s.Record(t.Context(), Entry(audit.IssueToken, x)) }},
	}
}

func testBadText(t *testing.T, _ *Harness, s Store) {
	all := writes(t, s)
	n := len(entries(t, s))
	for _, w := range all {
		for _, bad := range []struct{ text, why string }{{"a\x00b", "NUL"}, {"a\xffb", "not valid UTF-8"}, {"\xed\xa0\x80", "not valid UTF-8"}, {strings.Repeat("x", 1<<20), "at most"}} {
			err := w.do(bad.text)
			if api.CodeOf(err) != api.InvalidInput {
				t.Errorf("%s %.10q: %v, want an InvalidInput", w.name, bad.text, err)
				continue
			}
			wantText(t, err, w.name, bad.why)
		}
	}
	if got := len(entries(t, s)); got != n {
		t.Errorf("%d audit entries of refused changes", got-n)
	}
}

func testGoodText(t *testing.T, _ *Harness, s Store) {
	for _, good := range []string{"", "'; DROP TABLE actions; --", `"\%_$1 ?`, "日本語 🧨 \u202e\u2028\ufeff", "line\r\n\ttab\x01\x7f", "<b>&amp;", "\U0010ffff", strings.Repeat("é", 250)} {
		for _, w := range writes(t, s) {
			if err := w.do(good); err != nil {
				t.Errorf("%s %q: %v", w.name, good, err)
			}
		}
		a := NewAction("machine")
		a.Comment, a.Requestor.Name, a.ExternalID = good, good, good
		create(t, s, a)
		must(t, s.Record(t.Context(), Entry(audit.IssueToken, good)))
		got, err := s.Action(t.Context(), a.ID)
		must(t, err)
		if diff := cmp.Diff(*a, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		log := entries(t, s)
		if last := log[len(log)-1]; last.Target != good {
			t.Errorf("audit target %q came back as %q", good, last.Target)
		}
	}
}

func testLimits(t *testing.T, _ *Harness, s Store) {
	a := NewAction("machine")
	a.Order, a.Receipt, a.Comment = make([]byte, order.MaxEnvelope), make([]byte, order.MaxEnvelope), strings.Repeat("x", 64<<10)
	create(t, s, a)
	got, err := s.Action(t.Context(), a.ID)
	must(t, err)
	if len(got.Order) != order.MaxEnvelope || len(got.Receipt) != order.MaxEnvelope {
		t.Errorf("order of %d and receipt of %d bytes came back", len(got.Order), len(got.Receipt))
	}
	list, _, err := s.Actions(t.Context(), query(t, nil))
	must(t, err)
	if len(list) != 1 || list[0].Order != nil || list[0].Receipt != nil {
		t.Error("a list carries orders or receipts")
	}
	b := NewAction("machine")
	b.Order = make([]byte, order.MaxEnvelope+1)
	wantCode(t, s.CreateAction(t.Context(), b, Entry(audit.StopAndQuarantineFile, "x")), api.InvalidInput, "order is", "at most")
	tags := make([]string, 201)
	wantCode(t, s.CreateToken(t.Context(), device.Token{ID: "t", Tags: tags}, Entry(audit.CreateEnrollmentToken, "t")), api.InvalidInput, "201 tags")
	e := Entry(audit.IssueToken, "x")
	e.Detail = raw(`"%s"`, strings.Repeat("x", audit.MaxDetail))
	wantCode(t, s.Record(t.Context(), e), api.InvalidInput, "audit detail")
	e.Detail = raw(`{"not": json}`)
	wantText(t, s.Record(t.Context(), e), "is not JSON")
}

func testCancelled(t *testing.T, _ *Harness, s Store) {
	first := create(t, s, NewAction("machine"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.CreateAction(ctx, NewAction("machine"), Entry(audit.StopAndQuarantineFile, "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if _, _, err := s.Actions(ctx, query(t, nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("list with a context that has ended: %v", err)
	}

	// Cancelled in the middle of a long read: it ends, and the next read is well.
	for range 3 {
		q := query(t, nil)
		q.Where = "EXISTS (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000000000) SELECT 1 FROM c WHERE x < 0)"
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, _, err := s.Actions(ctx, q); err == nil {
			t.Error("a cancelled list came back whole")
		}
		if all, _, err := s.Actions(t.Context(), query(t, nil)); err != nil || len(all) != 1 {
			t.Errorf("after a cancelled list: %d actions, %v", len(all), err)
		}
	}

	// Given up while waiting for the writer: never done.
	release := hold(t, s, first.ID)
	ctx, cancel = context.WithCancel(t.Context())
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			err := s.CreateAction(ctx, NewAction("machine"), Entry(audit.StopAndQuarantineFile, "given up"))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("given up: %v", err)
			}
		})
	}
	cancel()
	group.Wait() // they return although the writer is held
	release()

	// Cancelled while it is being done: the answer is the truth.
	ctx, cancel = context.WithCancel(t.Context())
	got, err := s.ChangeAction(ctx, first.ID, func(a *action.Action) (*audit.Entry, error) {
		cancel()
		a.Status = api.Failed
		return nil, nil
	})
	read, rerr := s.Action(t.Context(), first.ID)
	must(t, rerr)
	if err != nil || got.Status != api.Failed || read.Status != api.Failed {
		t.Errorf("answered %v, %v; read %v", got.Status, err, read.Status)
	}
	create(t, s, NewAction("machine"))
	if all, _, err := s.Actions(t.Context(), query(t, nil)); err != nil || len(all) != 2 {
		t.Errorf("%d actions, %v; want 2", len(all), err)
	}
	if n := len(entries(t, s)); n != 2 {
		t.Errorf("%d audit entries, want 2", n)
	}
}

func testClosed(t *testing.T, h *Harness, s Store) {
	first := create(t, s, NewAction("machine"))
	release := hold(t, s, first.ID)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	release() // Close waits for what is under way
	must(t, <-closed)
	must(t, s.Close()) // twice is once
	wantText(t, s.CreateAction(t.Context(), NewAction("machine"), Entry(audit.StopAndQuarantineFile, "x")), "the store is closed")
	if _, err := s.Action(t.Context(), first.ID); err == nil {
		t.Error("a closed store was read")
	}
	if err := s.Ping(t.Context()); err == nil {
		t.Error("a closed store answers")
	}
	again := h.Open(t)
	_, err := again.Action(t.Context(), first.ID)
	must(t, err)
	must(t, again.Close())
}

func testReopen(t *testing.T, h *Harness, s Store) {
	a := create(t, s, NewAction("machine"))
	d := enroll(t, s, NewDevice("host"), "tag")
	it := NewItem(start)
	must(t, s.PutItems(t.Context(), d.ID, []order.Item{it}, true))
	app := issuer.App{ID: newGUID(), Name: "app", Created: start}
	must(t, s.CreateApp(t.Context(), app, Entry(audit.CreateApp, app.ID)))
	must(t, s.SetSetting(t.Context(), "k", "v", Entry(audit.ChangeSetting, "k")))
	before := entries(t, s)
	must(t, s.Close())
	for i := range 3 {
		s = h.Open(t)
		if got, err := s.Action(t.Context(), a.ID); err != nil || !cmp.Equal(*a, got) {
			t.Errorf("action: %v", err)
		}
		if got, err := s.Device(t.Context(), d.ID); err != nil || !cmp.Equal(*d, got) {
			t.Errorf("device: %v", err)
		}
		if got, err := s.Item(t.Context(), it.ID); err != nil || !cmp.Equal(it, got.Item) {
			t.Errorf("item: %v", err)
		}
		if _, err := s.App(t.Context(), app.ID); err != nil {
			t.Errorf("app: %v", err)
		}
		if v, ok, err := s.Setting(t.Context(), "k"); v != "v" || !ok || err != nil {
			t.Errorf("setting: %q, %v, %v", v, ok, err)
		}
		if diff := cmp.Diff(before, entries(t, s)); diff != "" {
			t.Errorf("audit log (-before +after):\n%s", diff)
		}
		b := create(t, s, NewAction(fmt.Sprint("machine", i))) // goes on where it was
		if b.Seq <= a.Seq {
			t.Errorf("Seq %d after %d", b.Seq, a.Seq)
		}
		before = entries(t, s)
		verify(t, h, s)
		must(t, s.Close())
	}
}
