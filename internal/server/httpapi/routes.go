// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net/http"
	"slices"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// route is one row of the table: all there is to know of one call.
type route struct {
	method  string
	path    string // {name} is captured; words match in any case; /api also as /api/v1.0
	access  access
	rate    rate
	handle  func(*Handler, context.Context, *request) (answer, error)
	pass    func(*Handler) http.Handler // in place of handle: somebody else answers it all
	summary string
	client  string // the method of client.Client that calls it
	most    Limit  // calls of one caller, where that is less than the limits in force; zero: those alone

	countable bool // a list that has a /$count of its own
	counts    bool // answers with a list's count alone

	// For the record and the document.
	records audit.Operation // what a refused attempt goes down as; "": only reads
	status  int             // of success
	body    any             // an example of the request's body, or its zero value; nil: has none
	needs   []string        // properties of body that must be there
	answers any             // zero value of the answer's body; nil: none
	query   []string        // query options
}

// access says who may call.
type access struct {
	kind      accessKind
	app       []auth.Permission // an application needs one of them
	delegated []auth.Permission // a person's token needs one of them
	rights    []auth.Right      // and the person one of these, on some device group; on the device itself the domain asks
}

type accessKind int

const (
	byToken accessKind = iota // a bearer token with one of the permissions
	byAdmin                   // the administrator, on the admin socket
	open                      // anybody
	byKey                     // a device, which proves its key on the link itself
)

// rate says how calls are counted.
type rate int

const (
	perCaller  rate = iota // app, tenant and route, with the limits in force
	uncounted              //
	byRefusals             // refused attempts, by client address: enrollRefusals
)

type perms = []auth.Permission

func holding(app, delegated perms) access { return access{app: app, delegated: delegated} }
func same(p auth.Permission) access       { return holding(perms{p}, perms{p}) }

// by adds what a person's role must permit.
func (a access) by(anyOf ...auth.Right) access {
	a.rights = anyOf
	return a
}

