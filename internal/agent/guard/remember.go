// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// remembered keeps what was read from files until one of them changes. Each
// path, of a file or of a folder, is stamped before it is read; as long as all
// stamps are the same, so is what would be read. What changed a moment before
// it was read is not kept: within one tick of the kernel's clock a second
// change would not show.
type remembered[T any] struct {
	mu    sync.Mutex
	value T      // guarded by mu
	seen  []seen // guarded by mu; nil: nothing is kept
}

type seen struct {
	path string
	stamp
}

// A stamp tells one state of a file from the next. Zero: it cannot be seen.
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

// rest is how long ago a file must have changed for its stamp to be trusted.
const rest = time.Second

func stampOf(path string) stamp {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return stamp{}
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}
}

// get returns what is kept if it still holds, else what read returns. read
// tells note of each path before it looks at it.
func (r *remembered[T]) get(read func(note func(path string)) (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holds() {
		return r.value, nil
	}
	r.seen = nil
	all, rested, began := []seen{}, true, time.Now()
	value, err := read(func(path string) {
		s := stampOf(path)
		all = append(all, seen{path, s})
		rested = rested && began.Sub(time.Unix(s.ctime.Unix())) > rest
	})
	if err == nil && rested {
		r.value, r.seen = value, all
	}
	return value, err
}

func (r *remembered[T]) holds() bool {
	for _, s := range r.seen {
		if stampOf(s.path) != s.stamp {
			return false
		}
	}
	return r.seen != nil
}
