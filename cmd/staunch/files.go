// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
)

type filesCmd struct {
	Show    fileShowCmd    `cmd:"" default:"withargs" help:"What is on record of a file."`
	Devices fileDevicesCmd `cmd:"" help:"Devices that met a file in the last 30 days."`
}

type fileShowCmd struct {
	Hash  string `arg:"" help:"SHA-1 or SHA-256 of the file."`
	Hours int    `help:"Count the devices of the last hours only, at most 720." default:"720"`
}

func (c fileShowCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	f, err := server.File(ctx, c.Hash)
	if err != nil {
		return err
	}
	s, err := server.FileStats(ctx, c.Hash, c.Hours)
	if err != nil {
		return err
	}
	both := struct {
		File  api.File      `json:"file"`
		Stats api.FileStats `json:"stats"`
	}{f, s}
	return out.Print(both, func(w writer) {
		fmt.Fprintf(w, "sha1      %s\nsha256    %s\nsize      %d\ndevices   %d in the last %d hours, %d ever\nnames     %s\n",
			f.SHA1, f.SHA256, *f.Size, s.OrganizationPrevalence, c.Hours, *f.GlobalPrevalence, strings.Join(s.TopFileNames, " "))
		if s.OrgFirstSeen != nil {
			fmt.Fprintf(w, "seen      %s to %s\n", s.OrgFirstSeen.Local().Format(time.DateTime), s.OrgLastSeen.Local().Format(time.DateTime))
		}
	})
}

type fileDevicesCmd struct {
	Hash string `arg:"" help:"SHA-1 or SHA-256 of the file."`
	Top  int    `help:"At most so many." default:"100"`
}

func (c fileDevicesCmd) Run(ctx context.Context, out cli.Output, server caller) error {
	list, err := server.FileMachines(ctx, c.Hash, client.Query{Top: c.Top})
	if err != nil {
		return err
	}
	return out.Print(list.Value, func(w writer) { printMachines(w, list.Value) })
}

func printMachines(w writer, list []api.Machine) {
	rows := make([][]string, len(list))
	for i, m := range list {
		rows[i] = []string{m.ID, m.ComputerDNSName, m.OSPlatform, m.HealthStatus, m.LastSeen.Local().Format(time.DateTime), strings.Join(m.MachineTags, " ")}
	}
	cli.Table(w, []string{"DEVICE", "NAME", "PLATFORM", "HEALTH", "SEEN", "TAGS"}, rows)
}
