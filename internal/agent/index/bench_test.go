// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"crypto/sha1"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"staunch/internal/filehash"
)

// benchTree makes files in dirs folders; all of one size, no two the same.
func benchTree(b *testing.B, root string, dirs, perDir, size int) {
	b.Helper()
	for d := range dirs {
		for f := range perDir {
			write(b, fmt.Sprintf("%s/%d/%d", root, d, f), fmt.Sprintf("%d/%d", d, f)+strings.Repeat("x", size))
		}
	}
}

// BenchmarkSearch prints how near the search of a warm tree of 1 MiB files comes
// to the bare hash instruction on all processors, and how much faster than find
// and sha1sum it is.
func BenchmarkSearch(b *testing.B) {
	root := b.TempDir()
	benchTree(b, root, 16, 32, 1<<20)
	h := sha1Of("not there")
	raw := rawSpeed()
	for b.Loop() {
		began := time.Now()
		res, err := Search(context.Background(), SearchConfig{Roots: []string{root}, Hash: h, Size: -1})
		must(b, err)
		speed := float64(res.Bytes) / time.Since(began).Seconds()
		b.ReportMetric(speed/1e6, "MB/s")
		b.ReportMetric(100*speed/raw, "%raw")
	}
	began := time.Now()
	if err := exec.Command("find", root, "-type", "f", "-exec", "sha1sum", "{}", "+").Run(); err == nil {
		plain := time.Since(began)
		began = time.Now()
		_, err := Search(context.Background(), SearchConfig{Roots: []string{root}, Hash: h, Size: -1})
		must(b, err)
		b.ReportMetric(plain.Seconds()/time.Since(began).Seconds(), "x-find-sha1sum")
	}
}

// rawSpeed is SHA-1 of memory on all processors, in bytes a second.
func rawSpeed() float64 {
	var all sync.WaitGroup
	const each = 1 << 30
	began := time.Now()
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			buf, h := make([]byte, readBuf), sha1.New()
			for range each / readBuf {
				h.Write(buf)
			}
		})
	}
	all.Wait()
	return float64(each*runtime.GOMAXPROCS(0)) / time.Since(began).Seconds()
}

func BenchmarkSearchBySize(b *testing.B) {
	root := b.TempDir()
	benchTree(b, root, 100, 100, 10)
	for b.Loop() {
		res, err := Search(context.Background(), SearchConfig{Roots: []string{root}, Hash: sha1Of("x"), Size: 1})
		must(b, err)
		b.ReportMetric(float64(res.Files)/b.Elapsed().Seconds()*float64(b.N), "files/s")
	}
}

func benchIndex(b *testing.B, root string) *Index {
	b.Helper()
	x, err := Open(Config{Path: filepath.Join(b.TempDir(), "i.db"), Roots: []string{root}, Share: 100, Debounce: time.Millisecond})
	must(b, err)
	b.Cleanup(func() { _ = x.Stop() })
	must(b, x.Start(context.Background()))
	until(b, "it is built", func() bool { return x.Status().Complete })
	return x
}

func BenchmarkBuild(b *testing.B) {
	root := scratch(b)
	benchTree(b, root, 200, 100, 100)
	var files int64
	for b.Loop() {
		x := benchIndex(b, root)
		files += x.Status().Files
		b.ReportMetric(float64(x.Status().DBBytes)/float64(x.Status().Files), "diskB/file")
		must(b, x.Stop())
	}
	b.ReportMetric(float64(files)/b.Elapsed().Seconds(), "files/s")
}

func BenchmarkLookup(b *testing.B) {
	root := scratch(b)
	benchTree(b, root, 200, 100, 100)
	write(b, root+"/a/b/c/d/e/f/g/evil", "evil")
	x := benchIndex(b, root)
	must(b, x.Barrier(b.Context()))
	for name, h := range map[string]filehash.Hash{"there": sha1Of("evil"), "absent": sha1Of("none")} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, err := x.Lookup(context.Background(), h)
				must(b, err)
			}
		})
	}
}

// BenchmarkBarrier is one changed file, taken in, read and vouched for.
func BenchmarkBarrier(b *testing.B) {
	root := scratch(b)
	benchTree(b, root, 20, 100, 100)
	x := benchIndex(b, root)
	b.Run("quiet", func(b *testing.B) {
		for b.Loop() {
			must(b, x.Barrier(context.Background()))
		}
	})
	b.Run("one-changed", func(b *testing.B) { // includes the clock tick a file must rest
		for b.Loop() {
			must(b, os.WriteFile(root+"/new", []byte("evil"), 0o644))
			must(b, x.Barrier(context.Background()))
		}
	})
}

// BenchmarkThousandCopies is looking up a content of a thousand files, and
// verifying each.
func BenchmarkThousandCopies(b *testing.B) {
	root := scratch(b)
	for i := range 1000 {
		write(b, fmt.Sprintf("%s/a/b/c/d/%d", root, i), "evil")
	}
	x := benchIndex(b, root)
	must(b, x.Barrier(b.Context()))
	b.Run("look up", func(b *testing.B) {
		for b.Loop() {
			a, err := x.Lookup(b.Context(), sha1Of("evil"))
			must(b, err)
			if len(a.Copies) != 1000 {
				b.Fatalf("%d copies", len(a.Copies))
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		a, err := x.Lookup(b.Context(), sha1Of("evil"))
		must(b, err)
		for b.Loop() {
			for _, c := range a.Copies {
				got, err := x.Verify(b.Context(), c)
				must(b, err)
				must(b, got.File.Close())
			}
		}
	})
}
