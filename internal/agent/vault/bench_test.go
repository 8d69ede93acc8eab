// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkSeal seals a file and, in the same run, copies it with a sync: the
// ratio is what sealing (hash, encrypt, write, sync, read back, decrypt, hash)
// costs over the disk alone. Grab hashes once more and is given apart.
func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20, 64 << 20, 512 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			v, place := newVault(b)
			path := filepath.Join(place, "tool")
			write(b, path, random(size))
			var grab, seal, remove, raw time.Duration
			b.SetBytes(int64(size))
			for b.Loop() {
				raw += copySynced(b, path, filepath.Join(place, "copy"))
				grab += timed(func() {
					f := mustOpen(b, path)
					g, err := v.Grab(b.Context(), f, []string{path}, anything)
					if err != nil {
						b.Fatal(err)
					}
					seal += timed(func() {
						if _, err := v.Seal(b.Context(), g, why); err != nil {
							b.Fatal(err)
						}
					})
					remove += timed(func() {
						if err := g.PutBack(b.Context()); err != nil {
							b.Fatal(err)
						}
					})
					_ = f.Close()
				})
			}
			grab -= seal + remove
			mbs := func(d time.Duration) float64 { return float64(size) * float64(b.N) / 1e6 / d.Seconds() }
			b.ReportMetric(mbs(seal), "seal-MB/s")
			b.ReportMetric(mbs(raw), "copy+fsync-MB/s")
			b.ReportMetric(seal.Seconds()/raw.Seconds(), "seal/copy")
			b.ReportMetric(float64(grab.Microseconds())/float64(b.N), "grab-µs")
			b.ReportMetric(float64(seal.Microseconds())/float64(b.N), "seal-µs")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func timed(f func()) time.Duration {
	begun := time.Now()
	f()
	return time.Since(begun)
}

func copySynced(b *testing.B, from, to string) time.Duration {
	return timed(func() {
		in, err := os.Open(from)
		if err != nil {
			b.Fatal(err)
		}
		defer in.Close()
		out, err := os.Create(to)
		if err != nil {
			b.Fatal(err)
		}
		defer out.Close()
		// As a program copies that looks at what it copies: through memory.
		if _, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, blockSize)); err != nil {
			b.Fatal(err)
		}
		if err := out.Sync(); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkTake takes many files, some at a time, as a containment does, and in
// the same run copies them with a sync and removes them: the ratio is what
// taking costs over a copy that can be relied on.
func BenchmarkTake(b *testing.B) {
	const many, size = 100, 20 << 10
	for _, alike := range []bool{true, false} {
		b.Run(map[bool]string{true: "alike", false: "different"}[alike], func(b *testing.B) {
			v, place := newVault(b)
			data := random(size)
			var taken, raw time.Duration
			for b.Loop() {
				var paths []string
				for i := range many {
					if !alike {
						data = random(size)
					}
					paths = append(paths, filepath.Join(place, fmt.Sprintf("tool%d", i)))
					write(b, paths[i], data)
				}
				unix.Sync()
				raw += timed(func() { atOnce(paths, func(p string) { copySynced(b, p, p+".copy") }) })
				order := Why{Order: newID()}
				taken += timed(func() {
					atOnce(paths, func(p string) {
						f, err := os.Open(p)
						if err != nil {
							b.Error(err)
							return
						}
						defer f.Close()
						g, err := v.Grab(b.Context(), f, []string{p}, anything)
						if err == nil {
							_, err = v.Seal(b.Context(), g, order)
						}
						if err == nil {
							err = g.Remove(b.Context())
						}
						if err != nil {
							b.Error(err)
						}
					})
				})
				for _, p := range paths {
					_ = os.Remove(p + ".copy")
				}
			}
			b.ReportMetric(float64(taken.Microseconds())/float64(b.N)/1e3, "take-ms")
			b.ReportMetric(float64(raw.Microseconds())/float64(b.N)/1e3, "copy+fsync-ms")
			b.ReportMetric(taken.Seconds()/raw.Seconds(), "take/copy")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func atOnce(paths []string, do func(string)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, p := range paths {
		slots <- struct{}{}
		wg.Go(func() {
			do(p)
			<-slots
		})
	}
	wg.Wait()
}
