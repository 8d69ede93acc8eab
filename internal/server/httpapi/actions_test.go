// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/client"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

func stop(hash string) api.StopAndQuarantineRequest {
	return api.StopAndQuarantineRequest{Comment: "Case 4711: <dropper> & co", Sha1: hash}
}

// The property set and order are the service's own; clients read the text.
func TestMachineActionText(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014.corp.example")
	token := k.token("soc-automation", auth.MachineStopAndQuarantine)
	resp, body := k.raw("POST", "/api/machines/FIN-LT-014/stopandquarantinefile", token, `{"Comment":"Case <1>","Sha1":"`+strings.ToUpper(testSHA1)+`","ExternalId":"x-1","Unknown":{"a":1}}`)
	if resp.StatusCode != 201 {
		t.Fatal(body)
	}
	const stamp = `"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z"`
	want := regexp.MustCompile(`^{"@odata.context":"` + regexp.QuoteMeta(k.url) + `/api/\$metadata#MachineActions/\$entity",` +
		`"id":"[0-9a-f-]{36}","type":"StopAndQuarantineFile","title":null,"requestor":"soc-automation","requestorComment":"Case <1>","status":"Pending",` +
		`"machineId":"` + machine + `","computerDnsName":"fin-lt-014.corp.example","creationDateTimeUtc":` + stamp + `,"lastUpdateDateTimeUtc":` + stamp + `,` +
		`"cancellationRequestor":null,"cancellationComment":null,"cancellationDateTimeUtc":null,"errorHResult":0,"scope":null,"externalId":"x-1","requestSource":"PublicApi",` +
		`"relatedFileInfo":{"fileIdentifier":"` + testSHA1 + `","fileIdentifierType":"Sha1"},"commands":\[\],"troubleshootInfo":null}$`)
	if !want.MatchString(body) {
		t.Errorf("have %s\nwant %s", body, want)
	}
	var a api.MachineAction
	check(t, json.Unmarshal([]byte(body), &a))
	if got, want := resp.Header.Get("Location"), k.url+"/api/machineactions/"+a.ID; got != want {
		t.Errorf("Location %q, want %q", got, want)
	}
	if resp.Header.Get("OData-Version") != "4.0" || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", resp.Header)
	}
}

