// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// result is what became of one run of one scenario.
type result struct {
	scenario string
	rung     string
	outcome  string // of the receipt: proven, failed …
	code     string // of the receipt, where it failed
	limit    string // of the agent that a failure stands for, if it is a known one
	lies     int    // what was left although it was called proven
	harmed   int    // innocents harmed, bytes lost, somebody frozen
	dead     time.Duration
	proven   time.Duration
}

// table gathers all results.
type table struct {
	mu  sync.Mutex
	all []result // guarded by mu
}

func (t *table) add(r result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, r)
}

// row sums up the runs of one scenario on one rung.
type row struct {
	runs, proven, lies, harmed int
	failed                     map[string]int
	dead, done                 []time.Duration
}

func (r *row) add(x result) {
	r.runs++
	r.lies += x.lies
	r.harmed += x.harmed
	if x.outcome == "proven" {
		r.proven++
		r.done = append(r.done, x.proven)
	} else {
		if r.failed == nil {
			r.failed = map[string]int{}
		}
		r.failed[cmp.Or(x.code, x.outcome)]++
	}
	if x.dead > 0 {
		r.dead = append(r.dead, x.dead)
	}
}

func (r *row) reasons() string {
	var s []string
	for code, n := range r.failed {
		s = append(s, fmt.Sprintf("%d %s", n, code))
	}
	slices.Sort(s)
	return cmp.Or(strings.Join(s, ", "), "-")
}

func (t *table) print(w io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return
	}
	var names []string
	rows := map[string]*row{}
	var total row
	for _, x := range t.all {
		name := x.scenario + "\t" + x.rung
		if rows[name] == nil {
			rows[name] = &row{}
			names = append(names, name)
		}
		rows[name].add(x)
		total.add(x)
	}
	slices.Sort(names)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "SCENARIO\tRUNG\tRUNS\tPROVEN\tFAILED\tFALSE\tHARM\tLAST DEAD\tPROVEN AFTER")
	line := func(name string, r *row) {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%d\t%d\t%s\t%s\n", name, r.runs, r.proven, r.reasons(), r.lies, r.harmed, median(r.dead), median(r.done))
	}
	for _, name := range names {
		line(name, rows[name])
	}
	line("all\t", &total)
	_ = tw.Flush() // to standard output
	told := map[string]bool{}
	for _, x := range t.all {
		if x.outcome != "proven" && x.limit != "" && !told[x.scenario] {
			told[x.scenario] = true
			fmt.Fprintf(w, "known limit: %s: %s\n", x.scenario, x.limit)
		}
	}
	fmt.Fprintf(w, "false successes: %d\n", total.lies)
}

func median(d []time.Duration) string {
	if len(d) == 0 {
		return "-"
	}
	slices.Sort(d)
	return fmt.Sprintf("%.1f ms", float64(d[len(d)/2].Microseconds())/1000)
}
