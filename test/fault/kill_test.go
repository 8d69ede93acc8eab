// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"staunch/api"
	"staunch/test/rig"
)

// TestAgentKilledAtEveryRecord: behind each record of its journal.
func TestAgentKilledAtEveryRecord(t *testing.T) {
	needRoot(t)
	s := startServer(t)
	t.Cleanup(func() { verifyAudit(t, s) })
	t.Run("behind", func(t *testing.T) {
		// One order writes some 17 records; the last round is not killed any more,
		// which shows that every record had its turn.
		for n := 1; n <= 18; n++ {
			t.Run(strconv.Itoa(n), func(t *testing.T) {
				t.Parallel()
				died := killedBehind(t, s, strconv.Itoa(n))
				if n <= 12 && !died {
					t.Errorf("an order wrote fewer than %d records: the agent was not killed", n)
				}
				// A busy machine may need another round of holding and taking, which
				// writes more records; it does not need one every time.
				for tries := 0; n == 18 && died; tries++ {
					if tries == 6 {
						t.Fatal("an order writes more records than this test has rounds")
					}
					died = killedBehind(t, s, strconv.Itoa(n))
				}
			})
		}
	})
}

// TestAgentKilledAtEveryVaultStep: behind each step of its vault, with the file
// in its place, in staging, in the vault, or in two of them.
func TestAgentKilledAtEveryVaultStep(t *testing.T) {
	needRoot(t)
	s := startServer(t)
	t.Cleanup(func() { verifyAudit(t, s) })
	t.Run("behind", func(t *testing.T) {
		for _, step := range []string{
			"grab:intent", "grab:lifted", "grab:moved", "grab:checked", "seal:written", "seal:content", "seal:committed",
			"remove:name", "remove:names", "remove:staged",
		} {
			t.Run(step, func(t *testing.T) {
				t.Parallel()
				if !killedBehind(t, s, step) && step != "grab:lifted" { // only where a folder has flags to lift
					t.Errorf("the vault has no step %s any more: the agent was not killed", step)
				}
			})
		}
	})
}

// killedBehind tells the story of one order whose agent dies once on the way,
// and reports whether it did.
func killedBehind(t *testing.T, s *rig.Server, behind string) (died bool) {
	d := newDevice(t, s)
	p := d.die(behind)
	a := d.order()
	select {
	case <-p.Gone():
	case <-over(d, a.ID):
	}
	if err := p.End(syscall.SIGKILL); err != nil { // it was not this signal
		if died = struck(err); !died {
			t.Fatalf("the agent ended otherwise than it was to: %v\n%s", err, p.Tail())
		}
		d.whole()
	}
	d.live()
	d.done(d.final(a.ID))
	d.restoreAndEnd(a.ID)
	return died
}

// struck reports whether an agent had been killed before it was ended.
func struck(err error) bool { return strings.Contains(err.Error(), "signal: killed") }

func (d *device) restoreAndEnd(action string) {
	d.t.Helper()
	d.inventory(action)
	d.restore(action)
	d.end()
}

// inventory waits until the server knows of every item: it is told after the receipt.
func (d *device) inventory(action string) {
	d.t.Helper()
	must(d.t, rig.Until("the server knew every item", func() (bool, error) {
		items, err := d.items(action)
		if len(items) > d.files {
			return false, fmt.Errorf("%d items of %d files: something was sealed twice", len(items), d.files)
		}
		return len(items) == d.files, err
	}))
}

// over is closed when the action is, and a second has passed in which the
// device may hear that its receipt was kept.
func over(d *device, id string) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range int(rig.Patience / (50 * time.Millisecond)) {
			if a, err := d.client.MachineAction(d.t.Context(), id); err == nil && api.Final(a.Status) {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(time.Second)
	}()
	return done
}

// rounds is how often TestKilledAtRandom tries: few, because it is one test of
// many; STAUNCH_FAULT_ROUNDS makes a night of it.
func rounds(t *testing.T) int {
	n := 4
	if s := os.Getenv("STAUNCH_FAULT_ROUNDS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		must(t, err)
	}
	return n
}

// TestAgentKilledAtRandom: all of the agent, or its worker alone, at any time
// during an order.
func TestAgentKilledAtRandom(t *testing.T) {
	needRoot(t)
	s := startServer(t)
	t.Cleanup(func() { verifyAudit(t, s) })
	t.Run("round", func(t *testing.T) {
		for i := range rounds(t) {
			after := time.Duration(rand.Int64N(int64(300 * time.Millisecond)))
			if i%3 == 1 { // within the looks that prove
				after += time.Duration(rand.Int64N(int64(time.Second)))
			}
			t.Run(fmt.Sprint(i, " after ", after), func(t *testing.T) {
				t.Parallel()
				d := newDevice(t, s)
				d.live()
				a := d.order()
				time.Sleep(after) // the moment is what this test is about
				if i%2 == 0 {
					must(t, d.Process.End(syscall.SIGKILL))
					d.whole()
					d.live()
				} else {
					must(t, syscall.Kill(worker(t, d.Process.PID()), syscall.SIGKILL))
				}
				d.done(d.final(a.ID))
				d.restoreAndEnd(a.ID)
			})
		}
	})
}

// worker is the process that the supervisor started to do the work.
func worker(t *testing.T, supervisor int) int {
	t.Helper()
	found, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", supervisor))
	must(t, err)
	for _, f := range found {
		b, _ := os.ReadFile(f) // a thread may have gone
		for _, child := range strings.Fields(string(b)) {
			if cmd, _ := os.ReadFile("/proc/" + child + "/cmdline"); strings.Contains(string(cmd), "\x00worker\x00") {
				pid, err := strconv.Atoi(child)
				must(t, err)
				return pid
			}
		}
	}
	t.Fatal("the agent has no worker")
	return 0
}

// TestServerKilledAtRandom: at any time around an order, whose caller has or has
// not got an answer yet. What was answered is kept; what was not may be.
func TestServerKilledAtRandom(t *testing.T) {
	needRoot(t)
	t.Run("round", func(t *testing.T) {
		for i := range rounds(t) {
			after := time.Duration(rand.Int64N(int64(60 * time.Millisecond)))
			if i%3 == 1 {
				after = time.Duration(rand.Int64N(int64(1500 * time.Millisecond)))
			}
			t.Run(fmt.Sprint(i, " after ", after), func(t *testing.T) {
				t.Parallel()
				s := startServer(t)
				d := newDevice(t, s)
				d.live()
				type answer struct {
					a   api.MachineAction
					err error
				}
				answered := make(chan answer, 1)
				go func() {
					a, err := d.client.StopAndQuarantineFile(t.Context(), d.Device, api.StopAndQuarantineRequest{Comment: "fault", Sha1: d.sum.SHA1.String()})
					answered <- answer{a, err}
				}()
				time.Sleep(after) // the moment is what this test is about
				must(t, s.Process.End(syscall.SIGKILL))
				must(t, s.Start())
				got := <-answered
				if got.err != nil { // it may have been kept all the same: then there is one, not two
					t.Logf("not answered: %v", got.err)
					got.a = d.only()
				}
				d.done(d.final(got.a.ID))
				if a := d.only(); a.ID != got.a.ID {
					t.Errorf("answered %s, kept %s", got.a.ID, a.ID)
				}
				d.restoreAndEnd(got.a.ID)
				verifyAudit(t, s)
			})
		}
	})
}
