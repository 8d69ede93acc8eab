// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"staunch/internal/agent"
	"staunch/internal/cli"
)

type persistenceCmd struct {
	List   persistenceListCmd `cmd:"" help:"List what is disabled."`
	Enable enableCmd          `cmd:"" help:"Enable again what a containment disabled."`
}

type persistenceListCmd struct{ stateFlag }

func (c persistenceListCmd) Run(out cli.Output) error {
	state, err := c.open()
	if err != nil {
		return err
	}
	all, err := agent.ReadDisabled(state)
	if err != nil {
		return err
	}
	return out.Print(all, func(w writer) {
		rows := make([][]string, len(all))
		for i, d := range all {
			rows[i] = []string{d.Order, d.Since.Local().Format(time.DateTime), string(d.Undo.File), fmt.Sprint(d.Undo.Line)}
		}
		cli.Table(w, []string{"ORDER", "SINCE", "FILE", "LINE"}, rows)
	})
}

type enableCmd struct {
	stateFlag
	Order string `arg:"" help:"The containment's id, as list shows it."`
}

func (c enableCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	svc, done, err := c.service(ctx, log)
	if err != nil {
		return err
	}
	defer done()
	n, err := svc.Enable(ctx, agent.EnableRequest{Order: c.Order})
	if err != nil {
		return err
	}
	return out.Print(n, func(w writer) { fmt.Fprintf(w, "enabled %d\n", n.Enabled) })
}
