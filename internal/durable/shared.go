// SPDX-License-Identifier: Apache-2.0

package durable

import (
	"os"
	"path/filepath"
	"sync"
)

// Shared lets goroutines that change names in the same folders share the syncs
// of these: who comes while a folder is being synced waits for the next sync,
// which is one for all who wait. It promises what the functions of the same
// names do. The zero value is ready.
type Shared struct {
	mu     sync.Mutex
	queues map[any]*queue // of the folders that somebody syncs now; guarded by mu
}

// queue is who waits for one folder.
type queue struct {
	users   int           // guarded by Shared.mu
	next    *turn         // that has not begun; guarded by Shared.mu
	running chan struct{} // holds one while a sync is under way
}

// turn is one sync and its outcome, read and written by who fills queue.running.
type turn struct {
	over bool
	err  error
}

// Do calls sync, which makes durable what key names, or waits for a call by
// another that began after this one of Do.
func (s *Shared) Do(key any, sync func() error) error {
	s.mu.Lock()
	if s.queues == nil {
		s.queues = map[any]*queue{}
	}
	q := s.queues[key]
	if q == nil {
		q = &queue{running: make(chan struct{}, 1)}
		s.queues[key] = q
	}
	if q.next == nil {
		q.next = &turn{}
	}
	q.users++
	t := q.next
	s.mu.Unlock()

	q.running <- struct{}{}
	if !t.over { // we are the first of those who wait
		s.mu.Lock()
		q.next = nil // who comes now may have changed what this sync does not see
		s.mu.Unlock()
		t.err, t.over = sync(), true
	}
	err := t.err
	<-q.running

	s.mu.Lock()
	if q.users--; q.users == 0 {
		delete(s.queues, key)
	}
	s.mu.Unlock()
	return err
}

// SyncDir is durable.SyncDir.
func (s *Shared) SyncDir(dir string) error {
	return s.Do(dir, func() error { return SyncDir(dir) })
}

// WriteFile is durable.WriteFile.
func (s *Shared) WriteFile(path string, data []byte, perm os.FileMode) error {
	return writeFile(path, data, perm, s.SyncDir)
}

// Remove is durable.Remove.
func (s *Shared) Remove(path string) error {
	return remove(path, func() error { return s.SyncDir(filepath.Dir(path)) })
}
