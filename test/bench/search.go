// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // what is measured
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"staunch/internal/agent"
	"staunch/internal/filehash"
	"staunch/test/rig"
)

// forest writes files of one size and random content, 500 a folder, and returns
// the last one's digests.
func forest(dir string, files, size int) (sum filehash.Sum, err error) {
	content := make([]byte, size)
	_, _ = rand.Read(content) // never fails
	last := ""
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprint(i/500))
		if i%500 == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil { //nolint:gosec // as on a disk
				return sum, err
			}
		}
		_, _ = rand.Read(content[:32])
		last = filepath.Join(sub, fmt.Sprint(i))
		if err := os.WriteFile(last, content, 0o600); err != nil {
			return sum, err
		}
	}
	return rig.SumOf(last)
}

// search compares looking for a content without an index with the bare hash,
// and with what people use.
func (b *bench) search(ctx context.Context) error {
	fmt.Printf("search without an index: every file is read, from memory; by SHA-1, size not known; seconds\n")
	a, stop, err := b.device(ctx, "search")
	if err != nil {
		return err
	}
	r, err := agent.State{Dir: a.State}.Dial(ctx)
	if err != nil {
		return err
	}
	for _, t := range []struct{ files, size int }{{64, 8 << 20}, {20_000, 8 << 10}} {
		dir, err := os.MkdirTemp(b.disk, "search-")
		if err != nil {
			return err
		}
		if _, err := forest(dir, t.files, t.size); err != nil {
			return err
		}
		absent := filehash.Hash{SHA1: filehash.SHA1{1, 2, 3}}
		have, err := repeat(3, func() error {
			found, err := r.Find(ctx, agent.FindRequest{File: absent, Scan: []string{dir}})
			if err == nil && len(found.Files) > 0 {
				err = fmt.Errorf("found %d files, want none", len(found.Files))
			}
			return err
		})
		if err != nil {
			return err
		}
		bare := bareHash(t.files, t.size)
		fmt.Printf("  %d files of %d kB: %.3f (%.0f MB/s) · the bare SHA-1 on %d cores %.3f, %s", t.files, t.size>>10, have.Seconds(),
			float64(t.files)*float64(t.size)/have.Seconds()/1e6, runtime.NumCPU(), bare.Seconds(), ratio(have, bare))
		for _, o := range []struct {
			name string
			args []string
		}{
			{"find -exec sha1sum", []string{"find", dir, "-type", "f", "-exec", "sha1sum", "{}", "+"}},
			{"find | xargs -P sha1sum", []string{"sh", "-c", fmt.Sprintf("find %q -type f -print0 | xargs -0 -n 64 -P %d sha1sum", dir, runtime.NumCPU())}},
			{"hashdeep -r", []string{"hashdeep", "-r", "-c", "sha1", dir}},
		} {
			if _, err := exec.LookPath(o.args[0]); err != nil {
				fmt.Printf(" · %s SKIPPED: not installed", o.name)
				continue
			}
			took, err := repeat(1, func() error { return exec.CommandContext(ctx, o.args[0], o.args[1:]...).Run() }) //nolint:gosec // ours
			if err != nil {
				fmt.Printf(" · %s SKIPPED: %v", o.name, err)
				continue
			}
			fmt.Printf(" · %s %.3f, %s of ours", o.name, took.Seconds(), ratio(took, have))
		}
		fmt.Println()
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	fmt.Println()
	return stop()
}

// bareHash is how long the hash of as many bytes takes, from memory, on all cores.
func bareHash(files, size int) time.Duration {
	took, _ := repeat(3, func() error { // never fails
		var work sync.WaitGroup
		for n := range runtime.NumCPU() {
			work.Go(func() {
				content := make([]byte, size)
				for i := n; i < files; i += runtime.NumCPU() {
					_ = sha1.Sum(content) //nolint:gosec // what is measured
				}
			})
		}
		work.Wait()
		return nil
	})
	return took
}

// index tells what the standing index takes, and gives.
func (b *bench) index(ctx context.Context) error {
	const files, size = 20_000, 8 << 10
	dir := filepath.Join(b.disk, "many")
	sum, err := forest(dir, files, size)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // scratch
	start := time.Now()
	a, _, err := b.device(ctx, "index")
	if err != nil {
		return err
	}
	built := time.Since(start)
	used := usage(a.Process.PID())
	st, err := a.Status(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("index of %d files of %d kB\n  built %.1f s after the agent's start, %.1f s of processor time at idle priority · on disk %.1f MB, %d bytes a file · memory of the agent %d MB\n",
		files, size>>10, built.Seconds(), used.cpu.Seconds(), float64(st.Index.DBBytes)/1e6, st.Index.DBBytes/max(1, st.Index.Files), used.memory>>20)
	r, err := agent.State{Dir: a.State}.Dial(ctx)
	if err != nil {
		return err
	}
	ask := func(scan ...string) func() error {
		return func() error {
			found, err := r.Find(ctx, agent.FindRequest{File: sum.Hash(), Scan: scan})
			if err == nil && len(found.Files) != 1 {
				err = fmt.Errorf("found %d files, want 1", len(found.Files))
			}
			return err
		}
	}
	fromIndex, err := repeat(20, ask())
	if err != nil {
		return err
	}
	searched, err := repeat(3, ask(dir))
	if err != nil {
		return err
	}
	lag, err := repeatValue(10, func(i int) (time.Duration, error) {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("new", i)), []byte("new"), 0o600); err != nil {
			return 0, err
		}
		time.Sleep(300 * time.Millisecond) // three times as long as events are left to gather
		st, err := a.Status(ctx)
		return st.Index.Lag, err
	})
	if err != nil {
		return err
	}
	if err := a.Process.End(15); err != nil {
		return err
	}
	start = time.Now()
	if err := a.Start(ctx, true); err != nil {
		return err
	}
	fmt.Printf("  find one, and who runs it: %s, without the index %s, %s · events are taken in after %s (they gather for 100) · ready again %.1f s after a restart\n\n",
		ms(fromIndex), ms(searched), ratio(searched, fromIndex), ms(lag), time.Since(start).Seconds())
	return a.Process.End(15)
}

// repeatValue returns the median of n figures.
func repeatValue(n int, get func(int) (time.Duration, error)) (time.Duration, error) {
	var all []time.Duration
	for i := range n {
		v, err := get(i)
		if err != nil {
			return 0, err
		}
		all = append(all, v)
	}
	return median(all), nil
}
