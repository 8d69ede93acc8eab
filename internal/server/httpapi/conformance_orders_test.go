// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"encoding/xml"
	"regexp"
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/auth"
)

type checksOf = map[string]func(*testing.T, *world)

func (w *world) stopPath() string { return "/api/machines/" + w.fin + "/StopAndQuarantineFile" }

// refused checks that an order is refused with a code and a text; "" is any.
func (w *world) refused(t *testing.T, want int, machine, token, body, code, message string) {
	t.Helper()
	checkError(t, w.is(t, want, "POST", "/api/machines/"+machine+"/StopAndQuarantineFile", token, body), code, message)
}

// until reads an action until it has that status.
func (w *world) until(t *testing.T, id, status string) api.MachineAction {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		a := decode[api.MachineAction](t, w.get(t, 200, "/api/machineactions/"+id))
		if a.Status == status {
			return a
		}
		if time.Now().After(deadline) {
			t.Fatalf("is %s and not %s", a.Status, status)
		}
	}
}

func conventionChecks() checksOf {
	return checksOf{
		"0/base": func(t *testing.T, w *world) {
			if a, b := w.get(t, 200, "/api/machines"), w.get(t, 200, "/api/v1.0/machines"); a != b {
				t.Errorf("%s\n%s", a, b)
			}
		},
		"0/path-case": func(t *testing.T, w *world) {
			a := w.order(t)
			w.get(t, 200, "/API/MachineActions/"+strings.ToUpper(a.ID), a.ID)
			w.get(t, 200, "/Api/V1.0/MACHINES/"+strings.ToUpper(w.fin), w.fin)
			w.post(t, 201, "/api/Machines/"+w.fin+"/stopAndQuarantineFile", stopBody(w.sha1()))
		},
		"0/slashes": func(t *testing.T, w *world) {
			w.get(t, 200, "//api//machines/", `"value":[{`)
			w.post(t, 201, "/api/machines/"+w.fin+"//StopAndQuarantineFile/", stopBody(w.sha1()))
		},
		"0/body-case": func(t *testing.T, w *world) {
			w.refused(t, 400, w.fin, w.token, `{"comment":"c","Sha1":"`+testSHA1+`"}`, "MissingRequiredParameter", "Parameter Comment is missing")
		},
		"0/filter-case": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machines?$filter=ComputerDNSName eq 'FIN-LT-014.corp.example'", w.fin)
		},
		"0/enums": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machines?$filter=onboardingStatus eq 'onboarded' and healthStatus eq 'ACTIVE' and computerDnsName eq 'fin-lt-014.corp.example'", w.fin)
		},
		"0/times": func(t *testing.T, w *world) {
			at := time.Date(2026, 2, 11, 8, 41, 7, 551_290_450, time.FixedZone("", 3600))
			for in, want := range map[time.Time]string{
				at: `"2026-02-11T07:41:07.5512904Z"`, at.Truncate(time.Second): `"2026-02-11T07:41:07Z"`, at.Truncate(10 * time.Millisecond): `"2026-02-11T07:41:07.55Z"`,
			} {
				if got, err := json.Marshal(api.Time{Time: in}); err != nil || string(got) != want {
					t.Errorf("%s, %v, want %s", got, err, want)
				}
			}
			if times := regexp.MustCompile(`\d\.(\d+)Z"`).FindAllStringSubmatch(w.get(t, 200, "/api/machineactions"), -1); len(times) > 0 {
				for _, f := range times {
					if len(f[1]) > 7 || strings.HasSuffix(f[1], "0") {
						t.Errorf("fraction %s", f[1])
					}
				}
			}
		},
		"0/machine-id": func(t *testing.T, w *world) {
			if !regexp.MustCompile(`^[a-f0-9]{40}$`).MatchString(w.fin) {
				t.Error(w.fin)
			}
		},
		"0/action-id":    func(t *testing.T, w *world) { checkGUID(t, w.order(t).ID) },
		"0/indicator-id": func(t *testing.T, w *world) { w.get(t, 200, "/api/indicators/"+w.indicator(t, map[string]any{})) },
		"0/nulls": func(t *testing.T, w *world) {
			w.post(t, 201, w.stopPath(), stopBody(w.sha1()), `"title":null,`, `"externalId":null,`, `"commands":[],"troubleshootInfo":null}`)
		},
		"0/compact": func(t *testing.T, w *world) {
			for _, path := range []string{"/api/machines", "/api/machineactions", "/api/indicators", "/api/machines/nobody", "/api/alerts?$stop=5"} {
				_, body := w.raw("GET", path, w.token, "")
				if bare := regexp.MustCompile(`"(\\.|[^"\\])*"`).ReplaceAllString(body, ""); strings.ContainsAny(bare, " \t\r\n") {
					t.Errorf("%s: blanks in %.300s", path, body)
				}
			}
		},
		"0/headers": func(t *testing.T, w *world) {
			resp, _ := w.raw("GET", "/api/machines", w.token, "")
			if resp.Header.Get("Content-Type") != "application/json" || resp.Header.Get("OData-Version") != "4.0" {
				t.Error(resp.Header)
			}
		},
		"0/no-body": func(t *testing.T, w *world) {
			id := w.indicator(t, map[string]any{})
			for method, path := range map[string]string{"GET": "/api/machines", "DELETE": "/api/indicators/" + id} {
				for _, body := range []string{"", "{", "null"} {
					if resp, got := w.raw(method, path, w.token, body, "Content-Type", "application/json"); resp.StatusCode >= 400 && (method == "GET" || body == "") {
						t.Errorf("%s %s with %q: %d %s", method, path, body, resp.StatusCode, got)
					}
				}
			}
		},
		"0/context-list": func(t *testing.T, w *world) {
			for path, set := range map[string]string{"machineactions": "MachineActions", "machines": "Machines", "indicators": "Indicators", "alerts": "Alerts", "machines/" + w.fin + "/logonusers": "Users"} {
				if body := w.get(t, 200, "/api/"+path); !strings.HasPrefix(body, `{"@odata.context":"`+w.url+`/api/$metadata#`+set+`","value":[`) {
					t.Errorf("%.200s", body)
				}
			}
		},
		"0/context-one": func(t *testing.T, w *world) {
			a := w.order(t)
			sha1, alert := w.alerted(t)
			for path, set := range map[string]string{
				"machineactions/" + a.ID: "MachineActions", "machines/" + w.fin: "Machines", "files/" + sha1: "Files", "alerts/" + alert.ID: "Alerts",
				"indicators/" + w.indicator(t, map[string]any{}): "Indicators",
			} {
				if body := w.get(t, 200, "/api/"+path); !strings.HasPrefix(body, `{"@odata.context":"`+w.url+`/api/$metadata#`+set+`/$entity","`) {
					t.Errorf("%.200s", body)
				}
			}
		},
		"0/context-stats": func(t *testing.T, w *world) {
			sha1, _ := w.alerted(t)
			w.get(t, 200, "/api/files/"+sha1+"/stats", `{"@odata.context":"`+w.url+`/api/$metadata#microsoft.windowsDefenderATP.api.InOrgFileStats","`)
		},
		"0/metadata": func(t *testing.T, w *world) {
			var edmx struct {
				Schema struct {
					Namespace  string `xml:"Namespace,attr"`
					EntityType []struct {
						Name string `xml:"Name,attr"`
					}
				} `xml:"DataServices>Schema"`
			}
			check(t, xml.Unmarshal([]byte(w.get(t, 200, "/api/$metadata")), &edmx))
			if edmx.Schema.Namespace != "microsoft.windowsDefenderATP.api" || len(edmx.Schema.EntityType) < 6 {
				t.Errorf("%+v", edmx)
			}
		},
	}
}

