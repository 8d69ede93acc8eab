// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"staunch/internal/order"
	"staunch/internal/runnable"
)

// scenario is one way to fight a containment.
type scenario struct {
	name string
	set  func(*world) // builds the scene and waits until it stands

	// may lists the reasons for which the agent may give up instead; what it
	// calls proven must be so in any case.
	may []order.Code
	// limit says which known gap of the agent the reason stands for.
	limit string

	processes bool // needs the ladder: is run on every rung
	moves     bool // the foe itself moves or removes files: they need not come back to where they were
	flips     bool // the foe changes the content back and forth
	erased    bool // the foe itself removes the last file with the content
	core      bool // in the default battery
	only      string
	stays     bool // the copies may stay in place if the gate refuses them (lower layers)
}

func scenarios() []scenario {
	all := slices.Concat(hostileProcesses(), hostilePrograms(), hostileFiles(), hostilePlaces())
	for i := range all {
		all[i].core = kit.long || slices.Contains(core, all[i].name)
	}
	return all
}

// core is the default battery: one of each kind.
var core = []string{
	"hop every 300 us", "comet: fork and exec at once", "fork bomb", "watchdog pair", "exec from a thread", "in memory", "nested control groups",
	"a parent that respawns", "a descriptor is kept and executed", "a file in memory is kept and executed",
	"script: bash FILE", "script: python3 < FILE", "script: sourced by sh -c", "script: removes itself", "program given to the loader", "preloaded library",
	"copier", "renames itself", "folder exchanged for a link to a victim", "file exchanged for a victim's", "hard links by the dozen",
	"flips by write", "dropped again and again", "hostile names", "deeper than a path may be", "hard links, all of them",
	"owner, mode, times, attributes, ACL", "immutable and append-only", "container kept alive by an innocent, which respawns",
	"overlay: copy in the upper layer", "overlay: copy in the lower layer", "bind mounts of folder and file", "its disk is full", "the vault's disk is full",
}

// TestAdversary sets every scenario against the agent's strongest rung, in turn
// against one that runs and against single commands.
func TestAdversary(t *testing.T) {
	for i, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			if !s.core {
				t.Skip("only with -adversary.long")
			}
			for seed := range kit.seeds {
				ways := []string{running, alone}
				if !kit.long {
					ways = ways[(i+seed)%2:][:1]
				}
				if s.only != "" {
					ways = []string{s.only}
				}
				for _, way := range ways {
					t.Run(fmt.Sprintf("%s %d", way, seed), func(t *testing.T) { battle(t, s, way, "", seed) })
				}
			}
		})
	}
}

// TestRungs forces each rung below the strongest. What it does not cover it
// must say.
func TestRungs(t *testing.T) {
	for _, rung := range []string{"bpf", "freeze", "connector", "besteffort"} {
		t.Run(rung, func(t *testing.T) {
			i := 0
			for _, s := range scenarios() {
				if !s.processes || s.only == running {
					continue
				}
				if i++; !kit.long && (!s.core || i%3 != 0 || rung == "bpf") {
					continue
				}
				s.may = append(slices.Clone(s.may), rungMay(rung)...)
				t.Run(s.name, func(t *testing.T) {
					t.Parallel()
					for seed := range kit.seeds {
						battle(t, s, alone, rung, seed)
					}
				})
			}
		})
	}
}

// rungMay are the reasons for which a weaker rung may fail.
func rungMay(rung string) []order.Code {
	switch rung {
	case "freeze": // processes in the root group cannot be frozen
		return []order.Code{order.NotProven, order.ProcessRunning, order.Reappeared}
	case "connector":
		return []order.Code{order.NotProven, order.ProcessRunning, order.Reappeared}
	case "besteffort":
		return []order.Code{order.NotProven, order.ProcessRunning, order.Reappeared}
	}
	return nil
}

