// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"staunch/test/rig"
)

// floor is what no implementation could do without on this machine.
type floor struct {
	trip time.Duration // one call over HTTPS, on a connection that stands
	sync time.Duration // one line written to a file and made durable
	kill map[int]time.Duration
	copy map[int]time.Duration // so many files of size bytes each, content and manifest durable
	size int64
}

// The sizes of the cases.
var sizes = []int{1, 10, 100, 1000}

// dead is the least time until so many processes are dead: the call, the order
// durable on the server, the same on the device, the intention to kill durable,
// the killing.
func (f floor) dead(matches int) time.Duration { return f.trip + 3*f.sync + f.kill[matches] }

// sealed is the least time until so many copies are sealed as well.
func (f floor) sealed(matches, copies int) time.Duration { return f.dead(matches) + f.copy[copies] }

func (b *bench) measureFloor(ctx context.Context) (err error) {
	f := floor{kill: map[int]time.Duration{}, copy: map[int]time.Duration{}}
	if f.trip, err = repeatTo(50, func() error { return b.client.Healthy(ctx) }, b.middle); err != nil {
		return err
	}
	if f.sync, err = b.syncTime(); err != nil {
		return err
	}
	sample := filepath.Join(b.disk, "sample")
	sum, err := rig.Program(sample)
	if err != nil {
		return err
	}
	defer os.Remove(sample)
	f.size = sum.Size
	for _, n := range sizes {
		var all []time.Duration
		times := max(2, min(5, 200/n))
		for range times {
			took, err := killing(sample, n)
			if err != nil {
				return err
			}
			all = append(all, took)
		}
		f.kill[n] = b.middle(all)
		if f.copy[n], err = repeatTo(times, func() error { return b.copying(sample, n) }, b.middle); err != nil {
			return err
		}
	}
	b.floor = f
	fmt.Printf("unavoidable parts\n  one HTTPS call %s · one durable line %s", ms(f.trip), ms(f.sync))
	var kills, copies []string
	for _, n := range sizes {
		kills, copies = append(kills, ms(f.kill[n])), append(copies, ms(f.copy[n]))
	}
	fmt.Printf(" · kill and reap 1/10/100/1000 processes %s · copy 1/10/100/1000 files of %d kB durably %s\n\n",
		strings.Join(kills, "/"), f.size>>10, strings.Join(copies, "/"))
	return nil
}

// killing runs n processes and returns how long it takes to kill them and see
// them dead, with their descriptors at hand.
func killing(sample string, n int) (time.Duration, error) {
	end, err := rig.Spawn(sample, n)
	if err != nil {
		return 0, err
	}
	defer end()
	sum, err := rig.SumOf(sample)
	if err != nil {
		return 0, err
	}
	pids, err := rig.Running(sum)
	if err != nil {
		return 0, err
	}
	var fds []unix.PollFd
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			return 0, err
		}
		defer unix.Close(fd)
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	start := time.Now()
	for _, fd := range fds {
		if err := unix.PidfdSendSignal(int(fd.Fd), unix.SIGKILL, nil, 0); err != nil {
			return 0, err
		}
	}
	for _, fd := range fds {
		if _, err := unix.Poll([]unix.PollFd{fd}, 10_000); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// repeat returns the median of n times.
func repeat(n int, do func() error) (time.Duration, error) { return repeatTo(n, do, median) }

// repeatTo returns what middle makes of n times.
func repeatTo(n int, do func() error, middle func([]time.Duration) time.Duration) (time.Duration, error) {
	var all []time.Duration
	for range n {
		start := time.Now()
		if err := do(); err != nil {
			return 0, err
		}
		all = append(all, time.Since(start))
	}
	return middle(all), nil
}

// syncTime is how long a line takes to the disk on which server and agents
// keep theirs.
func (b *bench) syncTime() (time.Duration, error) {
	f, err := os.Create(filepath.Join(b.dir, "line"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line := make([]byte, 512)
	if err := unix.Fallocate(int(f.Fd()), 0, 0, 1<<20); err != nil { // as the journal does
		return 0, err
	}
	return repeatTo(50, func() error {
		if _, err := f.Write(line); err != nil {
			return err
		}
		return unix.Fdatasync(int(f.Fd()))
	}, b.middle)
}

// copying copies a file n times to the disk of the vaults, each with a manifest,
// all durable, as many at once as there are cores.
func (b *bench) copying(sample string, n int) error {
	dir, err := os.MkdirTemp(b.dir, "copies-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	next := make(chan int)
	errs := make(chan error, runtime.NumCPU())
	var work sync.WaitGroup
	for range runtime.NumCPU() {
		work.Go(func() {
			for i := range next {
				if err := copyOne(sample, dir, i); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	work.Wait()
	close(errs)
	return <-errs
}

func copyOne(sample, dir string, i int) error {
	in, err := os.Open(sample)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := write(filepath.Join(dir, fmt.Sprint(i)), in); err != nil {
		return err
	}
	if err := write(filepath.Join(dir, fmt.Sprint(i, ".json")), io.LimitReader(in, 0)); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func write(path string, from io.Reader) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, from)
	return errors.Join(err, out.Sync(), out.Close())
}
