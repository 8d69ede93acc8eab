// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"staunch/internal/agent/index"
	"staunch/internal/agent/inode"
	"staunch/internal/agent/persistence"
	"staunch/internal/agent/process"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// TestTrace: a live shell that starts a program again and again is named, and
// what it had is kept while the children are there.
func TestTrace(t *testing.T) {
	loop := exec.Command("sh", "-c", "sleep 60 & echo $!; sleep 61 & echo $!; wait")
	out, err := loop.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := loop.Start(); err != nil {
		t.Fatal(err)
	}
	var matches []process.Match
	lines := bufio.NewScanner(out)
	for range 2 {
		lines.Scan()
		var pid int
		if _, err := fmt.Sscan(lines.Text(), &pid); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = exec.Command("kill", fmt.Sprint(pid)).Run() })
		matches = append(matches, process.Match{
			PID: pid, PPID: loop.Process.Pid, Start: 1 << 60, How: process.Executes, Exe: "/no/such/place/sleeper (deleted)",
		})
	}
	t.Cleanup(func() { _ = loop.Process.Kill(); _ = loop.Wait() })

	gone := filepath.Join(t.TempDir(), "gone")
	c := &containment{Agent: &Agent{now: time.Now}, sums: newSums(filehash.Hash{}), begun: time.Now()}
	c.copies = []*taken{{Copy: index.Copy{Paths: []string{gone}, Stat: inode.Stat{}}}}
	c.remember(matches)
	c.remember(matches) // seen again in the next look
	if len(c.seen) != 2 || !slices.Equal(c.once, []string{"/no/such/place/sleeper"}) {
		t.Fatalf("remembered %+v and %q", c.seen, c.once)
	}
	for range 2 { // a second round tells the same, once
		if err := c.trace(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	c.endTrace()
	where := order.Text(fmt.Sprintf("process %d", loop.Process.Pid))
	n := 0
	for _, p := range c.receipt.Persistence {
		if p.Where == where && p.Kind == string(persistence.Parent) && strings.Contains(string(p.Detail), "started it 2 times") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("got %+v, want %s once", c.receipt.Persistence, where)
	}
}

// TestTraceCut: a trace without time left is a note and no failure.
func TestTraceCut(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	c := &containment{Agent: &Agent{now: time.Now}, sums: newSums(filehash.Hash{})}
	if err := c.trace(ctx); err != nil {
		t.Fatal(err)
	}
	c.endTrace()
	if len(c.receipt.Notes) != 1 || !strings.Contains(c.receipt.Notes[0], "was cut off after 500ms") {
		t.Errorf("notes %q", c.receipt.Notes)
	}
}
