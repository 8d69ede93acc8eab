// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

func actionIDs(l []api.MachineAction) []string {
	ids := make([]string, len(l))
	for i, a := range l {
		ids[i] = a.ID
	}
	return ids
}

func queryChecks() checksOf {
	return checksOf{
		"1.6/operators": func(t *testing.T, w *world) {
			for filter, want := range map[string]bool{
				"computerDnsName eq 'fin-lt-014.corp.example'": true, "computerDnsName ne 'fin-lt-014.corp.example'": false, "rbacGroupId gt -1": true, "rbacGroupId ge 0": true, "rbacGroupId lt 0": false,
				"rbacGroupId le 0": true, "lastSeen gt 2020-01-01T00:00:00Z AND lastSeen lt 2999-01-01T00:00:00Z": true, "rbacGroupId eq 9 or rbacGroupId eq 0": true, "rbacGroupId eq 9 OR osPlatform EQ 'ubuntu'": true,
				"not (rbacGroupId eq 9)": true, "NOT startswith(computerDnsName,'fin')": false, "(rbacGroupId eq 0 and (osPlatform eq 'Ubuntu' or osPlatform eq 'x'))": true,
				"osPlatform in ('a','Ubuntu')": true, "osPlatform in ('a', 'b')": false, "osPlatform IN ('Ubuntu')": true, "startswith(computerDnsName,'fin-')": true, "endswith(computerDnsName,'.example')": true,
				"contains(computerDnsName,'LT-014')": true, "contains(computerDnsName, 'lt_014')": false, "machineTags/any(t: t eq 'finance')": true, "machineTags/any(tag:tag eq 'x')": false, "machineTags/any()": true,
				"aadDeviceId eq null": true, "aadDeviceId ne null": false, "osPlatform eq 'Ubuntu'and rbacGroupId eq 0": true, "tolower(osPlatform) eq 'ubuntu'": true,
			} {
				body := w.get(t, 200, "/api/machines?$filter=("+url.QueryEscape(filter)+") and id eq '"+w.fin+"'")
				if got := strings.Contains(body, w.fin); got != want {
					t.Errorf("%s: found is %v", filter, got)
				}
			}
		},
		"1.6/encodings": func(t *testing.T, w *world) {
			for _, q := range []string{
				"?$filter=id+eq+'ID'", "?$filter=id%20eq%20'ID'", "?%24filter=id%20eq%20%27ID%27", "?$filter=id+eq+'ID'&", "?$filter=%20id eq 'ID' %20", "?&&$filter=id eq 'ID'", "?$Filter=id eq 'ID'", "?", "",
				"?$filter=id%2Beq%2B'ID'", "?$filter=lastSeen gt 2018-08-01Z", "?$filter=lastSeen gt 2018-08-01", "?$filter=lastSeen gt 2018-08-01T00:00:00.1234567Z", "?$filter=lastSeen ge 2018-08-01T00:00:00%2B00:00",
				"?$filter=lastSeen ge 2018-08-01T00:00:00+00:00", "?$filter=lastSeen gt '2018-08-01T00:00:00Z'", "?$filter=lastSeen gt 2018-08-01T00%3A00%3A00Z", "?client=soar&$top=10", "?$filter=computerDnsName ne 'o''neil'",
			} {
				w.get(t, 200, "/api/machines"+strings.ReplaceAll(q, "ID", w.fin), w.fin)
			}
		},
		"1.6/top": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machines?$top=10000")
			for _, bad := range []string{"10001", "20000", "-1", "x", "", "1.5", "99999999999999999999"} {
				checkError(t, w.get(t, 400, "/api/machines?$top="+bad), "ODataError", "")
			}
			w.get(t, 200, "/api/machines?$top=0", `"value":[]`)
		},
		"1.6/skip": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machines?$skip=1000000", `"value":[]`)
			checkError(t, w.get(t, 400, "/api/machines?$skip=-1"), "ODataError", "")
		},
		"1.6/orderby": func(t *testing.T, w *world) {
			a, b := w.order(t), w.order(t)
			of := "id in ('" + a.ID + "','" + b.ID + "')"
			for order, want := range map[string][]string{"": {b.ID, a.ID}, "&$orderby=creationDateTimeUtc": {a.ID, b.ID}, "&$orderby=lastUpdateDateTimeUtc asc": {a.ID, b.ID}, "&$orderby=type desc, creationDateTimeUtc desc": {b.ID, a.ID}} {
				if got := actionIDs(rowsOf[api.MachineAction](t, w.get(t, 200, "/api/machineactions?$filter="+of+order))); !slices.Equal(got, want) {
					t.Errorf("%q: %v", order, got)
				}
			}
			w.get(t, 400, "/api/machineactions?$orderby=color", "Could not find a property named 'color'")
		},
		"1.6/count": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machines?$count=true&$top=1", `,"@odata.count":4,"value":[{`)
			w.get(t, 200, "/api/machines?$count=false", `#Machines","value":`)
			sha1, _ := w.alerted(t)
			a := w.order(t)
			for path, want := range map[string]string{
				"machines": "4", "machines/$count?$filter=osPlatform eq 'macOS'": "1", "machineactions/$count?$filter=id eq '" + a.ID + "'": "1", "machines/" + w.fin + "/machineactions/$count?$filter=id eq '" + a.ID + "'": "1",
				"machines/" + w.lab + "/machineactions/$count?$filter=id eq '" + a.ID + "'": "0", "machines/" + w.lab + "/alerts/$count?$filter=status ne 'Resolved'": "0", "files/" + sha1 + "/alerts/$count": "1", "files/" + sha1 + "/machines/$count": "1",
				"files/" + w.sha1() + "/machines/$count": "0", "indicators/$count?$filter=title eq 'none'": "0", "alerts/$count?$filter=status eq 'None'": "0",
			} {
				if !strings.Contains(path, "$count") {
					path += "/$count"
				}
				if got := w.get(t, 200, "/api/"+path); got != want {
					t.Errorf("%s: %s, want %s", path, got, want)
				}
			}
			checkError(t, w.get(t, 404, "/api/machines/nobody/machineactions/$count"), "ResourceNotFound", "Machine nobody was not found")
		},
		"1.6/select": func(t *testing.T, w *world) {
			if got := w.get(t, 200, "/api/machines?$select=OnboardingStatus, id&$filter=id eq '"+w.fin+"'"); !strings.HasSuffix(got, `"value":[{"id":"`+w.fin+`","onboardingStatus":"Onboarded"}]}`) {
				t.Error(got)
			}
			w.get(t, 200, "/api/machineactions?$select=*&$top=1")
			w.get(t, 400, "/api/machines?$select=color", "Could not find a property named 'color'")
		},
		"1.6/expand": func(t *testing.T, w *world) {
			_, a := w.alerted(t)
			w.get(t, 200, "/api/alerts?$expand=evidence", `"evidence":[{`)
			w.get(t, 200, "/api/alerts/"+a.ID+"?$expand=evidence", `"evidence":[{`)
			checkError(t, w.get(t, 400, "/api/alerts?$expand=files"), "ODataError", "")
			checkError(t, w.get(t, 400, "/api/machines?$expand=evidence"), "ODataError", "")
		},
		"1.6/unknown": func(t *testing.T, w *world) {
			for _, list := range []string{"machines", "machineactions", "indicators", "alerts"} {
				w.get(t, 400, "/api/"+list+"?$stop=5", `{"error":{"code":"ODataError","message":"The query specified in the URI is not valid. Custom query option '$stop' that starts with '$' is not supported.","target":"`, `,"details":[]}}`)
			}
		},
		"1.6/place": func(t *testing.T, w *world) {
			w.get(t, 400, "/api/machines?$filter=osPlatform is 'x'", `at position 12 in '$filter': osPlatform  >>> is 'x'"`, `"details":[]`)
		},
		"1.6/real": func(t *testing.T, w *world) {
			for _, q := range []string{
				"machineactions?$filter=machineId eq 'M'&$top=2", "machineactions?$filter=machineId eq 'M' and status eq 'Pending'", "machineactions?$filter=requestor eq 'ana@corp.example' and type eq 'RunAntiVirusScan'",
				"machineactions?$filter=lastUpdateDateTimeUtc gt 2026-02-10T00:00:00Z&$orderby=lastUpdateDateTimeUtc asc&$top=1000&$skip=0", "machineactions?$filter=lastUpdateDateTimeUtc%20ge%202026-01-01T00%3A00%3A00Z",
				"machineactions?$top=50&$filter=status+eq+'Succeeded'", "machineactions?$filter=type eq 'Isolate' and machineId eq 'M'", "machineactions?$count=true&$filter=id in ('a','b')&$top=20&$skip=0",
				"machines?$filter=riskScore+eq+'High'", "machines?$filter=healthStatus+ne+'Active'&$top=100", "machines?$filter=lastSeen gt 2026-01-01Z", "machines?$filter=startswith(computerDnsName,'fin-')",
				"machines?$filter=onboardingStatus eq 'Onboarded' and healthStatus eq 'Active'", "machines?$filter=computerDnsName+eq+'fin-lt-014'", "machines?$filter=machineTags/any(tag: tag eq 'ExampleTag')",
				"machines?$filter=startswith(osPlatform,'WindowsServer')", "machines?$skip=0&$top=10000", "machines?$select=id,computerDnsName,onboardingStatus,osPlatform,version,osBuild,mergedIntoMachineId,isExcluded",
				"machines?$filter=lastIpAddress eq '10.20.30.14' or computerDnsName eq 'x' or id eq 'M'", "machines/fin-lt-014/alerts/$count?$filter=status ne 'Resolved'", "indicators?$filter=action+eq+'BlockAndRemediate'",
				"indicators?$top=50&$skip=0&$filter=contains(title,'a') and contains(indicatorValue,'b') and indicatorType eq 'FileSha1'", "alerts?$filter=severity eq 'High'and alertCreationTime gt 2026-01-01T00:00:00.000000Z&$expand=evidence&$top=50",
				"alerts?$filter=(status eq 'New' or status eq 'InProgress') and lastUpdateTime ge 2026-01-01T00:00:00Z&$orderby=alertCreationTime asc", "alerts?$filter=lastUpdateTime+gt+2026-01-01T00:00:00Z&$orderby=lastUpdateTime+asc&$top=1000",
			} {
				w.get(t, 200, "/api/"+strings.ReplaceAll(q, "'M'", "'"+w.fin+"'"))
			}
		},
		"1.7/top": func(t *testing.T, w *world) {
			var want []string
			for range 7 {
				want = append([]string{w.order(t).ID}, want...)
			}
			var got []string
			for skip := 0; ; skip += 3 {
				body := w.get(t, 200, fmt.Sprintf("/api/machineactions?$top=3&$skip=%d", skip))
				if strings.Contains(body, "nextLink") {
					t.Fatal("a link with $top")
				}
				page := actionIDs(rowsOf[api.MachineAction](t, body))
				if got = append(got, page...); len(page) < 3 || len(got) > 6 {
					break
				}
			}
			if !slices.Equal(got[:7], want) {
				t.Errorf("%v, want %v", got[:7], want)
			}
		},
		"1.7/link":   func(t *testing.T, _ *world) { walkTenThousand(t) },
		"1.7/stable": stableUnderSkip,
	}
}

