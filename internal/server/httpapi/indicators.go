// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/indicator"
	"staunch/internal/server/odata"
)

// Indicators is what the routes ask of standing rules.
type Indicators interface {
	Submit(ctx context.Context, c auth.Caller, r indicator.Request) (indicator.Indicator, error)
	Import(ctx context.Context, c auth.Caller, rows []indicator.Row) ([]indicator.Result, error)
	Get(ctx context.Context, c auth.Caller, id string) (indicator.Indicator, error)
	List(ctx context.Context, c auth.Caller, q odata.Query) ([]indicator.Indicator, int64, error)
	Delete(ctx context.Context, c auth.Caller, id string) error
	BatchDelete(ctx context.Context, c auth.Caller, ids []string) error
}

// indicatorRoutes are the calls about standing rules.
func indicatorRoutes() []route {
	ti := same2(auth.TiReadWrite, auth.TiReadWriteAll)
	read, write := ti.by(auth.ViewData), ti.by(auth.ActiveRemediation, auth.ManageSecurity)
	batch := Limit{PerMinute: 30}
	return []route{
		{
			method: "GET", path: "/api/indicators", access: read, handle: (*Handler).indicators, countable: true,
			summary: "List active indicators, newest first", client: "Indicators", status: 200, answers: api.List[api.Indicator]{}, query: listOptions(),
		},
		{
			method: "GET", path: "/api/indicators/{id}", access: read, handle: (*Handler).indicator,
			summary: "One indicator", client: "Indicator", status: 200, answers: api.Indicator{},
		},
		{
			method: "POST", path: "/api/indicators", access: write, handle: (*Handler).submitIndicator,
			summary: "Make an indicator, or change the one of that type, value and groups", client: "SubmitIndicator",
			records: audit.SubmitIndicator, status: 200, body: exampleIndicator(), answers: api.Indicator{},
			needs: []string{"indicatorValue", "indicatorType", "action", "title", "description"},
		},
		{
			method: "POST", path: "/api/indicators/import", access: write, handle: (*Handler).importIndicators, most: batch,
			summary: "Make or change many indicators, each by itself", client: "ImportIndicators",
			records: audit.SubmitIndicator, status: 200, body: api.IndicatorImport{Indicators: []api.IndicatorRequest{exampleIndicator()}}, needs: []string{"Indicators"}, answers: api.IndicatorImportResult{},
		},
		{
			method: "DELETE", path: "/api/indicators/{id}", access: write, handle: (*Handler).deleteIndicator,
			summary: "Delete an indicator", client: "DeleteIndicator", records: audit.DeleteIndicator, status: 204,
		},
		{
			method: "POST", path: "/api/indicators/BatchDelete", access: write, handle: (*Handler).deleteIndicators, most: batch,
			summary: "Delete many indicators, all or none", client: "DeleteIndicators",
			records: audit.DeleteIndicator, status: 204, body: api.IndicatorBatch{IndicatorIDs: []string{"31", "32"}}, needs: []string{"IndicatorIds"},
		},
	}
}

func exampleIndicator() api.IndicatorRequest {
	return api.IndicatorRequest{
		IndicatorValue: exampleSHA1, IndicatorType: "FileSha1", Action: "BlockAndRemediate", Title: "Case 4711 dropper",
		Description: "Quarantined on fin-lt-014, block fleet-wide", GenerateAlert: true, Severity: "High",
	}
}

// same2 is same for either of two permissions.
func same2(a, b auth.Permission) access { return holding(perms{a, b}, perms{a, b}) }

// indicatorRequest reads one indicator. Unknown properties are passed over.
func indicatorRequest(f fields) (r indicator.Request, err error) {
	if err := f.texts(map[string]*string{
		"indicatorValue": &r.Value, "indicatorType": &r.Type, "action": &r.Action, "title": &r.Title, "description": &r.Description,
		"severity": &r.Severity, "recommendedActions": &r.RecommendedActions, "application": &r.Application, "educateUrl": &r.EducateURL,
		"externalId": &r.ExternalID, "expirationTime": &r.Expiration,
	}); err != nil {
		return r, err
	}
	if r.GenerateAlert, err = f.truth("generateAlert"); err != nil {
		return r, err
	}
	r.Groups, err = f.names("rbacGroupNames")
	return r, err
}

// truth reads true or false, which some clients write as a string.
func (f fields) truth(name string) (bool, error) {
	raw, ok := f[name]
	if !ok || string(raw) == "null" {
		return false, nil
	}
	switch strings.ToLower(strings.Trim(string(raw), `"`)) {
	case "true":
		return true, nil
	case "false", "":
		return false, nil
	}
	return false, api.Errorf(api.InvalidRequestBody, "Request body is incorrect")
}

// names reads a list of names, or one string with commas between them.
func (f fields) names(name string) ([]string, error) {
	raw, ok := f[name]
	if !ok || string(raw) == "null" {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return strings.Split(one, ","), nil
	}
	var many []string
	return many, f.values(map[string]any{name: &many})
}

