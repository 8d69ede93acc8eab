// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"staunch/api"
	"staunch/internal/server/alert"
	"staunch/internal/server/audit"
	"staunch/internal/server/indicator"
	"staunch/internal/server/odata"
)

var _ alert.Store = (*Store)(nil)

const alertRow = `seq, id, title, description, severity, status, category, classification, determination, assigned_to, created, first_event,
	last_event, updated, resolved, machine_id, machine_name, indicator, sha1, sha256, path, events, comments,
	coalesce((SELECT devices.group_name FROM devices WHERE devices.id = alerts.machine_id), '')`

const selectAlert = "SELECT " + alertRow + " FROM alerts "

var alertList = list{
	table: "alerts", newest: "alerts.created", columns: alertRow,
	reach: func(groups []int64) string { return onDevicesOf("alerts.machine_id", groups) },
}

// AlertFields are the properties by which alerts may be filtered and ordered.
func AlertFields() []odata.Field {
	none := func(column string) string { return "nullif(" + column + ", '')" }
	null := "(CAST(NULL AS BIGINT))"
	return []odata.Field{
		{Name: "id", Column: "alerts.id", Type: odata.String},
		{Name: "title", Column: "alerts.title", Type: odata.Folded},
		{Name: "severity", Column: "alerts.severity", Type: odata.Folded, Values: append(indicator.Severities(), "UnSpecified")},
		{Name: "status", Column: "alerts.status", Type: odata.Folded, Values: []string{alert.StatusNew, alert.StatusInProgress, alert.StatusResolved, "Unknown"}},
		{Name: "category", Column: "alerts.category", Type: odata.Folded},
		{Name: "classification", Column: none("alerts.classification"), Type: odata.Folded},
		{Name: "determination", Column: none("alerts.determination"), Type: odata.Folded},
		{Name: "assignedTo", Column: none("alerts.assigned_to"), Type: odata.Folded},
		{Name: "alertCreationTime", Column: "alerts.created", Type: odata.DateTime},
		{Name: "firstEventTime", Column: "alerts.first_event", Type: odata.DateTime},
		{Name: "lastEventTime", Column: "alerts.last_event", Type: odata.DateTime},
		{Name: "lastUpdateTime", Column: "alerts.updated", Type: odata.DateTime},
		{Name: "resolvedTime", Column: "nullif(alerts.resolved, 0)", Type: odata.DateTime},
		{Name: "machineId", Column: "alerts.machine_id", Type: odata.Folded},
		{Name: "computerDnsName", Column: "alerts.machine_name", Type: odata.Folded},
		{Name: "incidentId", Column: null, Type: odata.Number},
		{Name: "investigationId", Column: null, Type: odata.Number},
		{Name: "sha1", Column: "alerts.sha1", Type: odata.String},
		{Name: "sha256", Column: "alerts.sha256", Type: odata.String},
	}
}

func scanAlert(scan func(...any) error) (a alert.Alert, err error) {
	return a, scan(&a.Seq, &a.ID, &a.Title, &a.Description, &a.Severity, &a.Status, &a.Category, &a.Classification, &a.Determination, &a.AssignedTo,
		scanMicros{&a.Created}, scanMicros{&a.FirstEvent}, scanMicros{&a.LastEvent}, scanMicros{&a.Updated}, scanMicros{&a.Resolved},
		&a.MachineID, &a.MachineName, &a.Indicator, &a.SHA1, &a.SHA256, &a.Path, &a.Events, scanJSON{&a.Comments}, &a.MachineGroup)
}

// RaiseAlert is alert.Store's.
func (s *Store) RaiseAlert(ctx context.Context, a *alert.Alert, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		open, err := scanAlert(t.row(selectAlert+"WHERE subject = $1 AND status IN ('New', 'InProgress')", a.Subject()).Scan)
		switch {
		case err == nil:
			open.Events += a.Events
			open.Updated = a.Updated
			if a.LastEvent.After(open.LastEvent) {
				open.LastEvent = a.LastEvent
			}
			if a.FirstEvent.Before(open.FirstEvent) {
				open.FirstEvent = a.FirstEvent
			}
			*a = open
			return writeAlert(t, a)
		case !errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("cannot look for an open alert: %w", err)
		}
		if err := writeAlert(t, a); err != nil {
			return err
		}
		return t.record(&e)
	})
}

