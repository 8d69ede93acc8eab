// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"staunch/client"
	"staunch/internal/cli"
)

type devicesCmd struct {
	Device string `arg:"" optional:"" help:"Device id or DNS name: show this one."`
	Filter string `help:"OData filter, as in \"startswith(computerDnsName,'fin-')\"." placeholder:"EXPR"`
	Top    int    `help:"At most so many." default:"100"`
}

func (c devicesCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	if c.Device != "" {
		m, err := server.Machine(ctx, c.Device)
		if err != nil {
			return err
		}
		return out.Print(m, func(w writer) {
			fmt.Fprintf(w, "id        %s\nname      %s\nplatform  %s %s\nagent     %s\nhealth    %s\nseen      %s\ntags      %s\n",
				m.ID, m.ComputerDNSName, m.OSPlatform, m.Version, m.AgentVersion, m.HealthStatus, m.LastSeen.Local().Format(time.DateTime), strings.Join(m.MachineTags, " "))
		})
	}
	list, err := server.Machines(ctx, client.Query{Filter: c.Filter, Top: c.Top})
	if err != nil {
		return err
	}
	return out.Print(list.Value, func(w writer) { printMachines(w, list.Value) })
}
