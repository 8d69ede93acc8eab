// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/server/audit"
	"staunch/internal/server/store"
	"staunch/internal/server/storetest"
)

// BenchmarkCreateAction has 64 callers create actions, each durable before it is
// answered, and prints orders per second, bare fdatasyncs per second of the same
// disk in the same run, and how many orders one fdatasync carries.
func BenchmarkCreateAction(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { createActions(b, sqlite(b), 64) })
	b.Run("postgres", func(b *testing.B) { createActions(b, postgres(b, storetest.StartPostgres(b)), 64) })
}

// BenchmarkCreateActionAlone has one caller: what a single order waits.
func BenchmarkCreateActionAlone(b *testing.B) {
	b.Run("sqlite", func(b *testing.B) { createActions(b, sqlite(b), 1) })
	b.Run("postgres", func(b *testing.B) { createActions(b, postgres(b, storetest.StartPostgres(b)), 1) })
}

func createActions(b *testing.B, c store.Config, callers int) {
	c, _ = signed(b, c)
	s := open(b, c)
	defer func() { _ = s.Close() }()
	syncs := fdatasyncs(b)
	order := make([]byte, 900) // as large as a signed order is
	b.SetParallelism(max(1, callers/runtime.GOMAXPROCS(0)))
	one := func() error {
		a := storetest.NewAction("machine")
		a.Order = order
		return s.CreateAction(b.Context(), a, storetest.Entry(audit.StopAndQuarantineFile, a.ID))
	}
	b.ResetTimer()
	if callers == 1 {
		for range b.N {
			if err := one(); err != nil {
				b.Fatal(err)
			}
		}
	} else {
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := one(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.StopTimer()
	rate := float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(rate, "orders/s")
	b.ReportMetric(syncs, "fdatasyncs/s")
	b.ReportMetric(rate/syncs, "orders/fdatasync")
}

// fdatasyncs measures how often a second a page appended to a file can be made durable.
func fdatasyncs(b *testing.B) float64 {
	f, err := os.Create(filepath.Join(b.TempDir(), "sync"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	page := make([]byte, 4096)
	const n = 500
	begun := time.Now()
	for range n {
		if _, err := f.Write(page); err != nil {
			b.Fatal(err)
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
	}
	return n / time.Since(begun).Seconds()
}
