// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What a child finds in its environment, and where its descriptors are.
const (
	envRole     = "STAUNCH_GATE_ROLE"     // roleGate or roleKeeper, for Main
	envSettings = "STAUNCH_GATE_SETTINGS" // JSON of settings or keeperSettings, for Main
	envSocket   = "STAUNCH_GATE_SOCKET"   // number of the worker's control socket, for Inherited
	envOff      = "STAUNCH_GATE_OFF"      // why there is no gate, for Inherited

	roleGate   = "gate"
	roleKeeper = "keeper"

	gateGroupFD  = 3
	gateRulesFD  = 4
	gateKeeperFD = 5
	gateWorkerFD = 6
)

// gateSettings are what a gate is started with.
type gateSettings struct {
	Settings
	Restarts  int  `json:"restarts"`
	Swept     int  `json:"swept"`
	Unlimited bool `json:"unlimited"`
}

// GateConfig is for Main.
type GateConfig struct {
	// Log is used by the supervisor of a local gate. Required. A gate itself
	// never logs: what it has to say goes to the supervisor.
	Log *slog.Logger
}

// Main is the body of the hidden command that the supervisor executes for each
// gate. It returns when the supervisor is gone.
func Main(cfg GateConfig) error {
	switch role := os.Getenv(envRole); role {
	case roleGate:
		return serveGate()
	case roleKeeper:
		return serveKeeper(cfg.Log)
	default:
		return errors.New("cannot run the gate by itself: it is started by `staunch-agent run` and by `staunch-agent contain`")
	}
}

// gate is the process: a judge, what the supervisor says, what the worker says.
type gate struct {
	set    gateSettings
	fan    group
	book   *book
	judge  *judge
	cover  *coverage
	keeper *conn
	worker *conn
	sets   replacing
	tidy   *time.Timer // collects garbage once the worker has been quiet for a while
}

func serveGate() error {
	calm()
	g, err := inheritGate()
	if err != nil {
		return err
	}
	if err := g.await(); err != nil {
		return err
	}
	if _, hashes := g.book.counts(); hashes == 0 {
		if err := g.fan.unmarkFilesystems(); err != nil { // what a predecessor may have left
			g.note("cannot end the standing gate: " + err.Error())
		}
	}
	if err := g.settleCoverage(); err != nil {
		g.note(err.Error())
	}
	ended := make(chan error, 3)
	go func() {
		runtime.LockOSThread()
		_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -10) // better, not needed
		ended <- fmt.Errorf("cannot read events: %w", g.judge.readers.read())
	}()
	go g.judge.release()
	go g.judge.report(g.worker)
	go func() { ended <- g.cover.watch() }()
	go func() { ended <- g.serveWorker() }()
	if err := g.keeper.send(message{Op: opReady}); err != nil {
		return err
	}
	go func() { ended <- g.serveSupervisor() }()
	return <-ended // the process ends with its first part; the supervisor starts another
}

// calm makes a process that must answer at once: no signals from a terminal,
// hardly any garbage collection, room for all descriptors.
func calm() {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(48 << 20) // several times what it holds with a full book of rules
	// A thread in a blocking call must never be the one that kept the answer
	// from being computed, also on a machine with one core.
	runtime.GOMAXPROCS(max(4, runtime.NumCPU()))
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		l.Cur = min(l.Max, maxFDs)
		_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &l) // the sweep needs no more than what was there
	}
}

func inheritGate() (*gate, error) {
	g := &gate{fan: group{fd: gateGroupFD}, tidy: time.AfterFunc(time.Hour, debug.FreeOSMemory)}
	if err := json.Unmarshal([]byte(os.Getenv(envSettings)), &g.set); err != nil {
		return nil, fmt.Errorf("cannot read the gate's settings: %w", err)
	}
	g.fan.unlimited = g.set.Unlimited
	var err error
	if g.keeper, err = newConn(os.NewFile(gateKeeperFD, "supervisor")); err != nil {
		return nil, err
	}
	if g.worker, err = newConn(os.NewFile(gateWorkerFD, "worker")); err != nil {
		return nil, err
	}
	var bad []error
	if g.book, bad, err = openBook(os.NewFile(gateRulesFD, "rules")); err != nil {
		return nil, err
	}
	for _, err := range bad {
		g.note(err.Error())
	}
	g.judge = newJudge(g.set.Settings, g.fan, g.book)
	g.cover = &coverage{fan: g.fan, under: g.set.Under, note: g.note}
	return g, nil
}

// note is for the supervisor's log.
func (g *gate) note(text string) {
	_ = g.keeper.send(message{Op: opNote, Text: text}) // never worth waiting for
}

// await takes in the agent's processes until the supervisor says start.
func (g *gate) await() error {
	buf := make([]byte, maxMessage)
	for {
		m, f, err := g.keeper.recv(buf)
		if err != nil {
			return fmt.Errorf("cannot hear the supervisor: %w", err)
		}
		switch m.Op {
		case opStart:
			closeFile(f)
			return nil
		case opExempt:
			if err := g.addExempt(f); err != nil {
				g.note(err.Error())
			}
		default:
			closeFile(f)
		}
	}
}

// serveSupervisor answers pings while the reader of events is well. It returns
// nil once the supervisor is gone.
func (g *gate) serveSupervisor() error {
	buf := make([]byte, maxMessage)
	for {
		m, f, err := g.keeper.recv(buf)
		closeFile(f)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot hear the supervisor: %w", err)
		}
		if m.Op == opPing && g.judge.readers.stuck() < g.set.Bound/2 {
			if err := g.keeper.send(message{Op: opReply, Seq: m.Seq}); err != nil {
				return err
			}
		}
	}
}

// serveWorker carries out requests, each in its own time: marking a file of a
// file system that does not answer holds up nothing else.
func (g *gate) serveWorker() error {
	room := make(chan struct{}, 16)
	buf := make([]byte, maxMessage)
	for {
		m, f, err := g.worker.recv(buf)
		if errors.Is(err, errMessage) {
			g.note("from the worker: " + err.Error())
			continue
		}
		if err != nil { // no worker will ever come again: wait for the supervisor's end
			time.Sleep(g.set.Bound)
			return fmt.Errorf("cannot hear the worker: %w", err)
		}
		room <- struct{}{}
		go func() {
			defer func() { <-room }()
			reply := message{Op: opReply, Seq: m.Seq}
			if err := g.carryOut(m, f, &reply); err != nil {
				reply.Error = err.Error()
			}
			closeFile(f)
			if m.Op != opStatus {
				g.tidy.Reset(time.Second)
			}
			if err := g.worker.send(reply); err != nil {
				g.note("cannot answer the worker: " + err.Error())
			}
		}()
	}
}
