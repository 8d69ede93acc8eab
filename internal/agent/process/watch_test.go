// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// following are the rungs that are told of forks and executions.
func following() []string { return []string{RungBPF, RungConnector} }

// TestNobodyPassesBetweenLooks: a program that is another process every 300 us
// is met by each single look.
func TestNobodyPassesBetweenLooks(t *testing.T) {
	bin := runner(t)
	for _, rung := range following() {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h := newHolder(t, rung)
			evil := k.program("evil", bin, k.mark+"!")
			k.mode(evil, "comet", 300)
			waitFor(t, "signs of life", func() bool { return k.beats() > 20 })
			for i := range 25 {
				var all []Match
				var err error
				// Another test's gate on this machine may stand before a process for a moment.
				waitFor(t, "every process to be open to a look", func() bool {
					all, err = h.Look(t.Context(), k.target(evil, i%2 == 0))
					return !errors.Is(err, unix.EPERM)
				})
				if err != nil || len(all) == 0 {
					t.Fatalf("look %d: %v, %v", i, all, err)
				}
				if all[0].File == nil {
					t.Errorf("look %d: its file was not handed out", i)
				}
				for _, m := range all {
					if m.File != nil {
						closeFile(m.File)
					}
				}
			}
		})
	}
}

// TestWatch: nothing runs the file, then somebody executes it; and nobody is
// met who runs another.
func TestWatch(t *testing.T) {
	bin := runner(t)
	for _, rung := range following() {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h := newHolder(t, rung)
			evil := k.program("evil", bin, k.mark+"!")
			twin := k.program("twin", bin, k.mark+"~")
			w, err := h.Watch(k.target(evil, false))
			if err != nil || w == nil {
				t.Fatalf("%v, %v", w, err)
			}
			k.innocent(twin)
			if err := w.Wait(t.Context(), time.Millisecond); err != nil {
				t.Error(err)
			}
			if w.got.any() {
				t.Errorf("an innocent was met: %+v", w.got.take())
			}
			cmd := k.innocent(evil)
			if err := w.Wait(t.Context(), lifetime/3); err != nil {
				t.Error(err)
			}
			all := w.Close()
			if len(all) != 1 || all[0].PID != cmd.Process.Pid || all[0].File == nil {
				t.Fatalf("met %+v, want process %d", all, cmd.Process.Pid)
			}
			closeFile(all[0].File)
			if err := alive(cmd); err != nil {
				t.Errorf("who only watches has harmed: %v", err)
			}
		})
	}
}

// TestNoStream: where nobody tells of forks, a look says no more than it can.
func TestNoStream(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	h := newHolder(t, RungBestEffort)
	h.connects.Do(func() { h.unheard = ErrOutrun })
	if ok, why := h.Follows(); ok || why != ErrOutrun.Error() {
		t.Errorf("follows: %v, %q", ok, why)
	}
	evil := k.program("evil", bin, k.mark+"!")
	if w, err := h.Watch(k.target(evil, false)); w != nil || err != nil {
		t.Errorf("%v, %v", w, err)
	}
	k.innocent(evil)
	if all, err := h.Look(t.Context(), k.target(evil, true)); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	} else {
		closeFile(all[0].File)
	}
}
