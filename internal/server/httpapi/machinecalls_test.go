// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"encoding/xml"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/client"
	"staunch/internal/order"
	"staunch/internal/server/auth"
)

func machineIDs(l api.List[api.Machine]) string {
	var names []string
	for _, m := range l.Value {
		names = append(names, m.ComputerDNSName)
	}
	return strings.Join(names, " ")
}

// The rows of the contract's table of machine routes, beside the list and the one.
func TestMachineCalls(t *testing.T) {
	k := newKit(t)
	withIP := func(ip string) func(*order.Facts) {
		return func(f *order.Facts) { f.Addresses = []order.Address{{IP: ip, Type: "Ethernet", Up: true}} }
	}
	a := k.enroll("a.example", withIP("10.0.0.2"), func(f *order.Facts) {
		f.Users = []order.LogonUser{{Name: "ana", First: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), Last: time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)}}
	})
	b := k.enroll("b.example", withIP("10.0.0.3"), func(f *order.Facts) { f.Can = nil })
	soc := k.app("soc", auth.MachineReadWriteAll, auth.UserReadAll, auth.AlertReadAll, auth.MachineStopAndQuarantine)
	token := k.token("raw", auth.MachineReadWriteAll, auth.UserReadAll)
	now := time.Now().UTC()

	t.Run("PATCH machines/{id}: machineTags replaced, deviceValue; 200 + machine", func(t *testing.T) {
		m, err := soc.UpdateMachine(t.Context(), "a", api.MachineUpdate{MachineTags: []string{"x", "y"}, DeviceValue: "high"})
		check(t, err)
		if !cmp.Equal(m.MachineTags, []string{"x", "y"}) || *m.DeviceValue != "High" || !strings.HasSuffix(m.Context, "#Machines/$entity") {
			t.Errorf("%+v", m)
		}
		m, err = soc.UpdateMachine(t.Context(), a, api.MachineUpdate{DeviceValue: "Low"})
		if err != nil || len(m.MachineTags) != 2 {
			t.Errorf("%+v, %v", m, err)
		}
		for body, code := range map[string]string{
			`{}`: "MissingRequiredParameter", `{"deviceValue":"Huge"}`: "InvalidInput", `{"machineTags":"x"}`: "InvalidRequestBody",
			`{"machineTags":["` + strings.Repeat("x", 201) + `"]}`: "InvalidInput", `[]`: "InvalidRequestBody",
		} {
			resp, answer := k.raw("PATCH", "/api/machines/"+a, token, body)
			if resp.StatusCode != 400 {
				t.Errorf("%s: status %d", body, resp.StatusCode)
			}
			checkError(t, answer, code, "")
		}
		resp, _ := k.raw("PATCH", "/api/machines/nobody", token, `{"deviceValue":"Low"}`)
		if resp.StatusCode != 404 {
			t.Errorf("status %d", resp.StatusCode)
		}
		resp, _ = k.raw("PATCH", "/api/machines/"+a, token, `{"machineTags":[]}`)
		if m, err := soc.Machine(t.Context(), a); resp.StatusCode != 200 || err != nil || len(m.MachineTags) != 0 {
			t.Errorf("an empty list leaves %+v, %v", m.MachineTags, err)
		}
	})
	t.Run("POST machines/{id}/tags: Value, Action Add | Remove; 200 + updated machine", func(t *testing.T) {
		m, err := soc.TagMachine(t.Context(), a, api.TagRequest{Value: "hot", Action: "Add"})
		if err != nil || !cmp.Equal(m.MachineTags, []string{"hot"}) {
			t.Errorf("%+v, %v", m.MachineTags, err)
		}
		m, err = soc.TagMachine(t.Context(), a, api.TagRequest{Value: "hot", Action: "remove"})
		if err != nil || len(m.MachineTags) != 0 {
			t.Errorf("%+v, %v", m.MachineTags, err)
		}
		for body, want := range map[string][2]string{
			`{"Action":"Add"}`: {"MissingRequiredParameter", "Parameter Value is missing"}, `{"Value":"x"}`: {"MissingRequiredParameter", "Parameter Action is missing"},
			`{"Value":"x","Action":"Swap"}`: {"InvalidInput", ""}, `{"Value":"a\u0007","Action":"Add"}`: {"InvalidInput", ""},
		} {
			_, answer := k.raw("POST", "/api/machines/"+a+"/tags", token, body)
			checkError(t, answer, want[0], want[1])
		}
	})
	t.Run("POST AddOrRemoveTagForMultipleMachines: MachineIds ≤ 500 per call; 200 + machines", func(t *testing.T) {
		l, err := soc.TagMachines(t.Context(), api.TagManyRequest{Value: "fin's", Action: "Add", MachineIDs: []string{a, b, a}})
		if err != nil || machineIDs(l) != "a.example b.example" {
			t.Errorf("%+v, %v", machineIDs(l), err)
		}
		_, err = soc.TagMachines(t.Context(), api.TagManyRequest{Value: "no", Action: "Add", MachineIDs: []string{a, "nobody"}})
		wantCode(t, err, api.ResourceNotFound)
		if m, err := soc.Machine(t.Context(), a); err != nil || !cmp.Equal(m.MachineTags, []string{"fin's"}) {
			t.Errorf("%+v, %v", m.MachineTags, err)
		}
		_, err = soc.TagMachines(t.Context(), api.TagManyRequest{Value: "no", Action: "Add", MachineIDs: make([]string, 501)})
		wantCode(t, err, api.MaximumBatchSizeExceeded)
		_, err = soc.TagMachines(t.Context(), api.TagManyRequest{Value: "no", Action: "Add"})
		wantCode(t, err, api.MissingRequiredParameter)
	})
	t.Run("GET findbytag: default exact, useStartsWithFilter, query and function form", func(t *testing.T) {
		_, err := soc.TagMachine(t.Context(), b, api.TagRequest{Value: "fin's-2", Action: "Add"})
		check(t, err)
		for prefix, want := range map[bool]string{false: "b.example a.example", true: "b.example a.example"} {
			if l, err := soc.MachinesByTag(t.Context(), "fin's", prefix, client.Query{}); err != nil || machineIDs(l) != want {
				t.Errorf("%v: %q, %v", prefix, machineIDs(l), err)
			}
		}
		for query, want := range map[string]string{
			"findbytag?tag=fin%27s-2": "b.example", "FindByTag?tag=fin%27s-&useStartsWithFilter=true&$top=1": "b.example", "findbytag?tag=fin%27s-": "",
			"findbytag(tag='fin''s-',useStartsWithFilter=true)": "b.example", "findbytag(tag='fin''s',useStartsWithFilter=false)?$filter=computerDnsName+eq+'a.example'": "a.example",
			"findbytag(tag='x%25')": "",
		} {
			resp, body := k.raw("GET", "/api/machines/"+query, token, "")
			var l api.List[api.Machine]
			check(t, json.Unmarshal([]byte(body), &l))
			if resp.StatusCode != 200 || machineIDs(l) != want {
				t.Errorf("%s: status %d, %q", query, resp.StatusCode, machineIDs(l))
			}
		}
		_, body := k.raw("GET", "/api/machines/findbytag", token, "")
		checkError(t, body, "MissingRequiredParameter", "Parameter tag is missing")
	})
	t.Run("GET findbyip: that internal IP within ±15 min of ts; older than 30 days → 400", func(t *testing.T) {
		find := func(ip string, at time.Time) string {
			l, err := soc.MachinesByIP(t.Context(), ip, at, client.Query{})
			check(t, err)
			return machineIDs(l)
		}
		if got := find("10.0.0.2", now); got != "a.example" {
			t.Errorf("now: %q", got)
		}
		if got := find("10.0.0.2", now.Add(14*time.Minute)); got != "a.example" {
			t.Errorf("14 minutes on: %q", got)
		}
		if got := find("10.0.0.2", now.Add(-20*time.Minute)) + find("10.0.0.9", now); got != "" {
			t.Errorf("before, or another: %q", got)
		}
		for args, code := range map[string]string{
			"ip='10.0.0.2',timestamp=" + now.Add(-31*24*time.Hour).Format(time.RFC3339): "BadRequest",
			"ip='10.0.0.2'": "MissingRequiredParameter", "ip='ten',timestamp=2026-11-24T00:00:00Z": "InvalidIpAddress", "ip='10.0.0.2',timestamp=now": "InvalidInput", "ip='10": "ODataError",
		} {
			resp, body := k.raw("GET", "/api/machines/findbyip("+strings.ReplaceAll(args, " ", "%20")+")", token, "")
			if resp.StatusCode != 400 {
				t.Errorf("%s: status %d", args, resp.StatusCode)
			}
			checkError(t, body, code, "")
		}
	})
	t.Run("GET machines/{id}/machineactions (+ OData)", func(t *testing.T) {
		made, err := soc.StopAndQuarantineFile(t.Context(), a, api.StopAndQuarantineRequest{Comment: "c", Sha1: testSHA1})
		check(t, err)
		l, err := soc.ActionsOfMachine(t.Context(), "a", client.Query{Filter: "status eq 'Pending' or status eq 'Failed'", Count: true})
		if err != nil || len(l.Value) != 1 || l.Value[0].ID != made.ID || *l.Count != 1 {
			t.Errorf("%+v, %v", l, err)
		}
		if l, err := soc.ActionsOfMachine(t.Context(), b, client.Query{}); err != nil || len(l.Value) != 0 {
			t.Errorf("%+v, %v", l, err)
		}
		_, err = soc.ActionsOfMachine(t.Context(), "nobody", client.Query{})
		wantCode(t, err, api.ResourceNotFound)
	})
	t.Run("GET machines/{id}/availableMachineActions: value[] of action, isAvailable", func(t *testing.T) {
		for id, want := range map[string]bool{a: true, b: false} {
			l, err := soc.AvailableActions(t.Context(), id)
			check(t, err)
			got := map[string]bool{}
			for _, x := range l.Value {
				got[x.Action] = x.IsAvailable
			}
			if got["StopAndQuarantineFile"] != want || got["Isolate"] || len(got) != 9 {
				t.Errorf("%v", got)
			}
		}
	})
	t.Run("GET machines/{id}/logonusers: User.Read.All; 404 if machine missing", func(t *testing.T) {
		resp, body := k.raw("GET", "/api/machines/"+a+"/logonusers", token, "")
		const want = `"value":[{"id":"a\\ana","accountName":"ana","accountDomain":"a","firstSeen":"2026-11-01T00:00:00Z","lastSeen":"2026-11-02T00:00:00Z","logonTypes":"Interactive","isDomainAdmin":false,"isOnlyNetworkUser":null}]`
		if resp.StatusCode != 200 || !strings.Contains(body, want) || !strings.Contains(body, "$metadata#Users\"") {
			t.Errorf("status %d: %s", resp.StatusCode, body)
		}
		_, err := soc.LogonUsers(t.Context(), "nobody")
		wantCode(t, err, api.ResourceNotFound)
		_, err = k.app("no", auth.MachineReadAll).LogonUsers(t.Context(), a)
		wantCode(t, err, api.Forbidden)
	})
	t.Run("$count path form returns a bare number", func(t *testing.T) {
		for path, want := range map[string]string{
			"/api/machines/$count": "2", "/api/v1.0/machines/%24count?$filter=computerDnsName+eq+'a.example'": "1", "/api/machineactions/$count": "1",
			"/api/machineactions/$count?$filter=status+ne+'Pending'&$top=5": "0",
		} {
			resp, body := k.raw("GET", path, token, "")
			if resp.StatusCode != 200 || body != want {
				t.Errorf("%s: status %d, %q", path, resp.StatusCode, body)
			}
		}
		resp, body := k.raw("GET", "/api/machines/$count?$filter=nothing+eq+1", token, "")
		if resp.StatusCode != 400 {
			t.Errorf("status %d", resp.StatusCode)
		}
		checkError(t, body, "ODataError", "")
		if resp, _ := k.raw("GET", "/api/machines/"+a+"/$count", token, ""); resp.StatusCode != 404 {
			t.Errorf("status %d", resp.StatusCode)
		}
	})
	t.Run("anything else unknown: 404, JSON error", func(t *testing.T) {
		for _, path := range []string{"/api/exposureScore", "/api/vulnerabilities", "/api/machines/" + a + "/recommendations", "/api/machines/findbyip", "/api/alerts/x/y/z"} {
			resp, body := k.raw("GET", path, token, "")
			if resp.StatusCode != 404 {
				t.Errorf("%s: status %d", path, resp.StatusCode)
			}
			if !strings.Contains(body, `"code":"NotFound"`) && !strings.Contains(body, `"code":"ResourceNotFound"`) {
				t.Errorf("%s: %s", path, body)
			}
		}
	})
}

