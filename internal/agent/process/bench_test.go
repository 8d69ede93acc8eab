// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkStop measures Arm and Stop, up to the last match being dead and the
// proof, against what cannot be saved: killing as many known processes and
// waiting for their end. "dead" is until the last match was seen dead.
func BenchmarkStop(b *testing.B) {
	bin := runner(b)
	for _, rung := range []string{RungBPF, RungFreeze, RungConnector, RungBestEffort} {
		for _, n := range []int{1, 10, 100} {
			b.Run(fmt.Sprintf("%s/%d", rung, n), func(b *testing.B) {
				k := newKit(b, bin)
				h := newHolder(b, rung)
				evil := k.program("evil", bin, k.mark)
				target := k.target(evil, true)
				var bare, dead, held time.Duration
				for range b.N {
					bare += k.bare(evil, n)
					pids := k.crowd(evil, n)
					began := time.Now()
					d, err := h.Arm(target)
					if err != nil {
						b.Fatal(err)
					}
					r := stop(b, d)
					held += time.Since(began)
					dead += last(r).Sub(began)
					d.Release()
					if r.Met < len(pids) {
						b.Fatalf("%d of %d were met: %v", r.Met, len(pids), r.Notes)
					}
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(float64(held.Microseconds())/float64(b.N), "stop-us")
				b.ReportMetric(float64(bare.Microseconds())/float64(b.N), "bare-us")
				b.ReportMetric(float64(dead.Microseconds())/float64(b.N), "dead-us")
				b.ReportMetric(float64(dead)/float64(bare), "dead/bare")
				b.ReportMetric(float64(held)/float64(bare), "stop/bare")
			})
		}
	}
}

// last returns when the last match was seen dead.
func last(r Result) (at time.Time) {
	for _, m := range r.Matches {
		if m.Done.After(at) {
			at = m.Done
		}
	}
	return at
}

// crowd starts n processes and waits until all run.
func (k *kit) crowd(path string, n int) []int {
	k.t.Helper()
	k.mode(path, "many", n)
	var pids []int
	waitFor(k.t, "the crowd", func() bool {
		pids = pids[:0]
		for _, pid := range k.mine() {
			if link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && link == path {
				pids = append(pids, pid)
			}
		}
		return len(pids) >= n
	})
	return pids
}

// bare kills a crowd whose numbers are known.
func (k *kit) bare(path string, n int) time.Duration {
	k.t.Helper()
	pids := k.crowd(path, n)
	began := time.Now()
	fds := make([]int, 0, n)
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			k.t.Fatal(err)
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
			k.t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		waitDead(k.t.Context(), fd)
	}
	took := time.Since(began)
	for _, fd := range fds {
		unix.Close(fd) //nolint:errcheck // a handle
	}
	return took
}

// BenchmarkPass measures one look at every process, by the means of each kind.
func BenchmarkPass(b *testing.B) {
	bin := runner(b)
	k := newKit(b, bin)
	h := newHolder(b, RungBPF)
	evil := k.program("evil", bin, k.mark)
	d, err := h.Arm(k.target(evil, true))
	if err != nil {
		b.Fatal(err)
	}
	defer d.Release()
	pids, err := h.proc.pids()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("iterator", func(b *testing.B) {
		for b.Loop() {
			if _, err := h.hooks.list(); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, deep := range []bool{false, true} {
		b.Run(fmt.Sprintf("proc/deep=%v", deep), func(b *testing.B) {
			for b.Loop() {
				l := h.newLook(d.judge)
				if err := h.each(b.Context(), pids, func(pid int) { l.examine(pid, deep) }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(pids)), "processes")
		})
	}
}
