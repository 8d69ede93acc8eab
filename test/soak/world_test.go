// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/api"
	"staunch/client"
	"staunch/internal/filehash"
	"staunch/internal/order"
	"staunch/test/rig"
)

// world is one server and one device with two disks of its own, in memory: what
// the agent covers, and where it keeps its vault.
type world struct {
	t      *testing.T
	rand   *mathrand.Rand // used by one goroutine at a time
	server *rig.Server
	agent  *rig.Agent
	client *client.Client
	disk   string
	safe   string // the disk of the agent's folder
	foe    []byte
	mark   string // in the environment of the scene's processes

	round    int
	counts   map[string]int // what happened, for people
	innocent innocent
}

// innocent is a program whose processes and file nobody may touch.
type innocent struct {
	path, looks string
	sum         filehash.Sum
}

func newWorld(t *testing.T, r *mathrand.Rand) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "staunch-soak-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	w := &world{
		t: t, rand: r, foe: hostile(t), counts: map[string]int{}, mark: "STAUNCH_SOAK=" + hex.EncodeToString(b[:]),
		disk: filepath.Join(dir, "disk"), safe: filepath.Join(dir, "safe"),
	}
	for _, d := range []string{w.disk, w.safe} {
		must(t, os.Mkdir(d, 0o755))
		if err := unix.Mount("staunch-soak", d, "tmpfs", 0, "size=48m,mode=755"); err != nil {
			t.Skipf("SKIPPED, NOT PROVEN: cannot mount a scratch disk: %v", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(d, unix.MNT_DETACH) })
	}
	w.server = &rig.Server{Program: filepath.Join(bin, "staunch"), Data: filepath.Join(dir, "server")}
	must(t, w.server.Start())
	t.Cleanup(func() { w.end("server", w.server.Process) })
	w.login()
	w.agent = &rig.Agent{Program: filepath.Join(bin, "staunch-agent"), State: filepath.Join(w.safe, "agent"), Disk: w.disk}
	must(t, w.agent.Enroll(t.Context(), w.server))
	must(t, w.agent.Start(t.Context(), true))
	t.Cleanup(func() { w.end("agent", w.agent.Process) })
	t.Cleanup(w.killAll)

	w.innocent.path = filepath.Join(w.disk, "bin/innocent")
	w.innocent.sum, err = rig.Program(w.innocent.path)
	must(t, err)
	w.innocent.looks, err = rig.Looks(t.Context(), w.innocent.path)
	must(t, err)
	stop, err := rig.Spawn(w.innocent.path, 3)
	must(t, err)
	t.Cleanup(stop)
	return w
}

func (w *world) login() {
	w.t.Helper()
	ctx := w.t.Context()
	var app api.App
	must(w.t, w.server.Admin(ctx, &app, "app", "create", "soak", "--permission", "Ti.ReadWrite.All",
		"--permission", "Machine.Read.All", "--permission", "Machine.StopAndQuarantine"))
	for _, limit := range []string{"limits.perMinute", "limits.perHour"} {
		var ignored struct{}
		must(w.t, w.server.Admin(ctx, &ignored, "settings", "set", limit, "1000000"))
	}
	var err error
	w.client, err = client.New(client.Config{
		URL: w.server.Ready.URL, CAFile: w.server.Ready.CAFile, TenantID: app.TenantID, ClientID: app.ClientID, ClientSecret: app.ClientSecret,
	})
	must(w.t, err)
}

// end ends a program at the end of the test; if that failed, its last words are
// shown.
func (w *world) end(name string, p *rig.Process) {
	if err := p.End(syscall.SIGTERM); err != nil {
		w.t.Errorf("the %s did not end well: %v", name, err)
	}
	if w.t.Failed() {
		w.t.Log(w.words())
	}
}

// words are the last words of server and agent, without what they say of every
// request and refusal.
func (w *world) words() string {
	var all strings.Builder
	for _, name := range []string{w.server.Data + ".log", w.agent.State + ".log"} {
		b, err := os.ReadFile(name)
		fmt.Fprintln(&all, filepath.Base(name)+":", err)
		var lines []string
		for line := range strings.Lines(string(b)) {
			if !strings.Contains(line, "msg=request") && !strings.Contains(line, "msg=refused") {
				lines = append(lines, line)
			}
		}
		for _, line := range lines[max(0, len(lines)-80):] {
			fmt.Fprintf(&all, "  %s", line)
		}
	}
	return all.String()
}

