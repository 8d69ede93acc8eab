// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"staunch/internal/agent/inode"
)

// BenchmarkAdd is one more copy of what is held, beside a thousand others.
func BenchmarkAdd(b *testing.B) {
	h, err := New(Config{Log: slog.New(slog.NewTextHandler(io.Discard, nil)), StateDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer h.Close()
	dir := b.TempDir()
	var all []Copy
	for i := range 1000 {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
			b.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		st, err := inode.Of(f)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, Copy{File: f, Stat: st})
	}
	for b.Loop() {
		d, err := h.Arm(Target{Match: func(*os.File) (bool, error) { return true, nil }, Size: 7})
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		for _, c := range all {
			if err := d.Add(c); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(time.Since(began).Microseconds())/1000, "µs/copy")
		d.Release()
	}
}