func TestMetadata(t *testing.T) {
	k := newKit(t)
	token := k.token("x", auth.MachineReadAll)
	resp, body := k.raw("GET", "/api/$metadata", token, "")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/xml" {
		t.Fatalf("status %d, %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	var doc struct {
		Schema struct {
			Namespace string `xml:"Namespace,attr"`
			Entities  []struct {
				Name       string `xml:"Name,attr"`
				Properties []struct {
					Name string `xml:"Name,attr"`
					Type string `xml:"Type,attr"`
				} `xml:"Property"`
			} `xml:"EntityType"`
			Sets []struct {
				Name string `xml:"Name,attr"`
			} `xml:"EntityContainer>EntitySet"`
		} `xml:"DataServices>Schema"`
	}
	check(t, xml.Unmarshal([]byte(body), &doc))
	if doc.Schema.Namespace != "microsoft.windowsDefenderATP.api" || len(doc.Schema.Entities) != 6 || len(doc.Schema.Sets) != 6 {
		t.Errorf("%+v", doc)
	}
	types := map[string]string{}
	for _, e := range doc.Schema.Entities {
		for _, p := range e.Properties {
			types[e.Name+"."+p.Name] = p.Type
		}
	}
	for name, want := range map[string]string{
		"MachineAction.creationDateTimeUtc": "Edm.DateTimeOffset", "MachineAction.errorHResult": "Edm.Int32", "Machine.machineTags": "Collection(Edm.String)",
		"Machine.ipAddresses": "Collection(microsoft.windowsDefenderATP.api.IPAddress)", "Machine.rbacGroupId": "Edm.Int64", "Indicator.generateAlert": "Edm.Boolean",
	} {
		if types[name] != want {
			t.Errorf("%s is %q, want %q", name, types[name], want)
		}
	}
	for _, c := range []struct{ path, accept string }{{"/api/v1.0/$metadata?$format=json", ""}, {"/api/%24metadata", "application/json;odata.metadata=minimal"}} {
		resp, body := k.raw("GET", c.path, token, "", "Accept", c.accept)
		var parsed map[string]any
		if err := json.Unmarshal([]byte(body), &parsed); err != nil || resp.StatusCode != 200 || parsed["$Version"] != "4.01" {
			t.Errorf("%s: %v, %.100s", c.path, err, body)
		}
	}
}