// Orders that come while a client walks by $skip in ascending order neither
// repeat nor hide a row.
func stableUnderSkip(t *testing.T, w *world) {
	var made []string
	for range 6 {
		made = append(made, w.order(t).ID)
	}
	since := decode[api.MachineAction](t, w.get(t, 200, "/api/machineactions/"+made[0])).CreationDateTimeUTC
	var got []string
	for skip := 0; skip < 6; skip += 2 {
		q := fmt.Sprintf("/api/machineactions?$filter=lastUpdateDateTimeUtc ge %s&$orderby=lastUpdateDateTimeUtc asc&$top=2&$skip=%d", since.UTC().Format(time.RFC3339Nano), skip)
		got = append(got, actionIDs(rowsOf[api.MachineAction](t, w.get(t, 200, q)))...)
		w.order(t)
	}
	if !slices.Equal(got, made) {
		t.Errorf("%v, want %v", got, made)
	}
}

// walkTenThousand is checklist 11, with one walk for each way in which clients page.
func walkTenThousand(t *testing.T) {
	const n = 10_001
	k := newKit(t, withoutLimits)
	w := &world{kit: k, fin: k.enroll("fin-lt-014"), token: k.token("soc", auth.MachineReadAll)}
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	want := make([]string, n) // newest first
	var group sync.WaitGroup
	room := make(chan struct{}, 256) // side by side, so that the store keeps them together
	for i := range n {
		a := action.Action{
			ID: fmt.Sprintf("%08x-0000-4000-8000-000000000000", i), Type: api.StopAndQuarantineFile, Status: api.Succeeded, MachineID: w.fin, MachineName: "fin-lt-014", Comment: "c",
			Requestor: action.Requestor{Kind: auth.App, ID: "soc", Name: "soc"}, Source: "PublicApi", Acknowledged: true, Order: []byte(`{}`),
			Created: start.Add(time.Duration(i) * time.Second), Updated: start.Add(time.Duration(i) * time.Second), Expires: start.Add(72 * time.Hour), File: filehash.Hash{SHA1: filehash.SHA1{1, byte(i), byte(i >> 8)}},
		}
		want[n-1-i] = a.ID
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			if err := k.store.CreateAction(t.Context(), &a, audit.By(admin(), audit.StopAndQuarantineFile, a.MachineID, "accepted")); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	page := func(path string) api.List[api.MachineAction] {
		return decode[api.List[api.MachineAction]](t, w.get(t, 200, path))
	}
	same := func(how string, got, want []string) {
		if !slices.Equal(got, want) {
			t.Errorf("%s: %d rows, not the %d there are, each once and in order", how, len(got), len(want))
		}
	}
	// By nextLink as it stands, in plain, on the pinned version, with a filter, and in an order of its own.
	oldest := slices.Clone(want)
	slices.Reverse(oldest)
	for path, rows := range map[string][]string{
		"/api/machineactions": want, "/api/v1.0/MachineActions?$filter=type%20eq%20'StopAndQuarantineFile'&$count=true": want, "/api/machines/" + w.fin + "/machineactions?$orderby=creationDateTimeUtc+asc": oldest,
	} {
		var got []string
		pages := 0
		for next := k.url + path; next != ""; pages++ {
			at, ok := strings.CutPrefix(next, k.url)
			if !ok || pages > 2 {
				t.Fatalf("link %s", next)
			}
			l := page(at)
			got, next = append(got, actionIDs(l.Value)...), l.NextLink
			if pages == 0 && len(l.Value) != 10_000 {
				t.Errorf("%s: the first page has %d rows", path, len(l.Value))
			}
		}
		same("by nextLink, "+path, got, rows)
	}
	// By $skip with the largest $top, to a short page.
	var got []string
	for skip := 0; ; skip += 10_000 {
		l := page(fmt.Sprintf("/api/machineactions?$top=10000&$skip=%d", skip))
		if got = append(got, actionIDs(l.Value)...); l.NextLink != "" || len(l.Value) < 10_000 {
			break
		}
	}
	same("by $skip", got, want)
	// As a feed: what changed since the last one seen, oldest first.
	got = nil
	for since := start.Add(-time.Second); ; {
		l := page("/api/machineactions?$filter=lastUpdateDateTimeUtc+gt+" + since.UTC().Format(time.RFC3339Nano) + "&$orderby=lastUpdateDateTimeUtc+asc&$top=5000")
		if len(l.Value) == 0 {
			break
		}
		got, since = append(got, actionIDs(l.Value)...), l.Value[len(l.Value)-1].LastUpdateDateTimeUTC.Time
	}
	same("as a feed", got, oldest)
	// By the count, from its end.
	total := w.get(t, 200, "/api/machineactions/$count")
	if total != fmt.Sprint(n) {
		t.Errorf("count %s", total)
	}
	same("the last row", actionIDs(page("/api/machineactions?$skip=10000").Value), want[n-1:])
}

func readChecks() checksOf {
	return checksOf{
		"2.2/list": func(t *testing.T, _ *world) {
			k := newKit(t)
			w := &world{kit: k, token: k.token("soc", auth.MachineReadAll)}
			w.get(t, 200, "/api/machines", `"value":[]`)
		},
		"2.2/patch": func(t *testing.T, w *world) {
			w.is(t, 200, "PATCH", "/api/machines/"+w.old, w.token, `{"machineTags":["a","b"],"deviceValue":"High"}`, `"machineTags":["a","b"]`, `"deviceValue":"High"`)
			w.is(t, 200, "PATCH", "/api/machines/"+w.old, w.token, `{"machineTags":["c"]}`, `"machineTags":["c"]`, `"deviceValue":"High"`)
			w.is(t, 200, "PATCH", "/api/machines/"+w.old, w.token, `{"machineTags":[]}`, `"machineTags":[]`)
		},
		"2.2/byip": func(t *testing.T, w *world) {
			now := decode[api.Machine](t, w.get(t, 200, "/api/machines/"+w.fin)).LastSeen.UTC() // when it said what its address is
			for at, want := range map[time.Time]bool{now: true, now.Add(10 * time.Minute): true, now.Add(-10 * time.Minute): true, now.Add(-time.Hour): false} {
				body := w.get(t, 200, "/api/machines/findbyip(ip='10.20.30.14',timestamp="+at.Format(time.RFC3339)+")")
				if strings.Contains(body, w.fin) != want {
					t.Errorf("%s: %s", at, body)
				}
			}
			w.get(t, 400, "/api/machines/findbyip(ip='10.20.30.14',timestamp="+now.Add(-3100*time.Hour).Format(time.RFC3339)+")", `"code":"BadRequest"`)
			w.get(t, 400, "/api/machines/findbyip(ip='x',timestamp="+now.Format(time.RFC3339)+")", `"code":"InvalidIpAddress"`)
			w.get(t, 400, "/api/machines/findbyip(ip='10.20.30.14')", `"code":"MissingRequiredParameter"`)
			w.get(t, 200, "/api/machines/FindByIP(ip=%2710.20.30.14%27,timestamp="+strings.ReplaceAll(now.Format(time.RFC3339), ":", "%3A")+")", w.fin)
		},
		"2.2/bytag": func(t *testing.T, w *world) {
			w.post(t, 200, "/api/machines/"+w.fin+"/tags", `{"Value":"tier one","Action":"Add"}`)
			for query, want := range map[string]bool{
				"?tag=tier one": true, "?tag=tier": false, "?tag=tier&useStartsWithFilter=true": true, "?tag=tier&useStartsWithFilter=false": false,
				"(tag='tier one')": true, "(tag='tier',useStartsWithFilter=true)": true, "(tag='tier')": false,
			} {
				if got := strings.Contains(w.get(t, 200, "/api/machines/findbytag"+query), w.fin); got != want {
					t.Errorf("%s: found is %v", query, got)
				}
			}
			w.get(t, 400, "/api/machines/findbytag", `"code":"MissingRequiredParameter"`)
		},
		"2.2/tags": func(t *testing.T, w *world) {
			path := "/api/machines/" + w.mac + "/tags"
			w.post(t, 200, path, `{"Value":"x y","Action":"Add"}`, `"x y"`, `#Machines/$entity`)
			w.post(t, 200, path, `{"Value":"x y","Action":"Add"}`)
			w.post(t, 200, path, `{"Value":"x y","Action":"Remove"}`, `"machineTags":["finance"]`)
			for body, code := range map[string]string{`{"Action":"Add"}`: "MissingRequiredParameter", `{"Value":"x"}`: "MissingRequiredParameter", `{"Value":"x","Action":"Set"}`: "InvalidInput"} {
				checkError(t, w.post(t, 400, path, body), code, "")
			}
		},
		"2.2/manytags": func(t *testing.T, w *world) {
			path := "/api/machines/AddOrRemoveTagForMultipleMachines"
			body := w.post(t, 200, path, `{"Value":"many","Action":"Add","MachineIds":["`+w.fin+`","`+w.mac+`"]}`, `#Machines"`)
			if n := len(rowsOf[api.Machine](t, body)); n != 2 {
				t.Errorf("%d machines", n)
			}
			checkError(t, w.post(t, 400, path, `{"Value":"many","Action":"Add","MachineIds":["`+strings.Repeat(w.fin+`","`, 500)+w.fin+`"]}`), "MaximumBatchSizeExceeded", "Maximum batch size exceeded. Received: 501, allowed: 500")
			checkError(t, w.post(t, 404, path, `{"Value":"many","Action":"Remove","MachineIds":["`+w.fin+`","nobody"]}`), "ResourceNotFound", "")
			w.get(t, 200, "/api/machines/"+w.fin, `"many"`)
		},
		"2.2/users": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machines/"+w.fin+"/logonusers", `"value":[{"id":"fin-lt-014\\ana","accountName":"ana","accountDomain":"fin-lt-014","firstSeen":"2026-11-01T00:00:00Z"`)
			checkError(t, w.get(t, 404, "/api/machines/nobody/logonusers"), "ResourceNotFound", "Machine nobody was not found")
		},
		"2.2/alerts": func(t *testing.T, w *world) {
			_, a := w.alerted(t)
			w.get(t, 200, "/api/machines/"+w.fin+"/alerts?$filter=id eq '"+a.ID+"'", a.ID, `"aadTenantId":"`+testTenant+`"`, `"rbacGroupName":null`)
			if got := w.get(t, 200, "/api/machines/"+w.fin+"/alerts/$count?$filter=id eq '"+a.ID+"'"); got != "1" {
				t.Error(got)
			}
		},
		"2.3/file": func(t *testing.T, w *world) {
			sha1, a := w.alerted(t)
			w.get(t, 200, "/api/files/"+strings.ToUpper(sha1), `"sha1":"`+sha1+`"`)
			w.get(t, 200, "/api/files/"+a.Evidence[0].SHA256, `"sha1":"`+sha1+`"`)
			for _, id := range []string{strings.Repeat("0", 40), "x", strings.Repeat("0", 32)} {
				checkError(t, w.get(t, 404, "/api/files/"+id), "ResourceNotFound", "File "+id+" was not found")
			}
		},
		"2.3/stats": func(t *testing.T, w *world) {
			sha1, _ := w.alerted(t)
			for _, q := range []string{"", "?lookBackHours=720", "?lookBackHours=1", "?lookbackhours=48", "?lookBackHours="} {
				w.get(t, 200, "/api/files/"+sha1+"/stats"+q, `"organizationPrevalence":1`, `"orgPrevalence":"1"`)
			}
			w.get(t, 400, "/api/files/"+sha1+"/stats?lookBackHours=721", `"code":"InvalidInput"`)
		},
		"2.3/machines": func(t *testing.T, w *world) { w.get(t, 200, "/api/files/"+w.sha1()+"/machines", `"value":[]}`) },
		"2.3/alerts":   func(t *testing.T, w *world) { w.get(t, 200, "/api/files/"+w.sha1()+"/alerts", `"value":[]}`) },
	}
}

