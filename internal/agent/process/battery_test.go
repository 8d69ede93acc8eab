// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// hostile is one way to refuse to be stopped.
type hostile struct {
	name  string
	known bool // whether the hold knows the copy beforehand
	start func(k *kit, evil string)
}

func hostiles() []hostile {
	mode := func(mode string, arg int) func(*kit, string) {
		return func(k *kit, evil string) { k.mode(evil, mode, arg) }
	}
	return []hostile{
		{"one", true, mode("sleep", 0)},
		{"unknown copy", false, mode("sleep", 0)},
		{"many", true, mode("many", 60)},
		{"hop every 300 us", true, mode("hop", 300)},
		{"hop at once", true, mode("hop", 0)},
		{"hop unknown", false, mode("hop", 200)},
		{"hop with a new session", true, mode("sessionhop", 300)},
		{"hop as a sibling", true, mode("sibling", 200)},
		{"four hops", true, func(k *kit, evil string) {
			for i := range 4 {
				k.mode(evil, "hop", 150+100*i)
			}
		}},
		{"comet", true, mode("comet", 0)},
		{"slow comet", false, mode("comet", 500)},
		{"bomb", true, mode("bomb", 150)},
		{"pair", true, mode("pair", 0)},
		{"threads", true, mode("threads", 0)},
		{"leaderless", true, mode("leaderless", 0)},
		{"stopped", true, mode("stopped", 0)},
		{"traced", true, mode("traced", 0)},
		{"deleted", false, mode("deleted", 0)},
		{"in memory", true, mode("memfd", 0)},
		{"copying through memory", true, mode("memhop", 300)},
		{"hard link", true, func(k *kit, evil string) {
			other := filepath.Join(k.dir, "another-name")
			if err := os.Link(evil, other); err != nil {
				k.t.Fatal(err)
			}
			k.mode(other, "sleep", 0)
		}},
		{"two copies", true, func(k *kit, evil string) {
			b, err := os.ReadFile(evil)
			if err != nil {
				k.t.Fatal(err)
			}
			k.mode(k.program("copy", b, ""), "hop", 300)
			k.mode(evil, "hop", 300)
		}},
	}
}

// TestBattery sets every hostile program against every rung, with innocents
// beside that differ in one byte. Whatever the rung: nobody is left frozen, no
// innocent is harmed, and what is called proven has no survivor.
func TestBattery(t *testing.T) {
	bin := runner(t)
	seeds := 2 // STAUNCH_SEEDS=50 for a long run
	if n, err := strconv.Atoi(os.Getenv("STAUNCH_SEEDS")); err == nil {
		seeds = n
	} else if testing.Short() {
		seeds = 1
	}
	for _, rung := range []string{RungBPF, RungFreeze, RungConnector, RungBestEffort} {
		t.Run(rung, func(t *testing.T) {
			needRoot(t)
			var tally tally
			base := newKit(t, bin) // somebody to freeze while the holder is made
			base.innocent(base.program("twin", bin, base.mark))
			h := newHolder(t, rung)
			for _, x := range hostiles() {
				t.Run(x.name, func(t *testing.T) {
					for seed := range seeds {
						tally.add(battle(t, h, bin, x, seed))
					}
				})
			}
			t.Logf("%s: %d runs, %d proven, %d with survivors, %d FALSELY PROVEN", rung, tally.runs, tally.proven, tally.survived, tally.lies)
		})
	}
}

type tally struct{ runs, proven, survived, lies int }

func (a *tally) add(b tally) {
	a.runs += b.runs
	a.proven += b.proven
	a.survived += b.survived
	a.lies += b.lies
}

// battle is one run of one hostile program.
func battle(t *testing.T, h *Holder, bin []byte, x hostile, seed int) tally {
	t.Helper()
	rung, _ := h.Rung()
	k := newKit(t, bin)
	tail := fmt.Sprintf("%s-%d", k.mark, seed)
	evil := k.program("evil", bin, tail+"A")
	sum := sumOf(t, evil)
	target := k.target(evil, x.known)
	size := int64(len(bin) + len(tail) + 1)
	var innocents []*exec.Cmd
	for i := range 3 {
		twin := k.program(fmt.Sprintf("twin%d", i), bin, tail+string(rune('B'+i)))
		innocents = append(innocents, k.innocent(twin))
	}
	x.start(k, evil)
	waitFor(t, "signs of life", func() bool { return k.beats() > uint64(3+5*(seed%10)) })

	d, err := h.Arm(target)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	r := stop(t, d)
	if r.Met == 0 && r.Proven {
		t.Errorf("called proven, yet no match was met: %v", r.Notes)
	}
	res := tally{runs: 1}
	left := k.survivors(sum, size, 100*time.Millisecond)
	if r.Proven {
		res.proven++
	}
	if len(left) > 0 {
		res.survived++
		if r.Proven {
			res.lies++
			t.Errorf("called proven, yet %v live on: %v", left, r.Notes)
		}
	}
	if (rung == RungBPF || rung == RungConnector) && !r.Proven {
		t.Errorf("not proven: %v", r.Notes)
	}
	if rung == RungFreeze && len(left) > 0 {
		t.Errorf("all were in one control group, yet %v live on: %v", left, r.Notes)
	}
	if rung == RungBestEffort && r.Proven {
		t.Error("best effort called itself proven")
	}
	for _, m := range r.Matches {
		if m.Err != nil && rung == RungBPF {
			t.Errorf("match %d: %v", m.PID, m.Err)
		}
		for _, in := range innocents {
			if m.PID == in.Process.Pid {
				t.Errorf("innocent %d is listed as a match", m.PID)
			}
		}
	}
	for _, in := range innocents {
		if err := alive(in); err != nil {
			t.Errorf("an innocent was harmed: %v", err)
		}
	}
	k.thawed()
	d.Release()
	k.clean()
	return res
}
