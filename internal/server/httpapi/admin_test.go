// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"staunch/api"
	"staunch/client"
	"staunch/internal/order"
	"staunch/internal/server/auth"
)

// root is a client on the administrator's door.
func (k *kit) root() (*client.Client, string) {
	k.t.Helper()
	s := httptest.NewServer(k.handler.Admin())
	k.t.Cleanup(s.Close)
	c, err := client.New(client.Config{URL: s.URL, HTTP: s.Client(), MaxWait: -1})
	check(k.t, err)
	return c, s.URL
}

func TestAdministration(t *testing.T) {
	k := newKit(t)
	c, _ := k.root()
	ctx := t.Context()

	app, err := c.CreateApp(ctx, api.AppRequest{Name: "soc", Permissions: []string{"Machine.Read.All", "Machine.StopAndQuarantine"}})
	check(t, err)
	soc := k.client(client.Config{TenantID: app.TenantID, ClientID: app.ClientID, ClientSecret: app.ClientSecret})
	check(t, soc.Login(ctx))
	apps, err := c.Apps(ctx)
	check(t, err)
	if len(apps.Value) != 1 || apps.Value[0].ClientSecret != "" || strings.Join(apps.Value[0].Permissions, " ") != "Machine.Read.All Machine.StopAndQuarantine" {
		t.Errorf("apps: %+v", apps)
	}

	tok, err := c.CreateEnrollmentToken(ctx, api.EnrollmentTokenRequest{Uses: 2, TTL: "1h", Tags: []string{"lab"}})
	check(t, err)
	line, err := order.ParseEnrollToken(tok.Token)
	check(t, err)
	if tok.Uses != 2 || tok.Expires.IsZero() {
		t.Errorf("token: %+v", tok)
	}
	machine := k.enrollWith(line.Secret, "lab-01")
	if _, err := soc.Machine(ctx, machine); err != nil {
		t.Error(err)
	}
	check(t, c.RevokeDevice(ctx, "lab-01"))
	if _, err := soc.Machine(ctx, machine); api.CodeOf(err) != api.ResourceNotFound {
		t.Errorf("a revoked machine: %v", err)
	}

	set, err := c.SetSetting(ctx, "actions.expiry", "24h")
	check(t, err)
	got, err := c.Setting(ctx, "actions.expiry")
	check(t, err)
	if got != set || got.Value != "24h" {
		t.Errorf("setting: %+v, %+v", set, got)
	}
	file := filepath.Join(t.TempDir(), "copy.db")
	check(t, c.Backup(ctx, api.BackupRequest{File: file}))
	if info, err := os.Stat(file); err != nil || info.Size() == 0 {
		t.Errorf("backup: %v", err)
	}
	// The administrator may all the rest too, and is not counted.
	k.set(func() { k.limit = Limit{PerMinute: 1, PerHour: 1} })
	for range 3 {
		if _, err := c.Machines(ctx, client.Query{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAdministrationRefuses(t *testing.T) {
	k := newKit(t)
	_, url := k.root()
	for _, c := range []struct{ method, path, body, code string }{
		{"POST", "/v1/apps", `{`, "InvalidRequestBody"},
		{"POST", "/v1/apps", `{"name":7}`, "InvalidRequestBody"},
		{"POST", "/v1/apps", `{"name":"x","permissions":"Machine.Scan"}`, "InvalidRequestBody"},
		{"POST", "/v1/apps", `{"permissions":["Machine.Scan"]}`, "MissingRequiredParameter"},
		{"POST", "/v1/apps", `{"name":"x","permissions":["Machine.Fly"]}`, "InvalidInput"},
		{"POST", "/v1/enrollment-tokens", `{"uses":"many"}`, "InvalidRequestBody"},
		{"POST", "/v1/enrollment-tokens", `{"uses":1.5}`, "InvalidRequestBody"},
		{"POST", "/v1/enrollment-tokens", `{"uses":-1}`, "InvalidInput"},
		{"POST", "/v1/enrollment-tokens", `{"ttl":"soon"}`, "InvalidInput"},
		{"DELETE", "/v1/devices/nobody", ``, "ResourceNotFound"},
		{"GET", "/v1/settings/no.such", ``, "ResourceNotFound"},
		{"PUT", "/v1/settings/actions.expiry", `{}`, "MissingRequiredParameter"},
		{"POST", "/v1/backup", `{"file":""}`, "MissingRequiredParameter"},
	} {
		base := k.url
		k.url = url
		resp, body := k.raw(c.method, c.path, "", c.body)
		k.url = base
		if resp.StatusCode >= 500 {
			t.Errorf("%s %s %s: %d", c.method, c.path, c.body, resp.StatusCode)
		}
		checkError(t, body, c.code, "")
	}
	// Over the network nobody is the administrator, whatever their permissions.
	app := k.app("all", auth.Permissions()...)
	var e *api.Error
	if _, err := app.CreateApp(t.Context(), api.AppRequest{Name: "mine"}); !errors.As(err, &e) || e.Code != api.Forbidden || !strings.Contains(e.Message, "staunch admin") {
		t.Errorf("an app made an app: %v", err)
	}
	if _, err := k.client(client.Config{}).Apps(t.Context()); api.CodeOf(err) != api.Unauthorized {
		t.Errorf("nobody listed the apps: %v", err)
	}
	page, err := app.Audit(t.Context(), -1, 100)
	check(t, err)
	last := page.Value[len(page.Value)-1]
	if last.Operation != "CreateApp" || last.Outcome != "refused: Forbidden" || last.Actor != "all" {
		t.Errorf("on record: %+v", last)
	}
}
