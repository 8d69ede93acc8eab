// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
)

type actionsCmd struct {
	List     actionsListCmd  `cmd:"" default:"withargs" help:"List machine actions, newest first."`
	Show     actionShowCmd   `cmd:"" help:"Show one."`
	Watch    actionWatchCmd  `cmd:"" help:"Follow one to its end; exit 0 only if it succeeded."`
	Cancel   actionCancelCmd `cmd:"" help:"Give one up."`
	Evidence evidenceCmd     `cmd:"" help:"Show the device's signed account of one."`
}

type actionsListCmd struct {
	Filter string `help:"OData filter, as in \"status eq 'Failed'\"." placeholder:"EXPR"`
	Top    int    `help:"At most so many." default:"50"`
}

func (c actionsListCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	list, err := server.MachineActions(ctx, client.Query{Filter: c.Filter, Top: c.Top})
	if err != nil {
		return err
	}
	return out.Print(list.Value, func(w writer) {
		rows := make([][]string, len(list.Value))
		for i, a := range list.Value {
			rows[i] = []string{a.ID, a.CreationDateTimeUTC.Local().Format(time.DateTime), a.Type, a.Status, deref(a.ComputerDNSName), a.Requestor, deref(a.TroubleshootInfo)}
		}
		cli.Table(w, []string{"ACTION", "CREATED", "TYPE", "STATUS", "DEVICE", "BY", "REMARK"}, rows)
	})
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func printAction(w writer, a api.MachineAction) {
	fmt.Fprintf(w, "action   %s\ntype     %s\nstatus   %s\ndevice   %s %s\nby       %s: %s\ncreated  %s\nupdated  %s\n",
		a.ID, a.Type, a.Status, a.MachineID, deref(a.ComputerDNSName), a.Requestor, a.RequestorComment,
		a.CreationDateTimeUTC.Local().Format(time.DateTime), a.LastUpdateDateTimeUTC.Local().Format(time.DateTime))
	if a.RelatedFileInfo != nil {
		fmt.Fprintf(w, "file     %s %s\n", a.RelatedFileInfo.FileIdentifierType, a.RelatedFileInfo.FileIdentifier)
	}
	if a.TroubleshootInfo != nil {
		fmt.Fprintf(w, "remark   %s (%d)\n", *a.TroubleshootInfo, a.ErrorHResult)
	}
}

type actionShowCmd struct {
	ID string `arg:"" help:"Action id."`
}

func (c actionShowCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	a, err := server.MachineAction(ctx, c.ID)
	if err != nil {
		return err
	}
	return out.Print(a, func(w writer) { printAction(w, a) })
}

type actionWatchCmd struct {
	ID string `arg:"" help:"Action id."`
}

func (c actionWatchCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	a, err := server.MachineAction(ctx, c.ID)
	if err != nil {
		return err
	}
	return finish(ctx, out, server, a, true)
}

// finish prints an action, after following it to its end if wait is set.
func finish(ctx context.Context, out cli.Output, server caller, a api.MachineAction, wait bool) (err error) {
	if wait {
		a, err = server.Watch(ctx, a.ID, func(a api.MachineAction) { cli.Progress("%s %s", a.ID, a.Status) })
		if err != nil {
			return err
		}
	}
	if err := out.Print(a, func(w writer) { printAction(w, a) }); err != nil {
		return err
	}
	if wait && a.Status != api.Succeeded {
		return &cli.Coded{Code: cli.NotProven, Err: &cli.Hinted{
			Err: errors.New(strings.TrimSuffix("the action ended as "+a.Status+": "+deref(a.TroubleshootInfo), ": ")), Hint: "staunch actions evidence " + a.ID + " shows what the device did"}}
	}
	return nil
}

type actionCancelCmd struct {
	ID      string `arg:"" help:"Action id."`
	Comment string `help:"Why, for the record."`
}

func (c actionCancelCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	a, err := server.Cancel(ctx, c.ID, c.Comment)
	if err != nil {
		return err
	}
	return out.Print(a, func(w writer) { printAction(w, a) })
}

type evidenceCmd struct {
	ID string `arg:"" help:"Action id."`
}

func (c evidenceCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	e, err := server.Evidence(ctx, c.ID)
	if err != nil {
		return err
	}
	return out.Print(e, func(w writer) {
		var receipt any
		if json.Unmarshal(e.Receipt, &receipt) == nil {
			if b, err := json.MarshalIndent(receipt, "", "  "); err == nil {
				fmt.Fprintf(w, "%s\n", b)
			}
		}
	})
}
