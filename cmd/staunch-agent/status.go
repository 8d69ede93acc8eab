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
		printGate(w, s)
		for _, g := range s.Gates {
			fmt.Fprintf(w, "gate      refuses %s since %s\n", g.File, g.Since.Local().Format("2006-01-02 15:04:05"))
		}
		for _, off := range s.Off {
			fmt.Fprintf(w, "off       %s\n", off)
		}
	})
}

// printGate shows how the gate is and what to do about it.
func printGate(w writer, s agent.Status) {
	if s.Rung != "" {
		fmt.Fprintf(w, "hold      by %s: %s\n", s.Rung, s.RungWhy)
	}
	if g := s.Gate; g != nil {
		fmt.Fprintf(w, "gate      %s, %d contents and %d files, refused %d, slowest answer %.1f ms, %d restarts\n",
			g.Mode, g.Hashes, g.Files, g.Denied, float64(g.SlowestNs)/1e6, g.Restarts)
		for _, c := range []struct {
			n    uint64
			what string
		}{
			{g.Overflows, "times the kernel's queue was full and events passed unjudged: give the agent CAP_SYS_ADMIN, which makes it unlimited"},
			{g.FailOpens, "answers by the setting, because judging took too long: see docs/gate.md"},
			{g.Late, "programs were known for denied after they had begun; each was contained again"},
			{g.Unleased, "executions on file systems that grant no leases: a change between answer and execution is not seen there"},
			{g.Lost, "refusals that nobody was told of"},
		} {
			if c.n > 0 {
				fmt.Fprintf(w, "gate      %d %s\n", c.n, c.what)
			}
		}
	}
	if p := s.Pinned; p != nil {
		fmt.Fprintf(w, "pinned    %d files stay refused without the agent; refused %d times\n", p.Marks, p.Refused)
	}
	for _, path := range s.Unread {
		fmt.Fprintf(w, "guard     cannot read %s: files of its packages are not spared; list what must be with --protect\n", path)
	}
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
