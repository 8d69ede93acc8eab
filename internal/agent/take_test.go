// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/vault"
	"staunch/internal/order"
)

// TestTraceAfterFailedTake: who cannot have a file removed reads all the same
// what would bring it back.
func TestTraceAfterFailedTake(t *testing.T) {
	a, disk := kit(t, Config{})
	h := put(t, filepath.Join(disk, "tool"), "a tool that cannot be taken")
	err := unix.Mount(disk, disk, "", unix.MS_BIND, "")
	if err == nil {
		t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
		err = unix.Mount("", disk, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: a trace after a failed take: cannot make a read-only mount: %v", err)
	}
	r, err := a.Contain(t.Context(), Request{File: h})
	if err != nil || r.Outcome != order.Failed || r.Code != order.Partial {
		t.Fatalf("%+v, %v", r, err)
	}
	var names []string
	for _, s := range r.Steps {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "find guard gate hold take trace" {
		t.Errorf("the steps were: %s", got)
	}
}

// TestStuckDoesNotStop: work in the vault that cannot be ended stays, and does
// not keep the agent from the next order.
func TestStuckDoesNotStop(t *testing.T) {
	a, disk := kit(t, Config{})
	intents := a.state.path("vault/intents/" + strings.Repeat("a", 32) + ".json")
	if err := os.WriteFile(intents, []byte("not an intent"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, start := range []func() error{a.StartLocal, a.Start} {
		if err := start(); err != nil {
			t.Fatal(err)
		}
	}
	h := put(t, filepath.Join(disk, "tool"), "a tool")
	if r, err := a.Contain(t.Context(), Request{File: h}); err != nil || len(r.Copies) != 1 || r.Copies[0].State != order.Sealed {
		t.Errorf("%+v, %v", r, err)
	}
	all, err := a.vault.Recover(t.Context())
	if err == nil || len(all) != 1 || all[0].Ended != vault.Stuck {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := os.Stat(intents); err != nil {
		t.Error(err)
	}
}
