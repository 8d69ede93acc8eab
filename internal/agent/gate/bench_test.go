// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkGate compares, turn by turn in one run, executions and opens on a
// file system the gate does not cover with the same on one it does: warm (the
// content is remembered), sized (decided by size) and cold (the content must
// be read).
func BenchmarkGate(b *testing.B) {
	off, on := scratch(b), scratch(b)
	c := startLocal(b, on, Settings{})
	src := b.TempDir() + "/tiny"
	code := write(b, src+".c", `void _start(void) { __asm__("mov $60, %eax; xor %edi, %edi; syscall"); }`, 0o644)
	if err := run(b, "gcc", "-static", "-nostdlib", "-o", src, code); err != nil {
		b.Skipf("SKIPPED, NOT PROVEN: cannot build a tiny program here: %v", err)
	}
	tiny := readFile(b, src)
	free, gated := write(b, off+"/free", string(tiny), 0o755), write(b, on+"/gated", string(tiny), 0o755)

	b.Run("open", func(b *testing.B) {
		denyAll(b, c, write(b, on+"/other", "other", 0o644))
		compare(b, []trial{
			{"off", func(int) { openClose(b, free) }},
			{"on", func(int) { openClose(b, gated) }},
		})
	})
	b.Run("exec", func(b *testing.B) {
		time.Sleep(2100 * time.Millisecond) // what changed just now is not remembered
		cold := make([]string, b.N)
		for i := range cold {
			cold[i] = write(b, on+"/cold"+strconv.Itoa(i), string(tiny), 0o755)
		}
		defer func() {
			for _, path := range cold {
				_ = os.Remove(path)
			}
		}()
		compare(b, []trial{
			{"off", func(int) { spawn(b, free) }},
			{"warm", func(int) { spawn(b, gated) }},
			{"cold", func(i int) { spawn(b, cold[i]) }},
		})
	})
	if s := mustStatus(b, c); s.FailOpens != 0 || s.Writers != 0 {
		b.Errorf("status: %+v", s)
	}
}

type trial struct {
	name string
	do   func(i int)
}

// compare takes turns and reports each trial's median, and its ratio to the
// first one's: the mean of a busy machine tells about its neighbours.
func compare(b *testing.B, trials []trial) {
	took := make([][]time.Duration, len(trials))
	for i := range b.N {
		for k, tr := range trials {
			began := time.Now()
			tr.do(i)
			took[k] = append(took[k], time.Since(began))
		}
	}
	b.ReportMetric(0, "ns/op")
	var base time.Duration
	for k, tr := range trials {
		slices.Sort(took[k])
		median := took[k][b.N/2]
		if k == 0 {
			base = median
		} else {
			b.ReportMetric(float64(median)/float64(base), tr.name+"/off")
		}
		b.ReportMetric(float64(took[k][0].Nanoseconds())/1e3, "µs-min-"+tr.name)
		b.ReportMetric(float64(median.Nanoseconds())/1e3, "µs-"+tr.name)
	}
}

func openClose(b *testing.B, path string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	_ = unix.Close(fd)
}

func spawn(b *testing.B, path string) {
	if err := exec.Command(path).Run(); err != nil {
		b.Fatal(err)
	}
}
