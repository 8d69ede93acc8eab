// SPDX-License-Identifier: Apache-2.0

package device_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/device"
)

func challenge() order.Challenge {
	c := order.Challenge{Version: order.LinkVersion, Nonce: make([]byte, 32), Server: "staunch.example"}
	rand.Read(c.Nonce)
	return c
}

func hello(m machine, c order.Challenge) order.Hello {
	return order.Hello{Device: m.ID, Signature: ed25519.Sign(m.key, order.ChallengeText(m.ID, c)), Facts: m.Facts}
}

func TestAuthenticate(t *testing.T) {
	b := newBench(t)
	m := b.enroll(t, "a.example")
	b.turn(time.Minute)
	c := challenge()
	h := hello(m, c)
	h.Facts.AgentVersion = "0.2.0"
	d, err := b.Authenticate(t.Context(), h, c, "203.0.113.5")
	if err != nil || d.Facts.AgentVersion != "0.2.0" || d.LastIP != "203.0.113.5" || !d.LastSeen.Equal(b.clock()) {
		t.Errorf("Authenticate = %+v, %v", d, err)
	}
}

// Outside all strangers are told the same; the log tells them apart.
func TestAuthenticateRefuses(t *testing.T) {
	b := newBench(t)
	m, other, gone := b.enroll(t, "a.example"), b.enroll(t, "b.example"), b.enroll(t, "c.example")
	if _, err := b.Revoke(t.Context(), admin, gone.ID); err != nil {
		t.Fatal(err)
	}
	c := challenge()
	swap := hello(other, c)
	swap.Device = m.ID
	unknown := m
	unknown.ID = strings.Repeat("0", 40)
	unsigned := hello(m, c)
	unsigned.Signature = nil

	var texts []string
	for name, x := range map[string]struct {
		hello  order.Hello
		reason string
	}{
		"unknown":             {hello(unknown, c), "unknown"},
		"malformed id":        {order.Hello{Device: "' or 1=1"}, "malformed id"},
		"revoked":             {hello(gone, c), "revoked"},
		"another's signature": {swap, "bad signature"},
		"another challenge":   {hello(m, challenge()), "bad signature"},
		"no signature":        {unsigned, "bad signature"},
	} {
		before := len(b.log.String())
		_, err := b.Authenticate(t.Context(), x.hello, c, "203.0.113.5")
		if api.CodeOf(err) != api.Unauthorized {
			t.Errorf("%s: %v, want Unauthorized", name, err)
			continue
		}
		texts = append(texts, err.Error())
		if line := b.log.String()[before:]; !strings.Contains(line, `"reason":"`+x.reason+`"`) {
			t.Errorf("%s: log %s", name, line)
		}
	}
	for _, text := range texts {
		if text != texts[0] {
			t.Errorf("strangers are told apart: %q, %q", text, texts[0])
		}
	}
}

func TestAuthenticateBadFacts(t *testing.T) {
	b := newBench(t)
	m := b.enroll(t, "a.example")
	m.Facts.Hostname = ""
	c := challenge()
	_, err := b.Authenticate(t.Context(), hello(m, c), c, "")
	refusal(t, err, api.InvalidInput, "facts.hostname is empty")
}

func TestSeen(t *testing.T) {
	b := newBench(t)
	m := b.enroll(t, "a.example")
	start := m.LastSeen
	seen := func(want time.Time) {
		t.Helper()
		d, err := b.Find(t.Context(), admin, m.ID)
		if err != nil || !d.LastSeen.Equal(want) {
			t.Errorf("LastSeen %v, %v, want %v", d.LastSeen, err, want)
		}
	}
	do := func(ip string, f order.Facts) {
		t.Helper()
		if err := b.Seen(t.Context(), m.ID, ip, f); err != nil {
			t.Error(err)
		}
	}
	b.turn(4 * time.Minute)
	do("198.51.100.9", m.Facts)
	seen(start) // nothing new, and too early
	b.turn(time.Minute)
	if err := b.Still(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	seen(start.Add(5 * time.Minute))
	b.turn(time.Minute)
	f := facts("renamed.example")
	do("", f)
	seen(start.Add(6 * time.Minute)) // news is written at once
	if d, err := b.Find(t.Context(), admin, "renamed.example"); err != nil || d.ID != m.ID {
		t.Errorf("Find by the new name = %+v, %v", d, err)
	}
	b.turn(time.Second)
	do("203.0.113.5", f)
	seen(start.Add(6*time.Minute + time.Second))

	if err := b.Still(t.Context(), m.ID); err != nil {
		t.Error(err)
	}
	if _, err := b.Revoke(t.Context(), admin, m.ID); err != nil {
		t.Fatal(err)
	}
	refusal(t, b.Seen(t.Context(), m.ID, "", f), api.ResourceNotFound, "Machine "+m.ID+" was not found")
	refusal(t, b.Still(t.Context(), m.ID), api.Unauthorized, "does not know the device")
	refusal(t, b.Still(t.Context(), strings.Repeat("0", 40)), api.Unauthorized, "does not know the device")
}

// Whoever follows the groups of devices hears of each change, whatever made it.
func TestRegrouped(t *testing.T) {
	b := newBench(t)
	m := b.enroll(t, "a.example")
	rule, err := device.ParseRule("tag=finance")
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, moved ...string) {
		t.Helper()
		if !slices.Equal(b.moved, moved) {
			t.Errorf("%s: told %q, want %q", what, b.moved, moved)
		}
		b.moved = nil
	}
	if _, err := b.CreateGroup(t.Context(), admin, device.Group{Name: "Finance", Rules: []device.Rule{rule}}); err != nil {
		t.Fatal(err)
	}
	want("a group was made", "")
	for _, c := range []struct {
		tag   string
		add   bool
		moved []string
	}{{"other", true, nil}, {"finance", true, []string{m.ID}}, {"finance", true, nil}, {"finance", false, []string{m.ID}}} {
		if _, err := b.Tag(t.Context(), admin, m.ID, c.tag, c.add); err != nil {
			t.Fatal(err)
		}
		want(fmt.Sprint(c.tag, c.add), c.moved...)
	}
	name, err := device.ParseRule("name=b.*")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreateGroup(t.Context(), admin, device.Group{Name: "B", Rules: []device.Rule{name}}); err != nil {
		t.Fatal(err)
	}
	want("another group was made", "")
	f := m.Facts
	f.FQDN, f.Hostname = "b.example", "b"
	if err := b.Seen(t.Context(), m.ID, "198.51.100.9", f); err != nil {
		t.Fatal(err)
	}
	want("the device has another name", m.ID)
	if err := b.DeleteGroup(t.Context(), admin, "B"); err != nil {
		t.Fatal(err)
	}
	want("a group is gone", "")
}
