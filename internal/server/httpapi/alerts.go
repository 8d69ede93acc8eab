// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"net/url"
	"path"
	"strings"

	"staunch/api"
	"staunch/internal/server/alert"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/odata"
)

// Alerts is what the routes ask of alerts.
type Alerts interface {
	List(ctx context.Context, c auth.Caller, q odata.Query) ([]alert.Alert, int64, error)
	Get(ctx context.Context, c auth.Caller, id string) (alert.Alert, error)
	Update(ctx context.Context, c auth.Caller, id string, ch alert.Change) (alert.Alert, error)
}

func alertRead() access {
	return holding(perms{auth.AlertReadAll, auth.AlertReadWriteAll}, perms{auth.AlertRead, auth.AlertReadWrite}).by(auth.ViewData)
}

// alertRoutes are the calls about alerts.
func alertRoutes() []route {
	write := holding(perms{auth.AlertReadWriteAll}, perms{auth.AlertReadWrite}).by(auth.AlertsInvestigation)
	lists := append(listOptions(), "$expand")
	return []route{
		{
			method: "GET", path: "/api/alerts", access: alertRead(), handle: (*Handler).alerts, countable: true,
			summary: "List alerts, newest first", client: "Alerts", status: 200, answers: api.List[api.Alert]{}, query: lists,
		},
		{
			method: "GET", path: "/api/alerts/{id}", access: alertRead(), handle: (*Handler).alert,
			summary: "One alert", client: "Alert", status: 200, answers: api.Alert{}, query: []string{"$expand"},
		},
		{
			method: "PATCH", path: "/api/alerts/{id}", access: write, handle: (*Handler).updateAlert,
			summary: "Set an alert's status, assignment and classification, or comment on it", client: "UpdateAlert",
			records: audit.UpdateAlert, status: 200, body: api.AlertUpdate{Status: "Resolved", Classification: "TruePositive", Determination: "Malware", Comment: "Case 4711"}, needs: []string{}, answers: api.Alert{},
		},
		{
			method: "GET", path: "/api/machines/{id}/alerts", access: alertRead(), handle: (*Handler).machineAlerts, countable: true,
			summary: "Alerts about a machine", client: "MachineAlerts", status: 200, answers: api.List[api.Alert]{}, query: lists,
		},
	}
}

func (h *Handler) alerts(ctx context.Context, q *request) (answer, error) {
	return h.alertList(ctx, q, odata.Query{})
}

func (h *Handler) machineAlerts(ctx context.Context, q *request) (answer, error) {
	d, err := h.cfg.Devices.Lookup(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	return h.alertList(ctx, q, odata.Only(h.cfg.AlertFields, "machineId", d.ID))
}

// alertList answers with a page of the alerts that only narrows.
func (h *Handler) alertList(ctx context.Context, q *request, only odata.Query) (answer, error) {
	values, err := odata.Split(q.URL.RawQuery)
	if err != nil {
		return answer{}, err
	}
	if err := expand(values); err != nil {
		return answer{}, err
	}
	oq, err := odata.Parse(values, h.cfg.AlertFields, odata.Options{Properties: propertiesOf[api.Alert]()})
	if err != nil {
		return answer{}, err
	}
	return list(q, oq.And(only), "Alerts", func(oq odata.Query) ([]alert.Alert, int64, error) {
		return h.cfg.Alerts.List(ctx, q.caller, oq)
	}, func(a alert.Alert) api.Alert { return showAlert(a, h.cfg.Admin.Tenant()) })
}

// expand takes $expand=evidence out of the options: evidence is always shown.
func expand(values url.Values) error {
	for name := range values {
		if !strings.EqualFold(name, "$expand") {
			continue
		}
		if !strings.EqualFold(strings.TrimSpace(values.Get(name)), "evidence") {
			return api.Errorf(api.ODataError, "The query specified in the URI is not valid. Only 'evidence' can be expanded.")
		}
		delete(values, name)
	}
	return nil
}

func (h *Handler) alert(ctx context.Context, q *request) (answer, error) {
	a, err := h.cfg.Alerts.Get(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	return h.oneAlert(q, a), nil
}

func (h *Handler) updateAlert(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var ch alert.Change
	if err := f.values(map[string]any{"status": &ch.Status, "assignedTo": &ch.AssignedTo, "classification": &ch.Classification,
		"determination": &ch.Determination, "comment": &ch.Comment}); err != nil {
		return answer{}, err
	}
	a, err := h.cfg.Alerts.Update(ctx, q.caller, q.args["id"], ch)
	if err != nil {
		return answer{}, err
	}
	return h.oneAlert(q, a), nil
}

func (h *Handler) oneAlert(q *request, a alert.Alert) answer {
	shown := showAlert(a, h.cfg.Admin.Tenant())
	shown.Context = q.base + "/api/$metadata#Alerts/$entity"
	return answer{body: shown}
}

// showAlert is an alert as the API shows it.
func showAlert(a alert.Alert, tenant string) api.Alert {
	threat := "EUS:Win32/CustomEnterpriseBlock!cl"
	shown := api.Alert{
		ID: a.ID, AssignedTo: orNull(a.AssignedTo), Severity: a.Severity, Status: a.Status, Classification: orNull(a.Classification),
		Determination: orNull(a.Determination), InvestigationState: "UnsupportedAlertType", DetectionSource: "CustomerTI", Category: a.Category,
		ThreatName: &threat, Title: a.Title, Description: a.Description,
		AlertCreationTime: api.Time{Time: a.Created}, FirstEventTime: api.Time{Time: a.FirstEvent}, LastEventTime: api.Time{Time: a.LastEvent},
		LastUpdateTime: api.Time{Time: a.Updated}, ResolvedTime: api.At(a.Resolved), MachineID: a.MachineID, ComputerDNSName: orNull(a.MachineName),
		RbacGroupName: orNull(a.MachineGroup), AadTenantID: orNull(tenant),
		MitreTechniques: []string{}, Comments: []api.AlertComment{},
		Evidence: []api.AlertFileEntity{{EntityType: "File", SHA1: a.SHA1, SHA256: a.SHA256, FileName: path.Base(a.Path), FilePath: path.Dir(a.Path)}},
	}
	for _, c := range a.Comments {
		shown.Comments = append(shown.Comments, api.AlertComment{Comment: c.Text, CreatedBy: c.By, CreatedTime: api.Time{Time: c.At}})
	}
	return shown
}
