// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"time"

	"staunch/client"
	"staunch/internal/cli"
)

type alertsCmd struct {
	Filter string `help:"OData filter, as in \"status ne 'Resolved'\"." placeholder:"EXPR"`
	Top    int    `help:"At most so many." default:"50"`
}

func (c alertsCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	list, err := server.Alerts(ctx, client.Query{Filter: c.Filter, Top: c.Top})
	if err != nil {
		return err
	}
	return out.Print(list.Value, func(w writer) {
		rows := make([][]string, len(list.Value))
		for i, a := range list.Value {
			rows[i] = []string{a.ID, a.Status, a.Severity, deref(a.ComputerDNSName), a.LastEventTime.Local().Format(time.DateTime), a.Title}
		}
		cli.Table(w, []string{"ALERT", "STATUS", "SEVERITY", "DEVICE", "LAST", "TITLE"}, rows)
	})
}
