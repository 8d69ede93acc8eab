// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"time"

	"staunch/internal/agent"
	"staunch/internal/agent/gate"
	"staunch/internal/agent/journal"
	"staunch/internal/agent/link"
	"staunch/internal/agent/process"
	"staunch/internal/cli"
	"staunch/internal/durable"
	"staunch/internal/order"
)

// service is the agent that runs in the folder, or one opened for this command.
// It starts no gate: only a containment needs one of its own.
func (s stateFlag) service(ctx context.Context, log *slog.Logger) (agent.Service, func(), error) {
	return s.openService(ctx, log, nil, "", func() (*gate.Client, error) { return nil, errors.New("this command needs none") })
}

// container is service for a containment.
func (s stateFlag) container(ctx context.Context, log *slog.Logger, roots []string, rung string) (agent.Service, func(), error) {
	return s.openService(ctx, log, roots, rung, func() (*gate.Client, error) {
		return gate.StartLocal(gate.LocalConfig{GateArgs: []string{"gate"}, Settings: gate.Settings{Under: roots}})
	})
}

func (s stateFlag) openService(
	ctx context.Context, log *slog.Logger, roots []string, rung string, startGate func() (*gate.Client, error),
) (agent.Service, func(), error) {
	state, err := s.open()
	if err != nil {
		return nil, nil, err
	}
	if remote, err := state.Dial(ctx); err == nil {
		return remote, func() {}, nil
	}
	unlock, err := state.Lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	gates, why := startGate()
	a, err := agent.New(agent.Config{State: state, Roots: roots, NoIndex: true, Gate: gates, GateOff: text(why), Rung: rung, Keeper: []string{"keep"}, Log: log})
	if err != nil {
		unlock()
		return nil, nil, err
	}
	done := func() {
		if err := a.Stop(); err != nil {
			log.Error("cannot close the state folder", "error", err)
		}
		unlock()
	}
	if err := a.StartLocal(); err != nil {
		done()
		return nil, nil, err
	}
	return a, done, nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

type enrollCmd struct {
	stateFlag
	Token string `arg:"" help:"The token that staunch admin enroll-token create printed."`
	Force bool   `help:"Become a new device although this folder belongs to one; nothing ordered for the old one is carried out."`
}

func (c enrollCmd) Run(ctx context.Context, out cli.Output) error {
	token, err := order.ParseEnrollToken(c.Token)
	if err != nil {
		return &cli.Coded{Code: cli.Usage, Err: err}
	}
	state, err := c.open()
	if err != nil {
		return err
	}
	unlock, err := state.Lock(ctx)
	if errors.Is(err, durable.ErrLocked) {
		return &cli.Hinted{Err: err, Hint: "stop the agent first: systemctl stop staunch-agent"}
	}
	if err != nil {
		return err
	}
	defer unlock()
	old, err := state.Enrollment()
	if err == nil && !c.Force {
		return &cli.Hinted{Err: fmt.Errorf("this folder already belongs to device %s of %s", old.DeviceID, old.URL),
			Hint: "add --force to become a new device; what is sealed in the vault stays"}
	}
	if err != nil && !errors.Is(err, agent.ErrNotEnrolled) && !c.Force {
		return err
	}
	// Nothing that the old device was ordered is carried out as the new one.
	if _, err := journal.SetAside(state.JournalDir(), time.Now()); err != nil {
		return err
	}
	key, err := state.NewDeviceKey()
	if err != nil {
		return err
	}
	resp, ca, err := link.Enroll(ctx, token, key, agent.Facts())
	if err != nil {
		return err
	}
	e := agent.Enrollment{URL: token.URL, DeviceID: resp.DeviceID, TenantID: resp.TenantID, OrderKeys: resp.OrderKeys, EscrowKey: resp.EscrowKey, CA: string(ca)}
	if err := state.Enroll(e); err != nil {
		return err
	}
	return out.Print(map[string]string{"deviceId": e.DeviceID, "server": e.URL}, func(w writer) {
		fmt.Fprintf(w, "enrolled as device %s of %s\n", e.DeviceID, e.URL)
	})
}

// workFlags are what run hands on to its worker.
type workFlags struct {
	stateFlag
	Index     []string      `help:"Cover these trees only: index and search them, gate their file systems. Default: every local file system." placeholder:"PATH" sep:"none"`
	Rung      string        `help:"Hold processes this way only: bpf, freeze, connector, besteffort." enum:",bpf,freeze,connector,besteffort" default:""`
	Protect   []string      `help:"Never take what lies here." placeholder:"PATH" sep:"none"`
	Ceiling   int64         `name:"vault-ceiling" help:"The most the vault may hold; what does not fit is not taken, and the order fails. Default: what the disk holds." placeholder:"BYTES"`
	Retention time.Duration `help:"Purge items that are older. Default: keep them until they are purged." placeholder:"DURATION"`
	LogFormat string        `help:"text or json." enum:"text,json" default:"text"`
}

type runCmd struct {
	workFlags
	FailClosed bool `help:"When the gate cannot answer, refuse to start programs instead of letting them pass."`
}

// Run supervises the gate and the worker: see docs/gate.md.
func (c runCmd) Run(ctx context.Context, _ *slog.Logger) error {
	log := logger(c.LogFormat)
	roots, err := absolute(c.Index)
	if err != nil {
		return err
	}
	state, err := c.open()
	if err != nil {
		return err
	}
	unlock, err := state.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	defer onlyOne(log)()
	args := []string{"worker", "--state", state.Dir, "--log-format", c.LogFormat, "--rung", c.Rung}
	args = append(args, "--vault-ceiling", strconv.FormatInt(c.Ceiling, 10), "--retention", c.Retention.String())
	for _, r := range roots {
		args = append(args, "--index", r)
	}
	for _, p := range c.Protect {
		args = append(args, "--protect", p)
	}
	return gate.Supervise(ctx, gate.SupervisorConfig{
		Settings: gate.Settings{FailClosed: c.FailClosed, Under: roots}, GateArgs: []string{"gate"}, WorkerArgs: args, Log: log,
	})
}

// onlyOne warns where another agent supervises a gate on this machine: each
// refuses the other to look at what it denies.
func onlyOne(log *slog.Logger) (unlock func()) {
	unlock, err := durable.Lock("/run/staunch-agent.lock")
	if err == nil {
		return unlock
	}
	if errors.Is(err, durable.ErrLocked) {
		log.Warn("another staunch-agent runs on this machine; each refuses the other to look at what it denies, and orders about that fail as AccessDenied: stop one of them")
	}
	return func() {} // or not root, who has no gate
}

type gateCmd struct{}

// Run answers the kernel's questions until the supervisor is gone.
func (gateCmd) Run(log *slog.Logger) error { return gate.Main(gate.GateConfig{Log: log}) }

type keepCmd struct {
	StateDir string        `arg:""`
	Bound    time.Duration `arg:""`
}

// Run waits for its starter's end, and thaws.
func (c keepCmd) Run() error { return process.Keep(c.StateDir, c.Bound, os.Stdin, os.Stdout) }

type workerCmd struct{ workFlags }

// Run carries out orders until told to stop.
func (c workerCmd) Run(ctx context.Context) error {
	log := logger(c.LogFormat)
	gates, why := gate.Inherited()
	if why != nil {
		log.Warn("there is no gate", "error", why)
	}
	a, err := agent.New(agent.Config{
		State: agent.State{Dir: c.State}, Roots: c.Index, Gate: gates, GateOff: text(why), Rung: c.Rung, Keeper: []string{"keep"}, Protected: c.Protect,
		Ceiling: c.Ceiling, Retention: c.Retention, Log: log,
	})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}
