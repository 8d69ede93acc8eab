// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"staunch/api"
	"staunch/client"
	"staunch/internal/agent"
	"staunch/internal/agent/journal"
	"staunch/internal/agent/vault"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/internal/runnable"
	"staunch/test/rig"
)

// device is one enrolled device with a disk of its own and a program on it that
// does not want to be stopped, under three names of which two are one file.
type device struct {
	*rig.Agent
	t      *testing.T
	client *client.Client
	sum    filehash.Sum
	names  []string
	looks  []string // of the names, before
	files  int      // inodes among the names
}

func newDevice(t *testing.T, s *rig.Server) *device {
	t.Helper()
	dir := scratch(t)
	d := &device{t: t, files: 2, Agent: &rig.Agent{
		Program: filepath.Join(bin, "staunch-agent"), State: filepath.Join(dir, "agent"), Disk: filepath.Join(dir, "disk"),
	}}
	_, unmount, err := rig.MountDisk(d.Disk)
	must(t, err)
	t.Cleanup(unmount)
	must(t, d.Enroll(t.Context(), s))
	d.client, _, err = s.Client(t.Context(), filepath.Base(dir))
	must(t, err)

	d.names = []string{filepath.Join(d.Disk, "opt/evil"), filepath.Join(d.Disk, "opt/same"), filepath.Join(d.Disk, "home/copy")}
	d.sum, err = rig.Program(d.names[0])
	must(t, err)
	must(t, os.Link(d.names[0], d.names[1]))
	content, err := os.ReadFile(d.names[0])
	must(t, err)
	must(t, os.Mkdir(filepath.Dir(d.names[2]), 0o755))  //nolint:gosec // as a home is
	must(t, runnable.Write(d.names[2], content, 0o755)) //nolint:gosec // a program
	for _, n := range d.names {
		l, err := rig.Looks(t.Context(), n)
		must(t, err)
		d.looks = append(d.looks, l)
	}
	end, err := rig.Spawn(d.names[0], 0)
	must(t, err)
	t.Cleanup(end)
	return d
}

// live starts the real agent, which ends with the test.
func (d *device) live() {
	d.t.Helper()
	must(d.t, d.Agent.Start(d.t.Context(), true))
	p := d.Process
	d.t.Cleanup(func() {
		if !p.Ended() {
			_ = p.End(syscall.SIGKILL) // a test that failed
		}
		if d.t.Failed() {
			d.t.Log(p.Tail())
		}
	})
}

// die starts an agent that is killed at one moment.
func (d *device) die(behind string) *rig.Process {
	d.t.Helper()
	self, err := os.Executable()
	must(d.t, err)
	p, err := rig.Start(d.State+".log", "/usr/bin/env", envDie+"="+behind, self, d.State, d.Disk)
	must(d.t, err)
	d.t.Cleanup(func() {
		if !p.Ended() {
			_ = p.End(syscall.SIGKILL)
		}
		if d.t.Failed() {
			d.t.Log(p.Tail())
		}
	})
	return p
}

// order sends the order of the story.
func (d *device) order() api.MachineAction {
	d.t.Helper()
	a, err := d.client.StopAndQuarantineFile(d.t.Context(), d.Device, api.StopAndQuarantineRequest{Comment: "fault", Sha1: d.sum.SHA1.String()})
	must(d.t, err)
	return a
}

// final waits until the action is over.
func (d *device) final(id string) api.MachineAction {
	d.t.Helper()
	var a api.MachineAction
	must(d.t, rig.Until("action "+id+" was over", func() (bool, error) {
		var err error
		if a, err = d.client.MachineAction(d.t.Context(), id); err != nil {
			return false, nil // the server may be away
		}
		return api.Final(a.Status), nil
	}))
	return a
}

// whole checks, while no agent runs, that every file is whole exactly once: in
// its place, in staging or in the vault. What is under way may be in two of
// them, which recovery resolves; it may never be in none.
func (d *device) whole() {
	d.t.Helper()
	sealed := 0
	v, err := vault.Open(vault.Config{Dir: filepath.Join(d.State, "vault"), ReadOnly: true})
	must(d.t, err)
	defer v.Close()
	items, err := v.Find(d.sum.Hash())
	must(d.t, err)
	for _, i := range items {
		if i.State == "sealed" {
			sealed++
		}
	}
	inodes := map[uint64]bool{}
	for _, dir := range []string{d.Disk, filepath.Join(d.State, "vault", "staging")} {
		var found []string
		must(d.t, rig.Until("the gate of the dead agent was gone", func() (_ bool, err error) {
			found, err = rig.Copies(dir, d.sum)
			if errors.Is(err, syscall.EPERM) {
				return false, nil
			}
			return true, err
		}))
		for _, path := range found {
			fi, err := os.Stat(path)
			must(d.t, err)
			inodes[fi.Sys().(*syscall.Stat_t).Ino] = true //nolint:errcheck,forcetypeassert // always, on Unix
		}
	}
	if sealed+len(inodes) < d.files {
		d.t.Errorf("a file is lost: %d sealed and %d on the disk of %d", sealed, len(inodes), d.files)
	}
	pids, err := rig.Running(d.sum)
	must(d.t, err)
	for _, pid := range pids {
		must(d.t, rig.Thawed(pid))
	}
}

