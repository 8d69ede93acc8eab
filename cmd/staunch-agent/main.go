// SPDX-License-Identifier: Apache-2.0

// Command staunch-agent carries orders out on a Linux device: it stops what
// runs from a file, seals every copy in a vault, refuses to start it again, and
// signs an account of it. It also does all this by hand, without a server.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"staunch/internal/agent"
	"staunch/internal/cli"
)

// commands is the whole command line.
type commands struct {
	Enroll      enrollCmd      `cmd:"" help:"Make this host a device of a server."`
	Run         runCmd         `cmd:"" help:"Take orders until told to stop (SIGTERM)."`
	Contain     containCmd     `cmd:"" help:"Stop and quarantine a file here and now; exit 0 only if proven."`
	Find        findCmd        `cmd:"" help:"Show the files and processes with a hash."`
	Quarantine  quarantineCmd  `cmd:"" help:"See, restore and purge what lies in the vault."`
	Persistence persistenceCmd `cmd:"" help:"See and enable again what was disabled because it would bring a file back."`
	Status      statusCmd      `cmd:"" help:"Show how the agent is."`
	Fsck        fsckCmd        `cmd:"" help:"Check the vault and the journal."`
	Doctor      doctorCmd      `cmd:"" help:"Show what this kernel lets the agent do."`
	Version     versionCmd     `cmd:"" help:"Print the version."`
	Completion  completionCmd  `cmd:"" help:"Print a completion script for bash, zsh or fish."`
	Gate        gateCmd        `cmd:"" hidden:"" help:"Answer the kernel's questions (started by run)."`
	Keep        keepCmd        `cmd:"" hidden:"" help:"Thaw what a dead process had frozen (started by whoever freezes)."`
	Worker      workerCmd      `cmd:"" hidden:"" help:"Carry out orders (started by run)."`

	JSON bool `help:"Answer in JSON." env:"STAUNCH_JSON"`
}

// stateFlag is on every command that touches the agent's folder.
type stateFlag struct {
	State string `help:"The agent's folder." default:"/var/lib/staunch-agent" env:"STAUNCH_AGENT_STATE" placeholder:"DIR"`
}

func (s stateFlag) open() (agent.State, error) {
	st, err := agent.OpenState(s.State)
	if errors.Is(err, os.ErrPermission) {
		return st, &cli.Hinted{Err: err, Hint: "run as root, or give a folder of your own with --state"}
	}
	return st, err
}

func main() { os.Exit(run()) }

func run() int {
	var c commands
	parser, err := kong.New(&c, kong.Name("staunch-agent"), kong.UsageOnError(),
		kong.Description("Stop a file from running, seal every copy, prove it. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not proven."))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return cli.Failure
	}
	k, err := parser.Parse(os.Args[1:])
	if err != nil {
		return cli.Exit("staunch-agent", slices.Contains(os.Args, "--json"), &cli.Coded{Code: cli.Usage, Err: err}) // c is not filled in
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := cli.Output{JSON: c.JSON, W: os.Stdout}
	// Commands answer; only what is wrong goes to the log. run has its own.
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	k.BindTo(ctx, (*context.Context)(nil))
	return cli.Exit("staunch-agent", c.JSON, k.Run(out, log, parser.Model))
}

type versionCmd struct{}

func (versionCmd) Run(out cli.Output) error {
	return out.Print(map[string]string{"version": agent.Version}, func(w writer) { fmt.Fprintln(w, agent.Version) })
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c completionCmd) Run(out cli.Output, app *kong.Application) error {
	return cli.Completion(out.W, app, c.Shell)
}
