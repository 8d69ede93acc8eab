// SPDX-License-Identifier: Apache-2.0

package action_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
)

func TestSubmit(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(a.ID) {
		t.Errorf("id %q is no GUID of version 4", a.ID)
	}
	if a.Status != api.Pending || a.Source != "PublicApi" || a.Requestor.Name != "soc-automation" || a.MachineName != "host-1.example" {
		t.Errorf("unexpected action %+v", a)
	}
	if d := a.Expires.Sub(a.Created).Hours(); d != 72 {
		t.Errorf("expires after %v hours, want 72", d)
	}
	if d := cmp.Diff(a, k.get(strings.ToUpper(a.ID))); d != "" {
		t.Errorf("what was answered is not what is kept: %s", d)
	}
	if d := cmp.Diff([]string{dev1}, k.rung); d != "" {
		t.Errorf("rung: %s", d)
	}
	if d := cmp.Diff([]string{a.ID}, k.pending(dev1)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{}, k.pending(dev2)); d != "" {
		t.Error(d)
	}
}

// TestSubmitRefused has the rows of the contract's table that the domain
// decides. Every refusal is on record and keeps nothing.
func TestSubmitRefused(t *testing.T) {
	empty, _ := filehash.Parse("da39a3ee5e6b4b0d3255bfef95601890afd80709")
	sha256, _ := filehash.Parse(strings.Repeat("c", 64))
	yes := func() bool { return true }
	ok := action.StopRequest{Comment: "c", File: hash(t, "a")}
	with := func(f func(*action.StopRequest)) action.StopRequest { r := ok; f(&r); return r }
	tests := map[string]struct {
		conf    func(*action.Config)
		kit     func(*kit)
		caller  *auth.Caller
		machine string
		req     action.StopRequest
		code    api.Code
		text    string
	}{
		"3 no permission": {
			caller: &auth.Caller{Kind: auth.App, ID: "x", Permissions: []auth.Permission{auth.MachineReadWriteAll}}, req: ok, code: api.Forbidden,
			text: "The application does not have any of the required application permissions (Machine.StopAndQuarantine) to access the resource.",
		},
		"4 no scope": {
			caller: &auth.Caller{Kind: auth.User, ID: "x"}, req: ok, code: api.Forbidden,
			text: "The caller does not have any of the required permissions (Machine.StopAndQuarantine)",
		},
		"requireMachineRead": {
			conf:   func(c *action.Config) { c.Settings.RequireMachineRead = yes },
			caller: &auth.Caller{Kind: auth.App, ID: "x", Permissions: []auth.Permission{auth.MachineStopAndQuarantine}}, req: ok, code: api.Forbidden,
			text: "The application does not have any of the required application permissions (Machine.Read.All, Machine.ReadWrite.All) to access the resource.",
		},
		"force":            {req: with(func(r *action.StopRequest) { r.Force = true }), code: api.Forbidden, text: "Machine.StopAndQuarantine.Force"},
		"6 no comment":     {req: with(func(r *action.StopRequest) { r.Comment = " \t" }), code: api.MissingRequiredParameter, text: "Parameter Comment is missing"},
		"6 no hash":        {req: with(func(r *action.StopRequest) { r.File = filehash.Hash{} }), code: api.MissingRequiredParameter, text: "Parameter Sha1 is missing"},
		"long comment":     {req: with(func(r *action.StopRequest) { r.Comment = strings.Repeat("é", 4097) }), code: api.InvalidInput, text: "Comment is 4097 characters long, at most 4096 are allowed"},
		"NUL comment":      {req: with(func(r *action.StopRequest) { r.Comment = "a\x00" }), code: api.InvalidInput, text: "Comment contains characters"},
		"long external id": {req: with(func(r *action.StopRequest) { r.ExternalID = strings.Repeat("x", 257) }), code: api.InvalidInput, text: "ExternalId is 257"},
		"8 no machine":     {machine: "nope", req: ok, code: api.ResourceNotFound, text: "Machine nope was not found"},
		"10 platform": {
			kit: func(k *kit) { d := k.devs[dev1]; d.Can = nil; k.devs[dev1] = d }, req: ok, code: api.OSPlatformNotSupported,
			text: "OS Platform Debian isn't supported for this action.",
		},
		"11 version": {
			kit: func(k *kit) { d := k.devs[dev1]; d.Can, d.Version = nil, "0.0.9"; k.devs[dev1] = d }, req: ok, code: api.ClientVersionNotSupported,
			text: "StopAndQuarantineFile is supported on client version 0.1.0 and above.",
		},
		"14 empty file": {req: with(func(r *action.StopRequest) { r.File = empty }), code: api.DisallowedOperation, text: "names the empty file"},
		"12 not there": {
			kit: func(k *kit) { k.online, k.answer.Has = true, "no" }, req: ok, code: api.ResourceNotFound,
			text: "Sha1 " + strings.Repeat("a", 40) + " was not found in machine " + dev1,
		},
		"12 not there, sha256": {
			kit: func(k *kit) { k.online, k.answer.Has = true, "no" }, req: with(func(r *action.StopRequest) { r.File = sha256 }), code: api.ResourceNotFound,
			text: "Sha256 " + strings.Repeat("c", 64) + " was not found in machine " + dev1,
		},
		"12 strict, offline": {
			conf: func(c *action.Config) { c.Settings.RequireObserved = func() string { return "strict" } }, req: ok,
			code: api.ResourceNotFound, text: "was not found in machine",
		},
		"13 duplicate, before the device is asked": {
			kit: func(k *kit) { k.submit("a"); k.online, k.answer.Has = true, "no" }, req: ok,
			code: api.ActiveRequestAlreadyExists, text: "ActiveRequestAlreadyExists: Action is already in progress",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			conf := tt.conf
			if conf == nil {
				conf = func(*action.Config) {}
			}
			k := newKit(t, conf)
			if tt.kit != nil {
				tt.kit(k)
			}
			c, machine, rings := soc, dev1, k.rings()
			if tt.caller != nil {
				c = *tt.caller
			}
			if tt.machine != "" {
				machine = tt.machine
			}
			_, err := k.StopAndQuarantine(t.Context(), c, machine, tt.req)
			k.wantRefused(err, tt.code, tt.text)
			if k.rings() != rings {
				t.Error("a refusal rang")
			}
		})
	}
}

