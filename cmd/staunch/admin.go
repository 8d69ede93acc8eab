// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/alecthomas/kong"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
	"staunch/internal/durable"
)

type adminCmd struct {
	Data string `help:"The server's folder." default:"/var/lib/staunch" env:"STAUNCH_DATA" placeholder:"DIR"`

	App         appCmd         `cmd:"" help:"Applications that may call the API."`
	Keys        keysCmd        `cmd:"" help:"The keys that sign tokens."`
	User        userCmd        `cmd:"" help:"People who may sign in."`
	Group       groupCmd       `cmd:"" help:"Groups of people."`
	Role        roleCmd        `cmd:"" help:"What groups of people may do."`
	DeviceGroup deviceGroupCmd `cmd:"" help:"Groups of devices, and who reaches them."`
	EnrollToken enrollTokenCmd `cmd:"" help:"Tokens that bring devices in."`
	Device      adminDeviceCmd `cmd:"" help:"Shut devices out; say how Entra knows them."`
	Settings    settingsCmd    `cmd:"" help:"Settings that take effect at once."`
	Backup      backupCmd      `cmd:"" help:"Write a copy of the embedded database."`
	Restore     restoreDBCmd   `cmd:"" help:"Put a copy in place of the embedded database; the server must be stopped."`
	Audit       adminAuditCmd  `cmd:"" help:"The audit log."`
}

// AfterApply hands the folder on to the command that runs.
func (c *adminCmd) AfterApply(k *kong.Context) error {
	k.Bind(adminDir(c.Data))
	return k.BindToProvider(adminDir.server)
}

// adminDir is the server's folder.
type adminDir string

// admin is the server as its administrator calls it.
type admin struct{ *client.Client }

// server calls the server through its admin socket: the same API, with who may
// open the socket as admin.
func (d adminDir) server() (admin, error) {
	socket := filepath.Join(string(d), "admin.sock")
	if _, err := os.Stat(socket); err != nil {
		hint := "start it with staunch server --data " + string(d)
		if errors.Is(err, os.ErrPermission) {
			hint = "run as the user that the server runs as"
		}
		return admin{}, &cli.Hinted{Err: fmt.Errorf("cannot reach a server in %s: %w", d, err), Hint: hint}
	}
	var dialer net.Dialer
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}
	c, err := client.New(client.Config{URL: "http://localhost", HTTP: &http.Client{Transport: &http.Transport{DialContext: dial}}})
	return admin{c}, err
}

type enrollTokenCmd struct {
	Create enrollTokenCreateCmd `cmd:"" help:"Make a token; it is shown once."`
}

type enrollTokenCreateCmd struct {
	Uses int           `help:"How many devices may enroll with it." default:"1"`
	TTL  time.Duration `name:"ttl" help:"How long it is good for." default:"24h"`
	Tag  []string      `help:"A tag for each device that enrolls with it (repeatable)." placeholder:"T" sep:"none"`
}

func (c enrollTokenCreateCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	token, err := server.CreateEnrollmentToken(ctx, api.EnrollmentTokenRequest{Uses: c.Uses, TTL: c.TTL.String(), Tags: c.Tag})
	if err != nil {
		return err
	}
	return out.Print(token, func(w writer) { fmt.Fprintln(w, token.Token) })
}

type adminDeviceCmd struct {
	Revoke revokeCmd    `cmd:"" help:"Shut a device out for good; it may enroll again as a new one."`
	Set    setDeviceCmd `cmd:"" help:"Say under which id Entra knows a device, for clients that name it so."`
}

type setDeviceCmd struct {
	Device      string  `arg:"" help:"Device id or DNS name."`
	AadDeviceID *string `name:"aad-device-id" required:"" help:"A GUID; an empty one takes it off." placeholder:"GUID"`
}