// done checks what must hold once the action is over: it succeeded, nothing
// runs, nothing is left, every file is in the vault once, the receipt says so
// and is the device's, and nothing was carried out twice.
func (d *device) done(a api.MachineAction) {
	d.t.Helper()
	if a.Status != api.Succeeded {
		info := ""
		if a.TroubleshootInfo != nil {
			info = *a.TroubleshootInfo
		}
		e, _ := d.client.Evidence(d.t.Context(), a.ID) // for the message
		d.t.Fatalf("the action ended as %s: %s\n%s", a.Status, info, e.Receipt)
	}
	if pids, err := rig.Running(d.sum); err != nil || len(pids) > 0 {
		d.t.Errorf("processes %v run from the file (%v)", pids, err)
	}
	if left, err := rig.Copies(d.Disk, d.sum); err != nil || len(left) > 0 {
		d.t.Errorf("copies are left: %q (%v)", left, err)
	}
	e, err := d.client.Evidence(d.t.Context(), a.ID)
	must(d.t, err)
	var receipt, ordered order.Envelope
	must(d.t, json.Unmarshal(e.Envelope, &receipt))
	must(d.t, json.Unmarshal(e.Order, &ordered))
	key, err := order.ParseKey(e.DeviceKey)
	must(d.t, err)
	r, err := order.VerifyReceipt(receipt, ordered, d.Device, key)
	must(d.t, err)
	if r.Outcome != order.Proven {
		d.t.Errorf("the receipt says %s", r.Outcome)
	}
	if len(r.Copies) != d.files {
		d.t.Errorf("the receipt has %d copies, want %d: %+v", len(r.Copies), d.files, r.Copies)
	}
}

// end stops the agent and checks its folder: fsck finds nothing, every file is
// there once, and the journal has each order accepted once and answered once.
func (d *device) end() {
	d.t.Helper()
	if err := d.Process.End(syscall.SIGTERM); err != nil {
		d.t.Errorf("the agent did not end well: %v\n%s", err, d.Process.Tail())
	}
	st := agent.State{Dir: d.State}
	report, err := agent.Fsck(d.t.Context(), st, false, slog.New(slog.DiscardHandler))
	must(d.t, err)
	if !report.OK {
		d.t.Errorf("fsck: %q", report.Findings)
	}
	if report.Items != d.files {
		d.t.Errorf("the vault has %d items of %d files", report.Items, d.files)
	}
	j, records, err := journal.Open(st.JournalDir(), journal.Config{Device: d.Device})
	must(d.t, err)
	must(d.t, j.Close())
	seen := map[string]int{}
	for _, r := range records {
		if r.Kind == journal.Accepted || r.Kind == journal.Receipt {
			seen[fmt.Sprintf("%s %s", r.Order, r.Kind)]++
		}
	}
	for what, n := range seen {
		if n != 1 {
			d.t.Errorf("the journal has %q %d times", what, n)
		}
	}
	d.tidy()
}

// tidy looks for what an agent may leave on the disk or in its folder only
// while it works.
func (d *device) tidy() {
	d.t.Helper()
	for _, pattern := range []string{
		d.Disk + "/.staunch-*", d.Disk + "/*/.staunch-*", d.State + "/vault/staging/*", d.State + "/vault/tmp/*", d.State + "/vault/intents/*", d.State + "/.*.tmp-*", d.State + "/*.tmp",
	} {
		left, err := filepath.Glob(pattern)
		must(d.t, err)
		if len(left) > 0 {
			d.t.Errorf("left behind: %q", left)
		}
	}
}

// restore gives everything back and compares it with what was.
func (d *device) restore(action string) {
	d.t.Helper()
	items, err := d.items(action)
	must(d.t, err)
	for _, i := range items {
		a, err := d.client.Restore(d.t.Context(), i.ID, api.RestoreRequest{Comment: "fault"})
		must(d.t, err)
		if a = d.final(a.ID); a.Status != api.Succeeded {
			d.t.Errorf("the restore of %s ended as %s", i.ID, a.Status)
		}
	}
	d.asBefore()
}

// verifyAudit checks the server's log from outside.
func verifyAudit(t *testing.T, s *rig.Server) {
	t.Helper()
	out, err := rig.Run(context.Background(), s.Program, "--json", "audit", "verify", "--data", s.Data)
	if err != nil || !strings.Contains(string(out), `"ok":true`) {
		t.Errorf("the audit log does not verify: %v %s", err, out)
	}
}

// items are the vault items of an action, as the server knows them.
func (d *device) items(action string) ([]api.QuarantineItem, error) {
	page, err := d.client.Quarantine(d.t.Context(), client.QuarantineQuery{ActionID: action})
	return page.Value, err
}

// only returns the one order of this device; it makes one if there is none.
func (d *device) only() api.MachineAction {
	d.t.Helper()
	list, err := d.client.MachineActions(d.t.Context(), client.Query{Filter: "machineId eq '" + d.Device + "' and type eq 'StopAndQuarantineFile'"})
	must(d.t, err)
	switch len(list.Value) {
	case 0:
		return d.order()
	case 1:
		return list.Value[0]
	}
	d.t.Fatalf("there are %d orders, want one", len(list.Value))
	return api.MachineAction{}
}
