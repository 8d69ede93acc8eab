// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"slices"
	"strings"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/device"
	"staunch/internal/server/odata"
)

// machineRoutes are the calls about machines beside the list and the one.
func machineRoutes() []route {
	read := holding(perms{auth.MachineReadAll, auth.MachineReadWriteAll}, perms{auth.MachineRead, auth.MachineReadWrite}).by(auth.ViewData)
	write := holding(perms{auth.MachineReadWriteAll}, perms{auth.MachineReadWrite}).by(auth.AlertsInvestigation, auth.ManageSecurity)
	return []route{
		{
			method: "PATCH", path: "/api/machines/{id}", access: write, handle: (*Handler).patchMachine,
			summary: "Set a machine's tags and value", client: "UpdateMachine",
			records: audit.UpdateDevice, status: 200, body: api.MachineUpdate{MachineTags: []string{"finance", "laptop"}, DeviceValue: "High"}, needs: []string{}, answers: api.Machine{},
		},
		{
			method: "POST", path: "/api/machines/{id}/tags", access: write, handle: (*Handler).tagMachine,
			summary: "Add a tag to a machine or take it away", client: "TagMachine",
			records: audit.TagDevice, status: 200, body: api.TagRequest{Value: "finance", Action: "Add"}, needs: []string{"Value", "Action"}, answers: api.Machine{},
		},
		{
			method: "POST", path: "/api/machines/AddOrRemoveTagForMultipleMachines", access: write, handle: (*Handler).tagMachines,
			summary: "Add a tag to many machines or take it away", client: "TagMachines",
			records: audit.TagDevice, status: 200, body: api.TagManyRequest{Value: "finance", Action: "Add", MachineIDs: []string{exampleMachine}}, needs: []string{"Value", "Action", "MachineIds"}, answers: api.List[api.Machine]{},
		},
		{
			method: "GET", path: "/api/machines/findbyip({args})", access: read, handle: (*Handler).machinesByIP,
			summary: "Machines that had an internal address around an instant", client: "MachinesByIP",
			status: 200, answers: api.List[api.Machine]{}, query: listOptions(),
		},
		{
			method: "GET", path: "/api/machines/findbytag", access: read, handle: (*Handler).machinesByTag,
			summary: "Machines with a tag", client: "MachinesByTag",
			status: 200, answers: api.List[api.Machine]{}, query: append([]string{"tag", "useStartsWithFilter"}, listOptions()...),
		},
		{
			method: "GET", path: "/api/machines/findbytag({args})", access: read, handle: (*Handler).machinesByTag,
			summary: "Machines with a tag, asked as a function", client: "MachinesByTag",
			status: 200, answers: api.List[api.Machine]{}, query: listOptions(),
		},
		{
			method: "GET", path: "/api/machines/{id}/machineactions", access: read, handle: (*Handler).actionsOfMachine, countable: true,
			summary: "The actions of a machine, newest first", client: "ActionsOfMachine",
			status: 200, answers: api.List[api.MachineAction]{}, query: listOptions(),
		},
		{
			method: "GET", path: "/api/machines/{id}/availableMachineActions", access: read, handle: (*Handler).availableActions,
			summary: "Which actions a machine can carry out", client: "AvailableActions", status: 200, answers: api.List[api.AvailableAction]{},
		},
		{
			method: "GET", path: "/api/machines/{id}/logonusers", access: same(auth.UserReadAll).by(auth.ViewData), handle: (*Handler).logonUsers,
			summary: "Who has logged on to a machine", client: "LogonUsers", status: 200, answers: api.List[api.LogonUser]{},
		},
	}
}

func listOptions() []string {
	return []string{"$filter", "$orderby", "$top", "$skip", "$count", "$select"}
}

func (h *Handler) patchMachine(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var tags *[]string
	var value *string
	if err := f.values(map[string]any{"machineTags": &tags, "deviceValue": &value}); err != nil {
		return answer{}, err
	}
	if tags == nil && value == nil {
		return answer{}, api.Errorf(api.MissingRequiredParameter, "Parameter machineTags is missing")
	}
	d, err := h.cfg.Devices.Update(ctx, q.caller, q.args["id"], tags, value)
	return h.oneMachine(q, d), err
}

func (h *Handler) oneMachine(q *request, d device.Device) answer {
	m := device.Machine(d, h.cfg.Now())
	m.Context = q.base + "/api/$metadata#Machines/$entity"
	return answer{body: m}
}

// tagRequest reads the body of both tagging calls.
func (q *request) tagRequest() (r api.TagManyRequest, add bool, err error) {
	f, err := q.object(false)
	if err != nil {
		return r, false, err
	}
	if err := f.values(map[string]any{"Value": &r.Value, "Action": &r.Action, "MachineIds": &r.MachineIDs}); err != nil {
		return r, false, err
	}
	if err := missing("Value", r.Value); err != nil {
		return r, false, err
	}
	if err := missing("Action", r.Action); err != nil {
		return r, false, err
	}
	switch {
	case strings.EqualFold(r.Action, "Add"):
		return r, true, nil
	case strings.EqualFold(r.Action, "Remove"):
		return r, false, nil
	}
	return r, false, api.Errorf(api.InvalidInput, "Invalid input %s for Action: want Add or Remove", clip(r.Action))
}

func (h *Handler) tagMachine(ctx context.Context, q *request) (answer, error) {
	r, add, err := q.tagRequest()
	if err != nil {
		return answer{}, err
	}
	d, err := h.cfg.Devices.Tag(ctx, q.caller, q.args["id"], r.Value, add)
	return h.oneMachine(q, d), err
}