// routes is the whole API.
func routes() []route {
	read := holding(perms{auth.MachineReadAll, auth.MachineReadWriteAll}, perms{auth.MachineRead, auth.MachineReadWrite}).by(auth.ViewData)
	stop := same(auth.MachineStopAndQuarantine).by(auth.ActiveRemediation)
	everything := read.by(auth.ManageSystem) // the audit log is about all devices
	anyRight := []auth.Right{auth.ActiveRemediation, auth.AlertsInvestigation, auth.ManageSecurity, auth.LiveResponseBasic, auth.LiveResponseAdvanced}
	anyAction := perms{
		auth.MachineCollectForensics, auth.MachineIsolate, auth.MachineRestrictExecution, auth.MachineScan,
		auth.MachineOffboard, auth.MachineStopAndQuarantine, auth.MachineLiveResponse,
	}
	lists := []string{"$filter", "$orderby", "$top", "$skip", "$count", "$select"}

	rows := []route{
		{
			method: "POST", path: "/api/machines/{id}/StopAndQuarantineFile", access: stop, handle: (*Handler).stopAndQuarantine,
			summary: "Stop a file's processes on a machine and quarantine every copy", client: "StopAndQuarantineFile",
			records: audit.StopAndQuarantineFile, status: 201, body: api.StopAndQuarantineRequest{Comment: "Case 4711: dropper seen on finance laptop", Sha1: exampleSHA1}, needs: []string{"Comment"}, answers: api.MachineAction{},
		},
		{
			method: "GET", path: "/api/machineactions", access: read, handle: (*Handler).actions, countable: true,
			summary: "List machine actions, newest first", client: "MachineActions", status: 200, answers: api.List[api.MachineAction]{}, query: lists,
		},
		{
			method: "GET", path: "/api/machineactions/{id}", access: read, handle: (*Handler).action,
			summary: "One machine action", client: "MachineAction", status: 200, answers: api.MachineAction{},
		},
		{
			method: "POST", path: "/api/machineactions/{id}/cancel", access: holding(anyAction, anyAction).by(anyRight...), handle: (*Handler).cancel,
			summary: "Give up a machine action that is not final", client: "Cancel",
			records: audit.CancelMachineAction, status: 200, body: api.CommentRequest{Comment: "Wrong hash, see case 4711"}, answers: api.MachineAction{},
		},
		{
			method: "GET", path: "/api/machines", access: read, handle: (*Handler).machines, countable: true,
			summary: "List machines", client: "Machines", status: 200, answers: api.List[api.Machine]{}, query: lists,
		},
		{
			method: "GET", path: "/api/machines/{id}", access: read, handle: (*Handler).machine,
			summary: "One machine, by id, DNS name or Entra device id", client: "Machine", status: 200, answers: api.Machine{},
		},
		{
			method: "GET", path: "/v1/machineactions/{id}/evidence", access: read, handle: (*Handler).evidence,
			summary: "The device's signed receipt and the order it answers", client: "Evidence", status: 200, answers: api.Evidence{},
		},
		{
			method: "GET", path: "/v1/quarantine", access: read, handle: (*Handler).items,
			summary: "What lies in the devices' vaults, latest first", client: "Quarantine",
			status: 200, answers: api.Page[api.QuarantineItem]{}, query: []string{"machineId", "actionId", "hash", "state", "limit", "after"},
		},
		{
			method: "GET", path: "/v1/quarantine/{item}", access: read, handle: (*Handler).item,
			summary: "One vault item", client: "QuarantineItem", status: 200, answers: api.QuarantineItem{},
		},
		{
			method: "POST", path: "/v1/quarantine/{item}/restore", access: stop, handle: (*Handler).restore,
			summary: "Put a quarantined file back", client: "Restore",
			records: audit.ReleaseFromQuarantine, status: 201, body: api.RestoreRequest{Comment: "It was ours"}, answers: api.MachineAction{},
		},
		{
			method: "POST", path: "/v1/quarantine/{item}/recovery-code", access: stop, handle: (*Handler).recoveryCode,
			summary: "Put a quarantined file back by hand, on a device that cannot reach the server", client: "RecoveryCode",
			records: audit.ReleaseFromQuarantine, status: 201, body: api.RestoreRequest{Comment: "It was ours"}, answers: api.RecoveryCode{},
		},
		{
			method: "DELETE", path: "/v1/quarantine/{item}", access: stop, handle: (*Handler).purge,
			summary: "Delete a quarantined file for good", client: "Purge",
			records: audit.DeleteFromQuarantine, status: 202, answers: api.MachineAction{}, query: []string{"comment"},
		},
		{
			method: "GET", path: "/v1/audit", access: everything, handle: (*Handler).auditEntries,
			summary: "The audit log, in its order", client: "Audit", status: 200, answers: api.Page[api.AuditEntry]{}, query: []string{"limit", "after"},
		},
		{
			method: "GET", path: "/v1/audit/checkpoint", access: everything, handle: (*Handler).checkpoint,
			summary: "The signed checkpoint of the audit log (C2SP tlog-checkpoint)", client: "Checkpoint", status: 200, answers: "",
		},
		{
			method: "POST", path: "/v1/enroll", access: access{kind: open}, rate: byRefusals, handle: (*Handler).enroll,
			summary: "Make a device of a machine that holds an enrollment token", client: "Enroll",
			records: audit.EnrollDevice, status: 201, body: api.EnrollRequest{}, needs: []string{"secret", "publicKey", "facts"}, answers: api.EnrollResponse{},
		},
		{
			method: "GET", path: "/v1/link", access: access{kind: byKey}, rate: uncounted, pass: (*Handler).link,
			summary: "A device's link (WebSocket); see protocol.md", status: 101,
		},
		{
			method: "GET", path: "/v1/openapi.json", access: access{kind: open}, rate: uncounted, handle: (*Handler).openapi,
			summary: "This API as an OpenAPI 3.1 document", client: "OpenAPI", status: 200, answers: map[string]any{},
		},
		{
			method: "GET", path: "/healthz", access: access{kind: open}, rate: uncounted, handle: (*Handler).healthz,
			summary: "The process is alive", client: "Healthy", status: 200, answers: status{},
		},
		{
			method: "GET", path: "/readyz", access: access{kind: open}, rate: uncounted, handle: (*Handler).readyz,
			summary: "The server can serve: its database answers", client: "Ready", status: 200, answers: status{},
		},
	}
	rows = slices.Concat(rows, adminRoutes(), appRoutes(), peopleRoutes(), deviceGroupRoutes(), otherActions(), downloadRoutes(), machineRoutes(), indicatorRoutes(), fileRoutes(), alertRoutes(), metadataRoutes())
	return append(rows, counted(rows)...)
}

