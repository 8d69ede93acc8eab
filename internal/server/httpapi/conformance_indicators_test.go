// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/internal/server/auth"
)

// takes checks which actions indicators of a type take.
func (w *world) takes(t *testing.T, kind string, values []string, allowed string) {
	t.Helper()
	for _, action := range []string{"Allowed", "Audit", "Warn", "Block", "BlockAndRemediate"} {
		want := 400
		if strings.Contains(" "+allowed+" ", " "+action+" ") {
			want = 200
		}
		for _, v := range values {
			w.post(t, want, "/api/indicators", submitBody(map[string]any{"indicatorType": kind, "indicatorValue": v, "action": action, "generateAlert": true}))
		}
	}
}

func indicatorChecks() checksOf {
	const all = "Allowed Audit Warn Block BlockAndRemediate"
	return checksOf{
		"2.4/submit": func(t *testing.T, w *world) {
			v := w.sha1()
			first := decode[api.Indicator](t, w.post(t, 200, "/api/indicators", submitBody(map[string]any{"indicatorValue": v, "application": "one"})))
			again := decode[api.Indicator](t, w.post(t, 200, "/api/indicators", submitBody(map[string]any{"indicatorValue": strings.ToUpper(v), "application": "two", "title": "new"})))
			if again.ID != first.ID || again.Title != "new" || *again.Application != "one" || again.SourceType != "AadApp" || again.Source != "PublicApi" {
				t.Errorf("%+v", again)
			}
			byAna := decode[api.Indicator](t, w.is(t, 200, "POST", "/api/indicators", w.ana, submitBody(map[string]any{"indicatorValue": w.sha1(), "rbacGroupNames": "Everybody's"})))
			if byAna.SourceType != "User" || byAna.CreatedBy != "ana@corp.example" {
				t.Errorf("%+v", byAna)
			}
		},
		"2.4/required": func(t *testing.T, w *world) {
			for _, name := range []string{"title", "description", "indicatorValue", "indicatorType", "action"} {
				checkError(t, w.post(t, 400, "/api/indicators", submitBody(map[string]any{name: nil})), "MissingRequiredParameter", "Parameter "+name+" is missing")
			}
		},
		"2.4/audit": func(t *testing.T, w *world) {
			v := w.sha1()
			w.post(t, 400, "/api/indicators", submitBody(map[string]any{"indicatorValue": v, "action": "Audit"}))
			w.post(t, 200, "/api/indicators", submitBody(map[string]any{"indicatorValue": v, "action": "Audit", "generateAlert": true}))
		},
		"2.4/groups": func(t *testing.T, w *world) {
			for _, groups := range []any{[]string{"Labs", "Everybody's"}, "Labs,Everybody's", "labs, everybody's"} {
				body := w.post(t, 200, "/api/indicators", submitBody(map[string]any{"indicatorValue": testSHA1, "rbacGroupNames": groups}))
				if in := decode[api.Indicator](t, body); len(in.RbacGroupNames) != 2 || len(in.RbacGroupIDs) != 2 {
					t.Error(body)
				}
			}
			for _, none := range []any{[]string{}, "", nil} {
				w.post(t, 200, "/api/indicators", submitBody(map[string]any{"indicatorValue": w.sha1(), "rbacGroupNames": none}), `"rbacGroupNames":[],"rbacGroupIds":[]`)
			}
			w.post(t, 400, "/api/indicators", submitBody(map[string]any{"rbacGroupNames": []string{"nowhere"}}), `"code":"InvalidInput"`)
		},
		"2.4/expiry": func(t *testing.T, w *world) {
			defer w.set(func() { w.now = time.Time{} })
			w.at(t, "2026-11-24T10:00:00Z")
			id := w.indicator(t, map[string]any{"expirationTime": "2026-11-24T11:00:00Z"})
			w.get(t, 200, "/api/indicators/"+id, `"expirationTime":"2026-11-24T11:00:00Z"`)
			w.at(t, "2026-11-24T11:00:00Z")
			w.get(t, 404, "/api/indicators/"+id)
			w.get(t, 200, "/api/indicators?$filter=id eq '"+id+"'", `"value":[]`)
			w.post(t, 400, "/api/indicators", submitBody(map[string]any{"expirationTime": "2026-11-24T10:59:59Z"}), `"code":"InvalidInput"`)
		},
		"2.4/import": func(t *testing.T, w *world) {
			good, value := submitBody(map[string]any{"indicatorValue": testSHA256, "indicatorType": "FileSha256"}), w.sha1()
			body := w.post(t, 200, "/api/indicators/import", `{"Indicators":[`+good+`,{"indicatorValue":"`+value+`"},7,`+good+`]}`)
			rows := decode[api.IndicatorImportResult](t, body).Value
			if len(rows) != 4 || rows[0].IsFailed || rows[0].FailureReason != nil || !rows[1].IsFailed || rows[1].ID != nil || rows[1].FailureReason == nil || rows[1].Indicator != value || !rows[2].IsFailed || rows[3].IsFailed {
				t.Error(body)
			}
			checkError(t, w.post(t, 400, "/api/indicators/import", `{"Indicators":[`+strings.Repeat("{},", 500)+`{}]}`), "MaximumBatchSizeExceeded", "Maximum batch size exceeded. Received: 501, allowed: 500")
		},
		"2.4/delete": func(t *testing.T, w *world) {
			path := "/api/indicators/" + w.indicator(t, map[string]any{})
			if body := w.is(t, 204, "DELETE", path, w.token, ""); body != "" {
				t.Error(body)
			}
			checkError(t, w.is(t, 404, "DELETE", path, w.token, ""), "ResourceNotFound", "")
		},
		"2.4/batch": func(t *testing.T, w *world) {
			a, b := w.indicator(t, map[string]any{}), w.indicator(t, map[string]any{})
			const path = "/api/indicators/batchDelete"
			for body, code := range map[string]string{`{}`: "MissingRequiredParameter", `{"IndicatorIds":[]}`: "MissingRequiredParameter", `{"IndicatorIds":["` + a + `","x"]}`: "InvalidInput", `{"IndicatorIds":"1"}`: "InvalidRequestBody"} {
				checkError(t, w.post(t, 400, path, body), code, "")
			}
			checkError(t, w.post(t, 400, path, `{"IndicatorIds":["`+strings.Repeat(`1","`, 500)+`1"]}`), "MaximumBatchSizeExceeded", "Maximum batch size exceeded. Received: 501, allowed: 500")
			checkError(t, w.post(t, 404, path, `{"IndicatorIds":["`+a+`","999999"]}`), "ResourceNotFound", "Indicator 999999 was not found")
			w.get(t, 200, "/api/indicators/"+a)
			if body := w.post(t, 204, "/api/indicators/BatchDelete", `{"IndicatorIds":["`+a+`","`+b+`"]}`); body != "" {
				t.Error(body)
			}
			w.get(t, 404, "/api/indicators/"+a)
		},
		"2.4/batch403": func(t *testing.T, w *world) {
			mine, theirs := w.indicator(t, map[string]any{}), w.indicator(t, map[string]any{"rbacGroupNames": []string{"Labs"}})
			body := w.is(t, 403, "POST", "/api/indicators/BatchDelete", w.ana, `{"IndicatorIds":["`+mine+`","`+theirs+`"]}`)
			checkError(t, body, "Forbidden", "The user ana@corp.example is not exposed to the device group Labs of the indicator.")
			w.get(t, 200, "/api/indicators/"+mine) // all or nothing
			w.is(t, 403, "DELETE", "/api/indicators/"+theirs, w.ana, "")
			w.is(t, 403, "POST", "/api/indicators", w.ana, submitBody(map[string]any{"indicatorValue": w.sha1(), "rbacGroupNames": "Labs"}), `"code":"Forbidden"`)
			w.is(t, 403, "POST", "/api/indicators", w.ana, submitBody(map[string]any{"indicatorValue": w.sha1()}), `is not exposed to all devices`) // Labs among them
			w.is(t, 403, "POST", "/api/indicators/BatchDelete", w.eve, `{"IndicatorIds":["`+theirs+`"]}`)                                           // she reaches it, and may not
			w.is(t, 204, "POST", "/api/indicators/BatchDelete", w.ana, `{"IndicatorIds":["`+mine+`"]}`)
			w.is(t, 204, "POST", "/api/indicators/BatchDelete", w.token, `{"IndicatorIds":["`+theirs+`"]}`)
		},
		"2.4/people": func(t *testing.T, w *world) {
			labs, everywhere := w.indicator(t, map[string]any{"rbacGroupNames": "Labs", "title": "seen by"}), w.indicator(t, map[string]any{"title": "seen by"})
			open := w.indicator(t, map[string]any{"rbacGroupNames": []string{"Everybody's"}, "title": "seen by"})
			for token, want := range map[string]string{w.ana: "2", w.eve: "3", w.token: "3"} {
				if got := w.is(t, 200, "GET", "/api/indicators/$count?$filter=title eq 'seen by'", token, ""); got != want {
					t.Errorf("%s of them, want %s", got, want)
				}
				for _, id := range []string{everywhere, open} {
					w.is(t, 200, "GET", "/api/indicators/"+id, token, "")
				}
			}
			checkError(t, w.is(t, 404, "GET", "/api/indicators/"+labs, w.ana, ""), "ResourceNotFound", "Indicator "+labs+" was not found")
			w.is(t, 200, "GET", "/api/indicators/"+labs, w.eve, "")
			if body := w.is(t, 200, "GET", "/api/indicators?$filter=title eq 'seen by'", w.ana, ""); strings.Contains(body, "Labs") {
				t.Error(body)
			}
		},
		"2.4/own": func(t *testing.T, w *world) {
			own := w.kit.token("feed", auth.TiReadWrite)
			others := w.indicator(t, map[string]any{})
			mine := decode[api.Indicator](t, w.is(t, 200, "POST", "/api/indicators", own, submitBody(map[string]any{"indicatorValue": w.sha1()})))
			w.is(t, 404, "GET", "/api/indicators/"+others, own, "")
			w.is(t, 404, "DELETE", "/api/indicators/"+others, own, "")
			if got := w.is(t, 200, "GET", "/api/indicators/$count", own, ""); got != "1" {
				t.Errorf("%s of its own", got)
			}
			w.get(t, 200, "/api/indicators/"+mine.ID)
		},
		"2.4/cap": func(t *testing.T, w *world) {
			w.set(func() { w.most = 1 })
			defer w.set(func() { w.most = 0 })
			w.post(t, 400, "/api/indicators", submitBody(map[string]any{"indicatorValue": w.sha1()}), `"code":"BadRequest"`)
			w.post(t, 200, "/api/indicators/import", `{"Indicators":[`+submitBody(map[string]any{"indicatorValue": w.sha1()})+`]}`, `"isFailed":true`)
		},
		"2.4/cidr": func(t *testing.T, w *world) {
			checkError(t, w.post(t, 400, "/api/indicators", submitBody(map[string]any{"indicatorType": "IpAddress", "indicatorValue": "10.0.0.0/8"})), "InvalidIpAddress", "")
		},
		"2.4/file-actions": func(t *testing.T, w *world) {
			w.takes(t, "FileSha1", []string{w.sha1()}, all)
			w.takes(t, "FileSha256", []string{testSHA256}, all)
			w.takes(t, "FileMd5", []string{strings.Repeat("a", 32)}, all)
		},
		"2.4/network-actions": func(t *testing.T, w *world) {
			const some = "Allowed Audit Warn Block"
			w.takes(t, "IpAddress", []string{"203.0.113.7", "2001:db8::7"}, some)
			w.takes(t, "DomainName", []string{"bad.example"}, some)
			w.takes(t, "Url", []string{"https://bad.example/Path"}, some)
		},
		"2.4/certificate-actions": func(t *testing.T, w *world) {
			w.takes(t, "CertificateThumbprint", []string{strings.Repeat("b", 40)}, "Allowed BlockAndRemediate")
		},
	}
}
