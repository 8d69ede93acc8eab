// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"sync"
	"time"
)

// Refusals bounds how many refusals of strangers are recorded, so that a flood
// of them can neither fill the log nor slow the server by its commits. What is
// left out is counted, and the next line that is recorded says how many.
type Refusals struct {
	PerMinute int              // 0: 60
	Now       func() time.Time // nil: time.Now

	mu      sync.Mutex
	window  time.Time // start of the running minute; guarded by mu
	used    int       // in it; guarded by mu
	skipped int       // since the last one recorded; guarded by mu
}

// Take reports whether a refusal may be recorded now, and how many before it
// were left out.
func (r *Refusals) Take() (skipped int, ok bool) {
	now, limit := time.Now, 60
	if r.Now != nil {
		now = r.Now
	}
	if r.PerMinute > 0 {
		limit = r.PerMinute
	}
	t := now()

	r.mu.Lock()
	defer r.mu.Unlock()
	if age := t.Sub(r.window); age < 0 || age >= time.Minute {
		r.window, r.used = t, 0
	}
	if r.used >= limit {
		r.skipped++
		return 0, false
	}
	r.used++
	skipped, r.skipped = r.skipped, 0
	return skipped, true
}