// Alerts, files and what was met of them, of a device in a group that a person
// does not reach, are not there for them, in no list and in no number.
func TestRecordsAcrossDeviceGroups(t *testing.T) {
	w := newWorld(t)
	sha1 := w.sha1()
	id := w.indicator(t, map[string]any{"indicatorValue": sha1, "generateAlert": true})
	w.met(w.lab, sha1, "blocked", id, "/tmp/lab.bin")
	secret := rowsOf[api.Alert](t, w.get(t, 200, "/api/alerts?$filter=machineId eq '"+w.lab+"'", `"rbacGroupName":"Labs"`))[0]
	both := w.sha1()
	w.met(w.lab, both, "executed", "", "/opt/lab.bin")
	w.met(w.fin, both, "executed", "", "/opt/fin.bin")

	// Ana does not reach the lab, Eve and applications do.
	for path, want := range map[string]int{
		"/api/alerts/" + secret.ID: 404, "/api/files/" + sha1: 404, "/api/files/" + sha1 + "/stats": 404, "/api/machines/" + w.lab + "/alerts": 404, "/api/machines/" + w.lab + "/machineactions": 404,
	} {
		checkError(t, w.is(t, want, "GET", path, w.ana, ""), "ResourceNotFound", "")
		w.is(t, 200, "GET", path, w.eve, "")
		w.get(t, 200, path)
	}
	for path, want := range map[string][3]string{ // as Ana, Eve and an application have it
		"/api/alerts/$count": {"0", "1", "1"}, "/api/files/" + sha1 + "/alerts/$count": {"0", "1", "1"}, "/api/files/" + sha1 + "/machines/$count": {"0", "1", "1"},
		"/api/files/" + both + "/machines/$count": {"1", "2", "2"}, "/api/machines/$count?$filter=id eq '" + w.lab + "'": {"0", "1", "1"},
		"/api/alerts/$count?$filter=status eq 'New' or status ne 'New'": {"0", "1", "1"},
	} {
		for i, token := range []string{w.ana, w.eve, w.token} {
			if got := w.is(t, 200, "GET", path, token, ""); got != want[i] {
				t.Errorf("%s: %s, want %s", path, got, want[i])
			}
			list := strings.Replace(path, "/$count", "", 1)
			if got := w.is(t, 200, "GET", list, token, ""); strings.Contains(got, w.lab) != (i > 0) {
				t.Errorf("%s: %s", list, got)
			}
		}
	}
	stats := w.is(t, 200, "GET", "/api/files/"+both+"/stats", w.ana, "", `"organizationPrevalence":1`, `"topFileNames":["fin.bin"]`)
	if strings.Contains(stats, "lab.bin") {
		t.Error(stats)
	}
	w.get(t, 200, "/api/files/"+both+"/stats", `"organizationPrevalence":2`)
	w.is(t, 200, "GET", "/api/files/"+both, w.ana, "", `"globalPrevalence":1`)

	// Whom she does not reach she does not work on; whom Eve only sees she does not either.
	checkError(t, w.is(t, 404, "PATCH", "/api/alerts/"+secret.ID, w.ana, `{"status":"Resolved"}`), "ResourceNotFound", "Alert "+secret.ID+" was not found")
	checkError(t, w.is(t, 403, "PATCH", "/api/alerts/"+secret.ID, w.eve, `{"status":"Resolved"}`), "Forbidden", "")
	w.get(t, 200, "/api/alerts/"+secret.ID, `"status":"New"`)
}