// until waits for what must come; in vain, it ends the test.
func (w *world) until(what string, done func() (bool, error)) {
	w.t.Helper()
	if err := rig.Until(what, done); err != nil {
		w.t.Fatalf("round %d: %v\n%s", w.round, err, w.words())
	}
}

// call makes a call until it is answered, be it with a refusal.
func call[A any](w *world, what string, do func() (A, error)) (answer A, err error) {
	w.t.Helper()
	w.until(what+" was answered", func() (bool, error) {
		answer, err = do()
		code := api.CodeOf(err)
		return err == nil || code != api.InternalServerError && code != api.ServiceUnavailable, nil
	})
	return answer, err
}

// items are the vault's in one state, as the agent's own command lists them.
func (w *world) items(h filehash.Hash, state string) (all []order.Item) {
	w.t.Helper()
	w.until("the vault was listed", func() (bool, error) {
		out, err := rig.Run(w.t.Context(), w.agent.Program, "--json", "quarantine", "list", "--all", "--state", w.agent.State)
		if err != nil {
			return false, nil // the agent may be on its way up
		}
		all = nil
		var every []order.Item
		if err := json.Unmarshal(out, &every); err != nil {
			return false, err
		}
		for _, i := range every {
			if h == (filehash.Sum{SHA1: i.SHA1, SHA256: i.SHA256, Size: i.Size}).Hash() && i.State == state {
				all = append(all, i)
			}
		}
		return true, nil
	})
	return all
}

// mine lists the processes of the scene, by their mark.
func (w *world) mine() (all []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/environ") // the pattern is valid
	for _, name := range found {
		b, _ := os.ReadFile(name) // gone meanwhile
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && bytes.Contains(b, []byte(w.mark)) {
			all = append(all, pid)
		}
	}
	return all
}

func (w *world) killAll() {
	for end := time.Now().Add(rig.Patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		left := w.mine()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone is as well
		}
	}
	w.t.Errorf("processes of the scene cannot be killed: %v", w.mine())
}

// unharmed checks the innocent, and that nobody is frozen.
func (w *world) unharmed() {
	w.t.Helper()
	in := w.innocent
	if looks, err := rig.Looks(w.t.Context(), in.path); err != nil || looks != in.looks {
		w.t.Errorf("round %d: an innocent file was harmed: %v\n%s\n%s", w.round, err, looks, in.looks)
	}
	pids, err := rig.Running(in.sum)
	if err != nil || len(pids) != 3 {
		w.t.Errorf("round %d: of three innocents %v run (%v)", w.round, pids, err)
	}
	for _, pid := range append(pids, w.mine()...) {
		must(w.t, rig.Thawed(pid))
	}
}

// audit checks the server's log from outside; fsck the vault and the journal,
// for which the agent has to be stopped.
func (w *world) audit() {
	w.t.Helper()
	out, err := rig.Run(w.t.Context(), w.server.Program, "--json", "audit", "verify", "--data", w.server.Data)
	if err != nil || !strings.Contains(string(out), `"ok":true`) {
		w.t.Errorf("round %d: the audit log does not verify: %v %s", w.round, err, out)
	}
}

func (w *world) fsck() {
	w.t.Helper()
	if err := w.agent.Process.End(syscall.SIGTERM); err != nil {
		w.t.Errorf("round %d: the agent did not end well: %v\n%s", w.round, err, w.agent.Process.Tail())
	}
	out, err := rig.Run(w.t.Context(), w.agent.Program, "--json", "fsck", "--state", w.agent.State)
	if err != nil || !strings.Contains(string(out), `"ok":true`) {
		w.t.Errorf("round %d: fsck: %v %s", w.round, err, out)
	}
	must(w.t, w.agent.Start(w.t.Context(), true))
}

// did counts what happened.
func (w *world) did(format string, args ...any) { w.counts[fmt.Sprintf(format, args...)]++ }
