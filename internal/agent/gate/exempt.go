// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// exempt holds the agent's own processes. A pidfd names a process and not a
// number, so a number used again is not taken for the old process.
type exempt struct {
	mu   sync.RWMutex
	pids map[int32]*os.File // guarded by mu; pid → pidfd
}

func (x *exempt) add(pid int32, pidfd *os.File) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for old, f := range x.pids {
		if old == pid || !alive(f) {
			closeFile(f)
			delete(x.pids, old)
		}
	}
	if x.pids == nil {
		x.pids = map[int32]*os.File{}
	}
	x.pids[pid] = pidfd
}

func (x *exempt) has(pid int32) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	f, ok := x.pids[pid]
	return ok && alive(f)
}

// alive reports whether the process of a pidfd has not ended yet.
func alive(pidfd *os.File) bool {
	p := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n == 0
}

// pidOf reads the process number out of a pidfd.
func pidOf(pidfd *os.File) (int32, error) {
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(int(pidfd.Fd())))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(info)) {
		if num, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.ParseInt(strings.TrimSpace(num), 10, 32)
			if err != nil || pid <= 0 {
				return 0, errors.New("it has ended, or is not seen from here")
			}
			return int32(pid), nil
		}
	}
	return 0, errors.New("the descriptor is no pidfd")
}
