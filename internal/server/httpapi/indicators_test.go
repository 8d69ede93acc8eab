// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/server/auth"
)

func submitBody(change map[string]any) string {
	body := map[string]any{
		"indicatorValue": testSHA1, "indicatorType": "FileSha1", "action": "Block", "title": "Case 4711 dropper", "description": "block fleet-wide",
	}
	for k, v := range change {
		if v == nil {
			delete(body, k)
			continue
		}
		body[k] = v
	}
	return string(mustJSON(body))
}

// The rows of the contract's table of indicator properties and actions.
func TestSubmitIndicator(t *testing.T) {
	k := newKit(t)
	k.at(t, "2026-11-24T00:00:00Z")
	token := k.token("ti", auth.TiReadWriteAll)
	type row struct {
		name    string
		change  map[string]any
		code    api.Code // "": accepted
		message string   // part of it
	}
	bad := func(name string, change map[string]any, code api.Code, message string) row {
		return row{name, change, code, message}
	}
	ok := func(name string, change map[string]any) row { return row{name, change, "", ""} }
	rows := []row{
		ok("as it is", nil),
		ok("unknown body fields ignored", map[string]any{"lookBackPeriod": 30, "Title": 7}),
		ok("rbacGroupNames empty = all devices", map[string]any{"rbacGroupNames": []string{}}),
		ok("rbacGroupNames null", map[string]any{"rbacGroupNames": json.RawMessage("null")}),
		ok("rbacGroupNames comma-separated string, empty", map[string]any{"rbacGroupNames": ""}),
		ok("generateAlert as a string", map[string]any{"generateAlert": "True"}),
		ok("severity left out", map[string]any{"severity": nil}),
		ok("upper-case SHA-1", map[string]any{"indicatorValue": strings.ToUpper(testSHA1)}),
		ok("FileSha256", map[string]any{"indicatorType": "FileSha256", "indicatorValue": testSHA256}),
		ok("FileMd5", map[string]any{"indicatorType": "FileMd5", "indicatorValue": strings.Repeat("ab", 16)}),
		ok("IpAddress", map[string]any{"indicatorType": "IpAddress", "indicatorValue": "2001:DB8::1"}),
		ok("DomainName", map[string]any{"indicatorType": "DomainName", "indicatorValue": "Bad.Example."}),
		ok("Url with educateUrl", map[string]any{"indicatorType": "Url", "indicatorValue": "https://Bad.example/X", "action": "Warn", "educateUrl": "https://intra.example/why"}),
		ok("CertificateThumbprint", map[string]any{"indicatorType": "CertificateThumbprint", "action": "Allowed"}),
		ok("Audit with generateAlert", map[string]any{"action": "Audit", "generateAlert": true}),
		ok("legacy Alert", map[string]any{"action": "Alert"}),
		ok("legacy AlertAndBlock", map[string]any{"action": "AlertAndBlock"}),
		ok("Allow for Allowed", map[string]any{"action": "allow"}),
		ok("expirationTime null", map[string]any{"expirationTime": json.RawMessage("null")}),

		bad("indicatorValue required", map[string]any{"indicatorValue": nil}, api.MissingRequiredParameter, "Parameter indicatorValue is missing"),
		bad("indicatorType required", map[string]any{"indicatorType": nil}, api.MissingRequiredParameter, "Parameter indicatorType is missing"),
		bad("action required", map[string]any{"action": nil}, api.MissingRequiredParameter, "Parameter action is missing"),
		bad("title required", map[string]any{"title": " "}, api.MissingRequiredParameter, "Parameter title is missing"),
		bad("description required", map[string]any{"description": ""}, api.MissingRequiredParameter, "Parameter description is missing"),
		bad("another case of a name", map[string]any{"title": nil, "Title": "x"}, api.MissingRequiredParameter, "Parameter title is missing"),
		bad("indicatorType enum", map[string]any{"indicatorType": "FileSha512"}, api.InvalidInput, "indicatorType"),
		bad("action enum", map[string]any{"action": "Destroy"}, api.InvalidInput, "action"),
		bad("severity enum", map[string]any{"severity": "Extreme"}, api.InvalidInput, "severity"),
		bad("FileSha1 of another length", map[string]any{"indicatorValue": testSHA256}, api.InvalidHashValue, "is invalid"),
		bad("FileSha256 not hex", map[string]any{"indicatorType": "FileSha256", "indicatorValue": strings.Repeat("g", 64)}, api.InvalidHashValue, "is invalid"),
		bad("FileSha1 of nothing but zeros", map[string]any{"indicatorValue": strings.Repeat("0", 40)}, api.InvalidHashValue, "is invalid"),
		bad("the empty file", map[string]any{"indicatorValue": "da39a3ee5e6b4b0d3255bfef95601890afd80709"}, api.DisallowedOperation, "empty file"),
		bad("CIDR not supported", map[string]any{"indicatorType": "IpAddress", "indicatorValue": "10.0.0.0/8"}, api.InvalidIPAddress, "is invalid"),
		bad("domain", map[string]any{"indicatorType": "DomainName", "indicatorValue": "no spaces.example"}, api.InvalidDomainName, "is invalid"),
		bad("URL", map[string]any{"indicatorType": "Url", "indicatorValue": "javascript:alert(1)"}, api.InvalidURL, "is invalid"),
		bad("network indicators cannot be BlockAndRemediate: IP", map[string]any{"indicatorType": "IpAddress", "indicatorValue": "10.0.0.1", "action": "BlockAndRemediate"}, api.InvalidInput, "isn't supported for indicator type"),
		bad("network indicators cannot be BlockAndRemediate: URL", map[string]any{"indicatorType": "Url", "indicatorValue": "https://a.example", "action": "BlockAndRemediate"}, api.InvalidInput, "isn't supported"),
		bad("certificates Allow/BlockAndRemediate", map[string]any{"indicatorType": "CertificateThumbprint", "action": "Block"}, api.InvalidInput, "isn't supported"),
		bad("generateAlert must be true when action = Audit", map[string]any{"action": "Audit"}, api.InvalidInput, "generateAlert must be true"),
		bad("educateUrl: URL indicators only", map[string]any{"educateUrl": "https://a.example"}, api.InvalidInput, "educateUrl"),
		bad("educateUrl: Block/Warn only", map[string]any{"indicatorType": "Url", "indicatorValue": "https://a.example", "action": "Allowed", "educateUrl": "https://a.example"}, api.InvalidInput, "educateUrl"),
		bad("expirationTime no time", map[string]any{"expirationTime": "tomorrow"}, api.InvalidInput, "is not a time"),
		bad("expirationTime passed", map[string]any{"expirationTime": "2026-11-23T23:59:59Z"}, api.InvalidInput, "has passed"),
		bad("rbacGroupNames no such group", map[string]any{"rbacGroupNames": []string{"Nobody"}}, api.InvalidInput, "no device group of that name"),
		bad("rbacGroupNames wrong type", map[string]any{"rbacGroupNames": 7}, api.InvalidRequestBody, ""),
		bad("title wrong type", map[string]any{"title": 7}, api.InvalidRequestBody, ""),
		bad("generateAlert wrong type", map[string]any{"generateAlert": "perhaps"}, api.InvalidRequestBody, ""),
		bad("title too long", map[string]any{"title": strings.Repeat("x", 201)}, api.InvalidInput, "title is 201 characters long"),
		bad("NUL", map[string]any{"description": "a\x00"}, api.InvalidInput, "description contains"),
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			resp, body := k.raw("POST", "/api/indicators", token, submitBody(c.change))
			if c.code == "" {
				if resp.StatusCode != 200 {
					t.Errorf("status %d: %s", resp.StatusCode, body)
				}
				return
			}
			if want := httpStatus(c.code); resp.StatusCode != want || !strings.Contains(body, c.message) {
				t.Errorf("status %d, want %d with %q: %s", resp.StatusCode, want, c.message, body)
			}
			checkError(t, body, string(c.code), "")
		})
	}
}

