// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// ExitForGood is the status with which a worker says that starting it again
// will not help: EX_CONFIG of sysexits.h.
const ExitForGood = 78

// SupervisorConfig is for Supervise.
type SupervisorConfig struct {
	Settings

	// Exe is the program to execute for gate and worker. Empty: this one.
	Exe string
	// GateArgs are the arguments with which Exe calls Main. Required.
	GateArgs []string
	// WorkerArgs are the arguments with which Exe becomes the worker, which
	// finds its gate through Inherited. Required.
	WorkerArgs []string
	// StopWait is how long the worker may take to stop after SIGTERM. Zero: 20
	// seconds.
	StopWait time.Duration
	// Log is required.
	Log *slog.Logger
}

// Supervise runs gate and worker until ctx ends, then stops the worker and
// releases everything. Where the kernel grants no gate it says so, to the log
// and to the worker, and runs the worker alone. It tells systemd when it is
// ready, and that it is well while it is.
//
// Nothing in this process waits for a log, the network or a disk.
func Supervise(ctx context.Context, cfg SupervisorConfig) error {
	cfg.Settings = cfg.Settings.withDefaults()
	if cfg.Exe == "" {
		cfg.Exe = "/proc/self/exe"
	}
	if cfg.StopWait <= 0 {
		cfg.StopWait = 20 * time.Second
	}
	lossy, flush := newLossy(cfg.Log.Handler())
	defer flush()
	log := slog.New(lossy)

	workerEnd, gateEnd, err := pair()
	if err != nil {
		return err
	}
	defer workerEnd.Close()
	defer gateEnd.Close()
	k, err := newKeeper(keeperSettings{Settings: cfg.Settings, Exe: cfg.Exe, GateArgs: cfg.GateArgs}, gateEnd, log)
	s := &supervisor{SupervisorConfig: cfg, log: log, workerEnd: workerEnd}
	if err != nil {
		log.Warn("running without the gate", "cause", err)
		s.off = err.Error()
		return s.run(ctx)
	}
	s.keeper = k
	return s.runBoth(ctx)
}

type supervisor struct {
	SupervisorConfig
	log       *slog.Logger
	keeper    *keeper // nil: off says why
	off       string
	workerEnd *os.File
	lastBeat  atomic.Int64 // of the keeper, in ns since 1970
}

// runBoth gives the gate a head start, so that the worker finds it, and lets it
// outlast the worker.
func (s *supervisor) runBoth(ctx context.Context) error {
	gateCtx, stopGate := context.WithCancel(context.WithoutCancel(ctx))
	s.keeper.beat = func() { s.lastBeat.Store(time.Now().UnixNano()) }
	var wg sync.WaitGroup
	wg.Go(func() { s.keeper.run(gateCtx) })
	defer wg.Wait()
	defer stopGate()
	select {
	case <-s.keeper.up:
	case <-time.After(startWait):
		s.log.Error("starting the worker while the gate is not ready")
	case <-ctx.Done():
	}
	return s.run(ctx)
}

// run keeps a worker going.
func (s *supervisor) run(ctx context.Context) error {
	runtime.LockOSThread() // see keeper.run
	defer runtime.UnlockOSThread()
	var wg sync.WaitGroup
	notifyCtx, cancel := context.WithCancel(ctx)
	wg.Go(func() { s.notify(notifyCtx) })
	defer wg.Wait()
	defer cancel()
	for deaths := 0; ctx.Err() == nil; deaths++ {
		began := time.Now()
		err := s.runWorker(ctx)
		if ctx.Err() != nil {
			return nil
		}
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == ExitForGood {
			return errors.New("the worker cannot run; its last message says why")
		}
		if time.Since(began) > time.Minute {
			deaths = 0
		}
		pause := min(100*time.Millisecond<<min(deaths, 10), 10*time.Second)
		s.log.Error("worker ended, starting another; the gate goes on", "cause", orNil(err), "pause", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
	return nil
}

func (s *supervisor) runWorker(ctx context.Context) error {
	gate := envOff + "=" + s.off
	if s.keeper != nil {
		gate = socketEnv(3)
	}
	cmd := child(s.Exe, s.WorkerArgs, gate)
	cmd.Stdin = os.Stdin
	cmd.ExtraFiles = []*os.File{s.workerEnd}
	pidfd := -1
	cmd.SysProcAttr.PidFD = &pidfd
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start the worker: %w", err)
	}
	switch {
	case s.keeper != nil:
		s.keeper.exemptWorker(pidfd)
	case pidfd >= 0:
		_ = unix.Close(pidfd) // nobody needs it
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	select {
	case err := <-ended:
		return err
	case <-time.After(s.StopWait):
	}
	s.log.Error("worker did not stop in time, killing it", "waited", s.StopWait)
	_ = cmd.Process.Kill() // see above
	return <-ended
}

// notify speaks to systemd from a goroutine of its own: that may block. The
// watchdog is fed while the keeper's is.
func (s *supervisor) notify(ctx context.Context) {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady) // nobody may be listening
	defer func() { _, _ = daemon.SdNotify(false, daemon.SdNotifyStopping) }()
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every <= 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(every / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if s.keeper == nil || time.Since(time.Unix(0, s.lastBeat.Load())) < max(every/2, 4*s.Bound) {
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
		}
	}
}
