// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
)

// The conformance suite: the rows of the contract's tables are in
// testdata/contract, and each is a test that bears the row's text.

// contractRows reads one of those files: the cells of each row.
func contractRows(t *testing.T, file string, least int) [][]string {
	t.Helper()
	f, err := os.Open("testdata/contract/" + file)
	check(t, err)
	defer func() { _ = f.Close() }() // only read
	var rows [][]string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		cells := strings.Split(line, " | ")
		for i, c := range cells {
			cells[i] = strings.TrimSpace(c)
		}
		rows = append(rows, cells)
	}
	if len(rows) < least {
		t.Fatalf("%s has %d rows, there were %d", file, len(rows), least)
	}
	return rows
}

// world is what the rows are tried on: a fleet of four, who may act on it, and
// applications.
type world struct {
	*kit
	fin, lab, mac, old string // device ids; lab is in the group Labs, that eve alone reaches
	token              string // of an application that may do everything, soc-automation
	console            issuer.App
	ana, eve           string // tokens of people: ana responds where she reaches, eve only looks, at Labs too
	next               int
}

func newWorld(t *testing.T, options ...func(*Config)) *world {
	t.Helper()
	w := &world{kit: newKit(t, append([]func(*Config){withoutLimits}, options...)...)}
	w.fin = w.enroll("fin-lt-014.corp.example", func(f *order.Facts) {
		f.Addresses = []order.Address{{IP: "10.20.30.14", MAC: "02005E10A0B1", Type: "Ethernet", Up: true}}
		f.Users = []order.LogonUser{{Name: "ana", First: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Last: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)}}
	})
	w.lab = w.enroll("lab-01.lab.example")
	w.mac = w.enroll("mac-01.corp.example", func(f *order.Facts) { f.OSPlatform, f.Can = "macOS", nil })
	w.old = w.enroll("old-01.corp.example", func(f *order.Facts) { f.AgentVersion, f.Can = "0.0.9", nil })
	w.token = w.kit.token("soc-automation", auth.Permissions()...)
	w.console = w.signInApp("console", auth.Permissions()...)
	w.person("ana@corp.example", "responders")
	w.person("eve@corp.example", "watchers")
	w.role("Respond", []auth.Right{auth.ActiveRemediation, auth.AlertsInvestigation}, "responders")
	w.role("Watch", []auth.Right{auth.ViewData}, "watchers")
	c, _ := w.root()
	_, err := c.CreateDeviceGroup(t.Context(), api.DeviceGroupRequest{Name: "Labs", Rules: []string{"domain=lab.*"}, Access: []string{"watchers"}})
	check(t, err)
	_, err = c.CreateDeviceGroup(t.Context(), api.DeviceGroupRequest{Name: "Everybody's", Rules: []string{"name=open-*"}})
	check(t, err)
	w.ana, w.eve = w.personToken(w.console, "ana@corp.example"), w.personToken(w.console, "eve@corp.example")
	return w
}

// is checks an answer: its status, and what its body has to contain.
func (w *world) is(t *testing.T, want int, method, path, token, body string, contains ...string) string {
	t.Helper()
	resp, got := w.raw(method, strings.ReplaceAll(path, " ", "%20"), token, body)
	if resp.StatusCode != want {
		t.Fatalf("%s %s %s: status %d, want %d: %.600s", method, path, body, resp.StatusCode, want, got)
	}
	for _, c := range contains {
		if !strings.Contains(got, c) {
			t.Errorf("%s %s %s: no %s in %.600s", method, path, body, c, got)
		}
	}
	return got
}

func (w *world) get(t *testing.T, want int, path string, contains ...string) string {
	t.Helper()
	return w.is(t, want, "GET", path, w.token, "", contains...)
}

func (w *world) post(t *testing.T, want int, path, body string, contains ...string) string {
	t.Helper()
	return w.is(t, want, "POST", path, w.token, body, contains...)
}

// sha1 is one that was not used before.
func (w *world) sha1() string {
	w.next++
	return fmt.Sprintf("%040x", 0xabc000+w.next)
}

func stopBody(sha1 string) string { return `{"Comment":"Case 4711","Sha1":"` + sha1 + `"}` }

// order orders a new hash on the finance laptop.
func (w *world) order(t *testing.T) api.MachineAction {
	t.Helper()
	return decode[api.MachineAction](t, w.post(t, 201, "/api/machines/"+w.fin+"/StopAndQuarantineFile", stopBody(w.sha1())))
}

func decode[T any](t *testing.T, body string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		t.Fatalf("%v: %.600s", err, body)
	}
	return v
}

// rows are the values of a list.
func rowsOf[T any](t *testing.T, body string) []T { return decode[api.List[T]](t, body).Value }