func TestObserved(t *testing.T) {
	tests := map[string]struct {
		mode, has string
		online    bool
		asked     int
	}{
		"auto, yes":     {"auto", "yes", true, 1},
		"auto, unknown": {"auto", "unknown", true, 1},
		"auto, offline": {"auto", "", false, 1},
		"off, no":       {"off", "no", true, 0},
		"strict, yes":   {"strict", "yes", true, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := newKit(t, func(c *action.Config) { c.Settings.RequireObserved = func() string { return tt.mode } })
			k.online, k.answer.Has = tt.online, tt.has
			k.submit("a")
			if k.asked != tt.asked {
				t.Errorf("asked %d times, want %d", k.asked, tt.asked)
			}
		})
	}
}

// Two files on one machine, and one file on two machines, go side by side; a
// finished action frees its key.
func TestDuplicates(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	k.submit("b")
	if _, err := k.StopAndQuarantine(t.Context(), soc, dev2, action.StopRequest{Comment: "c", File: hash(t, "a")}); err != nil {
		t.Error(err)
	}
	k.ack(a.ID)
	_, err := k.StopAndQuarantine(t.Context(), soc, dev1, action.StopRequest{Comment: "c", File: hash(t, "a")})
	k.wantRefused(err, api.ActiveRequestAlreadyExists, "Action is already in progress")
	k.finish(k.receipt(a, nil))
	k.submit("a")
}

