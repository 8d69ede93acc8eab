// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"staunch/api"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
	"staunch/internal/server/people"
)

const testPassword = "correct horse battery staple"

// person makes a user in groups; each is made where it is not there yet.
func (k *kit) person(upn string, groups ...string) {
	k.t.Helper()
	ctx := k.t.Context()
	_, err := k.people.CreateUser(ctx, admin(), upn, "", testPassword, people.Outside{})
	check(k.t, err)
	for _, g := range groups {
		if _, err := k.people.CreateGroup(ctx, admin(), g, people.Outside{}); err != nil && api.CodeOf(err) != api.InvalidInput {
			k.t.Fatal(err)
		}
		check(k.t, k.people.SetMember(ctx, admin(), g, upn, true))
	}
}

// role gives rights to groups.
func (k *kit) role(name string, rights []auth.Right, groups ...string) {
	k.t.Helper()
	var names []string
	for _, r := range rights {
		names = append(names, string(r))
	}
	_, err := k.people.CreateRole(k.t.Context(), admin(), name, names)
	check(k.t, err)
	for _, g := range groups {
		check(k.t, k.people.SetRole(k.t.Context(), admin(), name, g, true))
	}
}

// signInApp is a public application that people sign in through.
func (k *kit) signInApp(name string, delegated ...auth.Permission) issuer.App {
	k.t.Helper()
	public := true
	names := []string{}
	for _, p := range delegated {
		names = append(names, string(p))
	}
	a, _, err := k.issuer.CreateApp(k.t.Context(), admin(), name, nil, issuer.AppChange{Public: &public, Delegated: names, RedirectURIs: []string{"https://app.example/callback"}})
	check(k.t, err)
	return a
}

// personToken signs a person in through an application.
func (k *kit) personToken(app issuer.App, upn string) string {
	k.t.Helper()
	form := url.Values{
		"grant_type": {"password"}, "client_id": {app.ID}, "username": {upn}, "password": {testPassword},
		"scope": {"https://api.securitycenter.microsoft.com/.default"},
	}
	_, body := k.raw("POST", "/"+testTenant+"/oauth2/v2.0/token", "", form.Encode())
	var c tokenCatcher
	check(k.t, json.Unmarshal([]byte(body), &c))
	if c.Token == "" {
		k.t.Fatalf("no token: %s", body)
	}
	return c.Token
}

// fill puts something into the variables of a path.
func fill(path, machine string) string {
	path = strings.ReplaceAll(path, "{args}", "")
	return regexp.MustCompile(`\{\w+\}`).ReplaceAllString(path, machine)
}

// validBody is a body that the machine actions take.
func validBody(r route) string {
	if r.method == "GET" || r.method == "DELETE" {
		return ""
	}
	return `{"Comment":"c","Sha1":"` + testSHA1 + `","Value":"tag","Action":"Add","machineTags":["x"],"deviceValue":"High","IsolationType":"Full","ScanType":"Quick","Commands":[{"type":"GetFile","params":[{"key":"Path","value":"/x"}]}]}`
}

var targetForm = regexp.MustCompile(`"target":"[^"]*"`)

func sameButName(body, name string) string {
	return strings.ReplaceAll(targetForm.ReplaceAllString(body, ""), name, "NAME")
}

