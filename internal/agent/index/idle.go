// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// ioprio_set(2): class in the upper bits, level in the lower.
const (
	ioprioWhoProcess = 1
	ioprioLowest     = 2<<13 | 7 // best effort, after all others
	ioprioIdle       = 3 << 13   // only when nobody else wants the disk
	niceIdle         = 19
)

// lower puts this goroutine's disk work behind everybody else's. It keeps its
// thread, which ends with it.
func lower() {
	runtime.LockOSThread()
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioLowest) // a courtesy: refused, it is only less polite
}

// idle gives this goroutine what nobody else wants of disk and processor. It
// must hold no lock that others wait for.
func idle() {
	runtime.LockOSThread()
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioIdle) // as above
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceIdle)             // as above
}

// pacer keeps work to a share of one processor's time.
type pacer struct {
	share int // percent
	began time.Time
}

func (p *pacer) start() { p.began = time.Now() }

// rest sleeps off the work since start.
func (p *pacer) rest(ctx context.Context) {
	if p.share >= 100 {
		return
	}
	sleep(ctx, min(time.Since(p.began)*time.Duration(100-p.share)/time.Duration(p.share), time.Second))
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