func (h *Handler) tagMachines(ctx context.Context, q *request) (answer, error) {
	r, add, err := q.tagRequest()
	if err != nil {
		return answer{}, err
	}
	if len(r.MachineIDs) == 0 {
		return answer{}, missing("MachineIds", "")
	}
	devices, err := h.cfg.Devices.TagMany(ctx, q.caller, r.MachineIDs, r.Value, add)
	if err != nil {
		return answer{}, err
	}
	now := h.cfg.Now()
	return all(q, "Machines", devices, func(d device.Device) api.Machine { return device.Machine(d, now) }), nil
}

// all answers with a list that is not paged.
func all[T, R any](q *request, set string, rows []R, show func(R) T) answer {
	l := api.List[T]{Context: q.base + "/api/$metadata#" + set, Value: make([]T, len(rows))}
	for i, r := range rows {
		l.Value[i] = show(r)
	}
	return answer{body: l}
}

func (h *Handler) machinesByIP(ctx context.Context, q *request) (answer, error) {
	args, err := odata.Arguments(q.args["args"])
	if err != nil {
		return answer{}, err
	}
	for _, name := range []string{"ip", "timestamp"} {
		if err := missing(name, args.Get(name)); err != nil {
			return answer{}, err
		}
	}
	at, err := odata.ParseTime(args.Get("timestamp"))
	if err != nil {
		return answer{}, api.Errorf(api.InvalidInput, "Invalid input %s for timestamp: want a time, as in 2026-11-01T00:00:00Z", clip(args.Get("timestamp")))
	}
	return h.machineList(q, func(oq odata.Query) ([]device.Device, int64, error) {
		return h.cfg.Devices.At(ctx, q.caller, args.Get("ip"), at, oq)
	})
}

// machineList answers with a page of the machines that fetch finds.
func (h *Handler) machineList(q *request, fetch func(odata.Query) ([]device.Device, int64, error)) (answer, error) {
	now := h.cfg.Now()
	oq, err := query[api.Machine](q, h.cfg.DeviceFields(now))
	if err != nil {
		return answer{}, err
	}
	return list(q, oq, "Machines", fetch, func(d device.Device) api.Machine { return device.Machine(d, now) })
}

func (h *Handler) machinesByTag(ctx context.Context, q *request) (answer, error) {
	args, err := odata.Split(q.URL.RawQuery)
	if inner, ok := q.args["args"]; ok && err == nil {
		args, err = odata.Arguments(inner)
	}
	if err != nil {
		return answer{}, err
	}
	tag, prefix := "", false
	for name := range args { // names in any case, as $filter has them
		switch strings.ToLower(name) {
		case "tag":
			tag = args.Get(name)
		case "usestartswithfilter":
			prefix = strings.EqualFold(args.Get(name), "true")
			if !prefix && !strings.EqualFold(args.Get(name), "false") {
				return answer{}, api.Errorf(api.InvalidInput, "Invalid input %s for useStartsWithFilter: want true or false", clip(args.Get(name)))
			}
		}
	}
	if err := missing("tag", tag); err != nil {
		return answer{}, err
	}
	condition := "t eq '" + strings.ReplaceAll(tag, "'", "''") + "'"
	if prefix {
		condition = "startswith(t,'" + strings.ReplaceAll(tag, "'", "''") + "')"
	}
	tagged, err := odata.Parse(map[string][]string{"$filter": {"machineTags/any(t: " + condition + ")"}}, h.cfg.DeviceFields(h.cfg.Now()), odata.Options{})
	if err != nil {
		return answer{}, err
	}
	return h.machineList(q, func(oq odata.Query) ([]device.Device, int64, error) {
		return h.cfg.Devices.Machines(ctx, q.caller, oq.And(tagged))
	})
}

func (h *Handler) actionsOfMachine(ctx context.Context, q *request) (answer, error) {
	d, err := h.cfg.Devices.Lookup(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	oq, err := query[api.MachineAction](q, h.cfg.ActionFields)
	if err != nil {
		return answer{}, err
	}
	return list(q, oq.And(odata.Only(h.cfg.ActionFields, "machineId", d.ID)), "MachineActions", func(oq odata.Query) ([]action.Action, int64, error) {
		return h.cfg.Actions.List(ctx, q.caller, oq)
	}, machineAction)
}

func (h *Handler) availableActions(ctx context.Context, q *request) (answer, error) {
	d, err := h.cfg.Devices.Lookup(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	names := []string{
		"RunAntiVirusScan", "Offboard", "LiveResponse", "CollectInvestigationPackage", "Isolate", "Unisolate",
		api.StopAndQuarantineFile, "RestrictCodeExecution", "UnrestrictCodeExecution",
	}
	return all(q, "Collection(microsoft.windowsDefenderATP.api.AvailableMachineAction)", names, func(name string) api.AvailableAction {
		can := name == api.StopAndQuarantineFile && slices.Contains(d.Can, order.StopAndQuarantine)
		return api.AvailableAction{Action: name, IsAvailable: can}
	}), nil
}

func (h *Handler) logonUsers(ctx context.Context, q *request) (answer, error) {
	d, err := h.cfg.Devices.Find(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	domain, _, _ := strings.Cut(d.Name, ".")
	return all(q, "Users", d.Facts.Users, func(u order.LogonUser) api.LogonUser {
		return api.LogonUser{
			ID: domain + `\` + u.Name, AccountName: u.Name, AccountDomain: orNull(domain),
			FirstSeen: api.Time{Time: u.First}, LastSeen: api.Time{Time: u.Last}, LogonTypes: "Interactive",
		}
	}), nil
}
