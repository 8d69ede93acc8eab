// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
)

type quarantineCmd struct {
	List    itemsCmd   `cmd:"" help:"List sealed files, latest first."`
	Show    itemCmd    `cmd:"" help:"Show one."`
	Restore restoreCmd `cmd:"" help:"Put one back, bytes and metadata."`
	Code    codeCmd    `cmd:"" name:"recovery-code" help:"Get a code that puts one back on a device that cannot reach the server."`
	Purge   purgeCmd   `cmd:"" help:"Delete one for good."`
}

type itemsCmd struct {
	Device string `help:"Of this device only." placeholder:"ID"`
	Action string `help:"Sealed by this machine action only." placeholder:"ID"`
	Hash   string `help:"With this SHA-1 or SHA-256 only." placeholder:"HASH"`
	Limit  int    `help:"At most so many." default:"100"`
}

func (c itemsCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	page, err := server.Quarantine(ctx, client.QuarantineQuery{MachineID: c.Device, ActionID: c.Action, Hash: c.Hash, Limit: c.Limit})
	if err != nil {
		return err
	}
	return out.Print(page.Value, func(w writer) {
		rows := make([][]string, len(page.Value))
		for i, q := range page.Value {
			rows[i] = []string{q.ID, q.State, q.Sealed.Local().Format(time.DateTime), fmt.Sprint(q.Size), q.ComputerDNSName, strings.Join(q.Paths, " ")}
		}
		cli.Table(w, []string{"ITEM", "STATE", "SEALED", "BYTES", "DEVICE", "WAS AT"}, rows)
	})
}

type itemCmd struct {
	Item string `arg:"" help:"Item id."`
}

func (c itemCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	q, err := server.QuarantineItem(ctx, c.Item)
	if err != nil {
		return err
	}
	return out.Print(q, func(w writer) {
		fmt.Fprintf(w, "item     %s\nstate    %s\ndevice   %s %s\naction   %s\nsealed   %s\nsize     %d\nsha1     %s\nsha256   %s\nowner    %d:%d\nmode     %s\n",
			q.ID, q.State, q.MachineID, q.ComputerDNSName, q.ActionID, q.Sealed.Local().Format(time.DateTime), q.Size, q.SHA1, q.SHA256, q.UID, q.GID, q.Mode)
		for _, p := range q.Paths {
			fmt.Fprintf(w, "was at   %s\n", p)
		}
	})
}

type restoreCmd struct {
	Item    string `arg:"" help:"Item id."`
	To      string `help:"Another path to restore to." placeholder:"PATH"`
	Comment string `help:"Why, for the record."`
	Wait    bool   `help:"Follow the action to its end; exit 0 only if it succeeded."`
}

func (c restoreCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	a, err := server.Restore(ctx, c.Item, api.RestoreRequest{Comment: c.Comment, Destination: c.To})
	if err != nil {
		return err
	}
	return finish(ctx, out, server, a, c.Wait)
}

type codeCmd struct {
	Item    string `arg:"" help:"Item id."`
	To      string `help:"Another path to restore to." placeholder:"PATH"`
	Comment string `help:"Why, for the record."`
}

func (c codeCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	code, err := server.RecoveryCode(ctx, c.Item, api.RestoreRequest{Comment: c.Comment, Destination: c.To})
	if err != nil {
		return err
	}
	return out.Print(code, func(w writer) {
		fmt.Fprintf(w, "on the device, as root, before %s:\nstaunch-agent quarantine recover %s\n", code.Expires.Local().Format(time.DateTime), code.Code)
	})
}

type purgeCmd struct {
	Item    string `arg:"" help:"Item id."`
	Comment string `help:"Why, for the record."`
	Yes     bool   `required:"" help:"Do it: what is purged cannot come back."`
	Wait    bool   `help:"Follow the action to its end; exit 0 only if it succeeded."`
}

func (c purgeCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	a, err := server.Purge(ctx, c.Item, c.Comment)
	if err != nil {
		return err
	}
	return finish(ctx, out, server, a, c.Wait)
}