// The property set and order of the contract's sample, and what upserting keeps.
func TestIndicatorShape(t *testing.T) {
	k := newKit(t)
	k.at(t, "2026-11-24T10:00:00Z")
	ti := k.app("soc-automation", auth.TiReadWriteAll)
	token := k.token("other", auth.TiReadWriteAll)
	resp, body := k.raw("POST", "/api/indicators", token, submitBody(map[string]any{
		"action": "BlockAndRemediate", "generateAlert": true, "severity": "High", "recommendedActions": "Re-image", "expirationTime": "2027-05-12T00:00:00Z", "application": "first",
	}))
	const order = `"@odata.context","id","indicatorValue","indicatorType","action","createdBy","severity","category","application","educateUrl","bypassDurationHours",` +
		`"title","description","recommendedActions","creationTimeDateTimeUtc","expirationTime","lastUpdateTime","lastUpdatedBy","rbacGroupNames","rbacGroupIds",` +
		`"notificationId","notificationBody","version","mitreTechniques","historicalDetection","lookBackPeriod","generateAlert","additionalInfo",` +
		`"createdByDisplayName","externalId","createdBySource","certificateInfo"`
	at := 0
	for name := range strings.SplitSeq(order, ",") {
		next := strings.Index(body[at:], name+":")
		if next < 0 {
			t.Fatalf("%s is missing or out of order: %s", name, body)
		}
		at += next
	}
	var made api.Indicator
	check(t, json.Unmarshal([]byte(body), &made))
	for _, want := range []string{`"id":"1"`, `"lastUpdatedBy":null`, `"rbacGroupNames":[]`, `"mitreTechniques":[]`, `"createdBySource":"PublicApi"`, `"createdByDisplayName":"other"`, `#Indicators/$entity"`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
	if resp.StatusCode != 200 {
		t.Errorf("status %d, want 200 and not 201", resp.StatusCode)
	}

	// Upsert by another: same id, creator and application stay.
	r := api.IndicatorRequest{IndicatorValue: strings.ToUpper(testSHA1), IndicatorType: "FileSha1", Action: "Block", Title: "new", Description: "d", Application: "second"}
	again, err := ti.SubmitIndicator(t.Context(), r)
	check(t, err)
	if again.ID != made.ID || again.CreatedBy != made.CreatedBy || again.LastUpdatedBy == nil || *again.Application != "first" || again.Title != "new" || again.ExpirationTime != nil || again.GenerateAlert {
		t.Errorf("%+v", again)
	}
	list, err := ti.Indicators(t.Context(), client.Query{Filter: "action eq 'Block'", Count: true})
	check(t, err)
	if len(list.Value) != 1 || *list.Count != 1 || list.Value[0].ID != made.ID {
		t.Errorf("%+v", list)
	}
	n, err := ti.Count(t.Context(), "indicators", "title eq 'new'")
	if err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	got, err := ti.Indicator(t.Context(), made.ID)
	if err != nil || got.Title != "new" {
		t.Errorf("%+v, %v", got, err)
	}
	// DELETE: 204 and an empty body, then 404.
	resp, body = k.raw("DELETE", "/api/v1.0/Indicators/"+made.ID, token, "", "Content-Type", "application/json")
	if resp.StatusCode != 204 || body != "" {
		t.Errorf("status %d, body %q", resp.StatusCode, body)
	}
	for _, id := range []string{made.ID, "0", "-1", "x", "99999999999999999999"} {
		resp, body := k.raw("DELETE", "/api/indicators/"+id, token, "")
		if resp.StatusCode != 404 {
			t.Errorf("%s: status %d", id, resp.StatusCode)
		}
		checkError(t, body, "ResourceNotFound", "Indicator "+id+" was not found")
	}
	// It is all on the record.
	entries, err := k.store.AuditEntries(t.Context(), -1, 1000)
	check(t, err)
	ops := ""
	for _, e := range entries {
		if strings.HasSuffix(string(e.Operation), "Indicator") {
			ops += string(e.Operation) + " " + e.Target + " " + e.Outcome + "\n"
		}
	}
	if !strings.HasPrefix(ops, "SubmitIndicator 1 accepted\nSubmitIndicator 1 accepted\nDeleteIndicator 1 accepted\nDeleteIndicator 1 refused: ResourceNotFound\n") {
		t.Errorf("the record says:\n%s", ops)
	}
}

func TestIndicatorOwnOnly(t *testing.T) {
	k := newKit(t)
	mine, other := k.app("mine", auth.TiReadWrite), k.app("other", auth.TiReadWrite)
	all := k.app("all", auth.TiReadWriteAll)
	r := api.IndicatorRequest{IndicatorValue: "a.example", IndicatorType: "DomainName", Action: "Block", Title: "t", Description: "d"}
	made, err := mine.SubmitIndicator(t.Context(), r)
	check(t, err)
	for name, c := range map[string]struct {
		client *client.Client
		want   int
	}{"Ti.ReadWrite (own only): own": {mine, 1}, "Ti.ReadWrite (own only): of another": {other, 0}, "Ti.ReadWrite.All (all)": {all, 1}} {
		list, err := c.client.Indicators(t.Context(), client.Query{})
		if err != nil || len(list.Value) != c.want {
			t.Errorf("%s: %d, %v", name, len(list.Value), err)
		}
	}
	_, err = other.Indicator(t.Context(), made.ID)
	wantCode(t, err, api.ResourceNotFound)
	wantCode(t, other.DeleteIndicator(t.Context(), made.ID), api.ResourceNotFound)
	_, err = other.SubmitIndicator(t.Context(), r)
	wantCode(t, err, api.Forbidden)
	_, err = k.soc().Indicators(t.Context(), client.Query{})
	wantCode(t, err, api.Forbidden)
	check(t, all.DeleteIndicator(t.Context(), made.ID))
}

func wantCode(t *testing.T, err error, code api.Code) {
	t.Helper()
	if api.CodeOf(err) != code {
		t.Errorf("error %v, want %s", err, code)
	}
}

func TestImportIndicators(t *testing.T) {
	k := newKit(t)
	token := k.token("ti", auth.TiReadWriteAll)
	good := submitBody(map[string]any{"indicatorValue": strings.Repeat("a", 40)})
	resp, body := k.raw("POST", "/api/indicators/import", token, `{"Indicators":[`+good+`,{"indicatorValue":"zz","indicatorType":"FileSha1","action":"Block","title":"a","description":"b"},7,`+
		submitBody(map[string]any{"title": nil})+`,`+submitBody(map[string]any{"indicatorValue": strings.Repeat("b", 40)})+`]}`)
	var result struct {
		Value []struct {
			ID            *string
			Indicator     string
			IsFailed      bool
			FailureReason *string
		}
	}
	check(t, json.Unmarshal([]byte(body), &result))
	if resp.StatusCode != 200 || len(result.Value) != 5 || !strings.HasPrefix(body, `{"value":[{"id":"`) {
		t.Fatalf("status %d: %s", resp.StatusCode, body)
	}
	for i, failed := range []bool{false, true, true, true, false} {
		if v := result.Value[i]; v.IsFailed != failed || (v.FailureReason != nil) != failed || (v.ID == nil) != failed {
			t.Errorf("row %d: %+v", i, v)
		}
	}
	if result.Value[0].Indicator != strings.Repeat("a", 40) || *result.Value[1].FailureReason != "Hash value zz is invalid." {
		t.Errorf("%s", body)
	}
	// Limits.
	many := strings.Repeat(good+",", 500) + good
	for _, c := range []struct {
		name, body string
		code       api.Code
		message    string
	}{
		{"501 rows", `{"Indicators":[` + many + `]}`, api.MaximumBatchSizeExceeded, "Maximum batch size exceeded. Received: 501, allowed: 500"},
		{"no rows", `{"Indicators":[]}`, api.MissingRequiredParameter, "Parameter Indicators is missing"},
		{"nothing", `{}`, api.MissingRequiredParameter, "Parameter Indicators is missing"},
		{"not a list", `{"Indicators":{}}`, api.InvalidRequestBody, "Request body is incorrect"},
	} {
		resp, body := k.raw("POST", "/api/indicators/import", token, c.body)
		if resp.StatusCode != 400 {
			t.Errorf("%s: status %d", c.name, resp.StatusCode)
		}
		checkError(t, body, string(c.code), c.message)
	}
}

// Checklist 16: import and delete limits, and the 15,001st indicator.
func TestIndicatorLimits(t *testing.T) {
	k := newKit(t)
	k.set(func() { k.most = 3 })
	token := k.token("ti", auth.TiReadWriteAll)
	for i := range 3 {
		resp, body := k.raw("POST", "/api/indicators", token, submitBody(map[string]any{"indicatorValue": fmt.Sprintf("%040x", i+1)}))
		if resp.StatusCode != 200 {
			t.Fatal(body)
		}
	}
	over := submitBody(map[string]any{"indicatorValue": fmt.Sprintf("%040x", 9)})
	resp, body := k.raw("POST", "/api/indicators", token, over)
	if resp.StatusCode != 400 {
		t.Errorf("status %d", resp.StatusCode)
	}
	checkError(t, body, "BadRequest", "There are 3 indicators already, which is the limit: delete some first")
	_, body = k.raw("POST", "/api/indicators/import", token, `{"Indicators":[`+over+`,`+submitBody(map[string]any{"indicatorValue": fmt.Sprintf("%040x", 1)})+`]}`)
	if !strings.Contains(body, `"isFailed":true,"failureReason":"There are 3 indicators already`) || !strings.Contains(body, `"id":"1"`) {
		t.Errorf("%s", body)
	}

	batch := func(ids string) (int, string) {
		t.Helper()
		resp, body := k.raw("POST", "/api/indicators/BatchDelete", token, `{"IndicatorIds":`+ids+`}`)
		return resp.StatusCode, body
	}
	for _, c := range []struct {
		name, ids string
		status    int
		code      api.Code
	}{
		{"400 if empty", `[]`, 400, api.MissingRequiredParameter},
		{"400 if too many: 501 ids", "[" + strings.Repeat(`"1",`, 500) + `"1"]`, 400, api.MaximumBatchSizeExceeded},
		{"400 for an invalid id", `["1","x"]`, 400, api.InvalidInput},
		{"404 if any id is unknown", `["1","77"]`, 404, api.ResourceNotFound},
	} {
		status, body := batch(c.ids)
		if status != c.status {
			t.Errorf("%s: status %d: %s", c.name, status, body)
		}
		checkError(t, body, string(c.code), "")
	}
	if n, err := k.app("x", auth.TiReadWriteAll).Count(t.Context(), "indicators", ""); err != nil || n != 3 {
		t.Errorf("%d are left, %v", n, err)
	}
	if status, body := batch(`["1",2]`); status != 204 || body != "" {
		t.Errorf("status %d: %q", status, body)
	}
}

func TestIndicatorExpires(t *testing.T) {
	k := newKit(t)
	now := k.at(t, "2026-11-24T10:00:00Z")
	ti := k.app("ti", auth.TiReadWriteAll)
	r := api.IndicatorRequest{IndicatorValue: testSHA1, IndicatorType: "FileSha1", Action: "Block", Title: "t", Description: "d", ExpirationTime: api.At(now.Add(time.Minute))}
	made, err := ti.SubmitIndicator(t.Context(), r)
	check(t, err)
	device := k.enroll("a.example")
	rules, word, err := k.indicators.Rules(t.Context(), device, "")
	if err != nil || rules == nil {
		t.Fatal(err)
	}
	k.at(t, "2026-11-24T10:01:00Z")
	_, err = ti.Indicator(t.Context(), made.ID)
	wantCode(t, err, api.ResourceNotFound)
	if list, err := ti.Indicators(t.Context(), client.Query{}); err != nil || len(list.Value) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if again, other, err := k.indicators.Rules(t.Context(), device, word); err != nil || again == nil || other == word {
		t.Errorf("the device keeps an expired rule: %v", err)
	}
	check(t, k.indicators.Sweep(t.Context()))
	if n, err := k.store.IndicatorVersion(t.Context()); err != nil || n <= rules.Version {
		t.Errorf("version %d after %d, %v", n, rules.Version, err)
	}
}

// import and BatchDelete: 30/min.
func TestIndicatorBatchRate(t *testing.T) {
	k := newKit(t)
	k.at(t, "2026-11-24T10:00:00Z")
	k.set(func() { k.limit = Limit{PerMinute: 100, PerHour: 1500} })
	token := k.token("ti", auth.TiReadWriteAll)
	for _, path := range []string{"/api/indicators/import", "/api/indicators/batchDelete"} {
		for i := range 31 {
			resp, _ := k.raw("POST", path, token, `{}`)
			if want := 400 + 29*(i/30); resp.StatusCode != want {
				t.Fatalf("%s, call %d: status %d, want %d", path, i+1, resp.StatusCode, want)
			}
		}
	}
}
