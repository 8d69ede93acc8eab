// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/odata"
)

// start is when the things in these tests happen.
var start = time.Date(2026, 11, 23, 10, 0, 0, 123456000, time.UTC)

// NewAction makes an action as a submission would, for a file of its own.
func NewAction(machine string) *action.Action {
	a := &action.Action{
		ID: newGUID(), Type: api.StopAndQuarantineFile, Status: api.Pending,
		Requestor: action.Requestor{Kind: auth.App, ID: newGUID(), Name: "SOAR"},
		Comment:   "malware", MachineID: machine, MachineName: "host.example",
		Created: start, Updated: start, Expires: start.Add(72 * time.Hour),
		Source: "PublicApi", Order: []byte(`{"payload":"order"}`),
	}
	_, _ = rand.Read(a.File.SHA1[:]) // crypto/rand.Read never fails
	return a
}

// Entry is an audit entry about target.
func Entry(op audit.Operation, target string) audit.Entry {
	return audit.Entry{Kind: auth.App, ActorID: "11111111-2222-4333-8444-555555555555", Actor: "SOAR", Operation: op, Target: target, Outcome: "accepted"}
}

// NewDevice makes a device as an enrollment would.
func NewDevice(name string) *device.Device {
	pub, _, _ := ed25519.GenerateKey(nil) // never fails
	return &device.Device{
		ID: newHex(20), Name: name, Key: pub, FirstSeen: start, LastSeen: start, LastIP: "198.51.100.9", Value: "Normal",
		Facts: order.Facts{Hostname: "host", OS: "linux", OSPlatform: "Debian", OSVersion: "12", Arch: "x64", AgentVersion: "1.0",
			Addresses: []order.Address{{IP: "10.0.0.7", Type: "Ethernet", Up: true}}, Can: []order.Kind{order.StopAndQuarantine}},
	}
}

// NewItem makes a sealed item.
func NewItem(sealed time.Time) order.Item {
	it := order.Item{ID: newHex(16), Size: 42, Paths: []order.Text{order.TextOf("/tmp/\xff\x00x")}, UID: 1<<32 - 1, GID: 5, Mode: 0o100755, Sealed: sealed, State: "sealed"}
	_, _ = rand.Read(it.SHA1[:])   // crypto/rand.Read never fails
	_, _ = rand.Read(it.SHA256[:]) // crypto/rand.Read never fails
	return it
}

func newHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return hex.EncodeToString(b)
}

func newGUID() string {
	h := newHex(16)
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-8" + h[17:20] + "-" + h[20:]
}

// must fails the test now.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// create keeps an action.
func create(t testing.TB, s Store, a *action.Action) *action.Action {
	t.Helper()
	must(t, s.CreateAction(t.Context(), a, Entry(audit.StopAndQuarantineFile, a.ID)))
	return a
}

// enroll keeps a device through a token of its own.
func enroll(t testing.TB, s Store, d *device.Device, tags ...string) *device.Device {
	t.Helper()
	tok := device.Token{ID: newHex(8), Uses: 1, Expires: time.Now().Add(time.Hour), Tags: tags}
	_, _ = rand.Read(tok.Secret[:]) // crypto/rand.Read never fails
	must(t, s.CreateToken(t.Context(), tok, Entry(audit.CreateEnrollmentToken, tok.ID)))
	must(t, s.Enroll(t.Context(), tok.Secret, d, Entry(audit.EnrollDevice, d.ID)))
	return d
}

// entries reads the whole audit log.
func entries(t testing.TB, s Store) []audit.Entry {
	t.Helper()
	var all []audit.Entry
	for after := int64(-1); ; {
		page, err := s.AuditEntries(t.Context(), after, 1000)
		must(t, err)
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1].Index
	}
}

// wantCode checks the code of a refusal and that its text has the words.
func wantCode(t testing.TB, err error, code api.Code, words ...string) {
	t.Helper()
	if api.CodeOf(err) != code {
		t.Fatalf("error is %v, want code %s", err, code)
	}
	wantText(t, err, words...)
}

// wantText checks that an error says what it should.
func wantText(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func ids(actions []action.Action) []string {
	list := []string{}
	for _, a := range actions {
		list = append(list, a.ID)
	}
	return list
}

// query compiles a $filter and a $orderby.
func query(t testing.TB, fields []odata.Field, options ...string) odata.Query {
	t.Helper()
	values := map[string][]string{}
	for i := 0; i < len(options); i += 2 {
		values[options[i]] = []string{options[i+1]}
	}
	q, err := odata.Parse(values, fields, odata.Options{})
	must(t, err)
	return q
}

func raw(format string, args ...any) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(format, args...))
}

func sha1Of(t testing.TB, s string) filehash.Hash {
	t.Helper()
	h, err := filehash.Parse(s)
	must(t, err)
	return h
}
