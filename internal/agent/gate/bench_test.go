// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/filehash"
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

// BenchmarkManyRules compares, turn by turn in one run, executions that no gate
// sees with the same under one rule and under 100,000, warm and cold, of a tiny
// program and of one of a megabyte; and the memory of the two gates. Of no rule
// the size is known, which is the worst case.
func BenchmarkManyRules(b *testing.B) {
	const many = 100_000
	off := scratch(b)
	src := b.TempDir() + "/tiny"
	code := write(b, src+".c", `void _start(void) { __asm__("mov $60, %eax; xor %edi, %edi; syscall"); }`, 0o644)
	if err := run(b, "gcc", "-static", "-nostdlib", "-o", src, code); err != nil {
		b.Skipf("SKIPPED, NOT PROVEN: cannot build a tiny program here: %v", err)
	}
	tiny := readFile(b, src)
	large := append(bytes.Clone(tiny), make([]byte, 1<<20)...)
	trials := []trial{{"off", nil}}
	free := write(b, off+"/free", string(tiny), 0o755)
	trials[0].do = func(int) { spawn(b, free) }
	for _, n := range []int{1, many} {
		dir := scratch(b)
		before := children(b)
		c := startLocal(b, dir, Settings{})
		rules := func(yield func(Rule) bool) {
			for i := range n {
				r := Rule{Size: -1, ID: "i/" + strconv.Itoa(i), Do: DoDeny}
				r.File.SHA256 = filehash.SHA256(sha256.Sum256([]byte(strconv.Itoa(i))))
				if !yield(r) {
					return
				}
			}
		}
		begun := time.Now()
		if err := c.Replace("i/", rules); err != nil {
			b.Fatal(err)
		}
		took := time.Since(begun)
		name := strconv.Itoa(n)
		warm := write(b, dir+"/warm", string(tiny), 0o755)
		time.Sleep(2100 * time.Millisecond) // what changed just now is not remembered
		spawn(b, warm)
		trials = append(trials, trial{"warm-" + name, func(int) { spawn(b, warm) }})
		for size, content := range map[string][]byte{"cold-": tiny, "cold-1MB-": large} {
			paths := make([]string, b.N)
			for i := range paths {
				paths[i] = write(b, dir+"/"+size+strconv.Itoa(i), string(content)+strconv.Itoa(i), 0o755)
			}
			trials = append(trials, trial{size + name, func(i int) { spawn(b, paths[i]) }})
		}
		for _, pid := range children(b) {
			if gate := childOf(b, pid, roleGate); gate != 0 && !slices.Contains(before, pid) {
				defer func() { // before the gate ends
					anon, shared := memory(b, gate)
					b.ReportMetric(anon, "MB-gate-"+name)
					b.ReportMetric(shared, "MB-book-"+name)
				}()
			}
		}
		if n == many {
			defer func() { b.ReportMetric(took.Seconds()*1e3, "ms-to-set-"+name) }()
		}
	}
	slices.SortFunc(trials[1:], func(x, y trial) int { return strings.Compare(x.name, y.name) })
	compare(b, trials)
}

func children(b *testing.B) (pids []int) {
	found, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range found {
		text, _ := os.ReadFile(f) // a thread may have gone
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				b.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// memory is what a process has of its own, and shares with others, in megabytes.
func memory(b *testing.B, pid int) (own, shared float64) {
	text := string(readFile(b, "/proc/"+strconv.Itoa(pid)+"/status"))
	field := func(name string) float64 {
		_, rest, _ := strings.Cut(text, name+":")
		kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			b.Fatal(err)
		}
		return kb / 1000
	}
	return field("RssAnon"), field("RssShmem")
}