func TestFilesAndAlerts(t *testing.T) {
	k := newKit(t)
	now := k.at(t, "2026-11-24T10:00:00Z")
	a, b := k.enroll("a.example"), k.enroll("b.example")
	soc := k.app("soc", auth.FileReadAll, auth.MachineReadAll, auth.AlertReadWriteAll, auth.TiReadWriteAll)
	token := k.token("raw", auth.FileReadAll, auth.MachineReadAll, auth.AlertReadWriteAll)
	rule := func(value, action string, alert bool) string {
		in, err := soc.SubmitIndicator(t.Context(), api.IndicatorRequest{IndicatorValue: value, IndicatorType: "FileSha1", Action: action, Title: "Case " + action, Description: "why", Severity: "High", GenerateAlert: alert})
		check(t, err)
		return in.ID
	}
	loud, quiet := rule(testSHA1, "Block", true), rule(strings.Repeat("a", 40), "Block", false)

	t.Run("GET files/{id}: unknown → 404", func(t *testing.T) {
		for _, id := range []string{testSHA1, testSHA256, "x", strings.Repeat("0", 32)} {
			for _, rest := range []string{"", "/stats"} {
				resp, body := k.raw("GET", "/api/files/"+id+rest, token, "")
				if resp.StatusCode != 404 {
					t.Errorf("status %d", resp.StatusCode)
				}
				checkError(t, body, "ResourceNotFound", "File "+id+" was not found")
			}
		}
	})
	t.Run("GET files/{id}/machines and /alerts: unknown file → 200 with empty set", func(t *testing.T) {
		for _, rest := range []string{"/machines", "/alerts"} {
			resp, body := k.raw("GET", "/api/files/"+testSHA1+rest, token, "")
			if resp.StatusCode != 200 || !strings.HasSuffix(body, `"value":[]}`) || len(body) > 100 {
				t.Errorf("status %d: %s", resp.StatusCode, body)
			}
		}
	})
	t.Run("GET alerts?$top=1: a collection, possibly empty", func(t *testing.T) {
		resp, body := k.raw("GET", "/api/alerts?$top=1", token, "")
		if resp.StatusCode != 200 || !strings.HasSuffix(body, `"value":[]}`) {
			t.Errorf("status %d: %s", resp.StatusCode, body)
		}
	})

	k.met(a, testSHA1, "blocked", loud, "/tmp/invoice_view.bin")
	k.met(b, testSHA1, "executed", "", "/opt/invoice_view.bin")
	k.met(b, testSHA1, "blocked", quiet, "/opt/other.bin")                // a rule about another file
	k.met(b, strings.Repeat("a", 40), "blocked", quiet, "/opt/quiet.bin") // a rule without alert
	k.met(b, strings.Repeat("b", 40), "blocked", "999", "/opt/gone.bin")  // a rule that is not there
	k.met(b, strings.Repeat("b", 40), "found", "0a1b", "/opt/gone.bin")   // an order's gate

	t.Run("GET files/{id}: SHA-1, SHA-256", func(t *testing.T) {
		f, err := soc.File(t.Context(), strings.ToUpper(testSHA1))
		check(t, err)
		if f.SHA1 != testSHA1 || *f.GlobalPrevalence != 2 || *f.Size != 42 || f.DeterminationType != "Unknown" || !f.GlobalFirstObserved.Equal(now) {
			t.Errorf("%+v", f)
		}
		if again, err := soc.File(t.Context(), f.SHA256); err != nil || again.SHA1 != testSHA1 {
			t.Errorf("%+v, %v", again, err)
		}
	})
	t.Run("GET files/{id}/stats: both name sets; lookBackHours default 30 days, max 720 h", func(t *testing.T) {
		_, body := k.raw("GET", "/api/files/"+testSHA1+"/stats?lookBackHours=48", token, "")
		for _, want := range []string{
			`$metadata#microsoft.windowsDefenderATP.api.InOrgFileStats"`, `"organizationPrevalence":2`, `"orgPrevalence":"2"`, `"globallyPrevalence":2`, `"globalPrevalence":"2"`,
			`"orgFirstSeen":"2026-11-24T10:00:00Z"`, `"orgLastSeen":"2026-11-24T10:00:00Z"`, `"topFileNames":["invoice_view.bin","other.bin"]`,
		} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in %s", want, body)
			}
		}
		for _, hours := range []string{"721", "0", "-1", "x"} {
			resp, body := k.raw("GET", "/api/files/"+testSHA1+"/stats?lookBackHours="+hours, token, "")
			if resp.StatusCode != 400 {
				t.Errorf("%s: status %d", hours, resp.StatusCode)
			}
			checkError(t, body, "InvalidInput", "")
		}
		k.at(t, "2026-11-24T13:00:00Z")
		s, err := soc.FileStats(t.Context(), testSHA1, 2)
		if err != nil || s.OrganizationPrevalence != 0 || s.SHA1 != testSHA1 || s.OrgFirstSeen != nil || len(s.TopFileNames) != 0 {
			t.Errorf("%+v, %v", s, err)
		}
		if s, err := soc.FileStats(t.Context(), testSHA1, 0); err != nil || s.OrganizationPrevalence != 2 {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("GET files/{id}/machines", func(t *testing.T) {
		l, err := soc.FileMachines(t.Context(), testSHA1, client.Query{Filter: "computerDnsName ne 'x'", Count: true})
		if err != nil || machineIDs(l) != "b.example a.example" || *l.Count != 2 {
			t.Errorf("%q, %v", machineIDs(l), err)
		}
	})

	var id string
	t.Run("a refusal by an indicator with generateAlert becomes an alert, once while it is open", func(t *testing.T) {
		k.at(t, "2026-11-24T11:00:00Z")
		k.met(a, testSHA1, "blocked", loud, "/tmp/invoice_view.bin")
		l, err := soc.Alerts(t.Context(), client.Query{})
		check(t, err)
		if len(l.Value) != 1 {
			t.Fatalf("%+v", l.Value)
		}
		x := l.Value[0]
		id = x.ID
		if x.Title != "Case Block" || x.Description != "why" || x.Severity != "High" || x.Status != "New" || x.MachineID != a || *x.ComputerDNSName != "a.example" ||
			x.DetectionSource != "CustomerTI" || !x.FirstEventTime.Equal(now) || !x.LastEventTime.Equal(now.Add(time.Hour)) || x.Evidence[0].SHA1 != testSHA1 || x.Evidence[0].FileName != "invoice_view.bin" {
			t.Errorf("%+v", x)
		}
	})
	t.Run("list, by machine, by file, $count, $expand=evidence", func(t *testing.T) {
		for path, want := range map[string]int{
			"/api/alerts?$filter=status ne 'Resolved' and severity eq 'High'": 1, "/api/alerts?$filter=category eq 'Nothing'": 0, "/api/alerts?$expand=evidence&$top=5": 1,
			"/api/machines/a/alerts": 1, "/api/machines/" + b + "/alerts": 0, "/api/files/" + testSHA1 + "/alerts": 1, "/api/files/" + strings.Repeat("a", 40) + "/alerts": 0,
		} {
			resp, body := k.raw("GET", strings.ReplaceAll(path, " ", "%20"), token, "")
			var l api.List[api.Alert]
			check(t, json.Unmarshal([]byte(body), &l))
			if resp.StatusCode != 200 || len(l.Value) != want {
				t.Errorf("%s: status %d, %d alerts", path, resp.StatusCode, len(l.Value))
			}
		}
		resp, body := k.raw("GET", "/api/machines/"+a+"/alerts/$count?$filter=status+ne+'Resolved'", token, "")
		if resp.StatusCode != 200 || body != "1" {
			t.Errorf("status %d: %q", resp.StatusCode, body)
		}
		_, body = k.raw("GET", "/api/alerts?$expand=everything", token, "")
		checkError(t, body, "ODataError", "")
		_, body = k.raw("GET", "/api/machines/nobody/alerts", token, "")
		checkError(t, body, "ResourceNotFound", "Machine nobody was not found")
	})
	t.Run("PATCH alerts/{id}", func(t *testing.T) {
		who := "ana@corp.example"
		x, err := soc.UpdateAlert(t.Context(), id, api.AlertUpdate{Status: "resolved", AssignedTo: &who, Classification: "TruePositive", Determination: "Malware", Comment: "done"})
		check(t, err)
		if x.Status != "Resolved" || *x.AssignedTo != who || x.ResolvedTime == nil || len(x.Comments) != 1 || x.Comments[0].CreatedBy != "soc" {
			t.Errorf("%+v", x)
		}
		got, err := soc.Alert(t.Context(), id)
		check(t, err)
		if diff := cmp.Diff(x, got); diff != "" {
			t.Errorf("(-returned +read):\n%s", diff)
		}
		for body, code := range map[string]string{`{}`: "InvalidRequestBody", `{"status":"Gone"}`: "InvalidInput", `{"classification":"x"}`: "InvalidInput", `{"status":7}`: "InvalidRequestBody"} {
			resp, answer := k.raw("PATCH", "/api/alerts/"+id, token, body)
			if resp.StatusCode != 400 {
				t.Errorf("%s: status %d", body, resp.StatusCode)
			}
			checkError(t, answer, code, "")
		}
		_, body := k.raw("PATCH", "/api/alerts/none", token, `{"status":"New"}`)
		checkError(t, body, "ResourceNotFound", "Alert none was not found")
		// Resolved, the next refusal is another alert.
		k.met(a, testSHA1, "blocked", loud, "/tmp/again")
		if n, err := soc.Count(t.Context(), "alerts", ""); err != nil || n != 2 {
			t.Errorf("%d alerts, %v", n, err)
		}
		_, err = k.app("reader", auth.AlertReadAll).UpdateAlert(t.Context(), id, api.AlertUpdate{Status: "New"})
		wantCode(t, err, api.Forbidden)
	})
}

// Checklist 10: every query of the contract's section on OData parses.
func TestContractQueries(t *testing.T) {
	k := newKit(t)
	token := k.token("x", auth.MachineReadAll, auth.TiReadWriteAll, auth.AlertReadAll)
	id := k.enroll("fin-lt-014")
	for _, q := range []string{
		"machineactions?$filter=machineId eq '" + id + "'&$top=2",
		"machineactions?$filter=requestor eq 'ana@corp.example' and type eq 'RunAntiVirusScan'",
		"machineactions?$filter=lastUpdateDateTimeUtc gt 2026-02-10T00:00:00Z&$orderby=lastUpdateDateTimeUtc asc&$top=1000&$skip=0",
		"machines?$filter=riskScore+eq+'High'", "machines?$filter=healthStatus+ne+'Active'&$top=100", "machines?$filter=lastSeen gt 2026-01-01Z",
		"machines?$filter=startswith(computerDnsName,'fin-')", "machines?$filter=onboardingStatus eq 'Onboarded' and healthStatus eq 'Active'",
		"machines?$filter=computerDnsName+eq+'fin-lt-014'", "machines/" + id + "/alerts/$count?$filter=status ne 'Resolved'", "indicators?$filter=action+eq+'BlockAndRemediate'",
	} {
		resp, body := k.raw("GET", "/api/"+strings.ReplaceAll(q, " ", "%20"), token, "")
		if resp.StatusCode != 200 {
			t.Errorf("%s: status %d: %s", q, resp.StatusCode, body)
		}
	}
	for q, message := range map[string]string{"machineactions?$top=20000": "10000", "indicators?$stop=5": "Custom query option '$stop' that starts with '$' is not supported."} {
		resp, body := k.raw("GET", "/api/"+q, token, "")
		if resp.StatusCode != 400 || !strings.Contains(body, message) {
			t.Errorf("%s: status %d: %s", q, resp.StatusCode, body)
		}
	}
}

// FuzzFunctions: whatever stands in the brackets of a function is answered.
func FuzzFunctions(f *testing.F) {
	h, token := fuzzHandler(f)
	for _, s := range []string{"ip='10.0.0.2',timestamp=2026-11-01T00:00:00Z", "tag='x'", "tag='it''s',useStartsWithFilter=true", "=,=", "ip='"} {
		f.Add("findbyip", s)
		f.Add("findbytag", s)
	}
	f.Fuzz(func(t *testing.T, name, args string) {
		if name != "findbyip" && name != "findbytag" {
			t.Skip()
		}
		status := serve(h, token, "GET", "/api/machines/"+name+"("+url.PathEscape(args)+")", "")
		if status != 200 && status != 400 && status != 404 {
			t.Errorf("%s(%q): status %d", name, args, status)
		}
	})
}

// FuzzIndicatorBody: whatever is submitted or imported is answered.
func FuzzIndicatorBody(f *testing.F) {
	h, token := fuzzHandler(f)
	f.Add(submitBody(nil))
	f.Add(`{"Indicators":[` + submitBody(nil) + `,7]}`)
	f.Add(`{"IndicatorIds":["1",2]}`)
	f.Add(`{"rbacGroupNames":"a,b","generateAlert":"True"}`)
	f.Fuzz(func(t *testing.T, body string) {
		for _, path := range []string{"/api/indicators", "/api/indicators/import", "/api/indicators/BatchDelete"} {
			if status := serve(h, token, "POST", path, body); status >= 500 || status < 200 {
				t.Errorf("%s %q: status %d", path, body, status)
			}
		}
	})
}

// serve has the handler answer one request and returns the status.
func serve(h *Handler, token, method, path, body string) int {
	r, err := http.NewRequest(method, "https://localhost"+path, strings.NewReader(body))
	if err != nil {
		return http.StatusBadRequest
	}
	r.RemoteAddr, r.Host = "192.0.2.1:5", "localhost"
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}
