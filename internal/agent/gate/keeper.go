// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// keeper is the supervisor's half that concerns the gate: it owns what must
// outlast a gate, starts gates, and answers where none does.
type keeper struct {
	keeperSettings
	log     *slog.Logger
	fan     group
	fanFile *os.File // the descriptor of fan, for children
	rules   *os.File
	gateEnd *os.File // of the pair whose other end is the worker's

	up     chan struct{} // closed once the first gate is ready
	beat   func()        // called while all is well, also while no gate is needed
	swept  int
	starts int

	mu     sync.Mutex
	pidfds []int // guarded by mu; processes to exempt: self, worker
}

// keeperSettings are what a keeper is started with.
type keeperSettings struct {
	Settings
	Exe      string   `json:"exe"`
	GateArgs []string `json:"gateArgs,omitempty"`
}

const (
	startWait = 5 * time.Second // for a gate to be ready: the machine may be busy
	maxPause  = 5 * time.Second // between gates that keep dying
)

// newKeeper makes the group; an error matches ErrOff.
func newKeeper(set keeperSettings, gateEnd *os.File, log *slog.Logger) (*keeper, error) {
	fan, err := newGroup()
	if err != nil {
		return nil, err
	}
	k := &keeper{
		keeperSettings: set, log: log, fan: fan, gateEnd: gateEnd,
		fanFile: os.NewFile(uintptr(fan.fd), "fanotify"),
		up:      make(chan struct{}), beat: func() {}, pidfds: []int{-1, -1},
	}
	if err := k.prepare(); err != nil {
		k.close()
		return nil, fmt.Errorf("%w: %w", ErrOff, err)
	}
	return k, nil
}

func (k *keeper) prepare() (err error) {
	if k.rules, err = newBookFile(); err != nil {
		return err
	}
	if k.pidfds[0], err = unix.PidfdOpen(os.Getpid(), 0); err != nil {
		return fmt.Errorf("cannot open pidfd: %w", err)
	}
	return ignoreProgram(k.fan, k.Exe)
}

// exemptWorker has the worker's pidfd handed to every gate from now on. It
// takes over pidfd; -1 when there is no worker.
func (k *keeper) exemptWorker(pidfd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pidfds[1] >= 0 {
		_ = unix.Close(k.pidfds[1]) // a gate that has it has its own
	}
	k.pidfds[1] = pidfd
}

// run keeps a gate going until ctx ends, and releases everything then.
func (k *keeper) run(ctx context.Context) {
	// A child is told of the death of the thread that made it, so this thread
	// must last as long as the process keeps gates.
	runtime.LockOSThread()
	defer k.close()
	for deaths := 0; ctx.Err() == nil; deaths++ {
		began := time.Now()
		err := k.runGate(ctx)
		if ctx.Err() != nil {
			return
		}
		n := k.fan.sweep(k.fallback())
		if time.Since(began) > time.Minute {
			deaths = 0
		}
		pause := time.Duration(0)
		if deaths > 0 {
			pause = min(100*time.Millisecond<<min(deaths-1, 10), maxPause)
			n += k.fan.drain(ctx, k.fallback(), pause)
		}
		k.swept += n
		k.beat()
		k.log.Error("gate replaced", "cause", err, "answered_for_it", n, "mode", k.mode(), "paused", pause)
	}
}

func (k *keeper) close() {
	k.exemptWorker(-1)
	if k.pidfds[0] >= 0 {
		_ = unix.Close(k.pidfds[0]) // only a reference
	}
	closeFile(k.fanFile) // the kernel allows whatever still waits
	closeFile(k.rules)
}

// runGate starts one gate and returns why it is no more, or nil after ctx. No
// thread of it runs on afterwards.
func (k *keeper) runGate(ctx context.Context) error {
	cmd, ctl, err := k.start()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	heard := make(chan message, 16)
	go listen(ctl, heard)

	cause, reaped := k.watch(ctx, ctl, heard, ended)
	_ = cmd.Process.Kill() // it may be dead already
	if !reaped {
		select {
		case <-ended:
		case <-time.After(k.Bound):
			// A thread of it waits for a disk. It will never run the gate's
			// code again, so a successor can take over.
			k.log.Error("gate killed but not gone: the kernel holds one of its threads", "pid", cmd.Process.Pid)
		}
	}
	_ = ctl.close() // its listener returns
	for range heard {
	}
	return cause
}

func listen(ctl *conn, heard chan<- message) {
	defer close(heard)
	buf := make([]byte, maxMessage)
	for {
		m, f, err := ctl.recv(buf)
		closeFile(f)
		if err != nil && !errors.Is(err, errMessage) {
			return
		}
		if err == nil {
			heard <- m
		}
	}
}

// watch pings the gate until it ends, hangs or ctx is done.
func (k *keeper) watch(ctx context.Context, ctl *conn, heard <-chan message, ended <-chan error) (cause error, reaped bool) {
	every := max(k.Bound/8, 5*time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	ready := false
	// Counted in pings and not in time: if this process was paused too, the
	// gate had no chance to answer.
	silent := 0
	for {
		select {
		case <-ctx.Done():
			return nil, false
		case err := <-ended:
			return fmt.Errorf("the gate ended: %w", orNil(err)), true
		case m, ok := <-heard:
			switch {
			case !ok:
				heard = nil // the end follows
			case m.Op == opNote:
				k.log.Warn("gate", "says", m.Text)
			case m.Op == opReady:
				ready, silent = true, 0
				k.ready()
			case m.Op == opReply:
				silent = 0
			}
		case <-tick.C:
			k.beat()
			limit := k.Bound
			if ready {
				_ = ctl.send(message{Op: opPing}) // a full buffer is silence too
			} else {
				limit = max(limit, startWait)
			}
			if silent++; time.Duration(silent)*every > limit {
				return fmt.Errorf("the gate was silent for %v", limit), false
			}
		}
	}
}

func orNil(err error) error {
	if err == nil {
		return errors.New("by itself")
	}
	return err
}

func (k *keeper) ready() {
	select {
	case <-k.up:
	default:
		close(k.up)
	}
}

// start executes a gate and tells it who is exempt.
func (k *keeper) start() (*exec.Cmd, *conn, error) {
	ours, theirs, err := pair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close() // the gate has its own duplicate
	ctl, err := newConn(ours)
	if err != nil {
		return nil, nil, err
	}
	set, err := json.Marshal(gateSettings{Settings: k.Settings, Restarts: k.starts, Swept: k.swept, Unlimited: k.fan.unlimited})
	if err != nil {
		return nil, nil, errors.Join(err, ctl.close())
	}
	k.starts++
	cmd := child(k.Exe, k.GateArgs, envRole+"="+roleGate, envSettings+"="+string(set))
	cmd.ExtraFiles = []*os.File{k.fanFile, k.rules, theirs, k.gateEnd} // gateGroupFD and following
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("cannot start the gate: %w", err), ctl.close())
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, pidfd := range k.pidfds {
		if pidfd >= 0 {
			_ = ctl.send(message{Op: opExempt}, pidfd) // a gate that does not hear this is replaced
		}
	}
	_ = ctl.send(message{Op: opStart})
	return cmd, ctl, nil
}
