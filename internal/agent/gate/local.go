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
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// LocalConfig is for StartLocal.
type LocalConfig struct {
	Settings

	// Exe is the program to execute for the gate. Empty: this one.
	Exe string
	// GateArgs are the arguments with which Exe calls Main. Required.
	GateArgs []string
}

// StartLocal starts a gate, with a supervisor of its own, that lasts until the
// Client is closed or this process ends. An error that matches ErrOff says why
// there can be none here.
//
// The supervisor must not be this process: whoever executes programs, as this
// one may, must not be needed for an answer.
func StartLocal(cfg LocalConfig) (*Client, error) {
	set := keeperSettings{Settings: cfg.Settings.withDefaults(), Exe: cfg.Exe, GateArgs: cfg.GateArgs}
	if set.Exe == "" {
		set.Exe = "/proc/self/exe"
	}
	text, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("cannot write settings: %w", err)
	}
	workerEnd, gateEnd, err := pair()
	if err != nil {
		return nil, err
	}
	cn, err := newConn(workerEnd)
	if err != nil {
		return nil, errors.Join(err, gateEnd.Close())
	}
	cmd := child(set.Exe, set.GateArgs, envRole+"="+roleKeeper, envSettings+"="+string(text))
	cmd.SysProcAttr.Pdeathsig = 0 // it ends when workerEnd is closed; threads of ours come and go
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open pidfd: %w", err), cn.close(), gateEnd.Close())
	}
	selfFile := os.NewFile(uintptr(self), "self")
	cmd.ExtraFiles = []*os.File{gateEnd, selfFile} // localGateFD, localWorkerFD
	err = cmd.Start()
	_ = gateEnd.Close()  // the keeper has its own duplicate
	_ = selfFile.Close() // likewise
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot start the gate: %w", err), cn.close())
	}
	stop := func() error { return stopKeeper(cmd) }
	if err := awaitLocal(cn); err != nil {
		return nil, errors.Join(err, cn.close(), stop())
	}
	return newClient(cn, cmd.Process.Pid, stop)
}

func awaitLocal(cn *conn) error {
	if err := cn.u.SetReadDeadline(time.Now().Add(2 * startWait)); err != nil {
		return err
	}
	m, f, err := cn.recv(make([]byte, maxMessage))
	closeFile(f)
	switch {
	case err != nil:
		return fmt.Errorf("%w: its process does not come up: %w", ErrOff, err)
	case m.Op == opOff:
		return fmt.Errorf("%w: %s", ErrOff, strings.TrimPrefix(m.Text, ErrOff.Error()+": "))
	case m.Op != opReady:
		return fmt.Errorf("%w: its process said %q", ErrOff, m.Op)
	}
	return cn.u.SetReadDeadline(time.Time{})
}

func stopKeeper(cmd *exec.Cmd) error {
	timer := time.AfterFunc(startWait, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the gate's supervisor ended badly: %w", err)
	}
	return nil
}

const (
	localGateFD   = 3 // the gate's end of the worker's socket
	localWorkerFD = 4 // pidfd of the worker
)

// serveKeeper is the supervisor process of a local gate. It ends when nobody
// holds the worker's end of the socket any more.
func serveKeeper(log *slog.Logger) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	lossy, flush := newLossy(log.Handler())
	defer flush()
	gateEnd := os.NewFile(localGateFD, "gate")
	unix.CloseOnExec(localGateFD)
	unix.CloseOnExec(localWorkerFD)
	var set keeperSettings
	if err := json.Unmarshal([]byte(os.Getenv(envSettings)), &set); err != nil {
		return fmt.Errorf("cannot read the gate's settings: %w", err)
	}
	dup, err := duplicate(gateEnd)
	if err != nil {
		return err
	}
	toWorker, err := newConn(dup)
	if err != nil {
		return err
	}
	k, err := newKeeper(set, gateEnd, slog.New(lossy))
	if err != nil {
		return toWorker.send(message{Op: opOff, Text: err.Error()})
	}
	k.exemptWorker(localWorkerFD)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); k.run(ctx) }()
	go func() {
		select {
		case <-k.up:
			_ = toWorker.send(message{Op: opReady}) // or it is gone, which awaitHangup sees
		case <-done:
		}
	}()
	awaitHangup(int(gateEnd.Fd()))
	cancel()
	<-done
	return nil
}

// awaitHangup waits until the other end of the socket is closed.
func awaitHangup(fd int) {
	for {
		p := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(p, -1); err == nil && n > 0 && p[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
			return
		}
	}
}