// battle is one run of one scenario.
func battle(t *testing.T, s scenario, way, rung string, seed int) {
	w := newWorld(t, seed)
	w.rung = rung
	s.set(w)
	for _, path := range w.copies() {
		if l, err := lookAt(path); err == nil {
			w.originals[path] = l
		}
	}
	if way == running {
		w.startAgent()
	}
	time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // a foe's turn is not ours

	r, code, err := w.contain()
	res := result{scenario: s.name, rung: r.Rung, outcome: string(r.Outcome), code: string(r.Code), limit: s.limit}
	if err != nil {
		t.Errorf("no receipt: %v", err)
		res.outcome = "no receipt"
	}
	proven := code == 0
	if proven != (r.Outcome == order.Proven) {
		t.Errorf("exit code %d, but the receipt says %s %s", code, r.Outcome, r.Code)
	}
	res.times(r)
	left := w.survivors()
	if !s.stays {
		left = append(left, w.copies()...)
	}
	if proven && len(left) > 0 {
		res.lies++
		t.Errorf("FALSE SUCCESS: called proven, yet there is %q", left)
	}
	if !proven && err == nil && !slices.Contains(s.may, r.Code) {
		t.Errorf("not proven: %s: %s (%d left: %.300q)", r.Code, r.Reason, len(left), left)
	}
	harm := w.harm()
	if rung == "" && proven && s.gated(w, r) {
		if w.startsAgain() {
			res.lies++
			t.Error("FALSE SUCCESS: called proven, yet it can be started again")
		}
	}
	w.beatsAre = false
	for _, n := range w.innocents { // they have been seen to live
		_ = n.cmd.Process.Kill() // gone is as well
	}
	w.killAll()
	harm = append(harm, w.aftermath(s, r)...)
	for _, h := range harm {
		res.harmed++
		t.Errorf("harm: %s", h)
	}
	checkRung(t, rung, r)
	kit.table.add(res)
	if t.Failed() {
		w.tell(r)
	}
}

// times takes the time to the last dead and to the proof from the receipt.
func (x *result) times(r order.Receipt) {
	for _, m := range r.Matches {
		x.dead = max(x.dead, time.Duration(m.DoneNs))
	}
	if n := len(r.Steps); n > 0 {
		x.proven = time.Duration(r.Steps[n-1].EndNs)
	}
}

func checkRung(t *testing.T, rung string, r order.Receipt) {
	t.Helper()
	if rung == "" {
		return
	}
	if r.Rung != rung && r.Outcome == order.Proven {
		t.Errorf("held by %q, forced was %q", r.Rung, rung)
	}
	if r.Outcome == order.Proven && !r.HeldProven {
		t.Errorf("called proven, yet the rung %q does not vouch for it: %q", r.Rung, r.Notes)
	}
	if rung == "besteffort" && r.Outcome == order.Proven {
		t.Error("best effort called itself proven")
	}
	if r.Rung != "" && !r.HeldProven && len(r.Notes) == 0 {
		t.Error("the rung does not vouch and no note says why")
	}
}

// gated says whether a start must be refused from now on: only an agent that
// runs can do that.
func (s scenario) gated(w *world, r order.Receipt) bool {
	return w.agent != nil && strings.HasPrefix(r.Gate, "content") && bytes.HasPrefix(w.content, []byte("\x7fELF"))
}

// startsAgain writes the content anew and tries to start it.
func (w *world) startsAgain() bool {
	path := w.at("again")
	if err := runnable.Write(path, w.content, 0o755); err != nil {
		return false // a full disk, or the gate
	}
	defer os.Remove(path) //nolint:errcheck // on a file system that goes
	return w.starts(path, "sleep", "1", "0")
}

// aftermath checks what must hold however the containment ended: nothing lost,
// the vault whole, and everything given back.
func (w *world) aftermath(s scenario, r order.Receipt) (harm []string) {
	say := func(format string, args ...any) { harm = append(harm, fmt.Sprintf(format, args...)) }
	items, err := w.items()
	if err != nil {
		say("the vault cannot be listed: %v", err)
	}
	sealed := 0
	for _, i := range items {
		if i.State == "sealed" {
			sealed++
		}
	}
	if s.moves {
		if sealed == 0 && len(w.copies()) == 0 && !s.flips && !s.erased {
			say("nothing of the content is left, neither in place nor in the vault")
		}
	} else {
		w.nothingLost(sealed, say)
	}
	if sealed > 0 {
		w.comesBack(s, say)
	}
	if w.agent != nil {
		if err := w.agent.stop(); err != nil {
			say("%v", err)
		}
	}
	if err := w.fsck(); err != nil {
		say("%v", err)
	}
	if left := w.leftovers(); len(left) > 0 && r.Outcome == order.Proven {
		say("left in staging: %q", left)
	}
	return harm
}

