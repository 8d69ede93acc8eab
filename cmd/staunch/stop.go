// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
)

// atOnce bounds how many devices one command orders, or follows, at a time.
const atOnce = 8

type stopCmd struct {
	Hash    string `arg:"" help:"SHA-1 or SHA-256 of the file."`
	Device  string `xor:"where" required:"" help:"Device id or DNS name." placeholder:"ID"`
	Tag     string `xor:"where" required:"" help:"On every device with this tag." placeholder:"T"`
	All     bool   `xor:"where" required:"" help:"On every device."`
	Comment string `required:"" help:"Why, for the record."`
	Force   bool   `help:"Also a file that a distribution package owns; needs the permission Machine.StopAndQuarantine.Force."`
	DryRun  bool   `help:"Show the devices; order nothing."`
	Wait    bool   `help:"Follow each action to its end; exit 0 only if it succeeded."`
}

// Run orders the stop on one device, or on each of many.
func (c stopCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	if c.Device != "" && !c.DryRun {
		a, err := server.StopAndQuarantineFile(ctx, c.Device, c.request())
		if err != nil {
			return err
		}
		return finish(ctx, out, server, a, c.Wait)
	}
	devices, err := c.devices(ctx, server)
	if err != nil {
		return err
	}
	if c.DryRun {
		return out.Print(devices, func(w writer) { printMachines(w, devices) })
	}
	ends := c.each(ctx, server, devices)
	if err := out.Print(ends, func(w writer) { printStops(w, ends) }); err != nil {
		return err
	}
	return c.verdict(ends)
}

func (c stopCmd) request() api.StopAndQuarantineRequest {
	r := api.StopAndQuarantineRequest{Comment: c.Comment, Force: c.Force}
	if len(c.Hash) == 64 {
		r.Sha256 = c.Hash
	} else {
		r.Sha1 = c.Hash
	}
	return r
}

// devices lists where the file is to be stopped.
func (c stopCmd) devices(ctx context.Context, server caller) ([]api.Machine, error) {
	if c.Device != "" {
		m, err := server.Machine(ctx, c.Device)
		return []api.Machine{m}, err
	}
	q := client.Query{OrderBy: "id", Top: 1000}
	if c.Tag != "" {
		q.Filter = "machineTags/any(t: t eq '" + strings.ReplaceAll(c.Tag, "'", "''") + "')"
	}
	var devices []api.Machine
	for {
		list, err := server.Machines(ctx, q)
		if err != nil {
			return nil, err
		}
		devices = append(devices, list.Value...)
		if len(list.Value) < q.Top {
			break
		}
		q.Skip += q.Top
	}
	if len(devices) == 0 {
		return nil, &cli.Hinted{Err: errors.New("no device is meant"), Hint: "staunch devices lists them with their tags"}
	}
	return devices, nil
}

// stopped is what became of the order for one device.
type stopped struct {
	MachineID       string             `json:"machineId"`
	ComputerDNSName string             `json:"computerDnsName"`
	Action          *api.MachineAction `json:"action"`
	Error           *api.Error         `json:"error"`
}

// absent tells that the device surely does not have the file.
func (s stopped) absent() bool { return s.Error != nil && s.Error.Code == api.ResourceNotFound }

func (c stopCmd) each(ctx context.Context, server caller, devices []api.Machine) []stopped {
	ends := make([]stopped, len(devices))
	room := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, m := range devices {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			ends[i] = c.stop(ctx, server, m)
			cli.Progress("%s %s", m.ComputerDNSName, ends[i].state())
		})
	}
	wg.Wait()
	return ends
}

func (c stopCmd) stop(ctx context.Context, server caller, m api.Machine) stopped {
	s := stopped{MachineID: m.ID, ComputerDNSName: m.ComputerDNSName}
	a, err := server.StopAndQuarantineFile(ctx, m.ID, c.request())
	if err == nil {
		s.Action = &a
		if c.Wait {
			if a, err = server.Watch(ctx, a.ID, nil); a.ID != "" {
				s.Action = &a
			}
		}
	}
	if err != nil && !errors.As(err, &s.Error) {
		s.Error = &api.Error{Code: api.ServiceUnavailable, Message: err.Error()}
	}
	return s
}

func (s stopped) state() string {
	switch {
	case s.absent():
		return "not there"
	case s.Error != nil:
		return "refused: " + s.Error.Message
	default:
		return s.Action.Status
	}
}

func printStops(w writer, ends []stopped) {
	rows := make([][]string, len(ends))
	for i, s := range ends {
		id := ""
		if s.Action != nil {
			id = s.Action.ID
		}
		rows[i] = []string{s.MachineID, s.ComputerDNSName, id, s.state()}
	}
	cli.Table(w, []string{"DEVICE", "NAME", "ACTION", "STATE"}, rows)
}

// verdict is the error, if any, that the command ends with: a device that does
// not have the file is none, but one has to.
func (c stopCmd) verdict(ends []stopped) error {
	refused, absent, unproven := 0, 0, 0
	for _, s := range ends {
		switch {
		case s.absent():
			absent++
		case s.Error != nil:
			refused++
		case c.Wait && s.Action.Status != api.Succeeded:
			unproven++
		}
	}
	switch {
	case refused > 0:
		return &cli.Coded{Code: cli.Refused, Err: fmt.Errorf("%d of %d devices: not ordered", refused, len(ends))}
	case unproven > 0:
		return &cli.Coded{Code: cli.NotProven, Err: &cli.Hinted{
			Err: fmt.Errorf("%d of %d devices: not proven", unproven, len(ends)), Hint: "staunch actions evidence ID shows what a device did"}}
	case absent == len(ends):
		return &cli.Coded{Code: cli.Refused, Err: &cli.Hinted{
			Err: errors.New("none of the devices has the file"), Hint: "staunch files show " + c.Hash + " tells who met it"}}
	}
	return nil
}
