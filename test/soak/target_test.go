// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/filehash"
	"staunch/internal/runnable"
	"staunch/test/rig"
)

// target is a program that an order is about.
type target struct {
	w     *world
	name  string
	names []string // of its files, hard links and copies
	looks []string // of the names, before
	files int      // inodes among the names
	sum   filehash.Sum
	end   func() // lets go of its processes

	rule      string // id of the standing rule; "" = it is stopped by orders
	cancelled bool
	failed    bool // an order was: what it left where it lies may be refused still
}

// newTarget makes a program of a new content, under up to five names, and runs it.
func (w *world) newTarget(i int) *target {
	w.t.Helper()
	g := &target{w: w, name: fmt.Sprintf("r%d-%d", w.round, i), files: 1, end: func() {}}
	first := filepath.Join(w.disk, g.name, "evil")
	mode := ""
	if w.foe != nil && w.rand.IntN(3) > 0 {
		mode = []string{"sleep", "hop", "comet", "pair", "many", "threads", "sessionhop"}[w.rand.IntN(7)]
		tail := make([]byte, 32+w.rand.IntN(1<<16))
		_, _ = rand.Read(tail) // never fails
		must(w.t, os.Mkdir(filepath.Dir(first), 0o755))
		must(w.t, runnable.Write(first, append(append([]byte{}, w.foe...), tail...), 0o755))
		var err error
		g.sum, err = rig.SumOf(first)
		must(w.t, err)
	} else {
		var err error
		g.sum, err = rig.Program(first)
		must(w.t, err)
	}
	g.names = []string{first}
	for i := range w.rand.IntN(3) {
		g.names = append(g.names, filepath.Join(w.disk, g.name, fmt.Sprint("link", i)))
		must(w.t, os.Link(first, g.names[len(g.names)-1]))
	}
	content, err := os.ReadFile(first)
	must(w.t, err)
	for i := range w.rand.IntN(3) {
		g.names = append(g.names, filepath.Join(w.disk, g.name, "sub", fmt.Sprint("copy", i)))
		must(w.t, os.MkdirAll(filepath.Dir(g.names[len(g.names)-1]), 0o755))
		must(w.t, runnable.Write(g.names[len(g.names)-1], content, 0o755))
		g.files++
	}
	for _, n := range g.names {
		l, err := rig.Looks(w.t.Context(), n)
		must(w.t, err)
		g.looks = append(g.looks, l)
	}
	g.run(first, mode)
	w.did("a program: %s", cmpOr(mode, "shells"))
	return g
}

func cmpOr(a, b string) string {
	if a == "" {
		return b
	}
	return a
}

// run starts the program: as shells, some of which start each other again, or in
// a mode of the hostile program, which ends by itself in time.
func (g *target) run(path, mode string) {
	g.w.t.Helper()
	if mode == "" {
		end, err := rig.Spawn(path, g.w.rand.IntN(3))
		must(g.w.t, err)
		g.end = end
		return
	}
	cmd := exec.Command(path, mode, strconv.FormatInt(time.Now().Add(2*rig.Patience).Unix(), 10), "400")
	cmd.Env = append(os.Environ(), g.w.mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(g.w.t, cmd.Start())
	go func() { _ = cmd.Wait() }() // killed, as all that carry the mark are
	g.end = g.w.killAll
}

// actions are the orders that stopped it, as the server knows them, latest first.
func (g *target) actions() (all []api.MachineAction) {
	g.w.t.Helper()
	g.w.until("the orders were listed", func() (bool, error) {
		list, err := g.w.client.MachineActions(g.w.t.Context(), client.Query{
			Filter: "machineId eq '" + g.w.agent.Device + "' and type eq 'StopAndQuarantineFile'", Top: 200,
		})
		if err != nil {
			return false, nil
		}
		all = nil
		for _, a := range list.Value {
			if a.RequestorComment == g.name {
				all = append(all, a)
			}
		}
		return true, nil
	})
	return all
}

// contained checks what an order that succeeded promises.
func (g *target) contained() {
	t := g.w.t
	t.Helper()
	if pids, err := rig.Running(g.sum); err != nil || len(pids) > 0 {
		t.Errorf("FALSE SUCCESS in round %d: processes %v run from %s (%v)", g.w.round, pids, g.name, err)
	}
	if left, err := g.copies(); err != nil || len(left) > 0 {
		t.Errorf("FALSE SUCCESS in round %d: copies are left: %q (%v)", g.w.round, left, err)
	}
	if n := len(g.w.items(g.sum.Hash(), "sealed")); n != g.files {
		t.Errorf("round %d: %d items of %d files of %s", g.w.round, n, g.files, g.name)
	}
}

// copies lists the files with the content; those that may not be read are
// refused by the gate, and lie there.
func (g *target) copies() (all []string, err error) {
	err = filepath.WalkDir(g.w.disk, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it goes while we look
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil || fi.Size() != g.sum.Size {
			return nil //nolint:nilerr // it has gone
		}
		got, err := rig.SumOf(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if got == g.sum || errors.Is(err, syscall.EPERM) {
			all = append(all, path)
			return nil
		}
		return err
	})
	return all, err
}

// whole checks that every file is somewhere: on the disk or in the vault.
func (g *target) whole() {
	t := g.w.t
	t.Helper()
	left, err := g.copies()
	must(t, err)
	inodes := map[uint64]bool{}
	for _, path := range left {
		if fi, err := os.Stat(path); err == nil {
			inodes[fi.Sys().(*syscall.Stat_t).Ino] = true //nolint:errcheck,forcetypeassert // always, on Unix
		}
	}
	if sealed := len(g.w.items(g.sum.Hash(), "sealed")); sealed+len(inodes) < g.files {
		t.Errorf("LOST in round %d: %d sealed and %d on the disk, of %d files of %s", g.w.round, sealed, len(inodes), g.files, g.name)
	}
}

// asBefore checks that every name is there again as it was.
func (g *target) asBefore() {
	t := g.w.t
	t.Helper()
	for i, n := range g.names {
		if after, err := rig.Looks(t.Context(), n); err != nil || after != g.looks[i] {
			t.Errorf("round %d: not as it was (%v):\n%s\n%s", g.w.round, err, g.looks[i], after)
		}
	}
	left, err := g.copies()
	if err != nil || len(left) != len(g.names) {
		t.Errorf("round %d: copies %q, want %d (%v)", g.w.round, left, len(g.names), err)
	}
}

// reason is how an action ended, without what differs from one to the next.
func reason(a api.MachineAction) string {
	if a.TroubleshootInfo == nil {
		return a.Status
	}
	code, _, _ := strings.Cut(*a.TroubleshootInfo, ":")
	return a.Status + " " + code
}
