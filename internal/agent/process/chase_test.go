// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"os"
	"slices"
	"testing"
	"time"
)

// TestPursuitFollows: who is born of whom, and when, decides who is examined.
func TestPursuitFollows(t *testing.T) {
	for _, c := range []struct {
		name   string
		clean  map[int]int64
		events []event
		work   []int
		after  map[int]int64
	}{
		{"child of one found innocent before", map[int]int64{10: 5}, []event{{ns: 6, pid: 11, parent: 10}}, nil, map[int]int64{10: 5, 11: 6}},
		{"child born before its parent was found innocent", map[int]int64{10: 5}, []event{{ns: 4, pid: 11, parent: 10}}, []int{11}, map[int]int64{10: 5}},
		{"child of one not examined", nil, []event{{ns: 6, pid: 11, parent: 10}}, []int{11}, nil},
		{"child of nobody knows whom", map[int]int64{10: 5}, []event{{ns: 6, pid: 11}}, []int{11}, map[int]int64{10: 5}},
		{"an innocent executes", map[int]int64{10: 5}, []event{{ns: 6, pid: 10, exec: true}}, []int{10}, nil},
		{"and forks then", map[int]int64{10: 5}, []event{{ns: 6, pid: 10, exec: true}, {ns: 7, pid: 11, parent: 10}}, []int{10, 11}, nil},
		{"grandchild", map[int]int64{10: 5}, []event{{ns: 6, pid: 11, parent: 10}, {ns: 7, pid: 12, parent: 11}}, nil, map[int]int64{10: 5, 11: 6, 12: 7}},
		{"a number used again", map[int]int64{10: 5, 11: 5}, []event{{ns: 8, pid: 11, parent: 20}}, []int{11}, map[int]int64{10: 5}},
	} {
		p := &pursuit{clean: map[int]int64{}}
		for pid, since := range c.clean {
			p.clean[pid] = since
		}
		p.follow(c.events)
		if !slices.Equal(p.work, c.work) {
			t.Errorf("%s: to examine %v, want %v", c.name, p.work, c.work)
		}
		if len(p.clean) != len(c.after) {
			t.Errorf("%s: innocent %v, want %v", c.name, p.clean, c.after)
		}
		for pid, since := range c.after {
			if p.clean[pid] != since {
				t.Errorf("%s: innocent %v, want %v", c.name, p.clean, c.after)
			}
		}
	}
}

// scripted is a stream that is written beforehand.
type scripted struct {
	steps []step
	n     int
}

type step struct {
	lost bool
	err  error
}

func (s *scripted) close() error { return nil }

func (s *scripted) await(time.Duration) error { return nil }

func (s *scripted) drain() ([]event, bool, error) {
	if s.n++; s.n > len(s.steps) {
		return nil, false, nil
	}
	return nil, s.steps[s.n-1].lost, s.steps[s.n-1].err
}

// TestChaseEnds: only after a drain that brought nothing following everything
// examined; lost events begin it anew; a broken stream proves nothing.
func TestChaseEnds(t *testing.T) {
	needRoot(t)
	h := newHolder(t, RungBestEffort)
	d, err := h.Arm(Target{Match: func(*os.File) (bool, error) { return false, nil }, Size: 12345})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	l := h.newLook(d.judge)
	for name, c := range map[string]struct {
		steps    []step
		complete bool
		atLeast  int
	}{
		"quiet":       {nil, true, 3},
		"lost":        {[]step{{}, {}, {}, {lost: true}}, true, 4},
		"lost always": {[]step{{lost: true}, {lost: true}, {lost: true}}, true, 5},
		"broken":      {[]step{{}, {err: errors.New("broken")}}, false, 2},
	} {
		s := &scripted{steps: c.steps}
		complete, err := d.chase(t.Context(), l, s)
		if complete != c.complete || s.n < c.atLeast || (err == nil) != c.complete {
			t.Errorf("%s: complete %v after %d drains, %v", name, complete, s.n, err)
		}
	}
}

// TestLostEvents: a feed that is not emptied in time says so, once.
func TestLostEvents(t *testing.T) {
	needRoot(t)
	h := newHolder(t, RungBPF)
	f, err := h.hooks.stream()
	if err != nil {
		t.Fatal(err)
	}
	for range maxFeed + 1 {
		f.push(event{pid: 1})
	}
	if all, lost, err := f.drain(); !lost || len(all) != maxFeed || err != nil {
		t.Errorf("%d events, lost %v, %v", len(all), lost, err)
	}
	if _, lost, err := f.drain(); lost || err != nil {
		t.Errorf("lost %v, %v", lost, err)
	}
	if err := h.hooks.coll.Variables["lost"].Set(uint64(7)); err != nil {
		t.Fatal(err)
	}
	if _, lost, err := f.drain(); !lost || err != nil {
		t.Errorf("after the kernel lost some: %v, %v", lost, err)
	}
	if err := f.close(); err != nil {
		t.Error(err)
	}
}

// TestOverflowingWatcher: executions that could not be queued are made up for
// by looking at everything.
func TestOverflowingWatcher(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	h := newHolder(t, RungBPF)
	evil := k.program("evil", bin, k.mark)
	cmd := k.innocent(evil)
	ready(t, cmd, "evil")
	seen := make(chan Match, 10)
	target := k.target(evil, false)
	target.Seen = func(m Match) { seen <- m }
	d, err := h.Arm(target)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	h.watcher.overflow.Store(true)
	h.watcher.push(hookEvent{Kind: kindExec, PID: 1})
	m := <-seen
	if m.PID != cmd.Process.Pid || !m.Killed {
		t.Errorf("%+v", m)
	}
}

// TestOverlay: the same content executed through an overlay, where device and
// inode numbers mean something else to the kernel.
func TestOverlay(t *testing.T) {
	bin := runner(t)
	for _, rung := range strong() {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h := newHolder(t, rung)
			evil := k.program("lower/evil", bin, k.mark)
			k.program("lower/twin", bin, k.mark[:len(k.mark)-1]+"~")
			merged := k.overlay()
			in := k.innocent(merged + "/twin")
			k.mode(merged+"/evil", "hop", 400)
			k.mode(evil, "hop", 400)
			waitFor(t, "signs of life", func() bool { return k.beats() > 10 })
			r := k.gives(h, k.target(evil, true), evil)
			if rung != RungFreeze && !r.Proven {
				t.Errorf("not proven: %v", r.Notes)
			}
			if err := alive(in); err != nil {
				t.Errorf("an innocent was harmed: %v", err)
			}
			if rung != RungBPF {
				return
			}
			d, err := h.Arm(k.target(evil, true))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			for range 3 { // first by content, then by identity
				if got := run(k, merged+"/evil"); got != "signal: killed" {
					t.Errorf("through the overlay it ended with %q", got)
				}
			}
		})
	}
}
