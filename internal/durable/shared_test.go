// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
)

// TestSharedCovers: a call returns only when a sync that began after it has
// ended, and gets that one's error; and many that wait share one.
func TestSharedCovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Shared
		begin, end := make(chan struct{}), make(chan error)
		syncs := 0
		do := func() error {
			return s.Do("dir", func() error {
				syncs++
				begin <- struct{}{}
				return <-end
			})
		}
		var wg sync.WaitGroup
		errs := make(chan error, 20)
		wg.Go(func() { errs <- do() })
		<-begin
		for range 10 { // too late for the first
			wg.Go(func() { errs <- do() })
		}
		synctest.Wait()
		if syncs != 1 || len(errs) != 0 {
			t.Fatalf("%d syncs, %d have returned", syncs, len(errs))
		}
		end <- nil
		<-begin // the second, for the ten
		synctest.Wait()
		if err := <-errs; err != nil || len(errs) != 0 {
			t.Fatalf("%v, and %d more have returned before their sync", err, len(errs))
		}
		bad := errors.New("disk")
		end <- bad
		wg.Wait()
		for range 10 {
			if err := <-errs; !errors.Is(err, bad) {
				t.Errorf("got %v", err)
			}
		}
		if syncs != 2 || len(s.queues) != 0 {
			t.Errorf("%d syncs for 11, %d queues left", syncs, len(s.queues))
		}
	})
}

func TestSharedFiles(t *testing.T) {
	dir := t.TempDir()
	var s Shared
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			path := filepath.Join(dir, fmt.Sprint(i))
			if err := s.WriteFile(path, []byte("x"), 0o600); err != nil {
				t.Error(err)
			}
			if i > 0 {
				if err := s.Remove(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	leaves(t, dir, "0")
	if err := s.WriteFile(filepath.Join(dir, "none", "x"), nil, 0o600); err == nil {
		t.Error("written into a folder that is not there")
	}
}