func TestReadsNeedPermission(t *testing.T) {
	k := newKit(t)
	a := k.submit("a")
	nobody := auth.Caller{Kind: auth.App, ID: "x", Permissions: []auth.Permission{auth.MachineStopAndQuarantine}}
	_, err := k.Get(t.Context(), nobody, a.ID)
	want := "The application does not have any of the required application permissions (Machine.Read.All, Machine.ReadWrite.All, Machine.Read, Machine.ReadWrite) to access the resource."
	if api.CodeOf(err) != api.Forbidden || !strings.Contains(err.Error(), want) {
		t.Error(err)
	}
	for _, id := range []string{"", "x", "7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913", "\x00"} {
		if _, err := k.Get(t.Context(), soc, id); api.CodeOf(err) != api.ResourceNotFound {
			t.Errorf("Get(%q): %v", id, err)
		}
	}
	if _, err := k.Evidence(t.Context(), soc, a.ID); api.CodeOf(err) != api.ResourceNotFound || !strings.Contains(err.Error(), "has no receipt yet: it is Pending") {
		t.Error(err)
	}
	if _, _, err := k.Items(t.Context(), soc, action.ItemFilter{Limit: 1001}); api.CodeOf(err) != api.InvalidInput {
		t.Error(err)
	}
	if _, err := k.Item(t.Context(), soc, "zz"); api.CodeOf(err) != api.ResourceNotFound || !strings.Contains(err.Error(), "Quarantine item zz was not found") {
		t.Error(err)
	}
}

func TestRestoreAndPurge(t *testing.T) {
	k := newKit(t)
	item := order.Item{ID: strings.Repeat("e", 32), SHA1: hash(t, "a").SHA1, State: "sealed", Sealed: time.Now(), Paths: []order.Text{"/opt/x"}}
	gone := item
	gone.ID, gone.State = strings.Repeat("f", 32), "purged"
	if err := k.Inventory(t.Context(), dev1, []order.Item{item, gone}); err != nil {
		t.Fatal(err)
	}
	_, err := k.Restore(t.Context(), soc, item.ID, action.RestoreRequest{Destination: "relative"})
	k.wantRefused(err, api.InvalidInput, "destination must be an absolute path")
	_, err = k.Restore(t.Context(), soc, strings.Repeat("0", 32), action.RestoreRequest{})
	k.wantRefused(err, api.ResourceNotFound, "Quarantine item 00000000000000000000000000000000 was not found")
	_, err = k.Restore(t.Context(), soc, gone.ID, action.RestoreRequest{})
	k.wantRefused(err, api.BadRequest, "is purged already")
	_, err = k.Purge(t.Context(), auth.Caller{Kind: auth.App}, item.ID, "")
	k.wantRefused(err, api.Forbidden, "Machine.StopAndQuarantine")

	a, err := k.Restore(t.Context(), soc, item.ID, action.RestoreRequest{Comment: "false alarm", Destination: "/srv/x"})
	if err != nil {
		t.Fatal(err)
	}
	if a.Type != api.RestoreFile || a.Item != item.ID || a.File.SHA1 != item.SHA1 {
		t.Errorf("unexpected action %+v", a)
	}
	_, err = k.Restore(t.Context(), soc, item.ID, action.RestoreRequest{})
	k.wantRefused(err, api.ActiveRequestAlreadyExists, "Action is already in progress")
	k.finish(k.receipt(a, func(r *order.Receipt) { r.Kind, r.Code = order.Restore, order.PlaceTaken }))
	if got := k.get(a.ID); got.Status != api.Succeeded || got.TroubleshootInfo != "PlaceTaken" {
		t.Errorf("ended as %s %q", got.Status, got.TroubleshootInfo)
	}
	it, err := k.Item(t.Context(), soc, item.ID)
	if err != nil || it.State != "restored" {
		t.Errorf("item is %q (%v), want restored", it.State, err)
	}
}

func TestInventoryRefused(t *testing.T) {
	k := newKit(t)
	for text, it := range map[string]order.Item{
		"the id is not 32 hex digits":  {ID: "x", State: "sealed"},
		"the order's id is not a GUID": {ID: strings.Repeat("e", 32), Order: "x", State: "sealed"},
		"the state is not known":       {ID: strings.Repeat("e", 32), State: "fine"},
		"the size is negative":         {ID: strings.Repeat("e", 32), State: "sealed", Size: -1},
		"the comment contains NUL":     {ID: strings.Repeat("e", 32), State: "sealed", Comment: "\x00"},
		"a path contains a bare NUL":   {ID: strings.Repeat("e", 32), State: "sealed", Paths: []order.Text{"\x00"}},
	} {
		if err := k.Inventory(t.Context(), dev1, []order.Item{it}); api.CodeOf(err) != api.InvalidInput || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
}
