// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"staunch/internal/filehash"
)

// newTabled makes a holder that keeps a standing table.
func newTabled(t testing.TB, rung string) *Holder {
	t.Helper()
	h, err := New(Config{Rung: rung, StateDir: t.TempDir(), Table: true, Patience: time.Minute, Death: time.Minute})
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// summed is target by digests as well.
func (k *kit) summed(path string, size int64) Target {
	k.t.Helper()
	sum := sumOf(k.t, path)
	target := k.target(path, false)
	target.Sum = func(s filehash.Sum) bool { return s == sum }
	target.Size = size
	return target
}

// TestDeletedScript: an interpreter is known by the script it was started
// with, although that is gone and nothing of it is open; so is the child it
// forked. Who has gone on to another script, or only reads, is not harmed.
func TestDeletedScript(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED, NOT PROVEN: python3 is missing")
	}
	bin := runner(t)
	for _, rung := range following() {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h := newTabled(t, rung)
			// Each says by a file of its number that it has come as far.
			const say = "open('at.%d' % os.getpid(), 'w').close()\n"
			evil := k.program("evil.py", []byte("import os, sys, time\nif len(sys.argv) > 1: os.execv(sys.executable, [sys.executable, sys.argv[1]])\nwhile not os.path.exists('go'): time.sleep(.01)\n"+
				"if os.path.exists(__file__): os.unlink(__file__)\nos.fork()\n"+say+"time.sleep(80)\n#"), k.mark)
			other := k.program("other.py", []byte("import os, sys, time\nf = open(sys.argv[1]) if len(sys.argv) > 1 else 0\n"+say+"time.sleep(80)\n#"), k.mark)
			target := k.summed(evil, size(t, evil))
			python := func(args ...string) *exec.Cmd { return k.start("python3", args...) }
			guilty := python(evil)
			innocent := []*exec.Cmd{python(evil, other), python(other, evil), python(other)}
			for _, cmd := range innocent {
				waitFor(t, "an innocent to get where it should", func() bool { return at(k, cmd.Process.Pid) })
			}
			// Not before the table has it: whoever is quicker is not known.
			waitFor(t, "the table to know the script", func() bool { s, _ := h.table.script(guilty.Process.Pid); return s.name == evil })
			if err := os.WriteFile(filepath.Join(k.dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the child", func() bool { return at(k, guilty.Process.Pid) && len(forked(t, guilty.Process.Pid)) == 1 })
			child := forked(t, guilty.Process.Pid)[0]
			waitFor(t, "the script to be gone", func() bool { _, err := os.Stat(evil); return err != nil && at(k, child) })

			d, err := h.Arm(target)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			r := stop(t, d)
			if !r.Proven {
				t.Errorf("not proven: %q", r.Notes)
			}
			if s, ok := h.Table(); !ok || s.Source != rung || s.Heard == 0 || s.Scripts < 3 {
				t.Errorf("the table: %+v", s)
			}
			if how(r)[guilty.Process.Pid] != Interprets || how(r)[child] != Interprets || len(r.Matches) != 2 {
				t.Errorf("met %+v, want processes %d and %d", r.Matches, guilty.Process.Pid, child)
			}
			for _, cmd := range innocent {
				if err := alive(cmd); err != nil {
					t.Errorf("%q was harmed: %v", cmd.Args, err)
				}
			}
		})
	}
}

func size(t testing.TB, path string) int64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Size()
}

func at(k *kit, pid int) bool {
	_, err := os.Stat(filepath.Join(k.dir, "at."+strconv.Itoa(pid)))
	return err == nil
}

// forked lists the children of a process.
func forked(t testing.TB, of int) (all []int) {
	t.Helper()
	for _, pid := range allPIDs(t) {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil {
			continue
		}
		if v, err := parseVital(b); err == nil && v.ppid == of {
			all = append(all, pid)
		}
	}
	return all
}

// TestTableSparesReading: a program whose digests the table has is not read
// again by a look that knows no size.
func TestTableSparesReading(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	h := newTabled(t, RungBPF)
	twin := k.program("twin", bin, k.mark)
	cmd := k.innocent(twin)
	waitFor(t, "the table to read what runs", func() bool {
		st, err := h.proc.stat(cmd.Process.Pid, "exe")
		_, ok := h.table.sum(st)
		return err == nil && ok
	})
	var reads atomic.Int64
	target := Target{
		Sum: func(filehash.Sum) bool { return false },
		Match: func(f *os.File) (bool, error) {
			if strings.Contains(f.Name(), strconv.Itoa(cmd.Process.Pid)+"/exe") {
				reads.Add(1)
			}
			return false, nil
		},
	}
	if all, err := h.Look(t.Context(), target); err != nil || len(all) > 0 {
		t.Errorf("%v, %v", all, err)
	}
	if n := reads.Load(); n > 0 {
		t.Errorf("the program was read %d times", n)
	}
	target.Sum = nil
	if _, err := h.Look(t.Context(), target); err != nil {
		t.Error(err)
	}
	if reads.Load() == 0 {
		t.Error("without digests to compare the program must be read: this test cannot fail otherwise")
	}
}

// TestTableBounds: after lost events everything is listed anew, and processes
// that are gone are forgotten.
func TestTableBounds(t *testing.T) {
	needRoot(t)
	h := newHolder(t, RungBestEffort)
	s := &scripted{steps: []step{{}, {lost: true}}}
	tab := newTable(h)
	tab.stream = s
	tab.scripts[1<<22+1] = script{start: 1} // no such process can be
	tab.catchUp()
	if len(tab.scripts) != 1 || tab.lost != 0 {
		t.Errorf("nothing was lost, yet: %+v", tab)
	}
	tab.catchUp()
	if _, ok := tab.script(1<<22 + 1); ok || tab.lost != 1 || len(tab.waiting) == 0 {
		t.Errorf("after lost events: %d scripts, lost %d, %d waiting", len(tab.scripts), tab.lost, len(tab.waiting))
	}
	tab.waiting[0].from = time.Time{}
	before := len(tab.waiting)
	tab.readAhead(context.Background())
	if len(tab.waiting) != before-1 {
		t.Errorf("%d are waiting, %d were", len(tab.waiting), before)
	}
	tab.fail(os.ErrClosed)
	if tab.hears() || tab.lost != 2 || tab.source != "list" {
		t.Errorf("after the stream has failed: %+v", tab.source)
	}
	tab.catchUp() // must not use it any more
	if s.n != 2 {
		t.Errorf("the stream was read %d times, want 2", s.n)
	}
}