func TestPathForms(t *testing.T) {
	k := newKit(t)
	k.enroll("fin-lt-014.corp.example")
	token := k.token("soc", auth.MachineStopAndQuarantine, auth.MachineReadAll)
	for i, path := range []string{
		"/api/machines/fin-lt-014/StopAndQuarantineFile", "/api/machines/fin-lt-014/stopAndQuarantineFile", "/api/v1.0/machines/fin-lt-014/StopAndQuarantineFile",
		"/API/V1.0/Machines/FIN-LT-014.corp.example/STOPANDQUARANTINEFILE", "//api//machines/fin-lt-014/stopandquarantinefile/", "/api/machines/fin%2Dlt-014/%53topAndQuarantineFile",
	} {
		resp, body := k.raw("POST", path, token, fmt.Sprintf(`{"Comment":"c","Sha1":"%040x"}`, i+1))
		if resp.StatusCode != 201 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	for _, path := range []string{"/api/machineactions", "/API/MachineActions/", "/api/v1.0/machineActions?", "/api/machineactions?&"} {
		if resp, body := k.raw("GET", path, token, "", "Content-Type", "application/json"); resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
}

func TestSHA256(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014")
	c := k.soc()
	a, err := c.StopAndQuarantineFile(t.Context(), machine, api.StopAndQuarantineRequest{Comment: "c", Sha256: strings.ToUpper(testSHA256)})
	check(t, err)
	if d := cmp.Diff(&api.RelatedFileInfo{FileIdentifier: testSHA256, FileIdentifierType: "Sha256"}, a.RelatedFileInfo); d != "" {
		t.Error(d)
	}
	a, err = c.StopAndQuarantineFile(t.Context(), machine, api.StopAndQuarantineRequest{Comment: "c", Sha1: testSHA1, Sha256: testSHA256})
	check(t, err)
	if a.RelatedFileInfo.FileIdentifier != testSHA1 {
		t.Errorf("with both, the SHA-1 is shown: %+v", a.RelatedFileInfo)
	}
}

func TestLifeOfAnAction(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014")
	c, ctx := k.soc(), t.Context()
	a, err := c.StopAndQuarantineFile(ctx, machine, stop(testSHA1))
	check(t, err)

	// Read your writes: by id, of any case, and in the list.
	got, err := c.MachineAction(ctx, strings.ToUpper(a.ID))
	check(t, err)
	if d := cmp.Diff(a, got); d != "" {
		t.Errorf("get differs from create: %s", d)
	}
	list, err := c.MachineActions(ctx, client.Query{Filter: "machineId eq '" + machine + "'", Top: 2, Count: true})
	check(t, err)
	if len(list.Value) != 1 || list.Value[0].ID != a.ID || *list.Count != 1 || list.NextLink != "" || list.Value[0].Context != "" {
		t.Errorf("list: %+v", list)
	}
	if _, err := c.Evidence(ctx, a.ID); api.CodeOf(err) != api.ResourceNotFound {
		t.Errorf("evidence before the receipt: %v", err)
	}

	k.finish(a.ID, nil)
	var states []string
	final, err := c.Watch(ctx, a.ID, func(a api.MachineAction) { states = append(states, a.Status) })
	check(t, err)
	if final.Status != api.Succeeded || len(states) != 1 {
		t.Errorf("watched %v to %q", states, final.Status)
	}
	e, err := c.Evidence(ctx, a.ID)
	check(t, err)
	var env, ord order.Envelope
	check(t, json.Unmarshal(e.Envelope, &env))
	check(t, json.Unmarshal(e.Order, &ord))
	key, err := order.ParseKey(e.DeviceKey)
	check(t, err)
	if _, err := order.VerifyReceipt(env, ord, machine, key); err != nil {
		t.Errorf("the evidence does not prove itself: %v", err)
	}
	if _, err := c.Cancel(ctx, a.ID, "late"); api.CodeOf(err) != api.BadRequest {
		t.Errorf("cancel of a finished action: %v", err)
	}
}

func TestCancel(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014")
	c, ctx := k.soc(), t.Context()
	a, err := c.StopAndQuarantineFile(ctx, machine, stop(testSHA1))
	check(t, err)
	got, err := c.Cancel(ctx, a.ID, "Wrong hash")
	check(t, err)
	if got.Status != api.Cancelled || got.ErrorHResult != -2147467260 || *got.CancellationComment != "Wrong hash" || got.CancellationRequestor == nil || got.CancellationDateTimeUTC == nil {
		t.Errorf("cancelled: %+v", got)
	}
	if _, err := c.Cancel(ctx, a.ID, ""); api.CodeOf(err) != api.BadRequest {
		t.Errorf("cancel again: %v", err)
	}
	for _, id := range []string{"00000000-0000-4000-8000-000000000000", "not-an-id", "%"} {
		if _, err := c.Cancel(ctx, id, ""); api.CodeOf(err) != api.ResourceNotFound {
			t.Errorf("cancel of %q: %v", id, err)
		}
	}
	// The comment is not required; a body need not be there.
	b, err := c.StopAndQuarantineFile(ctx, machine, stop(testSHA1))
	check(t, err)
	token := k.token("other", auth.MachineStopAndQuarantine)
	if resp, body := k.raw("POST", "/api/machineactions/"+b.ID+"/cancel", token, ""); resp.StatusCode != 200 {
		t.Errorf("cancel without a body: %d %s", resp.StatusCode, body)
	}
	if resp, body := k.raw("POST", "/api/machineactions/"+b.ID+"/cancel", token, `{"Comment":1}`); resp.StatusCode != 400 {
		t.Errorf("cancel with a wrong body: %d %s", resp.StatusCode, body)
	}
	// An action has to be cancelled by whoever could have made it.
	if _, err := k.app("scanner", auth.MachineScan).Cancel(ctx, b.ID, ""); api.CodeOf(err) != api.Forbidden {
		t.Errorf("cancel with Machine.Scan: %v", err)
	}
}

func TestLists(t *testing.T) {
	k := newKit(t)
	m1, m2 := k.enroll("fin-lt-014.corp.example"), k.enroll("db-01")
	c, ctx := k.soc(), t.Context()
	var ids []string
	for i := range 5 {
		a, err := c.StopAndQuarantineFile(ctx, []string{m1, m2}[i%2], stop(fmt.Sprintf("%040x", i+1)))
		check(t, err)
		ids = append(ids, a.ID)
	}
	slices.Reverse(ids) // newest first
	for _, q := range []struct {
		query client.Query
		want  []string
	}{
		{client.Query{}, ids},
		{client.Query{Top: 2}, ids[:2]},
		{client.Query{Top: 2, Skip: 4}, ids[4:]},
		{client.Query{Filter: "computerdnsname eq 'DB-01'"}, []string{ids[1], ids[3]}},
		{client.Query{Filter: "status in ('Failed','succeeded') or machineId eq '" + m2 + "'"}, []string{ids[1], ids[3]}},
		{client.Query{Filter: "creationDateTimeUtc gt 2020-01-01Z", OrderBy: "creationDateTimeUtc asc", Top: 1}, ids[4:]},
		{client.Query{Filter: "requestor eq 'soc-automation' and type eq 'StopAndQuarantineFile'", Top: 1}, ids[:1]},
		{client.Query{Filter: "status eq 'TimeOut'"}, []string{}},
	} {
		l, err := c.MachineActions(ctx, q.query)
		check(t, err)
		got := []string{}
		for _, a := range l.Value {
			got = append(got, a.ID)
		}
		if d := cmp.Diff(q.want, got); d != "" || l.NextLink != "" {
			t.Errorf("%+v: %s %s", q.query, l.NextLink, d)
		}
	}
	token := k.token("reader", auth.MachineReadAll)
	if _, body := k.raw("GET", "/api/machineactions?$filter=status+eq+'Failed'", token, ""); body != `{"@odata.context":"`+k.url+`/api/$metadata#MachineActions","value":[]}` {
		t.Errorf("an empty list: %s", body)
	}
	if _, body := k.raw("GET", "/api/machineactions?$top=0&$count=true", token, ""); body != `{"@odata.context":"`+k.url+`/api/$metadata#MachineActions","@odata.count":5,"value":[]}` {
		t.Errorf("a count alone: %s", body)
	}
	if _, body := k.raw("GET", "/api/machineactions?%24select=status,ID&%24top=1", token, ""); !strings.HasSuffix(body, `"value":[{"id":"`+ids[0]+`","status":"Pending"}]}`) {
		t.Errorf("$select: %s", body)
	}
	for query, want := range map[string]string{
		"$stop=5":              "The query specified in the URI is not valid. Custom query option '$stop' that starts with '$' is not supported.",
		"$top=20000":           "The query specified in the URI is not valid. The limit of '10000' for Top query has been exceeded. The value from the incoming request is '20000'.",
		"$filter=color eq 'x'": "The query specified in the URI is not valid. Could not find a property named 'color' at position 1 in '$filter':  >>> color eq 'x'",
		"$filter=%ff":          "The query specified in the URI is not valid. There is a byte that is not text at position 1 in '$filter':  >>> \uFFFD",
	} {
		resp, body := k.raw("GET", "/api/machineactions?"+strings.ReplaceAll(query, " ", "%20"), token, "")
		if resp.StatusCode != 400 || !strings.HasSuffix(body, `,"details":[]}}`) {
			t.Errorf("%s: %d %s", query, resp.StatusCode, body)
		}
		checkError(t, body, "ODataError", want)
	}
	// Machines, by the same rules.
	machines, err := c.Machines(ctx, client.Query{Filter: "startswith(computerDnsName,'fin-') and machineTags/any(t: t eq 'finance') and healthStatus eq 'active'", Count: true})
	check(t, err)
	if len(machines.Value) != 1 || machines.Value[0].ID != m1 || *machines.Count != 1 {
		t.Errorf("machines: %+v", machines)
	}
	for _, name := range []string{m1, strings.ToUpper(m1), "FIN-LT-014", "fin-lt-014.corp.example"} {
		m, err := c.Machine(ctx, name)
		check(t, err)
		if m.ID != m1 || m.Context != k.url+"/api/$metadata#Machines/$entity" {
			t.Errorf("machine %s: %+v", name, m)
		}
	}
	if _, err := c.Machine(ctx, "elastic-connector-test"); err == nil || err.Error() != "ResourceNotFound: Machine elastic-connector-test was not found" {
		t.Errorf("machine of no such name: %v", err)
	}
}

// many is Actions with that many actions.
type many struct {
	Actions
	n int
}

func (m many) List(_ context.Context, _ auth.Caller, q odata.Query) ([]action.Action, int64, error) {
	var page []action.Action
	from := q.Skip
	if q.After != nil {
		from = int(q.After.Seq) + 1
	}
	for i := from; i < m.n && len(page) < q.Top; i++ {
		page = append(page, action.Action{ID: fmt.Sprint(i), Created: time.Unix(1, 0), Updated: time.Unix(1, 0)})
		if q.Mark != nil && q.Mark.Row == len(page) {
			q.Mark.Place = &odata.Place{Keys: []any{fmt.Sprint(i)}, Seq: int64(i)}
		}
	}
	return page, int64(m.n), nil
}

func TestPaging(t *testing.T) {
	k := newKit(t, func(c *Config) { c.Actions = many{c.Actions, 20_000} })
	c, ctx := k.soc(), t.Context()

	// Without $top: pages of 10,000 with links that keep all other options.
	l, err := c.MachineActions(ctx, client.Query{Filter: "status eq 'it''s 100%;&'", OrderBy: "id desc", Count: true, Skip: 5})
	check(t, err)
	if len(l.Value) != 10_000 || *l.Count != 20_000 {
		t.Fatalf("%d rows, count %d", len(l.Value), *l.Count)
	}
	u, err := url.Parse(l.NextLink)
	check(t, err)
	q, err := odata.Split(u.RawQuery)
	check(t, err)
	want := url.Values{"$filter": {"status eq 'it''s 100%;&'"}, "$orderby": {"id desc"}, "$count": {"true"}, "$skip": {"10005"},
		"$skiptoken": {odata.Place{Keys: []any{"10004"}, Seq: 10_004}.Token()}}
	if d := cmp.Diff(want, q); d != "" || !strings.HasPrefix(l.NextLink, k.url+"/api/machineactions?") {
		t.Errorf("%s: %s", l.NextLink, d)
	}
	var next api.List[api.MachineAction]
	check(t, c.Follow(ctx, l.NextLink, &next))
	if len(next.Value) != 9_995 || next.Value[0].ID != "10005" || next.NextLink != "" {
		t.Errorf("the last page has %d rows from %s, link %q", len(next.Value), next.Value[0].ID, next.NextLink)
	}
	// Clients that count by themselves leave the token out.
	check(t, c.Follow(ctx, k.url+"/api/machineactions?$skip=10005", &next))
	if len(next.Value) != 9_995 || next.Value[0].ID != "10005" {
		t.Errorf("by $skip alone: %d rows from %s", len(next.Value), next.Value[0].ID)
	}
	// With $top: never a link, and $skip walks to a short page.
	l, err = c.MachineActions(ctx, client.Query{Top: 10_000, Skip: 10_000})
	check(t, err)
	if len(l.Value) != 10_000 || l.NextLink != "" {
		t.Errorf("with $top: %d rows, link %q", len(l.Value), l.NextLink)
	}
	// Exactly one page: no link to an empty one.
	k = newKit(t, func(c *Config) { c.Actions = many{c.Actions, 10_000} })
	l, err = k.soc().MachineActions(ctx, client.Query{})
	check(t, err)
	if len(l.Value) != 10_000 || l.NextLink != "" {
		t.Errorf("exactly a page: %d rows, link %q", len(l.Value), l.NextLink)
	}
	// The link is on the base that the client used, if that is one of our names.
	token := k.token("reader", auth.MachineReadAll)
	for host, base := range map[string]string{"mde.soc.example:8443": "https://mde.soc.example:8443", "evil.example": k.url, "a b": k.url} {
		resp, body := k.raw("GET", "/API/v1.0/machineactions?$top=1", token, "", "Host", host)
		if resp.StatusCode == 200 && !strings.HasPrefix(body, `{"@odata.context":"`+base+`/api/$metadata#MachineActions"`) {
			t.Errorf("Host %s: %.100s", host, body)
		}
	}
}

func TestFollowStaysOnItsServer(t *testing.T) {
	k := newKit(t)
	for _, link := range []string{"https://evil.example/api/machines?$skip=1", "http" + strings.TrimPrefix(k.url, "https") + "/x", "/api/machines", "://"} {
		var l api.List[api.Machine]
		if err := k.soc2(link).Follow(t.Context(), link, &l); err == nil || !strings.Contains(err.Error(), "does not lead to") {
			t.Errorf("%s was followed: %v", link, err)
		}
	}
}

func (k *kit) soc2(name string) *client.Client { return k.app("app "+name, auth.MachineReadAll) }

// Actions that no agent carries out are refused as the contract says.
func TestOtherActions(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014")
	ctx := t.Context()
	all := k.app("all", auth.Permissions()...)
	none := k.app("none", auth.MachineReadAll)
	for _, r := range otherActions() {
		name := r.path[strings.LastIndexByte(r.path, '/')+1:]
		_, err := all.OtherAction(ctx, machine, strings.ToUpper(name), api.ActionRequest{Comment: "c"})
		if err == nil || err.Error() != "OsPlatformNotSupported: OS Platform Ubuntu isn't supported for this action. Machine fin-lt-014 cannot carry it out." {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := all.OtherAction(ctx, "nobody", name, api.ActionRequest{Comment: "c"}); api.CodeOf(err) != api.ResourceNotFound {
			t.Errorf("%s of an unknown machine: %v", name, err)
		}
		if _, err := none.OtherAction(ctx, machine, name, api.ActionRequest{Comment: "c"}); api.CodeOf(err) != api.Forbidden {
			t.Errorf("%s without permission: %v", name, err)
		}
		_, err = all.OtherAction(ctx, machine, name, api.ActionRequest{})
		if want := api.MissingRequiredParameter; r.needs != nil && api.CodeOf(err) != want {
			t.Errorf("%s without a comment: %v", name, err)
		}
	}
}

func TestQuarantine(t *testing.T) {
	k := newKit(t)
	machine := k.enroll("fin-lt-014")
	c, ctx := k.soc(), t.Context()
	sealed := time.Date(2026, 2, 11, 8, 41, 7, 123456000, time.UTC)
	var ids []string
	for i := range 3 {
		it := order.Item{ID: fmt.Sprintf("%032x", i+1), Size: 12, Paths: []order.Text{"/opt/a b", `/opt/\xff`}, UID: 1000, GID: 100, Mode: 0o104755, Sealed: sealed.Add(time.Duration(i) * time.Second), State: "sealed"}
		check(t, it.SHA1.UnmarshalText([]byte(testSHA1)))
		check(t, it.SHA256.UnmarshalText([]byte(testSHA256)))
		ids = append(ids, it.ID)
		check(t, k.actions.Inventory(ctx, machine, append(inventory(t, k, machine), it)))
	}
	page, err := c.Quarantine(ctx, client.QuarantineQuery{MachineID: "FIN-LT-014", Hash: testSHA256, State: "sealed", Limit: 2})
	check(t, err)
	if len(page.Value) != 2 || page.Value[0].ID != ids[2] || !strings.Contains(page.NextLink, "machineId=FIN-LT-014") {
		t.Fatalf("first page: %+v", page)
	}
	want := api.QuarantineItem{ID: ids[2], MachineID: machine, ComputerDNSName: "fin-lt-014", SHA1: testSHA1, SHA256: testSHA256, Size: 12, Paths: []string{"/opt/a b", `/opt/\xff`},
		UID: 1000, GID: 100, Mode: "4755", Sealed: api.Time{Time: sealed.Add(2 * time.Second)}, State: "sealed"}
	if d := cmp.Diff(want, page.Value[0]); d != "" {
		t.Error(d)
	}
	var next api.Page[api.QuarantineItem]
	check(t, c.Follow(ctx, page.NextLink, &next))
	if len(next.Value) != 1 || next.Value[0].ID != ids[0] || next.NextLink != "" {
		t.Errorf("second page: %+v", next)
	}
	one, err := c.QuarantineItem(ctx, strings.ToUpper(ids[0]))
	check(t, err)
	if one.ID != ids[0] {
		t.Errorf("one: %+v", one)
	}
	if _, err := c.QuarantineItem(ctx, "nothing"); api.CodeOf(err) != api.ResourceNotFound {
		t.Errorf("item of the wrong shape: %v", err)
	}

	a, err := c.Restore(ctx, ids[0], api.RestoreRequest{Comment: "false alarm", Destination: "/tmp/x", ExternalID: "e"})
	check(t, err)
	if a.Type != api.RestoreFile || a.Status != api.Pending || *a.ExternalID != "e" {
		t.Errorf("restore: %+v", a)
	}
	a, err = c.Purge(ctx, ids[1], "old & cold")
	check(t, err)
	if a.Type != api.PurgeFile || a.RequestorComment != "old & cold" {
		t.Errorf("purge: %+v", a)
	}
	token := k.token("other", auth.MachineStopAndQuarantine, auth.MachineReadAll)
	if resp, body := k.raw("POST", "/v1/quarantine/"+ids[2]+"/restore", token, ""); resp.StatusCode != 201 {
		t.Errorf("restore without a body: %d %s", resp.StatusCode, body)
	}
	if resp, body := k.raw("DELETE", "/v1/quarantine/"+ids[2], token, "", "Content-Type", "application/json"); resp.StatusCode != 202 {
		t.Errorf("purge with a Content-Type and no body: %d %s", resp.StatusCode, body)
	}
	for query, code := range map[string]string{"limit=0": "InvalidInput", "limit=x": "InvalidInput", "limit=1001": "InvalidInput", "hash=12": "InvalidHashValue", "machineId=nobody": "ResourceNotFound", "a=%25zz%zz": "InvalidInput", "after=zz": "InvalidInput"} {
		resp, body := k.raw("GET", "/v1/quarantine?"+query, token, "")
		checkError(t, body, code, "")
		if resp.StatusCode >= 500 {
			t.Errorf("%s: %d", query, resp.StatusCode)
		}
	}
}

func inventory(t *testing.T, k *kit, machine string) []order.Item {
	items, _, err := k.store.Items(t.Context(), action.ItemFilter{Device: machine, Limit: 100})
	check(t, err)
	var all []order.Item
	for _, it := range items {
		all = append(all, it.Item)
	}
	return all
}

func TestErrorsComeBackAsTheyWentIn(t *testing.T) {
	k := newKit(t)
	_, err := k.app("none").StopAndQuarantineFile(t.Context(), "x", stop(testSHA1))
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.Forbidden || !strings.Contains(e.Message, "(Machine.StopAndQuarantine)") || e.Target == "" {
		t.Errorf("have %v", err)
	}
}
