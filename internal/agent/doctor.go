// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"log/slog"
	"os"

	"staunch/internal/agent/gate"
	"staunch/internal/agent/gate/pin"
	"staunch/internal/agent/process"
)

// Doctor tries what this kernel lets the agent do, each thing by its effect on
// something harmless. It guesses nothing and changes nothing that lasts.
func Doctor(ctx context.Context, gateArgs []string) ([]Check, error) {
	scratch, err := os.MkdirTemp("", "staunch-doctor-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch)
	checks := []Check{{Name: "root", OK: os.Geteuid() == 0, Detail: "to see every process, to gate, and to take other people's files"}}
	for _, c := range process.Probe(scratch) {
		checks = append(checks, Check{Name: "hold: " + c.Name, OK: c.OK, Detail: c.Detail})
	}
	for _, c := range gate.Probe(ctx, gate.LocalConfig{GateArgs: gateArgs}) {
		checks = append(checks, Check{Name: "gate: " + c.Name, OK: c.OK, Detail: c.Detail})
	}
	return append(checks, pinProbe(scratch)), nil
}

// pinProbe has the kernel itself refuse a harmless file, and leaves nothing.
func pinProbe(scratch string) Check {
	c := Check{Name: "gate: outlives the agent", OK: true, Detail: "a file that is refused stays so when the agent is dead (BPF security module)"}
	p, err := pin.Open(pin.Config{State: scratch, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = p.Close()
	}
	if err != nil {
		c.OK, c.Detail = false, err.Error()
	}
	return c
}
