// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
)

type indicatorsCmd struct {
	List   indicatorsListCmd  `cmd:"" default:"withargs" help:"List active indicators, newest first."`
	Show   indicatorShowCmd   `cmd:"" help:"Show one."`
	Add    indicatorAddCmd    `cmd:"" help:"Make one, or change the one of that hash and those device groups."`
	Import indicatorImportCmd `cmd:"" help:"Make many of the hashes in a file, one a line."`
	Delete indicatorDeleteCmd `cmd:"" help:"Delete some, all or none."`
}

type indicatorsListCmd struct {
	Filter string `help:"OData filter, as in \"action eq 'Block'\"." placeholder:"EXPR"`
	Top    int    `help:"At most so many." default:"100"`
}

func (c indicatorsListCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	list, err := server.Indicators(ctx, client.Query{Filter: c.Filter, Top: c.Top})
	if err != nil {
		return err
	}
	return out.Print(list.Value, func(w writer) {
		rows := make([][]string, len(list.Value))
		for i, in := range list.Value {
			rows[i] = []string{in.ID, in.IndicatorType, in.IndicatorValue, in.Action, scopeOf(in), expiryOf(in), in.Title}
		}
		cli.Table(w, []string{"ID", "TYPE", "VALUE", "ACTION", "GROUPS", "EXPIRES", "TITLE"}, rows)
	})
}

func scopeOf(in api.Indicator) string {
	if len(in.RbacGroupNames) == 0 {
		return "all"
	}
	return strings.Join(in.RbacGroupNames, ",")
}

func expiryOf(in api.Indicator) string {
	if in.ExpirationTime == nil {
		return "never"
	}
	return in.ExpirationTime.Local().Format(time.DateTime)
}

type indicatorShowCmd struct {
	ID string `arg:"" help:"Indicator id."`
}

func (c indicatorShowCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	in, err := server.Indicator(ctx, c.ID)
	if err != nil {
		return err
	}
	return out.Print(in, func(w writer) { printIndicator(w, in) })
}

func printIndicator(w writer, in api.Indicator) {
	fmt.Fprintf(w, "id        %s\nvalue     %s %s\naction    %s\nalert     %v\ngroups    %s\nexpires   %s\ntitle     %s\nabout     %s\nby        %s\n",
		in.ID, in.IndicatorType, in.IndicatorValue, in.Action, in.GenerateAlert, scopeOf(in), expiryOf(in), in.Title, in.Description, in.CreatedByDisplayName)
}

// ruleFlags say what is to hold for a content.
type ruleFlags struct {
	Action      string        `required:"" enum:"Allowed,Audit,Warn,Block,BlockAndRemediate" help:"Allowed, Audit, Warn, Block or BlockAndRemediate." placeholder:"ACTION"`
	Title       string        `required:"" help:"For people."`
	Description string        `help:"For people; default: the title."`
	Severity    string        `enum:"Informational,Low,Medium,High" default:"Medium" help:"Informational, Low, Medium or High."`
	Alert       bool          `help:"Raise an alert when a device meets it; always with Audit."`
	Group       []string      `help:"Only on devices of this device group; default: on all." placeholder:"NAME"`
	Expires     time.Duration `help:"After so long it is gone, as in 720h; default: never." placeholder:"D"`
}

func (f ruleFlags) request(hash string) api.IndicatorRequest {
	r := api.IndicatorRequest{
		IndicatorValue: hash, IndicatorType: "FileSha1", Action: f.Action, Title: f.Title, Description: f.Description, Severity: f.Severity,
		GenerateAlert: f.Alert || f.Action == "Audit", RbacGroupNames: f.Group,
	}
	if len(hash) == 64 {
		r.IndicatorType = "FileSha256"
	}
	if r.Description == "" {
		r.Description = f.Title
	}
	if f.Expires > 0 {
		r.ExpirationTime = api.At(time.Now().Add(f.Expires))
	}
	return r
}

type indicatorAddCmd struct {
	Hash string `arg:"" help:"SHA-1 or SHA-256 of the file."`
	ruleFlags
}

func (c indicatorAddCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	in, err := server.SubmitIndicator(ctx, c.request(c.Hash))
	if err != nil {
		return err
	}
	return out.Print(in, func(w writer) { printIndicator(w, in) })
}

type indicatorImportCmd struct {
	File string `arg:"" help:"File of hashes, one a line; blank lines and what follows # are passed over."`
	ruleFlags
}

// maxBatch is how many indicators one call may carry.
const maxBatch = 500

func (c indicatorImportCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	hashes, err := readHashes(c.File)
	if err != nil {
		return err
	}
	all := []api.ImportedIndicator{}
	failed := 0
	for len(hashes) > 0 {
		n := min(len(hashes), maxBatch)
		rows := make([]api.IndicatorRequest, n)
		for i, h := range hashes[:n] {
			rows[i] = c.request(h)
		}
		done, err := server.ImportIndicators(ctx, api.IndicatorImport{Indicators: rows})
		if err != nil {
			return err
		}
		all, hashes = append(all, done.Value...), hashes[n:]
		cli.Progress("%d done", len(all))
	}
	for _, r := range all {
		if r.IsFailed {
			failed++
		}
	}
	err = out.Print(all, func(w writer) {
		for _, r := range all {
			if r.IsFailed {
				fmt.Fprintf(w, "%s: %s\n", r.Indicator, deref(r.FailureReason))
			}
		}
		fmt.Fprintf(w, "%d of %d imported\n", len(all)-failed, len(all))
	})
	if err == nil && failed > 0 {
		err = &cli.Coded{Code: cli.Refused, Err: fmt.Errorf("%d of %d indicators were refused", failed, len(all))}
	}
	return err
}

func readHashes(name string) ([]string, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the hashes: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	var hashes []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		if line = strings.TrimSpace(line); line != "" {
			hashes = append(hashes, line)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the hashes: %w", err)
	}
	if len(hashes) == 0 {
		return nil, fmt.Errorf("cannot import: %s holds no hash", name)
	}
	return hashes, nil
}

type indicatorDeleteCmd struct {
	ID []string `arg:"" help:"Indicator ids."`
}

func (c indicatorDeleteCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	remove := server.DeleteIndicators
	if len(c.ID) == 1 {
		remove = func(ctx context.Context, id []string) error { return server.DeleteIndicator(ctx, id[0]) }
	}
	if err := remove(ctx, c.ID); err != nil {
		return err
	}
	return out.Print(map[string]any{"deleted": c.ID}, func(w writer) { fmt.Fprintf(w, "deleted %s\n", strings.Join(c.ID, " ")) })
}