// indicator submits one and returns its id.
func (w *world) indicator(t *testing.T, change map[string]any) string {
	t.Helper()
	if change["indicatorValue"] == nil {
		change["indicatorValue"] = w.sha1()
	}
	return decode[api.Indicator](t, w.post(t, 200, "/api/indicators", submitBody(change))).ID
}

// alerted makes the finance laptop meet a file that an indicator wants told.
func (w *world) alerted(t *testing.T) (sha1 string, alert api.Alert) {
	t.Helper()
	sha1 = w.sha1()
	id := w.indicator(t, map[string]any{"indicatorValue": sha1, "generateAlert": true, "severity": "High"})
	w.met(w.fin, sha1, "blocked", id, "/tmp/invoice_view.bin")
	return sha1, rowsOf[api.Alert](t, w.get(t, 200, "/api/files/"+sha1+"/alerts"))[0]
}

func TestConformance(t *testing.T) {
	w := newWorld(t)
	checks := map[string]func(*testing.T, *world){}
	for _, part := range []map[string]func(*testing.T, *world){conventionChecks(), orderChecks(), queryChecks(), readChecks(), indicatorChecks(), accessChecks(), wireChecks()} {
		for id, c := range part {
			if checks[id] != nil {
				t.Errorf("%s is checked twice", id)
			}
			checks[id] = c
		}
	}
	for _, row := range contractRows(t, "rows.txt", 130) {
		id, text := row[0], row[1]
		c := checks[id]
		delete(checks, id)
		t.Run(id+" "+text, func(t *testing.T) {
			if c == nil {
				t.Fatal("nothing checks this row")
			}
			w.kit.t = t
			c(t, w)
		})
	}
	w.kit.t = t
	for _, id := range slices.Sorted(maps.Keys(checks)) {
		t.Errorf("%s is checked and no row", id)
	}
}

// The tables of calls: each row against the route table, which the
// authorisation matrix and the limits are made of.
func TestConformanceCalls(t *testing.T) {
	known := map[string]route{}
	for _, r := range routes() {
		known[r.method+" "+r.path] = r
	}
	names := func(ps perms) string {
		var s []string
		for _, p := range ps {
			s = append(s, string(p))
		}
		return strings.Join(s, " ")
	}
	for _, row := range contractRows(t, "routes.txt", 40) {
		t.Run(strings.Join(row, " | "), func(t *testing.T) {
			r, ok := known[row[0]]
			delete(known, row[0])
			if !ok || r.access.kind != byToken {
				t.Fatal("there is no such call for tokens")
			}
			var rights []string
			for _, right := range r.access.rights {
				rights = append(rights, string(right))
			}
			if got := strings.Join(rights, ", "); row[3] != "*" && got != row[3] {
				t.Errorf("rights %s", got)
			}
			if names(r.access.app) != row[1] || names(r.access.delegated) != row[2] || strconv.Itoa(r.status) != row[4] {
				t.Errorf("an application %s; a person %s; status %d", names(r.access.app), names(r.access.delegated), r.status)
			}
			l := Limit{PerMinute: 100, PerHour: 1500}.Within(r.most)
			if got := fmt.Sprintf("%d %d", l.PerMinute, l.PerHour); got != row[5] {
				t.Errorf("limits %s", got)
			}
		})
	}
	for name, r := range known {
		if strings.HasPrefix(r.path, "/api/") && !r.counts && r.path != "/api/$metadata" {
			t.Errorf("%s is in no table", name)
		}
	}
}

// The tables of properties: each is there, in its place and of its type.
func TestConformanceProperties(t *testing.T) {
	w := newWorld(t)
	entities := w.entities(t)
	at := map[string]int{}
	for _, row := range contractRows(t, "properties.txt", 150) {
		entity, property, kind := row[0], row[1], row[2]
		t.Run(strings.Join(row, " | "), func(t *testing.T) {
			body, ok := entities[entity]
			if !ok {
				t.Fatal("there is no such entity to look at")
			}
			members := membersOf(t, body)
			i := at[entity]
			at[entity]++
			if i >= len(members) || members[i].name != property {
				t.Fatalf("not in its place: %s", body)
			}
			if raw := string(members[i].value.(json.RawMessage)); !ofKind(raw, kind) {
				t.Errorf("%s is no %s", raw, kind)
			}
		})
	}
	for entity, body := range entities {
		if got := len(membersOf(t, body)); got != at[entity] {
			t.Errorf("%s has %d properties, the table %d", entity, got, at[entity])
		}
	}
}

// membersOf are the members of a JSON object in their order.
func membersOf(t *testing.T, body string) object {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(body))
	_, err := d.Token()
	check(t, err)
	var o object
	for d.More() {
		name, err := d.Token()
		check(t, err)
		var v json.RawMessage
		check(t, d.Decode(&v))
		o = append(o, member{name.(string), v})
	}
	return o
}

