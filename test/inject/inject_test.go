// SPDX-License-Identifier: Apache-2.0

package inject

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"staunch/internal/order"
)

// tally is what was tried, over all runs of a test.
type tally struct {
	mu                     sync.Mutex
	runs, killed, hit, bad int            // guarded by mu
	proven                 int            // guarded by mu
	at                     map[string]int // guarded by mu
}

func (a *tally) add(t testing.TB, r result) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.runs++
	if len(r.hits) > 0 {
		a.hit++
	}
	if r.code < 0 {
		a.killed++
	}
	if r.code == 0 {
		a.proven++
	}
	if a.at == nil {
		a.at = map[string]int{}
	}
	for _, h := range r.hits {
		a.at[h]++
	}
	if t.Failed() {
		a.bad++
	}
}

func (a *tally) report(t *testing.T, points int) {
	ours := 0
	for h := range a.at {
		if strings.Contains(h, "$W") {
			ours++
		}
	}
	t.Logf("seed %d: %d of %d points tried, %d hit something (%d different calls, %d of them about the scratch world), %d runs killed, %d proven all the same, %d runs with a finding",
		*seed, a.runs, points, a.hit, len(a.at), ours, a.killed, a.proven, a.bad)
	for _, h := range slices.Sorted(maps.Keys(a.at)) {
		t.Logf("hit %3d times: %s", a.at[h], h)
	}
}

// each runs n of the points, some at a time: most of a run is the agent's waiting
// before it looks again.
func each(t *testing.T, points []string, n, at int, one func(t *testing.T, point string) result) {
	t.Helper()
	var a tally
	queue := make(chan string)
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for p := range queue {
				t.Run(p, func(t *testing.T) {
					r := one(t, p)
					a.add(t, r)
				})
			}
		})
	}
	for _, p := range choose(t, points, n) {
		queue <- p
	}
	close(queue)
	wg.Wait()
	a.report(t, len(points))
}

// TestContain breaks containments.
func TestContain(t *testing.T) { breakContainments(t) }

// TestContainFreezing breaks containments that freeze. Where processes live in
// the root control group they are not proof; what counts is who is left frozen.
func TestContainFreezing(t *testing.T) { breakContainments(t, "--rung", "freeze") }

func breakContainments(t *testing.T, more ...string) {
	needs(t)
	freezing := len(more) > 0
	w := newWorld(t, freezing)
	if freezing && w.group == "" {
		t.Skip("SKIPPED, NOT PROVEN: nobody is left frozen: no control group can be made here")
	}
	args := func(w *world) []string {
		return append([]string{"contain", w.hash, "--scan", w.disk}, more...)
	}
	points := w.points(w.backAgain, args(w)...)
	n := *sample
	if freezing { // the rest is as with any other rung
		points = slices.DeleteFunc(points, func(p string) bool {
			return !slices.ContainsFunc([]string{"known write:", "known openat:", "known pread64:", "known read:", "known renameat:", "known unlinkat:"},
				func(call string) bool { return strings.HasPrefix(p, call) })
		})
		n = max(n/4, 1)
	}
	at := 3
	if freezing {
		at = 1 // one would freeze the other
	}
	each(t, points, n, at, func(t *testing.T, point string) result {
		w := newWorld(t, freezing)
		r := w.agent(point, args(w)...)
		t.Logf("broken: %s", r)
		w.hangs(r)
		w.honest(r)
		for _, rec := range r.receipts() {
			if rec.Code == order.Partial { // it says that names are left
				w.split = true
			}
		}
		w.recover()
		w.wholeOnce()
		if again := w.contain(); again.code != 0 || again.receipts()[0].Outcome != order.Proven {
			t.Errorf("the next containment is not proven: %s", again)
		}
		w.gone("after the next containment")
		w.backAgain()
		return r
	})
}

// TestRestore breaks restores of two files, one with two names.
func TestRestore(t *testing.T) {
	needs(t)
	contained := func(t testing.TB) *world {
		w := newWorld(t, false)
		if r := w.contain(); r.code != 0 {
			t.Fatalf("cannot contain: %s", r)
		}
		return w
	}
	w := contained(t)
	points := w.points(func() {
		if r := w.contain(); r.code != 0 {
			t.Fatalf("cannot contain: %s", r)
		}
	}, "quarantine", "restore", w.hash)
	each(t, points, *sample, 3, func(t *testing.T, point string) result {
		w := contained(t)
		r := w.agent(point, "quarantine", "restore", w.hash)
		t.Logf("broken: %s", r)
		w.hangs(r)
		if w.lost = r.lost(); r.code == 0 {
			w.same("after a restore that says proven")
		}
		w.recover()
		w.wholeOnce()
		w.backAgain()
		return r
	})
}