func (h *Handler) submitIndicator(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	r, err := indicatorRequest(f)
	if err != nil {
		return answer{}, err
	}
	in, err := h.cfg.Indicators.Submit(ctx, q.caller, r)
	if err != nil {
		return answer{}, err
	}
	return q.oneIndicator(in), nil
}

func (h *Handler) importIndicators(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var raws []json.RawMessage
	if err := f.values(map[string]any{"Indicators": &raws}); err != nil {
		return answer{}, err
	}
	rows := make([]indicator.Row, len(raws))
	for i, raw := range raws {
		var row fields
		if row, err = parseObject(raw); err == nil {
			rows[i].Request, err = indicatorRequest(row)
		}
		if err != nil {
			rows[i].Err = api.Errorf(api.InvalidRequestBody, "The row is not an indicator")
		}
	}
	done, err := h.cfg.Indicators.Import(ctx, q.caller, rows)
	if err != nil {
		return answer{}, err
	}
	result := api.IndicatorImportResult{Value: make([]api.ImportedIndicator, len(done))}
	for i, d := range done {
		row := api.ImportedIndicator{Indicator: d.Value, IsFailed: d.Reason != "", FailureReason: orNull(d.Reason)}
		if d.ID != 0 {
			row.ID = orNull(strconv.FormatInt(d.ID, 10))
		}
		result.Value[i] = row
	}
	return answer{body: result}, nil
}

func (h *Handler) indicators(ctx context.Context, q *request) (answer, error) {
	oq, err := query[api.Indicator](q, h.cfg.IndicatorFields)
	if err != nil {
		return answer{}, err
	}
	return list(q, oq, "Indicators", func(oq odata.Query) ([]indicator.Indicator, int64, error) {
		return h.cfg.Indicators.List(ctx, q.caller, oq)
	}, showIndicator)
}

func (h *Handler) indicator(ctx context.Context, q *request) (answer, error) {
	in, err := h.cfg.Indicators.Get(ctx, q.caller, q.args["id"])
	if err != nil {
		return answer{}, err
	}
	return q.oneIndicator(in), nil
}

func (h *Handler) deleteIndicator(ctx context.Context, q *request) (answer, error) {
	return answer{}, h.cfg.Indicators.Delete(ctx, q.caller, q.args["id"])
}

func (h *Handler) deleteIndicators(ctx context.Context, q *request) (answer, error) {
	f, err := q.object(false)
	if err != nil {
		return answer{}, err
	}
	var raws []json.RawMessage
	if err := f.values(map[string]any{"IndicatorIds": &raws}); err != nil {
		return answer{}, err
	}
	ids := make([]string, len(raws))
	for i, raw := range raws { // numbers as they are, or in strings
		if json.Unmarshal(raw, &ids[i]) != nil {
			ids[i] = string(raw)
		}
	}
	return answer{}, h.cfg.Indicators.BatchDelete(ctx, q.caller, ids)
}

func (q *request) oneIndicator(in indicator.Indicator) answer {
	shown := showIndicator(in)
	shown.Context = q.base + "/api/$metadata#Indicators/$entity"
	return answer{body: shown}
}

// showIndicator is an indicator as the API shows it.
func showIndicator(in indicator.Indicator) api.Indicator {
	shown := api.Indicator{
		ID: strconv.FormatInt(in.Seq, 10), IndicatorValue: in.Value, IndicatorType: in.Type, Action: in.Action, CreatedBy: in.Creator.ID,
		Severity: in.Severity, Category: 1, Application: orNull(in.Application), EducateURL: orNull(in.EducateURL), Title: in.Title,
		Description: in.Description, RecommendedActions: orNull(in.RecommendedActions),
		CreationTimeDateTimeUTC: api.Time{Time: in.Created}, ExpirationTime: api.At(in.Expires), LastUpdateTime: api.Time{Time: in.Updated},
		LastUpdatedBy: orNull(in.UpdatedBy), RbacGroupNames: []string{}, RbacGroupIDs: []string{}, MitreTechniques: []string{},
		GenerateAlert: in.GenerateAlert, CreatedByDisplayName: in.Creator.Name, ExternalID: orNull(in.ExternalID), CreatedBySource: in.Source,
	}
	shown.Source, shown.SourceType = in.Source, "AadApp"
	if in.Creator.Kind == auth.User {
		shown.SourceType = "User"
	}
	if in.Type == indicator.URL {
		shown.IndicatorValue = in.Shown // the path of a URL tells cases apart
	}
	for _, g := range in.Groups {
		shown.RbacGroupNames = append(shown.RbacGroupNames, g.Name)
		if g.ID != "" {
			shown.RbacGroupIDs = append(shown.RbacGroupIDs, g.ID)
		}
	}
	return shown
}
