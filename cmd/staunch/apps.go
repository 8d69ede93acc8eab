// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/cli"
)

type appCmd struct {
	Create appCreateCmd `cmd:"" help:"Make an app; its secret is shown once."`
	List   appListCmd   `cmd:"" help:"List the apps."`
	Change appChangeCmd `cmd:"" help:"Change an app: permissions, secrets, certificates, redirect URIs, on or off."`
}

type appCreateCmd struct {
	Name        string   `arg:"" help:"Display name: the requestor of what it does."`
	Permission  []string `help:"A permission of its own, as in Machine.StopAndQuarantine (repeatable)." placeholder:"P"`
	Delegated   []string `help:"What it may do for people who sign in through it (repeatable)." placeholder:"P"`
	RedirectURI []string `name:"redirect-uri" help:"Where it gets authorization codes, exactly (repeatable)." placeholder:"U" sep:"none"`
	Public      bool     `help:"It runs where no secret can be kept, and gets none."`
	Certificate string   `help:"PEM file of a certificate whose key signs its assertions." type:"existingfile" placeholder:"FILE"`
	ID          string   `help:"It is an application of an issuer outside, with this id: registered to be limited or shut out." placeholder:"GUID"`
	reachFlags
}

// reachFlags bound what an app's orders may reach.
type reachFlags struct {
	OrdersPerHour *int `help:"Orders that take files away, an hour, in place of limits.ordersPerHour; 0: no bound, =-1: as the setting." placeholder:"N"`
	DevicesPerDay *int `help:"Devices that its orders may reach in 24 hours, in place of limits.devicesPerDay; 0: no bound, =-1: as the setting." placeholder:"N"`
}

// Validate is asked by the parser.
func (c appCreateCmd) Validate() error {
	if len(c.Permission)+len(c.Delegated) == 0 && c.ID == "" {
		return errors.New("an app without permissions can do nothing: give --permission or --delegated")
	}
	return nil
}

func (c appCreateCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	certificate, err := readFile(c.Certificate)
	if err != nil {
		return err
	}
	app, err := server.CreateApp(ctx, api.AppRequest{
		Name: c.Name, Permissions: append([]string{}, c.Permission...), Delegated: c.Delegated, RedirectURIs: c.RedirectURI, Public: c.Public, Certificate: certificate,
		ID: c.ID, OrdersPerHour: c.OrdersPerHour, DevicesPerDay: c.DevicesPerDay,
	})
	if err != nil {
		return err
	}
	// Scripts read this answer, so it is JSON always.
	return cli.Output{JSON: true, W: out.W}.Print(app, nil)
}

// readFile reads a file that may not have been given.
func readFile(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the certificate: %w", err)
	}
	return string(b), nil
}

type appListCmd struct{}

func (appListCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	apps, err := server.Apps(ctx)
	if err != nil {
		return err
	}
	return out.Print(apps.Value, func(w writer) {
		rows := make([][]string, len(apps.Value))
		for i, a := range apps.Value {
			state := "enabled"
			if a.Disabled {
				state = "disabled"
			}
			rows[i] = []string{a.ClientID, a.Name, state, strings.Join(a.Permissions, " "), strings.Join(a.Delegated, " ")}
		}
		cli.Table(w, []string{"APP", "NAME", "STATE", "PERMISSIONS", "DELEGATED"}, rows)
	})
}

type appChangeCmd struct {
	ID                string        `arg:"" name:"id" help:"The app's id."`
	Permission        []string      `help:"Permissions in place of those it has (repeatable)." placeholder:"P"`
	Delegated         []string      `help:"Delegated permissions in place of those it has (repeatable)." placeholder:"P"`
	RedirectURI       []string      `name:"redirect-uri" help:"Redirect URIs in place of those it has (repeatable)." placeholder:"U" sep:"none"`
	AddSecret         time.Duration `help:"Make a further secret that is good so long, as in 4380h; it is shown once." placeholder:"D"`
	RemoveSecret      string        `help:"Take the secret with this id away." placeholder:"GUID"`
	AddCertificate    string        `help:"PEM file of a further certificate." type:"existingfile" placeholder:"FILE"`
	RemoveCertificate string        `help:"Take the certificate with this SHA-256 away." placeholder:"HEX"`
	Disable           bool          `help:"Shut it out; its tokens end within seconds." xor:"state"`
	Enable            bool          `help:"Let it in again." xor:"state"`
	reachFlags
}

func (c appChangeCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	ch := api.AppChange{Permissions: c.Permission, Delegated: c.Delegated, RedirectURIs: c.RedirectURI, RemoveSecret: c.RemoveSecret, RemoveCertificate: c.RemoveCertificate,
		OrdersPerHour: c.OrdersPerHour, DevicesPerDay: c.DevicesPerDay}
	if c.Disable || c.Enable {
		ch.Disabled = &c.Disable
	}
	if c.AddSecret != 0 {
		ch.AddSecret = c.AddSecret.String()
	}
	var err error
	if ch.AddCertificate, err = readFile(c.AddCertificate); err != nil {
		return err
	}
	app, err := server.ChangeApp(ctx, c.ID, ch)
	if err != nil {
		return err
	}
	return cli.Output{JSON: true, W: out.W}.Print(app, nil)
}

type keysCmd struct {
	Rotate keysRotateCmd `cmd:"" help:"Make a new key; it signs in a minute, and tokens that are out stay valid."`
}

type keysRotateCmd struct{}

func (keysRotateCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	k, err := server.RotateKeys(ctx)
	if err != nil {
		return err
	}
	return out.Print(k, func(w writer) { fmt.Fprintf(w, "made key %s\n", k.ID) })
}
