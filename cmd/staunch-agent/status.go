// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"staunch/internal/agent"
	"staunch/internal/cli"
	"staunch/internal/durable"
)

func logger(format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

type statusCmd struct{ stateFlag }

func (c statusCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	state, err := c.open()
	if err != nil {
		return err
	}
	var s agent.Status
	if running, dialErr := state.Dial(ctx); dialErr == nil {
		s, err = running.Status(ctx)
	} else {
		s, err = agent.ReadStatus(state, log)
	}
	if err != nil {
		return err
	}
	return out.Print(s, func(w writer) {
		fmt.Fprintf(w, "version   %s\nrunning   %v\nstate     %s\ndevice    %s\nserver    %s\nconnected %v\n", s.Version, s.Running, s.StateDir, s.DeviceID, s.Server, s.Connected)
		fmt.Fprintf(w, "index     %d files, %.0f %%, complete %v\norders    %d at work, %d receipts unsent\nvault     %d items\n",
			s.Index.Files, 100*s.Index.Progress, s.Index.Complete, s.Orders, s.Unsent, s.Items)
		if p := s.Processes; p != nil {
			fmt.Fprintf(w, "processes %d programs and %d scripts known by %s, %d to be read; %d events, lost %d times\n", p.Programs, p.Scripts, p.Source, p.Waiting, p.Heard, p.Lost)
		}
		for _, g := range s.Gates {
			fmt.Fprintf(w, "gate      refuses %s since %s\n", g.File, g.Since.Local().Format("2006-01-02 15:04:05"))
		}
		for _, off := range s.Off {
			fmt.Fprintf(w, "off       %s\n", off)
		}
	})
}

type fsckCmd struct {
	stateFlag
	Repair bool `help:"Finish or undo what a crash left, and move damaged files aside."`
}

func (c fsckCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
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
	report, err := agent.Fsck(ctx, state, c.Repair, log)
	if err != nil {
		return err
	}
	err = out.Print(report, func(w writer) {
		for _, f := range report.Findings {
			fmt.Fprintf(w, "%s\n", f)
		}
		fmt.Fprintf(w, "%d items and %d journal records checked, %d findings\n", report.Items, report.Records, len(report.Findings))
	})
	if err == nil && !report.OK {
		hint := "staunch-agent fsck --repair mends what can be mended and says the rest"
		if c.Repair {
			hint = "what is left needs you: each finding says what to do"
		}
		err = &cli.Hinted{Err: fmt.Errorf("%d findings", len(report.Findings)), Hint: hint}
	}
	return err
}

type doctorCmd struct{ stateFlag }

func (c doctorCmd) Run(ctx context.Context, out cli.Output) error {
	checks, err := agent.Doctor(ctx, []string{"gate"})
	if err != nil {
		return err
	}
	return out.Print(checks, func(w writer) {
		rows := make([][]string, len(checks))
		for i, k := range checks {
			rows[i] = []string{k.Name, map[bool]string{true: "yes", false: "no"}[k.OK], k.Detail}
		}
		cli.Table(w, []string{"CAN", "HERE", "DETAIL"}, rows)
	})
}
