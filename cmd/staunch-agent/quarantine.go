// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"staunch/internal/agent"
	"staunch/internal/cli"
	"staunch/internal/order"
)

type quarantineCmd struct {
	List    listCmd    `cmd:"" help:"List the sealed files."`
	Show    showCmd    `cmd:"" help:"Show one sealed file."`
	Restore restoreCmd `cmd:"" help:"Put sealed files back, bytes and metadata."`
	Recover recoverCmd `cmd:"" help:"Put a file back with a recovery code, when the server cannot be reached."`
	Purge   purgeCmd   `cmd:"" help:"Delete a sealed file for good."`
}

// items lists the vault, without disturbing whoever works with it.
func (s stateFlag) items(ctx context.Context, log *slog.Logger) ([]order.Item, error) {
	state, err := s.open()
	if err != nil {
		return nil, err
	}
	if running, err := state.Dial(ctx); err == nil {
		return running.Items(ctx)
	}
	return agent.ReadItems(state, log)
}

type listCmd struct {
	stateFlag
	All bool `help:"Restored and purged ones too."`
}

func (c listCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	items, bad := c.items(ctx, log) // bad: some cannot be read; the others are shown all the same
	if len(items) == 0 && bad != nil {
		return bad
	}
	shown := []order.Item{}
	for _, i := range items {
		if c.All || i.State == "sealed" {
			shown = append(shown, i)
		}
	}
	return errors.Join(bad, out.Print(shown, func(w writer) {
		rows := make([][]string, len(shown))
		for n, i := range shown {
			rows[n] = []string{i.ID, i.State, i.Sealed.Local().Format(time.DateTime), fmt.Sprint(i.Size), i.SHA1.String(), names(i)}
		}
		cli.Table(w, []string{"ITEM", "STATE", "SEALED", "BYTES", "SHA-1", "WAS AT"}, rows)
	}))
}

func names(i order.Item) string {
	var s []string
	for _, p := range i.Paths {
		s = append(s, string(p))
	}
	return strings.Join(s, " ")
}

type showCmd struct {
	stateFlag
	Item string `arg:"" help:"Item id."`
}

func (c showCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	items, err := c.items(ctx, log)
	if err != nil {
		return err
	}
	for _, i := range items {
		if i.ID == c.Item {
			return out.Print(i, func(w writer) {
				fmt.Fprintf(w, "item     %s\nstate    %s\nsealed   %s\norder    %s\ncomment  %s\nsize     %d\nsha1     %s\nsha256   %s\nowner    %d:%d\nmode     %04o\n",
					i.ID, i.State, i.Sealed.Format(time.RFC3339), i.Order, i.Comment, i.Size, i.SHA1, i.SHA256, i.UID, i.GID, i.Mode&0o7777)
				for _, p := range i.Paths {
					fmt.Fprintf(w, "was at   %s\n", p)
				}
			})
		}
	}
	return noItem(c.Item)
}

func noItem(id string) error {
	return &cli.Hinted{Err: fmt.Errorf("there is no item %q in the vault", id), Hint: "staunch-agent quarantine list --all shows what there is"}
}

type restoreCmd struct {
	stateFlag
	Item  string        `arg:"" optional:"" help:"Item id, SHA-1, SHA-256 or order id: one file, or all of that content or order."`
	Since time.Duration `help:"All that was sealed within this time, as in 2h; of what is named, if something is." placeholder:"DURATION"`
	To    string        `help:"Another path to restore to; for one item only." placeholder:"PATH"`
}

// matches reports whether the item is meant. One named by its id is restored
// again if need be.
func (c restoreCmd) matches(i order.Item) bool {
	if c.Since > 0 && i.Sealed.Before(time.Now().Add(-c.Since)) {
		return false
	}
	switch strings.ToLower(c.Item) {
	case i.ID:
		return true
	case "", i.SHA1.String(), i.SHA256.String(), i.Order:
		return i.State == "sealed"
	}
	return false
}

func (c restoreCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	if c.Item == "" && c.Since == 0 {
		return &cli.Coded{Code: cli.Usage, Err: errors.New("nothing to restore: give an item id, a hash, an order id, or --since")}
	}
	svc, done, err := c.service(ctx, log)
	if err != nil {
		return err
	}
	defer done()
	var ids []string
	items, err := svc.Items(ctx)
	switch {
	case err != nil && order.ValidItem(c.Item) && c.Since == 0:
		ids = []string{c.Item} // what cannot be read is another one, or the receipt says so
	case err != nil:
		return err
	}
	for _, i := range items {
		if err == nil && c.matches(i) {
			ids = append(ids, i.ID)
		}
	}
	if len(ids) == 0 {
		return noItem(c.Item)
	}
	if c.To != "" && len(ids) > 1 {
		return &cli.Coded{Code: cli.Usage, Err: fmt.Errorf("--to names one place, but %d items match %s: give an item id", len(ids), c.Item)}
	}
	receipts := make([]order.Receipt, 0, len(ids))
	for _, id := range ids {
		r, err := svc.Restore(ctx, agent.RestoreRequest{Item: id, Destination: c.To})
		if err != nil {
			return err
		}
		receipts = append(receipts, r)
	}
	return printOutcomes(out, receipts)
}

func printOutcomes(out cli.Output, receipts []order.Receipt) error {
	err := out.Print(receipts, func(w writer) {
		for _, r := range receipts {
			if r.Restored != nil {
				for _, p := range r.Restored.Paths {
					fmt.Fprintf(w, "restored %s\n", p)
				}
				for _, l := range r.Restored.Lost {
					fmt.Fprintf(w, "not restored: %s\n", l)
				}
			}
			fmt.Fprintf(w, "%s %s %s\n", r.Outcome, r.Code, r.Reason)
		}
	})
	for _, r := range receipts {
		if err == nil && r.Outcome != order.Proven {
			err = &cli.Coded{Code: cli.NotProven, Err: fmt.Errorf("%s: %s", r.Code, r.Reason)}
		}
	}
	return err
}

type purgeCmd struct {
	stateFlag
	Item string `arg:"" help:"Item id."`
	Yes  bool   `help:"Do it: what is purged cannot come back." required:""`
}

func (c purgeCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	svc, done, err := c.service(ctx, log)
	if err != nil {
		return err
	}
	defer done()
	r, err := svc.Purge(ctx, agent.PurgeRequest{Item: c.Item})
	if err != nil {
		return err
	}
	return printOutcomes(out, []order.Receipt{r})
}

type recoverCmd struct {
	stateFlag
	Code string `arg:"" help:"What staunch quarantine recovery-code printed."`
}

func (c recoverCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	svc, done, err := c.service(ctx, log)
	if err != nil {
		return err
	}
	defer done()
	r, err := svc.Recover(ctx, agent.RecoverRequest{Code: c.Code})
	if err != nil {
		return err
	}
	return printOutcomes(out, []order.Receipt{r})
}
