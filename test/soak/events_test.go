// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"staunch/api"
	"staunch/test/rig"
)

// event is one thing that goes wrong, some time after the one before.
type event struct {
	after time.Duration
	do    func(*world)
}

// choose picks what goes wrong next.
func (w *world) choose() (all []event) {
	kinds := []struct {
		name string
		do   func(*world, time.Duration)
	}{
		{"the worker is killed", func(w *world, _ time.Duration) { w.kill("worker") }},
		{"the gate is killed", func(w *world, _ time.Duration) { w.kill("gate") }},
		{"the agent is killed", func(w *world, d time.Duration) { w.restartAgent(syscall.SIGKILL, d) }},
		{"the agent is restarted", func(w *world, d time.Duration) { w.restartAgent(syscall.SIGTERM, d) }},
		{"the server is killed", func(w *world, d time.Duration) { w.restartServer(syscall.SIGKILL, d) }},
		{"the server is restarted", func(w *world, d time.Duration) { w.restartServer(syscall.SIGTERM, d) }},
		{"the disk is full", func(w *world, d time.Duration) { w.fill(w.disk, d) }},
		{"the vault's disk is full", func(w *world, d time.Duration) { w.fill(w.safe, d) }},
		{"a rule comes and goes", (*world).ruleForNobody},
		{"somebody asks", func(w *world, _ time.Duration) { w.ask() }},
	}
	for range w.rand.IntN(4) {
		k := kinds[w.rand.IntN(len(kinds))]
		lasts := time.Duration(w.rand.Int64N(int64(500 * time.Millisecond)))
		w.did("%s", k.name)
		all = append(all, event{time.Duration(w.rand.Int64N(int64(700 * time.Millisecond))), func(w *world) { k.do(w, lasts) }})
	}
	return all
}

// kill kills one process of the agent, if it is there at the moment.
func (w *world) kill(role string) {
	for _, pid := range descendants(w.agent.Process.PID()) {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // gone meanwhile
		if args := strings.Split(string(b), "\x00"); len(args) > 1 && args[1] == role {
			_ = syscall.Kill(pid, syscall.SIGKILL) // likewise
			return
		}
	}
}

func descendants(pid int) (all []int) {
	found, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // the pattern is valid
	for _, f := range found {
		b, _ := os.ReadFile(f) // a thread may have gone
		for _, child := range strings.Fields(string(b)) {
			if n, err := strconv.Atoi(child); err == nil {
				all = append(append(all, n), descendants(n)...)
			}
		}
	}
	return all
}

func (w *world) restartAgent(sig syscall.Signal, away time.Duration) {
	if err := w.agent.Process.End(sig); err != nil {
		w.t.Errorf("round %d: the agent did not end well: %v\n%s", w.round, err, w.agent.Process.Tail())
	}
	time.Sleep(away) // the pause is what this is about
	if err := w.agent.Start(w.t.Context(), false); err != nil {
		w.t.Errorf("round %d: the agent does not come back: %v", w.round, err)
	}
}

func (w *world) restartServer(sig syscall.Signal, away time.Duration) {
	if err := w.server.Process.End(sig); err != nil {
		w.t.Errorf("round %d: the server did not end well: %v\n%s", w.round, err, w.server.Process.Tail())
	}
	time.Sleep(away) // the pause is what this is about
	if err := w.server.Start(); err != nil {
		w.t.Errorf("round %d: the server does not come back: %v", w.round, err)
	}
}

// fill leaves a disk without a free byte for a while.
func (w *world) fill(disk string, lasts time.Duration) {
	name := filepath.Join(disk, "ballast")
	f, err := os.Create(name)
	if err != nil {
		return
	}
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		n, err := f.Write(block[:size])
		if err != nil && n == 0 {
			size /= 2
		}
	}
	time.Sleep(lasts) // the pause is what this is about
	_ = f.Close()     // nothing in it is wanted
	if err := os.Remove(name); err != nil {
		w.t.Errorf("round %d: the ballast stays: %v", w.round, err)
	}
}

// ruleForNobody blocks a content that nobody has, and lifts that again.
func (w *world) ruleForNobody(lasts time.Duration) {
	b := make([]byte, 20)
	_, _ = rand.Read(b) // never fails
	in, err := w.client.SubmitIndicator(w.t.Context(), api.IndicatorRequest{
		IndicatorValue: hex.EncodeToString(b), IndicatorType: "FileSha1", Action: "Block", Title: "soak", Description: "soak",
	})
	if err != nil {
		return // the server is away: others see to that
	}
	time.Sleep(lasts) // the pause is what this is about
	_ = w.client.DeleteIndicator(w.t.Context(), in.ID)
}

// ask asks the agent for all it can tell.
func (w *world) ask() {
	for _, args := range [][]string{{"status"}, {"quarantine", "list", "--all"}, {"find", w.innocent.sum.SHA1.String()}} {
		_, _ = rig.Run(w.t.Context(), w.agent.Program, append(args, "--state", w.agent.State)...) // it may be away
	}
}