// otherActions are the Defender API's device actions that no Staunch agent
// carries out: they are refused as that API refuses them for a device that
// cannot, so that a client learns it in its own terms.
func otherActions() []route {
	actions := []struct {
		word     string
		app      auth.Permission
		user     auth.Permission
		right    auth.Right
		optional bool // the comment
		most     Limit
	}{
		{"isolate", auth.MachineIsolate, auth.MachineIsolate, auth.ActiveRemediation, false, Limit{}},
		{"unisolate", auth.MachineIsolate, auth.MachineIsolate, auth.ActiveRemediation, false, Limit{}},
		{"restrictCodeExecution", auth.MachineRestrictExecution, auth.MachineRestrictExecution, auth.ActiveRemediation, false, Limit{}},
		{"unrestrictCodeExecution", auth.MachineRestrictExecution, auth.MachineRestrictExecution, auth.ActiveRemediation, false, Limit{}},
		{"runAntiVirusScan", auth.MachineScan, auth.MachineScan, auth.ActiveRemediation, false, Limit{}},
		{"collectInvestigationPackage", auth.MachineCollectForensics, auth.MachineCollectForensics, auth.AlertsInvestigation, false, Limit{}},
		{"offboard", auth.MachineOffboard, auth.MachineOffboard, auth.ManageSecurity, false, Limit{}},
		{"runliveresponse", auth.MachineLiveResponse, auth.MachineLiveResponse, auth.LiveResponseBasic, true, Limit{PerMinute: 10}},
		{"startInvestigation", auth.AlertReadWriteAll, auth.AlertReadWrite, auth.ActiveRemediation, false, Limit{PerHour: 50}},
	}
	var rows []route
	for _, a := range actions {
		r := route{
			method: "POST", path: "/api/machines/{id}/" + a.word, access: holding(perms{a.app}, perms{a.user}).by(a.right),
			handle: (*Handler).unsupported, summary: "Not carried out by Staunch: 400 OsPlatformNotSupported", client: "OtherAction",
			status: 201, body: api.ActionRequest{Comment: "Case 4711"}, answers: api.MachineAction{}, most: a.most,
		}
		if !a.optional {
			r.needs = []string{"Comment"}
		}
		rows = append(rows, r)
	}
	return rows
}

// downloadRoutes are the calls for what such actions leave to be downloaded:
// there never is anything.
func downloadRoutes() []route {
	app := perms{auth.MachineReadAll, auth.MachineReadWriteAll}
	return []route{{
		method: "GET", path: "/api/machineactions/{id}/getPackageUri", access: holding(app, perms{auth.MachineCollectForensics}).by(auth.AlertsInvestigation),
		handle: (*Handler).download, summary: "Where an investigation package lies: 404, for no agent collects any", client: "PackageURI",
		status: 200, answers: api.Link{}, most: Limit{PerMinute: 2, PerHour: 120},
	}, {
		method: "GET", path: "/api/machineactions/{id}/GetLiveResponseResultDownloadLink({args})",
		access: holding(app, perms{auth.MachineLiveResponse}).by(auth.LiveResponseBasic), handle: (*Handler).download,
		summary: "Where a live response's result lies: 404, for no agent gives any", client: "LiveResponseResult", status: 200, answers: api.Link{},
	}}
}