// nothingLost counts: what is not in place any more must be sealed.
func (w *world) nothingLost(sealed int, say func(string, ...any)) {
	missing := map[uint64]bool{}
	for path, before := range w.originals {
		if strings.HasPrefix(path, "/proc/") {
			continue // on a file system that ended with its processes
		}
		if now, err := lookAt(path); errors.Is(err, fs.ErrPermission) {
			continue // it lies there, and the gate refuses it
		} else if err != nil {
			missing[before.ino] = true
		} else if d := before.diff(now, false); d != "" {
			say("%q was left, but changed: %s", path, d)
		}
	}
	if len(missing) > sealed {
		say("%d files are gone, and only %d are sealed", len(missing), sealed)
	}
}

// comesBack restores everything and compares it with what it was.
func (w *world) comesBack(s scenario, say func(string, ...any)) {
	all, err := w.restore()
	if err != nil {
		say("restore: %v", err)
		return
	}
	for _, r := range all {
		if r.Outcome != order.Proven {
			say("restore: %s: %s", r.Code, r.Reason)
		} else if r.Restored != nil && len(r.Restored.Lost) > 0 {
			say("restored without %q", r.Restored.Lost)
		}
	}
	if s.moves {
		if len(w.copies()) == 0 {
			w.anywhere(all, say)
		}
		return
	}
	for path, before := range w.originals {
		if strings.HasPrefix(path, "/proc/") {
			continue
		}
		now, err := lookAt(path)
		if err != nil {
			say("did not come back: %v", err)
		} else if d := before.diff(now, false); d != "" {
			say("%q came back otherwise: %s", path, d)
		}
	}
	if path := w.startable(); path != "" && !w.starts(path, "sleep", "1", "0") {
		say("restored, but %s does not start", path)
	}
}

// anywhere looks for the content where the restores say they put it.
func (w *world) anywhere(all []order.Receipt, say func(string, ...any)) {
	for _, r := range all {
		if r.Restored == nil {
			continue
		}
		for _, p := range r.Restored.Paths {
			if raw, err := p.Bytes(); err != nil || !w.same(raw) {
				say("restored to %q, but the content is not there", p)
			}
		}
	}
}

// startable is a restored program that can be tried; "" = none.
func (w *world) startable() string {
	if !bytes.HasPrefix(w.content, kit.foe) {
		return ""
	}
	for path, l := range w.originals {
		if !strings.HasPrefix(path, "/proc/") && l.mode&0o111 != 0 && len(path) < 4000 {
			return path
		}
	}
	return ""
}

// tell shows what is known of a run that went wrong.
func (w *world) tell(r order.Receipt) {
	w.t.Logf("receipt: %s %s: %s; rung %s, held %v, gate %q", r.Outcome, r.Code, r.Reason, r.Rung, r.HeldProven, r.Gate)
	for _, s := range r.Steps {
		w.t.Logf("  step %-6s %8.1f ms %s", s.Name, float64(s.EndNs-s.StartNs)/1e6, s.Error)
	}
	for i, c := range r.Copies {
		if i < 12 {
			w.t.Logf("  copy %d:%d %s %q %s", c.Dev, c.Ino, c.State, c.Paths, c.Error)
		}
	}
	for i, m := range r.Matches {
		if i < 12 {
			w.t.Logf("  match %d %s %s %s %s", m.PID, m.How, m.State, m.Exe, m.Error)
		}
	}
	for _, n := range slices.Concat(r.Notes, r.NotCovered) {
		w.t.Logf("  note: %s", n)
	}
	if w.agent != nil {
		select {
		case <-w.agent.done:
			log := w.agent.log.String()
			w.t.Logf("the agent's log:\n%s", log[max(0, len(log)-3000):])
		default:
		}
	}
}