// Rows 4 and 9 of the contract's table 1.1, and item 6 of its checklist.
func TestStopAndQuarantineFileByPeople(t *testing.T) {
	k := newKit(t)
	c, _ := k.root()
	ctx := t.Context()
	mine, other := k.enroll("fin-lt-014.corp.example"), k.enroll("fin-lt-014.lab.example")
	signIn := k.signInApp("console", auth.MachineRead, auth.MachineStopAndQuarantine)
	k.person("ana@corp.example", "responders")
	k.person("bob@corp.example", "watchers")
	k.role("Respond", []auth.Right{auth.ActiveRemediation}, "responders")
	k.role("Watch", []auth.Right{auth.ViewData}, "watchers")
	_, err := c.CreateDeviceGroup(ctx, api.DeviceGroupRequest{Name: "Lab", Rules: []string{"domain=lab.*"}, Access: []string{"watchers"}})
	check(t, err)
	ana, bob := k.personToken(signIn, "ana@corp.example"), k.personToken(signIn, "bob@corp.example")
	good := `{"Comment":"Case 4711","Sha1":"` + testSHA1 + `"}`
	post := func(token, machine string) (int, string) {
		resp, body := k.raw("POST", "/api/machines/"+machine+"/StopAndQuarantineFile", token, good)
		return resp.StatusCode, body
	}
	t.Run("4 user token: scp lacks the permission", func(t *testing.T) {
		status, body := post(k.personToken(k.signInApp("reader", auth.MachineRead), "ana@corp.example"), mine)
		if status != 403 {
			t.Error(status)
		}
		checkError(t, body, "Forbidden", "The token does not have any of the required delegated permissions (Machine.StopAndQuarantine) to access the resource.")
	})
	t.Run("4 the user's role lacks Active remediation actions", func(t *testing.T) {
		status, body := post(bob, mine)
		if status != 403 {
			t.Error(status)
		}
		checkError(t, body, "Forbidden", "The user bob@corp.example does not have any of the required role permissions (Active remediation actions) to access the resource.")
	})
	t.Run("9 machine outside the user's device groups", func(t *testing.T) {
		for _, name := range []string{other, "fin-lt-014.lab.example"} {
			status, body := post(ana, name)
			if status != 404 {
				t.Error(status, body)
			}
			checkError(t, body, "ResourceNotFound", "Machine "+name+" was not found")
		}
	})
	t.Run("15 OK, requestor is the UPN, and the name is no longer ambiguous", func(t *testing.T) {
		status, body := post(ana, "fin-lt-014")
		var a api.MachineAction
		check(t, json.Unmarshal([]byte(body), &a))
		if status != 201 || a.MachineID != mine || a.Requestor != "ana@corp.example" {
			t.Errorf("%d %s", status, body)
		}
	})
	t.Run("6 lists leave out, visible but not permitted is 403", func(t *testing.T) {
		k.person("eve@corp.example", "watchers", "responders")
		eve := k.personToken(signIn, "eve@corp.example")
		status, body := post(eve, other) // she sees it as a watcher, and acts on others as a responder
		if status != 403 {
			t.Errorf("%d %s", status, body)
		}
		checkError(t, body, "Forbidden", "The user eve@corp.example does not have any of the required role permissions (Active remediation actions) on this device to access the resource.")
		app := k.soc()
		hidden, err := app.StopAndQuarantineFile(ctx, other, api.StopAndQuarantineRequest{Comment: "c", Sha1: testSHA1})
		check(t, err)
		for path, want := range map[string]int{"/api/machines": 1, "/api/machineactions": 1, "/api/machines?$count=true": 1, "/api/machineactions?$filter=status%20eq%20'Pending'%20or%20requestor%20ne%20'x'": 1} {
			_, body := k.raw("GET", path, ana, "")
			var l api.List[json.RawMessage]
			check(t, json.Unmarshal([]byte(body), &l))
			if len(l.Value) != want || strings.Contains(body, other) {
				t.Errorf("GET %s: %s", path, body)
			}
		}
		for _, path := range []string{"/api/machineactions/" + hidden.ID, "/v1/machineactions/" + hidden.ID + "/evidence"} {
			if resp, body := k.raw("GET", path, ana, ""); resp.StatusCode != 404 {
				t.Errorf("GET %s: %d %s", path, resp.StatusCode, body)
			}
		}
		if resp, body := k.raw("POST", "/api/machineactions/"+hidden.ID+"/cancel", ana, `{"Comment":"x"}`); resp.StatusCode != 404 {
			t.Errorf("cancel of another's: %d %s", resp.StatusCode, body)
		}
		if resp, body := k.raw("POST", "/api/machineactions/"+hidden.ID+"/cancel", eve, `{"Comment":"x"}`); resp.StatusCode != 403 {
			t.Errorf("cancel of what she only sees: %d %s", resp.StatusCode, body)
		}
	})
	t.Run("a machine that moves is gone from view", func(t *testing.T) {
		check(t, c.DeleteDeviceGroup(ctx, "Lab"))
		if status, body := post(ana, other); status != 400 || !strings.Contains(body, "ActiveRequestAlreadyExists") {
			t.Errorf("%d %s", status, body)
		}
	})
}