func checkGUID(t *testing.T, id string) {
	t.Helper()
	if !guidForm.MatchString(id) {
		t.Errorf("%q is no GUID in lower case", id)
	}
}

func orderChecks() checksOf {
	return checksOf{
		"1.1/1": func(t *testing.T, w *world) {
			for _, token := range []string{"", "x", "eyJ.x.y", w.token + "x"} {
				w.refused(t, 401, w.fin, token, stopBody(testSHA1), "Unauthorized", "")
			}
		},
		"1.1/2": func(t *testing.T, _ *world) {
			k := newKit(t)
			k.set(func() { k.limit = Limit{PerMinute: 100, PerHour: 1500} })
			k.at(t, "2026-11-24T10:00:00Z")
			token := k.token("soc", auth.MachineStopAndQuarantine)
			for i := range 101 {
				resp, body := k.raw("POST", "/api/machines/nobody/StopAndQuarantineFile", token, stopBody(testSHA1))
				if limited := resp.StatusCode == 429; limited != (i == 100) {
					t.Fatalf("call %d: %d %s", i+1, resp.StatusCode, body)
				}
				if i == 100 {
					checkError(t, body, "TooManyRequests", "")
				}
			}
		},
		"1.1/3": func(t *testing.T, w *world) {
			w.refused(t, 403, w.fin, w.kit.token("r", auth.MachineReadAll), stopBody(testSHA1), "Forbidden",
				"The application does not have any of the required application permissions (Machine.StopAndQuarantine) to access the resource.")
		},
		"1.1/4": func(t *testing.T, w *world) {
			w.refused(t, 403, w.fin, w.eve, stopBody(testSHA1), "Forbidden", "")
			w.refused(t, 403, w.fin, w.personToken(w.signInApp("reads", auth.MachineRead), "ana@corp.example"), stopBody(testSHA1), "Forbidden", "")
		},
		"1.1/5": func(t *testing.T, w *world) {
			for _, body := range []string{"", " ", "Comment=c", `{"Comment":"c"`, `[]`, `null`, `7`, `"x"`, stopBody(testSHA1) + "x", `{"Comment":7,"Sha1":"` + testSHA1 + `"}`, `{"Comment":"c","Sha1":{}}`, `{"Comment":"c","Comment":"d"}`} {
				w.refused(t, 400, w.fin, w.token, body, "InvalidRequestBody", "Request body is incorrect")
			}
		},
		"1.1/6": func(t *testing.T, w *world) {
			for body, name := range map[string]string{
				`{}`: "Comment", `{"Sha1":"` + testSHA1 + `"}`: "Comment", `{"Comment":"","Sha1":"x"}`: "Comment", `{"Comment":" \t"}`: "Comment", `{"Comment":null}`: "Comment",
				`{"COMMENT":"c"}`: "Comment", `{"Comment":"c"}`: "Sha1", `{"Comment":"c","Sha1":""}`: "Sha1", `{"Comment":"c","Sha1":"  "}`: "Sha1", `{"Comment":"c","sha1":"` + testSHA1 + `"}`: "Sha1",
			} {
				w.refused(t, 400, w.fin, w.token, body, "MissingRequiredParameter", "Parameter "+name+" is missing")
			}
		},
		"1.1/7": func(t *testing.T, w *world) {
			for _, hash := range []string{testSHA256, strings.Repeat("0", 32), "zz", testSHA1[:39] + "g", testSHA1 + " "} {
				w.refused(t, 400, w.fin, w.token, stopBody(hash), "InvalidHashValue", "Hash value "+hash+" is invalid.")
			}
		},
		"1.1/8": func(t *testing.T, w *world) {
			for _, name := range []string{strings.Repeat("0", 40), "nobody.corp.example", "1c3b7a52-9d7e-4a6b-8c11-2e5f60a4d9ff"} {
				w.refused(t, 404, name, w.token, stopBody(testSHA1), "ResourceNotFound", "Machine "+name+" was not found")
			}
		},
		"1.1/9": func(t *testing.T, w *world) {
			w.refused(t, 404, w.lab, w.ana, stopBody(testSHA1), "ResourceNotFound", "Machine "+w.lab+" was not found")
			w.refused(t, 404, "lab-01.lab.example", w.ana, stopBody(testSHA1), "ResourceNotFound", "Machine lab-01.lab.example was not found")
		},
		"1.1/10": func(t *testing.T, w *world) {
			w.refused(t, 400, w.mac, w.token, stopBody(testSHA1), "OsPlatformNotSupported", "OS Platform macOS isn't supported for this action.")
		},
		"1.1/11": func(t *testing.T, w *world) {
			w.refused(t, 400, w.old, w.token, stopBody(testSHA1), "ClientVersionNotSupported", "StopAndQuarantineFile is supported on client version 0.1.0 and above.")
		},
		"1.1/12": func(t *testing.T, w *world) {
			w.set(func() { w.answers[w.fin] = order.Answer{Has: "no"} })
			defer w.set(func() { delete(w.answers, w.fin) })
			w.refused(t, 404, w.fin, w.token, stopBody(testSHA1), "ResourceNotFound", "Sha1 "+testSHA1+" was not found in machine "+w.fin)
		},
		"1.1/13": func(t *testing.T, w *world) {
			hash := w.sha1()
			w.post(t, 201, w.stopPath(), stopBody(hash))
			w.refused(t, 400, w.fin, w.token, stopBody(hash), "ActiveRequestAlreadyExists", "Action is already in progress")
		},
		"1.1/14": func(t *testing.T, w *world) {
			w.refused(t, 403, w.fin, w.token, stopBody("da39a3ee5e6b4b0d3255bfef95601890afd80709"), "DisallowedOperation", "")
		},
		"1.1/15": func(t *testing.T, w *world) {
			resp, body := w.raw("POST", w.stopPath(), w.token, stopBody(w.sha1()))
			a := decode[api.MachineAction](t, body)
			if resp.StatusCode != 201 || a.Status != "Pending" || resp.Header.Get("Location") != w.url+"/api/machineactions/"+a.ID {
				t.Errorf("%d %s %s", resp.StatusCode, resp.Header.Get("Location"), body)
			}
		},
		"1.1/id": func(t *testing.T, w *world) {
			const guid = "1c3b7a52-9d7e-4a6b-8c11-2e5f60a4d913"
			c, _ := w.root()
			m, err := c.ChangeDevice(t.Context(), w.fin, api.DeviceChange{AadDeviceID: strings.ToUpper(guid)})
			check(t, err)
			if m.AadDeviceID == nil || *m.AadDeviceID != guid || !m.IsAadJoined {
				t.Errorf("%+v", m)
			}
			for _, name := range []string{w.fin, strings.ToUpper(w.fin), guid, strings.ToUpper(guid), "fin-lt-014.corp.example", "FIN-LT-014"} {
				w.post(t, 201, "/api/machines/"+name+"/StopAndQuarantineFile", stopBody(w.sha1()), `"machineId":"`+w.fin+`"`)
				for _, rest := range []string{"", "/machineactions", "/alerts", "/logonusers", "/availableMachineActions"} {
					w.get(t, 200, "/api/machines/"+name+rest)
				}
			}
			w.get(t, 200, "/api/machines?$filter=aadDeviceId eq '"+strings.ToUpper(guid)+"'", `"id":"`+w.fin+`"`)
			w.get(t, 200, "/api/machines?$filter=aadDeviceId eq "+guid, `"id":"`+w.fin+`"`)
			// Not another's, not nonsense, and off again.
			_, err = c.ChangeDevice(t.Context(), w.lab, api.DeviceChange{AadDeviceID: guid})
			wantCode(t, err, api.InvalidInput)
			_, err = c.ChangeDevice(t.Context(), w.fin, api.DeviceChange{AadDeviceID: "x"})
			wantCode(t, err, api.InvalidInput)
			m, err = c.ChangeDevice(t.Context(), w.fin, api.DeviceChange{})
			if err != nil || m.AadDeviceID != nil || m.IsAadJoined {
				t.Errorf("%+v, %v", m, err)
			}
			w.refused(t, 404, guid, w.token, stopBody(testSHA1), "ResourceNotFound", "Machine "+guid+" was not found")
		},
		"1.1/auto": func(t *testing.T, w *world) {
			defer w.set(func() { delete(w.answers, w.fin) })
			for has, want := range map[string]int{"no": 404, "yes": 201, "unknown": 201} {
				w.set(func() { w.answers[w.fin] = order.Answer{Has: has} })
				w.post(t, want, w.stopPath(), stopBody(w.sha1()))
			}
			w.set(func() { delete(w.answers, w.fin) }) // not connected
			w.post(t, 201, w.stopPath(), stopBody(w.sha1()))
		},
		"1.1/strict": func(t *testing.T, w *world) {
			w.set(func() { w.mode = "strict" })
			defer w.set(func() { w.mode = ""; delete(w.answers, w.fin) })
			unseen, seen, elsewhere := w.sha1(), w.sha1(), w.sha1()
			w.met(w.fin, seen, "executed", "", "/opt/seen")
			w.met(w.lab, elsewhere, "executed", "", "/opt/seen")
			w.refused(t, 404, w.fin, w.token, stopBody(unseen), "ResourceNotFound", "Sha1 "+unseen+" was not found in machine "+w.fin)
			w.refused(t, 404, w.fin, w.token, stopBody(elsewhere), "ResourceNotFound", "")
			w.post(t, 201, w.stopPath(), stopBody(seen))
			// A connected device knows better than the record.
			w.set(func() { w.answers[w.fin] = order.Answer{Has: "yes"} })
			w.post(t, 201, w.stopPath(), stopBody(unseen))
			w.set(func() { w.answers[w.fin] = order.Answer{Has: "no"} })
			again := w.sha1()
			w.met(w.fin, again, "executed", "", "/opt/was-here")
			w.refused(t, 404, w.fin, w.token, stopBody(again), "ResourceNotFound", "")
		},
		"1.1/off": func(t *testing.T, w *world) {
			w.set(func() { w.mode, w.answers[w.fin] = "off", order.Answer{Has: "no"} })
			defer w.set(func() { w.mode = ""; delete(w.answers, w.fin) })
			w.post(t, 201, w.stopPath(), stopBody(w.sha1()))
		},
		"1.1/case": func(t *testing.T, w *world) {
			hash := w.sha1()
			w.post(t, 201, w.stopPath(), stopBody(strings.ToUpper(hash)), `"fileIdentifier":"`+hash+`","fileIdentifierType":"Sha1"`)
		},
		"1.2/requestor": func(t *testing.T, w *world) {
			w.post(t, 201, w.stopPath(), stopBody(w.sha1()), `"requestor":"soc-automation"`)
			w.is(t, 201, "POST", w.stopPath(), w.ana, stopBody(w.sha1()), `"requestor":"ana@corp.example"`)
		},
		"1.2/source": func(t *testing.T, w *world) {
			w.post(t, 201, w.stopPath(), stopBody(w.sha1()), `"requestSource":"PublicApi"`)
		},
		"1.2/external": func(t *testing.T, w *world) {
			w.post(t, 201, w.stopPath(), `{"Comment":"c","Sha1":"`+w.sha1()+`","ExternalId":"case-4711"}`, `"externalId":"case-4711"`)
		},
		"1.2/types": func(t *testing.T, w *world) {
			for _, kind := range []string{"RunAntiVirusScan", "Offboard", "LiveResponse", "CollectInvestigationPackage", "Isolate", "Unisolate", "StopAndQuarantineFile", "RestrictCodeExecution", "UnrestrictCodeExecution", "RequestSample"} {
				w.get(t, 200, "/api/machineactions?$filter=type eq '"+kind+"'")
			}
			for _, status := range []string{"Pending", "InProgress", "Succeeded", "Failed", "TimeOut", "Cancelled"} {
				w.get(t, 200, "/api/machineactions?$filter=status eq '"+status+"'")
			}
		},
		"1.3/life": func(t *testing.T, w *world) {
			a := w.order(t)
			check(t, w.actions.Acknowledge(t.Context(), w.fin, order.Ack{Order: a.ID}))
			w.until(t, a.ID, "InProgress")
			w.finish(a.ID, nil)
			if got := w.until(t, a.ID, "Succeeded"); got.ErrorHResult != 0 || got.TroubleshootInfo != nil || got.LastUpdateDateTimeUTC.Before(got.CreationDateTimeUTC.Time) {
				t.Errorf("%+v", got)
			}
		},
		"1.3/expiry": func(t *testing.T, w *world) {
			w.set(func() { w.expiry = time.Millisecond })
			a := w.order(t)
			w.set(func() { w.expiry = 0 })
			w.actions.Start(t.Context())
			defer w.actions.Stop()
			if got := w.until(t, a.ID, "TimeOut"); got.ErrorHResult != -2145844840 || got.TroubleshootInfo != nil {
				t.Errorf("%+v", got)
			}
		},
		"1.3/ryw": func(t *testing.T, w *world) {
			a := w.order(t)
			w.get(t, 200, "/api/machineactions/"+a.ID, a.ID)
			w.get(t, 200, "/api/machineactions?$top=1", a.ID)
			w.get(t, 200, "/api/machines/"+w.fin+"/machineactions?$filter=id eq '"+a.ID+"'", a.ID)
			w.post(t, 200, "/api/machineactions/"+a.ID+"/cancel", `{"Comment":"c"}`, `"status":"Cancelled"`)
		},
		"1.4/hashes": func(t *testing.T, w *world) { w.order(t); w.order(t) },
		"1.4/code": func(t *testing.T, w *world) {
			hash := w.sha1()
			w.post(t, 201, w.stopPath(), stopBody(hash))
			w.post(t, 400, w.stopPath(), stopBody(hash), `"code":"ActiveRequestAlreadyExists"`, `"message":"Action is already in progress"`)
		},
		"1.5/list": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machineactions?$filter=requestor eq 'nobody'", `"value":[]`)
		},
		"1.5/get": func(t *testing.T, w *world) {
			for _, id := range []string{"6a6a6a6a-6a6a-6a6a-6a6a-6a6a6a6a6a6a", "x", "0"} {
				checkError(t, w.get(t, 404, "/api/machineactions/"+id), "ResourceNotFound", "")
			}
		},
		"1.5/cancel-pending": func(t *testing.T, w *world) {
			a := w.order(t)
			got := decode[api.MachineAction](t, w.post(t, 200, "/api/machineactions/"+a.ID+"/cancel", `{"Comment":"Wrong hash"}`))
			if got.Status != "Cancelled" || got.ErrorHResult != -2147467260 || got.CancellationRequestor == nil || !guidForm.MatchString(*got.CancellationRequestor) ||
				*got.CancellationComment != "Wrong hash" || got.CancellationDateTimeUTC == nil {
				t.Errorf("%+v", got)
			}
		},
		"1.5/cancel-body": func(t *testing.T, w *world) {
			for _, body := range []string{"", "{}", `{"Comment":null}`, `{"Other":1}`} {
				w.post(t, 200, "/api/machineactions/"+w.order(t).ID+"/cancel", body, `"status":"Cancelled"`, `"cancellationComment":null`)
			}
		},
		"1.5/cancel-running": func(t *testing.T, w *world) {
			a := w.order(t)
			check(t, w.actions.Acknowledge(t.Context(), w.fin, order.Ack{Order: a.ID}))
			got := decode[api.MachineAction](t, w.post(t, 200, "/api/machineactions/"+a.ID+"/cancel", `{"Comment":"c"}`))
			if got.Status != "InProgress" || got.CancellationComment == nil || got.ErrorHResult != 0 {
				t.Errorf("%+v", got)
			}
			w.finish(a.ID, nil)
			w.until(t, a.ID, "Succeeded")
		},
		"1.5/cancel-final": func(t *testing.T, w *world) {
			a := w.order(t)
			w.finish(a.ID, nil)
			checkError(t, w.post(t, 400, "/api/machineactions/"+a.ID+"/cancel", `{"Comment":"c"}`), "BadRequest", "")
		},
		"1.5/cancel-unknown": func(t *testing.T, w *world) {
			for _, id := range []string{"6a6a6a6a-6a6a-6a6a-6a6a-6a6a6a6a6a6a", "x"} {
				checkError(t, w.post(t, 404, "/api/machineactions/"+id+"/cancel", `{"Comment":"c"}`), "ResourceNotFound", "")
			}
		},
		"1.5/cancel-own": func(t *testing.T, w *world) {
			body := w.is(t, 403, "POST", "/api/machineactions/"+w.order(t).ID+"/cancel", w.kit.token("scans", auth.MachineScan), `{"Comment":"c"}`)
			checkError(t, body, "Forbidden", "The application does not have any of the required application permissions (Machine.StopAndQuarantine) to access the resource.")
		},
		"6.3/proven": func(t *testing.T, w *world) { w.ends(t, order.Receipt{Outcome: order.Proven}, "Succeeded", 0, "") },
		"6.3/already": func(t *testing.T, w *world) {
			w.ends(t, order.Receipt{Outcome: order.Proven, Code: "AlreadyQuarantined"}, "Succeeded", 0, "AlreadyQuarantined")
		},
		"6.3/notfound": func(t *testing.T, w *world) {
			w.ends(t, order.Receipt{Outcome: order.Failed, Code: order.FileNotFound}, "Failed", -2147024894, "FileNotFoundOnDevice")
		},
		"6.3/partial": func(t *testing.T, w *world) {
			copies := []order.Copy{{State: order.Sealed}, {State: order.Sealed}, {State: order.InPlace, Errno: 16}}
			w.ends(t, order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: copies}, "Failed", -2147024864, "Partial: 2 of 3 copies quarantined")
			for errno, code := range map[int]int32{13: -2147024891, 28: -2147024784, 30: -2147024846, 5: -2147467259} {
				copies[2].Errno = errno
				w.ends(t, order.Receipt{Outcome: order.Failed, Code: order.Partial, Copies: copies}, "Failed", code, "Partial: 2 of 3 copies quarantined")
			}
		},
		"6.3/protected": func(t *testing.T, w *world) {
			w.ends(t, order.Receipt{Outcome: order.Failed, Code: order.Protected}, "Failed", -2147023636, "ProtectedFile")
		},
		"6.3/running": func(t *testing.T, w *world) {
			w.ends(t, order.Receipt{Outcome: order.Failed, Code: order.ProcessRunning}, "Failed", -2147024891, "ProcessStillRunning")
		},
	}
}

// ends checks how an action ends by what its device reports.
func (w *world) ends(t *testing.T, r order.Receipt, status string, hresult int32, info string) {
	t.Helper()
	a := w.order(t)
	w.finish(a.ID, func(into *order.Receipt) { into.Outcome, into.Code, into.Copies = r.Outcome, r.Code, r.Copies })
	got := w.until(t, a.ID, status)
	if got.ErrorHResult != hresult || (got.TroubleshootInfo == nil) != (info == "") || info != "" && *got.TroubleshootInfo != info {
		t.Errorf("%d %v, want %d %q", got.ErrorHResult, got.TroubleshootInfo, hresult, info)
	}
}