func ofKind(raw, kind string) bool {
	base, orNull := strings.CutSuffix(kind, "?")
	if raw == "null" {
		return orNull || kind == "null"
	}
	forms := map[string]string{
		"string": `^"(?s:.*)"$`, "guid": `^"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"$`, "hex40": `^"[0-9a-f]{40}"$`, "digits": `^"\d+"$`, "number": `^-?\d+$`,
		"int32": `^-?\d{1,10}$`, "bool": `^(true|false)$`, "time": `^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,6}[1-9])?Z"$`, "object": `^\{.*\}$`, "array": `^\[.*\]$`, "[]": `^\[\]$`,
		"mac": `^"[0-9A-F]{12}"$`,
	}
	if form, ok := forms[base]; ok {
		return regexp.MustCompile(form).MatchString(raw)
	}
	return slices.Contains(strings.Fields(base), strings.Trim(raw, `"`))
}

// entities are one of each, as it comes over the wire.
func (w *world) entities(t *testing.T) map[string]string {
	first := func(body, name string) string {
		var o map[string]json.RawMessage
		check(t, json.Unmarshal([]byte(body), &o))
		var all []json.RawMessage
		check(t, json.Unmarshal(o[name], &all))
		return string(all[0])
	}
	sha1, a := w.alerted(t)
	action := w.post(t, 201, "/api/machines/"+w.fin+"/StopAndQuarantineFile", stopBody(sha1))
	machine := w.get(t, 200, "/api/machines/"+w.fin)
	alert := w.is(t, 200, "PATCH", "/api/alerts/"+a.ID, w.token, `{"comment":"looked at"}`)
	return map[string]string{
		"MachineAction": action, "Machine": machine, "Alert": alert, "AlertComment": first(alert, "comments"),
		"RelatedFileInfo": string(decode[map[string]json.RawMessage](t, action)["relatedFileInfo"]), "IPAddress": first(machine, "ipAddresses"),
		"User":              first(w.get(t, 200, "/api/machines/"+w.fin+"/logonusers"), "value"),
		"AvailableAction":   first(w.get(t, 200, "/api/machines/"+w.fin+"/availableMachineActions"), "value"),
		"File":              w.get(t, 200, "/api/files/"+sha1),
		"InOrgFileStats":    w.get(t, 200, "/api/files/"+sha1+"/stats"),
		"Indicator":         w.post(t, 200, "/api/indicators", submitBody(map[string]any{"indicatorValue": w.sha1()})),
		"ImportedIndicator": first(w.post(t, 200, "/api/indicators/import", `{"Indicators":[`+submitBody(map[string]any{"indicatorValue": w.sha1()})+`]}`), "value"),
		"Error":             string(decode[map[string]json.RawMessage](t, w.get(t, 404, "/api/machines/nobody"))["error"]),
	}
}

// The table of properties that may be filtered by, each by each operator that
// its type has, and ordered by.
func TestConformanceFilters(t *testing.T) {
	w := newWorld(t)
	for _, row := range contractRows(t, "filters.txt", 35) {
		list, property, value := row[0], row[1], row[2]
		t.Run(strings.Join(row, " | "), func(t *testing.T) {
			collection := property == "machineTags" || strings.HasPrefix(property, "rbacGroupN") || property == "rbacGroupIds"
			filters := []string{property + " eq " + value, property + " ne " + value, strings.ToUpper(property) + " eq " + value}
			switch {
			case collection:
				filters = append(filters, property+"/any(t: t eq "+value+")", "not "+property+"/any(x:x eq "+value+")", property+"/any()")
			case value == "true":
				filters = append(filters, property, "not "+property)
			default:
				for _, op := range []string{"gt", "ge", "lt", "le"} {
					filters = append(filters, property+" "+op+" "+value)
				}
				filters = append(filters, property+" in ("+value+","+value+")", property+" in ("+value+", "+value+")", property+" eq null", value+" eq "+property)
			}
			if value[0] == '\'' && !collection {
				filters = append(filters, "startswith("+property+",'a')", "endswith("+property+", 'a')", "contains("+property+",'a')", "contains(tolower("+property+"),'a')")
			}
			for _, f := range filters {
				w.get(t, 200, "/api/"+list+"?$filter="+f, `"value":[`)
			}
			if !collection {
				w.get(t, 200, "/api/"+list+"?$orderby="+property+" desc,"+property, `"value":[`)
			}
			w.get(t, 200, "/api/"+list+"/$count?$filter="+filters[0])
		})
	}
}

// exchange sends bytes and returns all that comes back until the server closes.
func (w *world) exchange(t *testing.T, request string) string {
	t.Helper()
	c := w.dial()
	check(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err := io.WriteString(c, request)
	check(t, err)
	got, err := io.ReadAll(c)
	check(t, err)
	return string(got)
}