func (c setDeviceCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	m, err := server.ChangeDevice(ctx, c.Device, api.DeviceChange{AadDeviceID: *c.AadDeviceID})
	if err != nil {
		return err
	}
	return out.Print(m, func(w writer) {
		fmt.Fprintf(w, "device %s (%s) is %s in Entra\n", m.ID, m.ComputerDNSName, cmp.Or(*c.AadDeviceID, "not known"))
	})
}

type revokeCmd struct {
	Device string `arg:"" help:"Device id or DNS name."`
}

func (c revokeCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	if err := server.RevokeDevice(ctx, c.Device); err != nil {
		return err
	}
	return out.Print(map[string]string{"revoked": c.Device}, func(w writer) { fmt.Fprintf(w, "revoked %s\n", c.Device) })
}

type settingsCmd struct {
	Get settingGetCmd `cmd:"" help:"Show the value in force."`
	Set settingSetCmd `cmd:"" help:"Change a value; it takes effect at once."`
}

type settingGetCmd struct {
	Key string `arg:"" help:"As in actions.expiry."`
}

func (c settingGetCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	s, err := server.Setting(ctx, c.Key)
	if err != nil {
		return err
	}
	return out.Print(s, func(w writer) { fmt.Fprintln(w, s.Value) })
}

type settingSetCmd struct {
	Key   string `arg:"" help:"As in actions.expiry."`
	Value string `arg:"" help:"The new value."`
}

func (c settingSetCmd) Run(ctx context.Context, out cli.Output, server admin) error {
	s, err := server.SetSetting(ctx, c.Key, c.Value)
	if err != nil {
		return err
	}
	return out.Print(s, func(w writer) { fmt.Fprintf(w, "%s is now %s\n", s.Key, s.Value) })
}

type backupCmd struct {
	File string `arg:"" help:"Where to write it; must not exist."`
}

func (c backupCmd) Run(ctx context.Context, out cli.Output, server admin, dir adminDir) error {
	file, err := filepath.Abs(c.File)
	if err != nil {
		return err
	}
	if err := server.Backup(ctx, api.BackupRequest{File: file}); err != nil {
		return err
	}
	return out.Print(map[string]string{"file": file}, func(w writer) {
		fmt.Fprintf(w, "wrote %s; keep a copy of %s apart from it\n", file, filepath.Join(string(dir), "keys"))
	})
}

type restoreDBCmd struct {
	File string `arg:"" help:"What backup wrote." type:"existingfile"`
}

// Run puts the copy in place; what was there is kept beside it.
func (c restoreDBCmd) Run(out cli.Output, dir adminDir) error {
	unlock, err := durable.Lock(filepath.Join(string(dir), "lock"))
	if err != nil {
		return &cli.Hinted{Err: err, Hint: "stop the server first"}
	}
	defer unlock()
	src, err := os.Open(c.File)
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	defer src.Close()
	head := make([]byte, 16)
	if _, err := io.ReadFull(src, head); err != nil || string(head) != "SQLite format 3\x00" {
		return fmt.Errorf("cannot restore %s: it is not a database that backup wrote", c.File)
	}
	b, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("cannot read the backup: %w", err)
	}
	db := filepath.Join(string(dir), "server.db")
	old := db + ".before-restore-" + time.Now().UTC().Format("20060102T150405Z")
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := durable.Rename(db+suffix, old+suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := durable.WriteFile(db, b, 0o600); err != nil {
		return err
	}
	return out.Print(map[string]string{"restored": c.File, "before": old}, func(w writer) {
		fmt.Fprintf(w, "restored; what was there before is %s\n", old)
	})
}

type adminAuditCmd struct {
	Verify adminVerifyCmd `cmd:"" help:"Check every line of the log against its hashes and its signed checkpoint."`
}

type adminVerifyCmd struct{}

func (adminVerifyCmd) Run(ctx context.Context, out cli.Output, dir adminDir) error {
	return verifyOffline(ctx, out, string(dir), "")
}