func writeAlert(t *tx, a *alert.Alert) error {
	instants(&a.Created, &a.FirstEvent, &a.LastEvent, &a.Updated, &a.Resolved)
	comments, err := toJSON("comments", a.Comments)
	if err != nil {
		return err
	}
	if err := checkTexts(text{"alert id", a.ID, maxName}, text{"title", a.Title, maxText}, text{"description", a.Description, maxText},
		text{"assignedTo", a.AssignedTo, maxText}, text{"path", a.Path, maxText}, text{"machine name", a.MachineName, maxName}, text{"indicator", a.Indicator, maxName}); err != nil {
		return err
	}
	args := []any{a.Title, a.Description, a.Severity, a.Status, a.Category, a.Classification, a.Determination, a.AssignedTo, micros(a.Created),
		micros(a.FirstEvent), micros(a.LastEvent), micros(a.Updated), micros(a.Resolved), a.MachineID, a.MachineName, a.Indicator, a.SHA1, a.SHA256, a.Path, a.Events, comments}
	if a.Seq == 0 {
		err = t.row(`INSERT INTO alerts (title, description, severity, status, category, classification, determination, assigned_to, created, first_event,
			last_event, updated, resolved, machine_id, machine_name, indicator, sha1, sha256, path, events, comments, id, subject) VALUES `+
			tuples(1, len(args)+2)+" RETURNING seq", append(args, a.ID, a.Subject())...).Scan(&a.Seq)
	} else {
		err = t.exec(`UPDATE alerts SET title = $1, description = $2, severity = $3, status = $4, category = $5, classification = $6, determination = $7,
			assigned_to = $8, created = $9, first_event = $10, last_event = $11, updated = $12, resolved = $13, machine_id = $14, machine_name = $15,
			indicator = $16, sha1 = $17, sha256 = $18, path = $19, events = $20, comments = $21 WHERE seq = $22`, append(args, a.Seq)...)
	}
	if err != nil {
		return fmt.Errorf("cannot keep alert %s: %w", a.ID, err)
	}
	return nil
}

// Alert is alert.Store's.
func (s *Store) Alert(ctx context.Context, id string) (alert.Alert, error) {
	return readAlert(s.reader(ctx), id)
}

func readAlert(q querier, id string) (a alert.Alert, err error) {
	err = sql.ErrNoRows
	if storable(id) {
		a, err = scanAlert(q.row(selectAlert+"WHERE id = $1", id).Scan)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return a, api.Errorf(api.ResourceNotFound, "Alert %.128q was not found", id)
	case err != nil:
		return a, fmt.Errorf("cannot read alert %s: %w", id, err)
	}
	return a, nil
}

// Alerts is alert.Store's.
func (s *Store) Alerts(ctx context.Context, q odata.Query) ([]alert.Alert, int64, error) {
	return readPage(ctx, s, alertList, q, scanAlert)
}

// ChangeAlert is alert.Store's.
func (s *Store) ChangeAlert(ctx context.Context, id string, change func(*alert.Alert) (*audit.Entry, error)) (a alert.Alert, err error) {
	err = s.change(ctx, func(t *tx) error {
		if a, err = readAlert(t, id); err != nil {
			return err
		}
		was := a
		e, err := change(&a)
		if err != nil {
			return err
		}
		if a.ID != was.ID || a.Seq != was.Seq || a.Subject() != was.Subject() {
			return fmt.Errorf("cannot change alert %s: what it is about is fixed", was.ID)
		}
		if was.Status == alert.StatusResolved && a.Status != alert.StatusResolved {
			var taken bool
			if err := t.row("SELECT EXISTS (SELECT 1 FROM alerts WHERE subject = $1 AND status IN ('New', 'InProgress'))", a.Subject()).Scan(&taken); err != nil {
				return fmt.Errorf("cannot look for an open alert: %w", err)
			}
			if taken {
				return api.Errorf(api.BadRequest, "Alert %s cannot be opened again: a newer one of that machine and indicator is open", a.ID)
			}
		}
		if err := writeAlert(t, &a); err != nil {
			return err
		}
		if e == nil {
			return nil
		}
		return t.record(e)
	})
	if err != nil {
		return alert.Alert{}, err
	}
	return a, nil
}
