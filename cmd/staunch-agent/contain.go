// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"staunch/internal/agent"
	"staunch/internal/cli"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

type writer = io.Writer

// fileArg is a hash, or the path of a file whose content is meant.
type fileArg string

func (f fileArg) hash() (filehash.Hash, error) {
	if h, err := filehash.Parse(string(f)); err == nil {
		return h, nil
	}
	file, err := os.Open(string(f))
	if errors.Is(err, os.ErrNotExist) {
		return filehash.Hash{}, &cli.Coded{Code: cli.Usage, Err: fmt.Errorf(
			"%q is neither a SHA-1 (40 hex digits), a SHA-256 (64) nor a file", string(f))}
	}
	if err != nil {
		return filehash.Hash{}, fmt.Errorf("cannot read the file: %w", err)
	}
	defer file.Close()
	fi, err := file.Stat()
	if err != nil {
		return filehash.Hash{}, fmt.Errorf("cannot read the file: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return filehash.Hash{}, fmt.Errorf("cannot take the hash of %s: it is not a regular file", f)
	}
	sum, err := filehash.Compute(file)
	if err != nil {
		return filehash.Hash{}, fmt.Errorf("cannot read the file: %w", err)
	}
	return sum.Hash(), nil
}

func absolute(paths []string) ([]string, error) {
	var abs []string
	for _, p := range paths {
		a, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		if a, err = filepath.EvalSymlinks(a); err != nil {
			return nil, fmt.Errorf("cannot search %s: %w", p, err)
		}
		if fi, err := os.Stat(a); err != nil {
			return nil, fmt.Errorf("cannot search %s: %w", p, err)
		} else if !fi.IsDir() {
			return nil, fmt.Errorf("cannot search %s: it is not a folder", p)
		}
		abs = append(abs, a)
	}
	return abs, nil
}

type containCmd struct {
	stateFlag
	File    fileArg  `arg:"" name:"hash-or-path" help:"SHA-1, SHA-256, or a file with the content."`
	Scan    []string `help:"Search these trees instead of asking the index." placeholder:"PATH" sep:"none"`
	DryRun  bool     `help:"Show what would be stopped and taken; change nothing."`
	Disable bool     `help:"Also disable what would bring the file back (units, timers, cron lines, …); staunch-agent persistence enable undoes it."`
	Force   bool     `help:"Take a file that belongs to a distribution package."`
	Comment string   `help:"Why, for the record."`
	Rung    string   `help:"Hold processes this way only: bpf, freeze, connector, besteffort." enum:",bpf,freeze,connector,besteffort" default:""`
}

func (c containCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	h, err := c.File.hash()
	if err != nil {
		return err
	}
	scan, err := absolute(c.Scan)
	if err != nil {
		return err
	}
	svc, done, err := c.container(ctx, log, scan, c.Rung)
	if err != nil {
		return err
	}
	defer done()
	cli.Progress("looking for %s …", h)
	r, err := svc.Contain(ctx, agent.Request{File: h, Force: c.Force, Comment: c.Comment, Requestor: "command line", Scan: scan, DryRun: c.DryRun, Disable: c.Disable})
	if err != nil {
		return err
	}
	return c.print(out, r)
}

func (c containCmd) print(out cli.Output, r order.Receipt) error {
	err := out.Print(r, func(w writer) { printReceipt(w, r) })
	if err == nil && r.Outcome != order.Proven {
		err = &cli.Coded{Code: cli.NotProven, Err: fmt.Errorf("%s: %s: %s", r.Outcome, r.Code, r.Reason)}
	}
	return err
}

func printReceipt(w writer, r order.Receipt) {
	for _, m := range r.Matches {
		fmt.Fprintf(w, "process  %-8d %-10s %s\n", m.PID, m.State, m.Exe)
	}
	for _, c := range r.Copies {
		for i, p := range c.Paths {
			if i == 0 {
				fmt.Fprintf(w, "copy     %-8s %s %s\n", c.State, p, c.Error)
			} else {
				fmt.Fprintf(w, "link              %s\n", p)
			}
		}
		if len(c.Paths) == 0 {
			fmt.Fprintf(w, "copy     %-8s (no name) %s\n", c.State, c.Error)
		}
		if c.Item != "" {
			fmt.Fprintf(w, "item              %s\n", c.Item)
		}
	}
	for _, p := range r.Persistence {
		where := string(p.Where)
		if p.Line > 0 {
			where += fmt.Sprintf(":%d", p.Line)
		}
		if p.Disabled {
			where += " (disabled)"
		}
		fmt.Fprintf(w, "returns  %-8s %s %s\n", p.Kind, where, p.Detail)
	}
	for _, s := range r.Steps {
		fmt.Fprintf(w, "step     %-8s %8.2f ms %s\n", s.Name, float64(s.EndNs-s.StartNs)/1e6, s.Error)
	}
	for _, n := range r.NotCovered {
		fmt.Fprintf(w, "not covered: %s\n", n)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note: %s\n", n)
	}
	fmt.Fprintf(w, "%s %s %s\n", r.Outcome, r.Code, r.Reason)
}

type findCmd struct {
	stateFlag
	Hash fileArg  `arg:"" help:"SHA-1, SHA-256, or a file with the content."`
	Scan []string `help:"Search these trees instead of asking the index." placeholder:"PATH" sep:"none"`
}

func (c findCmd) Run(ctx context.Context, out cli.Output, log *slog.Logger) error {
	h, err := c.Hash.hash()
	if err != nil {
		return err
	}
	scan, err := absolute(c.Scan)
	if err != nil {
		return err
	}
	svc, done, err := c.service(ctx, log)
	if err != nil {
		return err
	}
	defer done()
	found, err := svc.Find(ctx, agent.FindRequest{File: h, Scan: scan})
	if err != nil {
		return err
	}
	return out.Print(found, func(w writer) {
		for _, f := range found.Files {
			for _, p := range f.Paths {
				fmt.Fprintln(w, p)
			}
		}
		for _, p := range found.Processes {
			fmt.Fprintf(w, "process %d %s\n", p.PID, p.Exe)
		}
		if !found.Complete {
			fmt.Fprintf(w, "there may be more: %s\n", found.Why)
		}
	})
}