func TestPeopleAdministration(t *testing.T) {
	k := newKit(t)
	c, base := k.root()
	ctx := t.Context()
	u, err := c.CreateUser(ctx, api.UserRequest{UPN: "Ana@Corp.Example", Name: "Ana", Password: testPassword})
	check(t, err)
	if u.UPN != "ana@corp.example" || !auth.IsGUID(u.ID) || u.SecondFactor {
		t.Errorf("user: %+v", u)
	}
	_, err = c.CreateGroup(ctx, api.GroupRequest{Name: "Tier 2 & more"})
	check(t, err)
	check(t, c.AddMember(ctx, "tier 2 & more", u.UPN))
	_, err = c.CreateRole(ctx, api.RoleRequest{Name: "Respond", Permissions: []string{"Response (manage)"}})
	check(t, err)
	check(t, c.AssignRole(ctx, "respond", "Tier 2 & more"))
	g, err := c.CreateDeviceGroup(ctx, api.DeviceGroupRequest{Name: "Finance", Rules: []string{"TAG=finance"}, Access: []string{"Tier 2 & more"}})
	check(t, err)
	rank, open := 1, []string{}
	g, err = c.ChangeDeviceGroup(ctx, "finance", api.DeviceGroupChange{Rank: &rank, Access: &open})
	check(t, err)
	if g.Rank != 1 || len(g.Access) != 0 || g.Rules[0] != "tag=finance" {
		t.Errorf("device group: %+v", g)
	}
	yes := true
	u, err = c.ChangeUser(ctx, u.ID, api.UserChange{SecondFactor: &yes})
	check(t, err)
	if !u.SecondFactor || !strings.HasPrefix(u.SecondFactorURI, "otpauth://totp/Staunch:ana@corp.example?") {
		t.Errorf("second factor: %+v", u)
	}
	users, err := c.Users(ctx)
	check(t, err)
	if len(users.Value) != 1 || users.Value[0].SecondFactorURI != "" || users.Value[0].Groups[0] != "Tier 2 & more" {
		t.Errorf("users: %+v", users)
	}
	check(t, c.UnassignRole(ctx, "Respond", "Tier 2 & more"))
	check(t, c.RemoveMember(ctx, "Tier 2 & more", u.UPN))
	check(t, c.DeleteRole(ctx, "Respond"))
	check(t, c.DeleteGroup(ctx, "Tier 2 & more"))
	check(t, c.DeleteDeviceGroup(ctx, "Finance"))
	check(t, c.DeleteUser(ctx, u.UPN))
	groups, err := c.DeviceGroups(ctx)
	check(t, err)
	if len(groups.Value) != 1 || groups.Value[0].ID != 0 {
		t.Errorf("device groups: %+v", groups)
	}

	for _, bad := range []struct{ method, path, body, code string }{
		{"POST", "/v1/users", `{"upn":"ana","password":"` + testPassword + `"}`, "InvalidInput"},
		{"POST", "/v1/users", `{"upn":"a@b","password":"short"}`, "InvalidInput"},
		{"POST", "/v1/users", `{"upn":"a@b"}`, "MissingRequiredParameter"},
		{"POST", "/v1/users", `{"upn":7}`, "InvalidRequestBody"},
		{"PATCH", "/v1/users/nobody@x", `{"disabled":true}`, "ResourceNotFound"},
		{"PATCH", "/v1/users/nobody@x", `{"disabled":"yes"}`, "InvalidRequestBody"},
		{"POST", "/v1/groups", `{"name":"a/b"}`, "InvalidInput"},
		{"POST", "/v1/roles", `{"name":"r","permissions":["Fly"]}`, "InvalidInput"},
		{"POST", "/v1/roles", `{"name":"r","permissions":[]}`, "MissingRequiredParameter"},
		{"PUT", "/v1/roles/r/groups/g", ``, "ResourceNotFound"},
		{"POST", "/v1/device-groups", `{"name":"d","rules":["color=red"]}`, "InvalidInput"},
		{"POST", "/v1/device-groups", `{"name":"d","rules":[]}`, "MissingRequiredParameter"},
		{"POST", "/v1/device-groups", `{"name":"Ungrouped devices","rules":["tag=x"]}`, "InvalidInput"},
		{"PATCH", "/v1/device-groups/Ungrouped%20devices", `{"rank":1}`, "InvalidInput"},
		{"DELETE", "/v1/device-groups/Ungrouped%20devices", ``, "InvalidInput"},
		{"PATCH", "/v1/apps/nobody", `{"disabled":true}`, "ResourceNotFound"},
	} {
		was := k.url
		k.url = base
		resp, body := k.raw(bad.method, bad.path, "", bad.body)
		k.url = was
		if resp.StatusCode >= 500 {
			t.Errorf("%s %s %s: %d", bad.method, bad.path, bad.body, resp.StatusCode)
		}
		checkError(t, body, bad.code, "")
	}
	entries, err := k.app("auditor", auth.MachineReadAll).Audit(ctx, -1, 1000)
	check(t, err)
	seen := map[string]bool{}
	for _, e := range entries.Value {
		seen[e.Operation+" "+e.Outcome] = true
	}
	for _, want := range []string{
		"CreateUser accepted", "CreateUser refused: InvalidInput", "ChangeUser accepted", "DeleteUser accepted", "CreateGroup accepted", "ChangeGroup accepted",
		"DeleteGroup accepted", "CreateRole accepted", "AssignRole accepted", "DeleteRole accepted", "CreateDeviceGroup accepted",
		"ChangeDeviceGroup accepted", "DeleteDeviceGroup accepted", "DeleteDeviceGroup refused: InvalidInput",
	} {
		if !seen[want] {
			t.Errorf("the audit log has no %q", want)
		}
	}
	if raw, _ := json.Marshal(entries); strings.Contains(string(raw), testPassword) {
		t.Error("the audit log has a password")
	}
}
