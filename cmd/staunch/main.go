// SPDX-License-Identifier: Apache-2.0

// Command staunch is the control plane and its command line: the server, its
// administration, and what a caller may do through the API.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/alecthomas/kong"

	"staunch/api"
	"staunch/internal/cli"
)

// Version is the program's.
const Version = "0.1.0"

// commands is the whole command line.
type commands struct {
	Demo       demoCmd       `cmd:"" help:"The whole story on this machine, in a scratch folder; exit 0 only if every step was proven."`
	Server     serverCmd     `cmd:"" help:"Serve the API, the token service and the devices."`
	Admin      adminCmd      `cmd:"" help:"Administer the server on its own host."`
	Login      loginCmd      `cmd:"" help:"Keep a server and a caller as a profile."`
	Devices    devicesCmd    `cmd:"" help:"List devices, or show one."`
	Stop       stopCmd       `cmd:"" help:"Stop and quarantine a file on a device."`
	Actions    actionsCmd    `cmd:"" help:"See, follow and cancel machine actions."`
	Quarantine quarantineCmd `cmd:"" help:"See, restore and purge what lies in the devices' vaults."`
	Indicators indicatorsCmd `cmd:"" help:"See and set standing rules about files."`
	Files      filesCmd      `cmd:"" help:"What the devices have met of a file."`
	Alerts     alertsCmd     `cmd:"" help:"List alerts, newest first."`
	Audit      auditCmd      `cmd:"" help:"Read and verify the audit log."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
	Completion completionCmd `cmd:"" help:"Print a completion script for bash, zsh or fish."`

	JSON    bool   `help:"Answer in JSON." env:"STAUNCH_JSON"`
	Profile string `help:"The profile to use; default: the one logged in with last." env:"STAUNCH_PROFILE" placeholder:"NAME"`
}

type writer = io.Writer

func main() { os.Exit(run()) }

func run() int {
	var c commands
	parser, err := kong.New(&c, kong.Name("staunch"), kong.UsageOnError(),
		kong.Description("Name a file and a device: it stops, cannot start again, and is sealed; the answer is a proof. "+
			"Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not proven, 4 refused by the server."))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return cli.Failure
	}
	k, err := parser.Parse(os.Args[1:])
	if err != nil {
		return cli.Exit("staunch", slices.Contains(os.Args, "--json"), &cli.Coded{Code: cli.Usage, Err: err}) // c is not filled in
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := cli.Output{JSON: c.JSON, W: os.Stdout}
	k.BindTo(ctx, (*context.Context)(nil))
	if err = k.BindToProvider(profileName.server); err == nil {
		err = k.Run(out, profileName(c.Profile), parser.Model)
	}
	return cli.Exit("staunch", c.JSON, advise(err))
}

// advise adds to a server's refusal what to do next.
func advise(err error) error {
	var refusal *api.Error
	if !errors.As(err, &refusal) {
		return err
	}
	coded := &cli.Coded{Code: cli.Refused, Err: err}
	if hint, ok := hints[refusal.Code]; ok {
		return &cli.Coded{Code: cli.Refused, Err: &cli.Hinted{Err: err, Hint: hint}}
	}
	return coded
}

// hints say, for each refusal, what its reader can do.
var hints = map[api.Code]string{
	api.BadRequest:                 "the action may be finished already: staunch actions show ID",
	api.ODataError:                 "see docs/api.md for what --filter takes",
	api.InvalidInput:               "the message names the value",
	api.InvalidRequestBody:         "this client and that server may be of different versions: staunch version",
	api.InvalidHashValue:           "give 40 hex digits (SHA-1) or 64 (SHA-256)",
	api.InvalidDomainName:          "the message names the value",
	api.InvalidIPAddress:           "the message names the value",
	api.InvalidURL:                 "the message names the value",
	api.MaximumBatchSizeExceeded:   "split the request",
	api.MissingRequiredParameter:   "give --comment",
	api.OSPlatformNotSupported:     "no agent on that device can do this",
	api.ClientVersionNotSupported:  "update the agent on that device",
	api.ActiveRequestAlreadyExists: "follow the one under way: staunch actions --filter \"status eq 'Pending' or status eq 'InProgress'\"",
	api.Unauthorized:               "log in again: staunch login URL",
	api.Forbidden:                  "ask the administrator for the permission the message names",
	api.DisabledFeature:            "an administrator has switched this off",
	api.DisallowedOperation:        "the message says which rule forbids it",
	api.NotFound:                   "this server may be older than this client: staunch version",
	api.ResourceNotFound:           "staunch devices, staunch actions and staunch quarantine list show what there is",
	api.MethodNotAllowed:           "this server may be older than this client: staunch version",
	api.RequestTooLarge:            "send less at once",
	api.TooManyRequests:            "wait as long as the message says; an administrator can raise limits.perMinute and limits.perHour",
	api.ServiceUnavailable:         "try again in a moment",
	api.InternalServerError:        "the server's log has the cause, under the target in the message",
}

func logger(format string) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, nil))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, nil))
}

type versionCmd struct{}

func (versionCmd) Run(out cli.Output) error {
	return out.Print(map[string]string{"version": Version}, func(w writer) { fmt.Fprintln(w, Version) })
}

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c completionCmd) Run(out cli.Output, app *kong.Application) error {
	return cli.Completion(out.W, app, c.Shell)
}
