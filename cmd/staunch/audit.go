// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"staunch/api"
	"staunch/internal/cli"
	"staunch/internal/server/store"
)

type auditCmd struct {
	List   auditListCmd   `cmd:"" default:"withargs" help:"List the log, from its first line."`
	Verify auditVerifyCmd `cmd:"" help:"Check every line against its hashes and signed checkpoints, without the server."`
	Note   checkpointCmd  `cmd:"" name:"checkpoint" help:"Print the signed checkpoint of the log; keep it somewhere else."`
}

type auditListCmd struct {
	After int64 `help:"Lines after this index." default:"-1"`
	Limit int   `help:"At most so many." default:"100"`
}

func (c auditListCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	page, err := server.Audit(ctx, c.After, c.Limit)
	if err != nil {
		return err
	}
	return out.Print(page.Value, func(w writer) {
		rows := make([][]string, len(page.Value))
		for i, e := range page.Value {
			rows[i] = []string{fmt.Sprint(e.Index), e.Time.Local().Format(time.DateTime), e.ActorKind, e.Actor, e.Operation, e.Target, e.Outcome}
		}
		cli.Table(w, []string{"LINE", "TIME", "KIND", "WHO", "WHAT", "OF", "OUTCOME"}, rows)
	})
}

type auditVerifyCmd struct {
	Data       string `help:"The server's folder." default:"/var/lib/staunch" env:"STAUNCH_DATA" placeholder:"DIR"`
	Database   string `help:"The PostgreSQL database, when that is not the embedded one." env:"STAUNCH_DATABASE" placeholder:"URL"`
	Checkpoint string `help:"A checkpoint kept elsewhere, which the log must contain." type:"existingfile" placeholder:"FILE"`
}

func (c auditVerifyCmd) Run(ctx context.Context, out cli.Output) error {
	return verifyOffline(ctx, out, c.Data, c.Database, c.Checkpoint)
}

// verifyOffline reads the database and the public key in the server's folder,
// whether a server runs there or not.
func verifyOffline(ctx context.Context, out cli.Output, data, database string, elsewhere ...string) error {
	pub, err := os.ReadFile(filepath.Join(data, "keys", "audit.pub"))
	if err != nil {
		return &cli.Hinted{Err: fmt.Errorf("cannot read the log's public key: %w", err), Hint: "give the server's folder with --data"}
	}
	key, err := note.NewVerifier(strings.TrimSpace(string(pub)))
	if err != nil {
		return fmt.Errorf("cannot read the log's public key: %w", err)
	}
	var notes [][]byte
	for _, file := range elsewhere {
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("cannot read the checkpoint: %w", err)
		}
		notes = append(notes, b)
	}
	s, err := store.Open(ctx, store.Config{URL: database, Path: filepath.Join(data, "server.db"), ReadOnly: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer s.Close()
	proved, err := s.VerifyAudit(ctx, key, notes...)
	report := api.AuditReport{Entries: proved.Lines, OK: err == nil}
	if err != nil {
		report.Problem = err.Error()
	}
	if printErr := out.Print(report, func(w writer) {
		fmt.Fprintf(w, "%d lines follow from one another; %d stand as %d checkpoints signed them\n", proved.Lines, proved.Signed, proved.Notes)
	}); printErr != nil {
		return printErr
	}
	if err != nil {
		return &cli.Coded{Code: cli.NotProven, Err: fmt.Errorf("the audit log does not hold: %w", err)}
	}
	return nil
}

type checkpointCmd struct{}

func (checkpointCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	b, err := server.Checkpoint(ctx)
	if err != nil {
		return err
	}
	_, err = out.W.Write(b)
	return err
}
