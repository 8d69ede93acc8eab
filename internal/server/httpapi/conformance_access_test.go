// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"staunch/api"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
)

// tokenOf asks the token service and returns its status and answer.
func (w *world) tokenOf(t *testing.T, path string, form url.Values) (int, map[string]any) {
	t.Helper()
	resp, body := w.raw("POST", "/"+testTenant+path, "", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	return resp.StatusCode, decode[map[string]any](t, body)
}

func (w *world) newApp(t *testing.T, name string, permissions ...auth.Permission) (issuer.App, string) {
	t.Helper()
	var names []string
	for _, p := range permissions {
		names = append(names, string(p))
	}
	a, secret, err := w.issuer.CreateApp(t.Context(), admin(), name, names)
	check(t, err)
	return a, secret
}

func credentials(a issuer.App, secret string, more ...string) url.Values {
	v := url.Values{"grant_type": {"client_credentials"}, "client_id": {a.ID}, "client_secret": {secret}}
	for i := 0; i < len(more); i += 2 {
		v.Set(more[i], more[i+1])
	}
	return v
}

// audiences are the names under which clients ask for this API.
func (w *world) audiences() []string {
	return []string{
		"https://api.securitycenter.windows.com", "https://api.securitycenter.microsoft.com", "https://api.security.microsoft.com",
		"https://securitycenter.onmicrosoft.com/windowsatpservice", "fc780465-2017-40d4-a0c5-307022471b92", w.url,
	}
}

func accessChecks() checksOf {
	stopOnly := "The application does not have any of the required application permissions (%s) to access the resource."
	return checksOf{
		"3/others": func(t *testing.T, w *world) {
			for _, r := range otherActions() {
				body := w.post(t, 400, fill(r.path, w.fin), validBody(r))
				checkError(t, body, "OsPlatformNotSupported", "OS Platform Ubuntu isn't supported for this action. Machine fin-lt-014.corp.example cannot carry it out.")
			}
		},
		"3/comment": func(t *testing.T, w *world) {
			for _, r := range otherActions() {
				code := "MissingRequiredParameter"
				if strings.HasSuffix(r.path, "runliveresponse") {
					code = "OsPlatformNotSupported"
				}
				checkError(t, w.post(t, 400, fill(r.path, w.fin), `{"ScanType":"Quick"}`), code, "")
				checkError(t, w.post(t, 404, fill(r.path, "nobody"), validBody(r)), "ResourceNotFound", "Machine nobody was not found")
			}
		},
		"3/package": func(t *testing.T, w *world) {
			a := w.order(t)
			checkError(t, w.get(t, 404, "/api/machineactions/"+a.ID+"/GetPackageUri"), "ResourceNotFound", "Machine action "+a.ID+" of type StopAndQuarantineFile left nothing to download")
			checkError(t, w.get(t, 404, "/api/machineactions/x/getPackageUri"), "ResourceNotFound", "Machine action x was not found")
			w.is(t, 404, "GET", "/api/machineactions/"+a.ID+"/getPackageUri", w.ana, "")
			w.is(t, 403, "GET", "/api/machineactions/"+a.ID+"/getPackageUri", w.eve, "")
		},
		"3/result": func(t *testing.T, w *world) {
			a := w.order(t)
			path := "/api/machineactions/" + a.ID + "/GetLiveResponseResultDownloadLink"
			checkError(t, w.get(t, 404, path+"(index=0)"), "ResourceNotFound", "")
			checkError(t, w.get(t, 400, path+"()"), "MissingRequiredParameter", "")
			checkError(t, w.get(t, 400, path+"(index=-1)"), "InvalidInput", "")
		},
		"4.1/v1": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "v1", auth.MachineReadAll)
			for _, resource := range w.audiences() {
				status, got := w.tokenOf(t, "/oauth2/token", credentials(a, secret, "resource", resource))
				if status != 200 || got["token_type"] != "Bearer" {
					t.Fatalf("%s: %d %v", resource, status, got)
				}
				w.is(t, 200, "GET", "/api/machines", got["access_token"].(string), "")
			}
		},
		"4.1/v2": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "v2", auth.MachineReadAll)
			for _, audience := range w.audiences() {
				for _, scope := range []string{audience + "/.default", "offline_access " + audience + "/.default", audience + "/.default openid offline_access profile"} {
					status, got := w.tokenOf(t, "/oauth2/v2.0/token", credentials(a, secret, "scope", scope))
					if status != 200 || got["refresh_token"] != nil {
						t.Fatalf("%s: %d %v", scope, status, got)
					}
					w.is(t, 200, "GET", "/api/machines", got["access_token"].(string), "")
				}
			}
		},
		"4.1/password": func(t *testing.T, w *world) {
			form := url.Values{"grant_type": {"password"}, "client_id": {w.console.ID}, "username": {"ana@corp.example"}, "password": {testPassword}, "resource": {"https://api.securitycenter.windows.com"}}
			status, got := w.tokenOf(t, "/oauth2/token", form)
			if status != 200 {
				t.Fatalf("%d %v", status, got)
			}
			w.is(t, 200, "GET", "/api/machines", got["access_token"].(string), "")
		},
		"4.1/audience": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "graph", auth.MachineReadAll)
			if status, got := w.tokenOf(t, "/oauth2/v2.0/token", credentials(a, secret, "scope", "https://graph.microsoft.com/.default")); status == 200 {
				w.is(t, 401, "GET", "/api/machines", got["access_token"].(string), "")
			}
		},
		"4.2/scp": func(t *testing.T, w *world) {
			// An application sees all, a user of the same permissions what they reach.
			w.get(t, 200, "/api/machines/"+w.lab)
			w.is(t, 404, "GET", "/api/machines/"+w.lab, w.ana, "")
		},
		"4.3/enough": func(t *testing.T, w *world) {
			w.is(t, 201, "POST", w.stopPath(), w.kit.token("stops", auth.MachineStopAndQuarantine), stopBody(w.sha1()))
		},
		"4.3/not": func(t *testing.T, w *world) {
			w.refused(t, 403, w.fin, w.kit.token("writes", auth.MachineReadWriteAll), stopBody(testSHA1), "Forbidden", fmt.Sprintf(stopOnly, "Machine.StopAndQuarantine"))
		},
		"4.3/strict": func(t *testing.T, w *world) {
			w.set(func() { w.both = true })
			defer w.set(func() { w.both = false })
			w.refused(t, 403, w.fin, w.kit.token("stops only", auth.MachineStopAndQuarantine), stopBody(testSHA1), "Forbidden", fmt.Sprintf(stopOnly, "Machine.Read.All, Machine.ReadWrite.All"))
			w.refused(t, 403, w.fin, w.kit.token("reads only", auth.MachineReadAll), stopBody(testSHA1), "Forbidden", fmt.Sprintf(stopOnly, "Machine.StopAndQuarantine"))
			w.is(t, 201, "POST", w.stopPath(), w.kit.token("both", auth.MachineReadAll, auth.MachineStopAndQuarantine), stopBody(w.sha1()))
		},
		"4.4/catalogue": func(t *testing.T, w *world) {
			for _, p := range strings.Fields("Machine.Read.All Machine.ReadWrite.All Machine.Read Machine.ReadWrite Machine.StopAndQuarantine Machine.Isolate Machine.RestrictExecution Machine.Scan Machine.CollectForensics " +
				"Machine.Offboard Machine.LiveResponse File.Read.All User.Read.All Alert.Read.All Alert.ReadWrite.All Alert.Read Alert.ReadWrite Ti.ReadWrite Ti.ReadWrite.All AdvancedQuery.Read.All Ip.Read.All " +
				"Url.Read.All Library.Manage Vulnerability.Read.All Software.Read.All SecurityRecommendation.Read.All") {
				if a, _ := w.newApp(t, "with "+p, auth.Permission(p)); !slices.Contains(a.Permissions, auth.Permission(p)) {
					t.Errorf("%s: %v", p, a.Permissions)
				}
			}
		},
		"4.5/rights": func(t *testing.T, w *world) {
			c, _ := w.root()
			for i, name := range []string{
				"View data", "View data - Security operations", "Active remediation actions", "Active remediation actions - Security operations", "Security baselines", "Alerts investigation", "Manage portal system settings",
				"Manage security settings in Security Center", "Live response capabilities basic", "Live response capabilities advanced", "Response (manage)", "Security data basics (read)", "Alerts (manage)",
			} {
				if _, err := c.CreateRole(t.Context(), api.RoleRequest{Name: "role " + strconv.Itoa(i), Permissions: []string{name}}); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		},
		"4.6/one": func(t *testing.T, w *world) {
			c, _ := w.root()
			id := w.enroll("rank-01.corp.example")
			first, err := c.CreateDeviceGroup(t.Context(), api.DeviceGroupRequest{Name: "First", Rules: []string{"name=rank-*"}})
			check(t, err)
			w.get(t, 200, "/api/machines/"+id, fmt.Sprintf(`"rbacGroupId":%d,"rbacGroupName":"First"`, first.ID))
			second, err := c.CreateDeviceGroup(t.Context(), api.DeviceGroupRequest{Name: "Second", Rules: []string{"name=rank-*", "os=Ubuntu"}, Rank: 1})
			check(t, err)
			w.get(t, 200, "/api/machines/"+id, fmt.Sprintf(`"rbacGroupId":%d,"rbacGroupName":"Second"`, second.ID))
			w.get(t, 200, fmt.Sprintf("/api/machines?$filter=rbacGroupId eq %d", second.ID), id)
			w.get(t, 200, fmt.Sprintf("/api/machines?$filter=rbacGroupId eq '%d'", first.ID), `"value":[]`)
			check(t, c.DeleteDeviceGroup(t.Context(), "Second"))
			check(t, c.DeleteDeviceGroup(t.Context(), "First"))
			w.get(t, 200, "/api/machines/"+id, `"rbacGroupId":0,"rbacGroupName":null`)
			check(t, c.RevokeDevice(t.Context(), id))
		},
		"4.6/ungrouped": func(t *testing.T, w *world) {
			w.get(t, 200, "/api/machines/"+w.fin, `"rbacGroupId":0,"rbacGroupName":null`)
			w.get(t, 200, "/api/machines/"+w.lab, `"rbacGroupName":"Labs"`)
		},
		"4.6/open": func(t *testing.T, w *world) {
			id := w.enroll("open-01.corp.example")
			for _, token := range []string{w.ana, w.eve} {
				w.is(t, 200, "GET", "/api/machines/"+id, token, "", `"rbacGroupName":"Everybody's"`)
			}
			c, _ := w.root()
			check(t, c.RevokeDevice(t.Context(), id))
		},
		"4.6/apps": func(t *testing.T, w *world) {
			w.is(t, 200, "GET", "/api/machines", w.kit.token("sees", auth.MachineReadAll), "", w.lab, w.fin)
		},
		"4.6/nounion": func(t *testing.T, w *world) {
			w.person("both@corp.example", "responders", "watchers")
			token := w.personToken(w.console, "both@corp.example")
			hash := w.sha1()
			w.is(t, 200, "GET", "/api/machines/"+w.lab, token, "")
			w.refused(t, 403, w.lab, token, stopBody(hash), "Forbidden", "The user both@corp.example does not have any of the required role permissions (Active remediation actions) on this device to access the resource.")
			w.is(t, 201, "POST", w.stopPath(), token, stopBody(hash))
		},
		"5.1/envelope": func(t *testing.T, w *world) {
			_, body := w.raw("GET", "/api/machines/nobody", w.token, "")
			var e struct{ Error struct{ Target string } }
			check(t, json.Unmarshal([]byte(body), &e))
			if body != `{"error":{"code":"ResourceNotFound","message":"Machine nobody was not found","target":"`+e.Error.Target+`"}}` {
				t.Error(body)
			}
			checkGUID(t, e.Error.Target)
		},
		"5.2/codes": func(t *testing.T, _ *world) {
			for status, codes := range map[int]string{
				400: "BadRequest ODataError InvalidInput InvalidRequestBody InvalidHashValue InvalidDomainName InvalidIpAddress InvalidUrl MaximumBatchSizeExceeded MissingRequiredParameter OsPlatformNotSupported ClientVersionNotSupported ActiveRequestAlreadyExists",
				401: "Unauthorized", 403: "Forbidden DisabledFeature DisallowedOperation", 404: "NotFound ResourceNotFound", 429: "TooManyRequests", 500: "InternalServerError",
			} {
				for _, code := range strings.Fields(codes) {
					if got := httpStatus(api.Code(code)); got != status {
						t.Errorf("%s: %d, want %d", code, got, status)
					}
				}
			}
		},
		"5.3/scope": func(t *testing.T, _ *world) {
			k := newKit(t)
			k.set(func() { k.limit = Limit{PerMinute: 1, PerHour: 10} })
			k.at(t, "2026-11-24T10:00:00Z")
			one, other := k.token("one", auth.MachineReadAll), k.token("other", auth.MachineReadAll)
			for _, c := range []struct {
				token, path string
				want        int
			}{{one, "/api/machines", 200}, {one, "/api/v1.0/Machines?$top=1", 429}, {one, "/api/machineactions", 200}, {other, "/api/machines", 200}} {
				if resp, body := k.raw("GET", c.path, c.token, ""); resp.StatusCode != c.want {
					t.Errorf("%s: %d %s", c.path, resp.StatusCode, body)
				}
			}
		},
		"5.3/retry": func(t *testing.T, _ *world) {
			k := newKit(t)
			k.set(func() { k.limit = Limit{PerMinute: 1, PerHour: 10} })
			k.at(t, "2026-11-24T10:00:00Z")
			token := k.token("one", auth.MachineReadAll)
			k.raw("GET", "/api/machines", token, "")
			k.at(t, "2026-11-24T10:00:20Z")
			if resp, body := k.raw("GET", "/api/machines", token, ""); resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "40" {
				t.Errorf("%d %q %s", resp.StatusCode, resp.Header.Get("Retry-After"), body)
			}
		},
		"5.4/body": func(t *testing.T, w *world) {
			w.refused(t, 413, w.fin, w.token, `{"Comment":"`+strings.Repeat("x", 1<<20)+`"}`, "RequestEntityTooLarge", "")
		},
		"5.4/comment": func(t *testing.T, w *world) {
			for _, letter := range []string{"x", "ä", "\U0001F980"} {
				w.post(t, 201, w.stopPath(), `{"Comment":"`+strings.Repeat(letter, 4096)+`","Sha1":"`+w.sha1()+`"}`)
				w.refused(t, 400, w.fin, w.token, `{"Comment":"`+strings.Repeat(letter, 4097)+`","Sha1":"`+w.sha1()+`"}`, "InvalidInput", "")
			}
			w.post(t, 201, w.stopPath(), `{"Comment":"x","Sha1":"`+w.sha1()+`"}`)
		},
		"5.4/tag": func(t *testing.T, w *world) {
			w.post(t, 200, "/api/machines/"+w.old+"/tags", `{"Value":"`+strings.Repeat("ä", 200)+`","Action":"Add"}`)
			w.post(t, 400, "/api/machines/"+w.old+"/tags", `{"Value":"`+strings.Repeat("ä", 201)+`","Action":"Add"}`, `"code":"InvalidInput"`)
		},
	}
}