// TestRecover kills a containment and then breaks the command
// that has to end what that left: twice in a row is still nothing lost.
func TestRecover(t *testing.T) {
	needs(t)
	w := newWorld(t, false)
	kills := slices.DeleteFunc(w.points(w.backAgain, "contain", w.hash, "--scan", w.disk), func(p string) bool {
		return !strings.Contains(p, "signal=KILL") || !slices.ContainsFunc([]string{"rename", "unlink", "link", "fsync", "fdatasync"}, func(call string) bool {
			return strings.HasPrefix(strings.TrimPrefix(p, "known "), call)
		})
	})
	var points []string
	r := rand.New(rand.NewPCG(*seed, 1))
	for _, call := range []string{"openat", "openat2", "read", "pread64", "renameat", "renameat2", "unlinkat", "fsync", "newfstatat", "getdents64", "ioctl", "fchmod", "write"} {
		for _, way := range ways {
			for n := range 6 {
				points = append(points, fmt.Sprintf("known %s:%s:when=%d after %s", call, way, n+1, kills[r.IntN(len(kills))]))
			}
		}
	}
	each(t, points, *sample, 3, func(t *testing.T, point string) result {
		second, first, _ := strings.Cut(point, " after ")
		w := newWorld(t, false)
		t.Logf("killed: %s", w.agent(first, "contain", w.hash, "--scan", w.disk))
		r := w.agent(second, "fsck", "--repair")
		t.Logf("broken: %s", r)
		w.hangs(r)
		w.split = strings.Contains(r.stdout, "the file still has names")
		w.recover()
		w.wholeOnce()
		if again := w.contain(); again.code != 0 || again.receipts()[0].Outcome != order.Proven {
			t.Errorf("the next containment is not proven: %s", again)
		}
		w.gone("after the next containment")
		w.backAgain()
		return r
	})
}

// hangs judges a broken command that did not end. The calls of Go's run time
// on its own pipes and event counters cannot fail, and it does not expect it.
func (w *world) hangs(r result) {
	w.t.Helper()
	internal := slices.ContainsFunc(r.hits, func(h string) bool { return strings.Contains(h, "[eventfd]") || strings.Contains(h, "pipe:[") })
	if r.hung && !internal {
		w.t.Errorf("it hangs: %s", r)
	}
}

// honest checks what a containment that says proven says.
func (w *world) honest(r result) {
	w.t.Helper()
	if !alive(w.innocent) && !w.frozen() {
		w.t.Error("the innocent process is dead or stopped")
	}
	if r.code != 0 {
		return
	}
	all := r.receipts()
	if len(all) != 1 || all[0].Outcome != order.Proven {
		w.t.Errorf("it exits 0 and says %q", r.stdout)
	}
	// A file that could not be read is not proven to be gone; it is named.
	for _, gap := range all[0].NotCovered {
		if path, why, ok := strings.Cut(string(gap), ": "); ok && strings.HasPrefix(why, "cannot read") && evilName(strings.TrimPrefix(path, w.disk+"/")) {
			return
		}
	}
	w.gone("after a containment that says proven")
	if w.frozen() {
		w.t.Error("it says proven and leaves the control group frozen")
	}
}

// recover starts the agent that has to end what was interrupted.
func (w *world) recover() {
	w.t.Helper()
	if r := w.agent("", "fsck", "--repair"); r.code != 0 {
		w.t.Errorf("fsck --repair does not mend it: %s", r)
	}
	if r := w.agent("", "fsck"); r.code != 0 || !strings.Contains(r.stdout, `"findings":[]`) {
		w.t.Errorf("fsck still finds something: %s", r)
	}
	if w.frozen() {
		w.t.Error("fsck --repair leaves the control group frozen")
	}
	if !alive(w.innocent) {
		w.t.Error("the innocent process is dead or stopped")
	}
	for _, folder := range []string{"vault/intents", "vault/staging", "vault/tmp"} {
		if left, err := os.ReadDir(filepath.Join(w.state, folder)); err == nil && len(left) > 0 {
			w.t.Errorf("%s: %v is left", folder, left)
		}
	}
}