func wireChecks() checksOf {
	return checksOf{
		"w/token-query": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "query", auth.MachineReadAll)
			if status, got := w.tokenOf(t, "/oauth2/token?client-request-id=1", credentials(a, secret, "resource", w.url)); status != 200 {
				t.Errorf("%d %v", status, got)
			}
		},
		"w/token-type": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "type", auth.MachineReadAll)
			form := credentials(a, secret, "resource", w.url, "client_info", "1", "x-client-SKU", "soar").Encode()
			for _, method := range []string{"POST", "GET"} {
				for _, kind := range []string{"", "application/x-www-form-urlencoded", "application/x-www-form-urlencoded;charset=utf-8", "application/x-www-form-urlencoded; charset=utf-8", "application/json"} {
					if resp, body := w.raw(method, "/corp.example/oauth2/token", "", form, "Content-Type", kind); resp.StatusCode != 200 {
						t.Errorf("%s %q: %d %s", method, kind, resp.StatusCode, body)
					}
				}
			}
		},
		"w/token-basic": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "basic", auth.MachineReadAll)
			ask := func(user, password string, form url.Values) int {
				r, err := http.NewRequestWithContext(t.Context(), "POST", w.url+"/"+testTenant+"/oauth2/v2.0/token", strings.NewReader(form.Encode()))
				check(t, err)
				r.SetBasicAuth(user, password)
				resp, err := w.http.Do(r)
				check(t, err)
				check(t, resp.Body.Close())
				return resp.StatusCode
			}
			form := url.Values{"grant_type": {"client_credentials"}, "scope": {w.url + "/.default"}}
			for range 20 {
				if got := ask(a.ID, "wrong", form); got != 401 {
					t.Fatalf("a wrong secret: %d", got)
				}
			}
			if got := ask(a.ID, url.QueryEscape(secret), form); got != 200 {
				t.Errorf("by Basic: %d", got)
			}
			if status, got := w.tokenOf(t, "/oauth2/v2.0/token", credentials(a, secret, "scope", w.url+"/.default")); status != 200 {
				t.Errorf("in the body afterwards: %d %v", status, got)
			}
		},
		"w/token-numbers": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "numbers", auth.MachineReadAll)
			_, v2 := w.tokenOf(t, "/oauth2/v2.0/token", credentials(a, secret, "scope", w.url+"/.default"))
			_, v1 := w.tokenOf(t, "/oauth2/token", credentials(a, secret, "resource", w.url))
			for _, name := range []string{"expires_in", "ext_expires_in"} {
				if _, ok := v2[name].(float64); !ok {
					t.Errorf("v2 %s: %v", name, v2[name])
				}
			}
			for _, name := range []string{"expires_in", "expires_on", "not_before", "resource"} {
				if _, ok := v1[name].(string); !ok {
					t.Errorf("v1 %s: %v", name, v1[name])
				}
			}
		},
		"w/token-errors": func(t *testing.T, w *world) {
			a, secret := w.newApp(t, "errors", auth.MachineReadAll)
			nobody := issuer.App{ID: "6a6a6a6a-6a6a-6a6a-6a6a-6a6a6a6a6a6a"}
			for _, c := range []struct {
				form   url.Values
				status int
				code   string
				number float64
			}{
				{credentials(a, "wrong", "scope", w.url+"/.default"), 401, "invalid_client", 7000215}, {credentials(nobody, secret, "scope", w.url+"/.default"), 400, "unauthorized_client", 700016},
				{credentials(a, secret, "scope", w.url+"/.default", "grant_type", "telepathy"), 400, "unsupported_grant_type", 70003},
			} {
				status, got := w.tokenOf(t, "/oauth2/v2.0/token", c.form)
				numbers, _ := got["error_codes"].([]any)
				text, _ := got["error_description"].(string)
				if status != c.status || got["error"] != c.code || len(numbers) == 0 || numbers[0] != c.number || !strings.HasPrefix(text, fmt.Sprintf("AADSTS%.0f", c.number)) || got["trace_id"] == nil || got["correlation_id"] == nil || got["timestamp"] == nil {
					t.Errorf("%d %v", status, got)
				}
			}
		},
		"w/discovery": func(t *testing.T, w *world) {
			for _, path := range []string{"/v2.0/.well-known/openid-configuration", "/.well-known/openid-configuration", "/v2.0/.well-known/openid-configuration?"} {
				for _, tenant := range []string{testTenant, "common", "corp.example"} {
					_, body := w.raw("GET", "/"+tenant+path, "", "", "Host", "mde.soc.example")
					got := decode[map[string]any](t, body)
					for _, name := range []string{"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "device_authorization_endpoint"} {
						if at, ok := got[name].(string); !ok || !strings.HasPrefix(at, "https://mde.soc.example/") {
							t.Errorf("%s%s: %s is %v", tenant, path, name, got[name])
						}
					}
				}
			}
		},
		"w/instance": func(t *testing.T, w *world) {
			w.is(t, 200, "GET", "/common/discovery/instance?api-version=1.1&authorization_endpoint="+url.QueryEscape(w.url+"/common/oauth2/v2.0/authorize"), "", "", "tenant_discovery_endpoint", "metadata")
		},
		"w/any-host": func(t *testing.T, w *world) {
			for _, host := range []string{"api.securitycenter.windows.com", "login.microsoftonline.com", "mde.soc.example:8443"} {
				if resp, _ := w.raw("GET", "/api/machines", w.token, "", "Host", host); resp.StatusCode != 200 {
					t.Errorf("%s: %d", host, resp.StatusCode)
				}
				if resp, _ := w.raw("GET", "/common/.well-known/openid-configuration", "", "", "Host", host); resp.StatusCode != 200 {
					t.Errorf("%s: %d", host, resp.StatusCode)
				}
			}
		},
		"w/short": func(t *testing.T, w *world) {
			for _, path := range []string{"machineactions?$filter=requestor eq 'nobody'", "machines?$filter=id eq 'x'", "alerts?$filter=id eq 'x'", "indicators?$filter=title eq 'none'", "files/" + w.sha1() + "/machines"} {
				if body := w.get(t, 200, "/api/"+path); len(body) > 100 {
					t.Errorf("%d bytes: %s", len(body), body)
				}
			}
		},
		"w/base": func(t *testing.T, w *world) {
			for host, base := range map[string]string{"mde.soc.example": "https://mde.soc.example", "mde.soc.example:8443": "https://mde.soc.example:8443", "evil.example": w.url} {
				if _, body := w.raw("GET", "/api/machines", w.token, "", "Host", host); !strings.HasPrefix(body, `{"@odata.context":"`+base+`/api/$metadata#Machines"`) {
					t.Errorf("%s: %.100s", host, body)
				}
			}
		},
		"w/wrong-shape": func(t *testing.T, w *world) {
			for _, path := range []string{"machines/elastic-connector-test", "machineactions/elastic-connector-test", "files/elastic-connector-test", "indicators/elastic-connector-test", "alerts/elastic-connector-test"} {
				checkError(t, w.get(t, 404, "/api/"+path), "ResourceNotFound", "")
			}
		},
		"w/401": func(t *testing.T, w *world) {
			resp, body := w.raw("GET", "/api/machines", "x", "")
			checkError(t, body, "Unauthorized", "")
			if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
				t.Errorf("%d %v", resp.StatusCode, resp.Header)
			}
			w.get(t, 200, "/api/machines")
		},
		"w/aad": func(t *testing.T, w *world) {
			if body := w.get(t, 200, "/api/machines"); strings.Count(body, `"aadDeviceId":null`) != strings.Count(body, `"mergedIntoMachineId"`) {
				t.Error(body)
			}
		},
		"w/bom": func(t *testing.T, w *world) {
			for _, kind := range []string{"", "application/json", "application/json; charset=utf-8", "application/json;charset=UTF-8", "text/plain", "application/x-www-form-urlencoded"} {
				if resp, body := w.raw("POST", w.stopPath(), w.token, "\uFEFF"+stopBody(w.sha1()), "Content-Type", kind); resp.StatusCode != 201 {
					t.Errorf("%q: %d %s", kind, resp.StatusCode, body)
				}
			}
		},
		"w/http10": func(t *testing.T, w *world) {
			bearer := "Authorization: bearer " + w.token + "\r\n"
			post := func(headers, body string) string {
				return "POST " + w.stopPath() + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + bearer + "\r\n" + body
			}
			a, b, c := stopBody(w.sha1()), stopBody(w.sha1()), stopBody(w.sha1())
			for request, want := range map[string]string{
				"GET /api/machines HTTP/1.0\r\n" + bearer + "\r\n":                                                     "HTTP/1.0 200 OK",
				"HEAD /api/machines HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + bearer + "\r\n":                    "HTTP/1.1 200 OK",
				post("Expect: 100-continue\r\nContent-Length: "+strconv.Itoa(len(a))+"\r\n", a):                        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created",
				post("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(b), b)):                "HTTP/1.1 201 Created",
				post("Content-Length: "+strconv.Itoa(len(c))+"\r\nIf-None-Match: *\r\nAccept: */*\r\n", c):             "HTTP/1.1 201 Created",
				"GET /api/machines HTTP/1.1\r\nHost: x\r\nConnection: close\r\nIf-None-Match: *\r\n" + bearer + "\r\n": "HTTP/1.1 200 OK",
			} {
				if got := w.exchange(t, request); !strings.HasPrefix(got, want) {
					t.Errorf("%.60q: %.300q", request, got)
				}
			}
		},
		"w/unknown": func(t *testing.T, w *world) {
			for _, path := range []string{"/api/exposureScore", "/api/", "/api", "/api/users/ana/machines", "/api/machines/" + w.fin + "/software", "/api/v2.0/machines", "/", "/favicon.ico"} {
				checkError(t, w.get(t, 404, path), "NotFound", "")
			}
		},
		"w/options": func(t *testing.T, w *world) {
			for method, path := range map[string]string{"OPTIONS": "/api/machines", "DELETE": "/api/machines/" + w.fin, "PUT": "/api/machineactions", "TRACE": "/api/alerts"} {
				resp, body := w.raw(method, path, w.token, "")
				checkError(t, body, "MethodNotAllowed", "")
				if resp.StatusCode != 405 || !strings.Contains(resp.Header.Get("Allow"), "GET") {
					t.Errorf("%s: %d %v", method, resp.StatusCode, resp.Header)
				}
			}
		},
		"w/gzip": func(t *testing.T, w *world) {
			for _, accept := range []string{"identity", "gzip, deflate, br", ""} {
				if resp, body := w.raw("GET", "/api/machines", w.token, "", "Accept-Encoding", accept); resp.Header.Get("Content-Encoding") != "" || body[0] != '{' {
					t.Errorf("%q: %v", accept, resp.Header)
				}
			}
		},
		"w/unknown-fields": func(t *testing.T, w *world) {
			w.post(t, 201, w.stopPath(), `{"Comment":"c","Sha1":"`+w.sha1()+`","comment":"d","Foo":{"a":[1,2,{"b":null}]},"@odata.type":"#x"}`)
			w.post(t, 200, "/api/indicators", submitBody(map[string]any{"indicatorValue": w.sha1(), "tlpLevel": "white", "id": 7, "mitreTechniques": []string{"T1059"}}))
		},
	}
}