// wholeOnce checks that each evil file is whole in its place, under all its
// names, or sealed, and not both; and that there is nothing else.
func (w *world) wholeOnce() {
	w.t.Helper()
	now := w.look()
	sealed := map[string]int{}
	for _, i := range w.items() {
		for _, p := range i.Paths {
			if i.State == "sealed" {
				sealed[strings.TrimPrefix(string(p), w.disk+"/")]++
			}
		}
	}
	for _, names := range evilNames {
		there, items := 0, 0
		for _, n := range names {
			items = max(items, sealed[n])
			if e, ok := now[n]; ok {
				there++
				if diff := cmp.Diff(w.before[n], e, w.butLost()...); diff != "" {
					w.t.Errorf("%s is not as it was: %s", n, diff)
				}
			}
		}
		if (w.split || len(w.lost) > 0) && there+items > 0 {
			continue // a name is left, or was not given back, and it said so
		}
		if there != 0 && there != len(names) || items > 1 || (there == 0) != (items == 1) {
			w.t.Errorf("file %q: %d of its %d names are there, and %d items", names, there, len(names), items)
		}
	}
	for n, e := range now {
		want, ok := w.before[n]
		if !ok {
			w.t.Errorf("%s was not there before: %+v", n, e)
		} else if !evilName(n) && e != want {
			w.t.Errorf("%s is not as it was: %s", n, cmp.Diff(want, e))
		}
	}
	for _, n := range []string{"innocent", "d/plain"} {
		if _, ok := now[n]; !ok {
			w.t.Errorf("%s is gone", n)
		}
	}
}

func evilName(n string) bool {
	return slices.ContainsFunc(evilNames, func(names []string) bool { return slices.Contains(names, n) })
}

// gone checks that neither file nor process is left, and each file is sealed once.
func (w *world) gone(when string) {
	w.t.Helper()
	if alive(w.evil) {
		w.t.Errorf("%s the process runs", when)
	}
	for n, e := range w.look() {
		if e.SHA1 == w.hash {
			w.t.Errorf("%s %s is there", when, n)
		}
	}
	sealed := 0
	for _, i := range w.items() {
		if i.State == "sealed" {
			sealed++
		}
	}
	if sealed != len(evilNames) && !w.split {
		w.t.Errorf("%s the vault has %d sealed items, want %d", when, sealed, len(evilNames))
	}
}

// backAgain restores what is sealed and checks that the disk is as in the beginning.
func (w *world) backAgain() {
	w.t.Helper()
	for _, i := range w.items() {
		if i.State != "sealed" {
			continue
		}
		if r := w.agent("", "quarantine", "restore", i.ID); r.code != 0 || !w.split && (r.receipts()[0].Code != "" || len(r.lost()) > 0) {
			w.t.Errorf("cannot restore item %s: %s", i.ID, r)
		}
	}
	w.same("in the end")
	if r := w.agent("", "fsck"); r.code != 0 {
		w.t.Errorf("fsck finds something in the end: %s", r)
	}
}

// same checks that the disk is as in the beginning, but for what a receipt
// named as lost.
func (w *world) same(when string) {
	w.t.Helper()
	now, before := w.look(), maps.Clone(w.before)
	if len(w.lost) > 0 || w.split {
		for _, names := range evilNames {
			left := slices.DeleteFunc(slices.Clone(names), func(n string) bool { _, ok := now[n]; return !ok })
			for _, n := range names {
				if len(left) > 0 && !slices.Contains(left, n) { // one name of each must be there
					delete(before, n)
				}
			}
		}
	}
	if diff := cmp.Diff(before, now, w.butLost()...); diff != "" {
		w.t.Errorf("%s the disk is not as in the beginning, and nothing said so (-before +now):\n%s", when, diff)
	}
	if b, err := os.ReadFile(filepath.Join(w.state, "gates.json")); err == nil && strings.Contains(string(b), w.hash) {
		w.t.Errorf("%s all is restored, and its start is refused still: %s", when, b)
	}
}

// butLost leaves out of a comparison what receipts named as lost.
func (w *world) butLost() cmp.Options {
	var fields []string
	for _, l := range w.lost {
		for word, names := range map[string][]string{
			"owner": {"UID", "GID"}, "mode": {"Mode"}, "set-id": {"Mode"}, "attribute": {"Xattrs"}, "capabilit": {"Xattrs"}, "access": {"Xattrs", "Mode"},
			"times": {"Mtime"}, "time": {"Mtime"}, "flags": {"Flags"}, "name": {"Links"},
		} {
			if strings.Contains(l, word) {
				fields = append(fields, names...)
			}
		}
	}
	if w.split {
		fields = append(fields, "Links")
	}
	if len(fields) == 0 {
		return nil
	}
	return cmp.Options{cmpopts.IgnoreFields(entry{}, fields...)}
}
