// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/server/action"
	"staunch/internal/server/audit"
	"staunch/internal/server/odata"
)

// actionRow are the columns of an action in the order of scanAction, all but the
// three large ones.
const actionRow = `seq, id, type, status, machine_id, machine_name, requestor, requestor_kind, requestor_id, comment,
	created, updated, expires, canceller, canceller_kind, canceller_id, cancel_comment, cancel_requested,
	error_hresult, troubleshoot, external_id, source, sha1, sha256, item, acknowledged`

// selectAction begins a SELECT of whole actions.
const selectAction = "SELECT " + actionRow + ", signed_order, cancel_order, receipt FROM actions "

// actionList leaves the large columns out: a page of ten thousand must not carry
// their receipts.
var actionList = list{
	table: "actions", newest: "actions.created", columns: actionRow + ", NULL, NULL, NULL",
	reach: func(groups []int64) string { return onDevicesOf("actions.machine_id", groups) },
}

func scanAction(scan func(...any) error) (a action.Action, err error) {
	err = scan(&a.Seq, &a.ID, &a.Type, &a.Status, &a.MachineID, &a.MachineName, &a.Requestor.Name, &a.Requestor.Kind, &a.Requestor.ID, &a.Comment,
		scanMicros{&a.Created}, scanMicros{&a.Updated}, scanMicros{&a.Expires},
		&a.CancelledBy.Name, &a.CancelledBy.Kind, &a.CancelledBy.ID, &a.CancelComment, scanMicros{&a.CancelRequested},
		&a.ErrorHResult, &a.TroubleshootInfo, &a.ExternalID, &a.Source, scanHash{&a.File.SHA1}, scanHash{&a.File.SHA256}, &a.Item, &a.Acknowledged,
		&a.Order, &a.CancelOrder, &a.Receipt)
	return a, err
}

func checkAction(a *action.Action) error {
	for _, blob := range []struct {
		field string
		bytes []byte
	}{{"order", a.Order}, {"cancel order", a.CancelOrder}, {"receipt", a.Receipt}} {
		if len(blob.bytes) > order.MaxEnvelope {
			return api.Errorf(api.InvalidInput, "%s is %d bytes long, at most %d can be kept", blob.field, len(blob.bytes), order.MaxEnvelope)
		}
	}
	return checkTexts(
		text{"id", a.ID, maxName}, text{"type", a.Type, maxName}, text{"status", a.Status, maxName},
		text{"machine id", a.MachineID, maxName}, text{"computerDnsName", a.MachineName, maxName},
		text{"requestor", a.Requestor.Name, maxName}, text{"requestor kind", string(a.Requestor.Kind), maxName}, text{"requestor id", a.Requestor.ID, maxName},
		text{"Comment", a.Comment, maxText},
		text{"cancellationRequestor", a.CancelledBy.Name, maxName}, text{"cancellation requestor kind", string(a.CancelledBy.Kind), maxName},
		text{"cancellation requestor id", a.CancelledBy.ID, maxName}, text{"cancellationComment", a.CancelComment, maxText},
		text{"troubleshootInfo", a.TroubleshootInfo, maxText}, text{"ExternalId", a.ExternalID, maxName},
		text{"requestSource", a.Source, maxName}, text{"item", a.Item, maxName},
	)
}

// insertAction does nothing where an action with that id or, being active, with
// that key exists; the unique indexes decide, also between replicas.
const insertAction = `INSERT INTO actions (id, type, status, machine_id, machine_name, requestor, requestor_kind, requestor_id, comment,
	created, updated, expires, canceller, canceller_kind, canceller_id, cancel_comment, cancel_requested,
	error_hresult, troubleshoot, external_id, source, sha1, sha256, item, acknowledged,
	signed_order, cancel_order, receipt, active_key)
	VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14,$15,$16,$17,$18,$19,$20,$21,$22,$23,$24,$25,$26,$27,$28,$29)
	ON CONFLICT DO NOTHING RETURNING seq`

// CreateAction is action.Store's. It also cuts a's times to what is kept.
func (s *Store) CreateAction(ctx context.Context, a *action.Action, e audit.Entry) error {
	if err := checkAction(a); err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error { return createAction(t, a, e) })
}

// CreateActionWithin is action.Store's.
func (s *Store) CreateActionWithin(ctx context.Context, a *action.Action, e audit.Entry, within action.Reach) error {
	if err := checkAction(a); err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		if slices.Contains(action.Reaching(), a.Type) {
			orders, devices, err := reached(t, a)
			if err != nil {
				return fmt.Errorf("cannot count the orders of %s: %w", a.Requestor.ID, err)
			}
			if err := within.Check(orders, devices); err != nil {
				return err
			}
		}
		return createAction(t, a, e)
	})
}

// reached counts what a's requestor asked for: orders in the hour before a, and
// devices in the day before it; 0 where a's own is among them, as it is none more.
func reached(t *tx, a *action.Action) (orders, devices int, err error) {
	types := action.Reaching()
	const mine = "FROM actions WHERE requestor_id = $1 AND requestor_kind = $2 AND created > $3 AND type IN ($4, $5)"
	args := func(window time.Duration) []any {
		return []any{a.Requestor.ID, string(a.Requestor.Kind), micros(a.Created.Add(-window)), types[0], types[1]}
	}
	if err := t.row("SELECT count(*) "+mine, args(time.Hour)...).Scan(&orders); err != nil {
		return 0, 0, err
	}
	own := 0
	if err := t.row("SELECT count(DISTINCT machine_id), coalesce(max(CASE WHEN machine_id = $6 THEN 1 ELSE 0 END), 0) "+mine,
		append(args(24*time.Hour), a.MachineID)...).Scan(&devices, &own); err != nil {
		return 0, 0, err
	}
	if own > 0 {
		devices = 0
	}
	return orders, devices, nil
}

func createAction(t *tx, a *action.Action, e audit.Entry) error {
	instants(&a.Created, &a.Updated, &a.Expires, &a.CancelRequested)
	err := t.row(insertAction, a.ID, a.Type, a.Status, a.MachineID, a.MachineName, a.Requestor.Name, string(a.Requestor.Kind), a.Requestor.ID, a.Comment,
		micros(a.Created), micros(a.Updated), micros(a.Expires),
		a.CancelledBy.Name, string(a.CancelledBy.Kind), a.CancelledBy.ID, a.CancelComment, micros(a.CancelRequested),
		int64(a.ErrorHResult), a.TroubleshootInfo, a.ExternalID, a.Source, a.File.SHA1.String(), a.File.SHA256.String(), a.Item, a.Acknowledged,
		a.Order, a.CancelOrder, a.Receipt, a.Key()).Scan(&a.Seq)
	if errors.Is(err, sql.ErrNoRows) {
		return refuseAction(t, a)
	}
	if err != nil {
		return fmt.Errorf("cannot keep action %s: %w", a.ID, err)
	}
	return t.record(&e)
}

// refuseAction says which of the two reasons insertAction had.
func refuseAction(q querier, a *action.Action) error {
	active, err := activeAction(q, a.Key())
	switch {
	case err != nil:
		return err
	case active != "":
		return errActive()
	}
	return fmt.Errorf("cannot keep action %s: its id is in use", a.ID)
}

// errActive has the text that clients of the Defender API look for.
func errActive() error {
	return api.Errorf(api.ActiveRequestAlreadyExists, "Action is already in progress")
}

// updateAction writes what may change of an action.
const updateAction = `UPDATE actions SET status = $2, updated = $3, expires = $4, canceller = $5, canceller_kind = $6, canceller_id = $7,
	cancel_comment = $8, cancel_requested = $9, error_hresult = $10, troubleshoot = $11, acknowledged = $12,
	signed_order = $13, cancel_order = $14, receipt = $15, comment = $16, external_id = $17 WHERE seq = $1`

// ChangeAction is action.Store's. What an action is about never changes: its id,
// type, device, file, item, requestor and date of creation.
func (s *Store) ChangeAction(ctx context.Context, id string, change func(*action.Action) (*audit.Entry, error)) (a action.Action, err error) {
	if !storable(id) {
		return a, errNoAction(id)
	}
	err = s.change(ctx, func(t *tx) error {
		if a, err = readAction(t, id); err != nil {
			return err
		}
		was := a
		e, err := change(&a)
		if err != nil {
			return err
		}
		if err := keepAction(t, was, &a); err != nil {
			return err
		}
		if e == nil {
			return nil
		}
		return t.record(e)
	})
	if err != nil {
		return action.Action{}, err
	}
	return a, nil
}

func keepAction(t *tx, was action.Action, a *action.Action) error {
	if a.Seq != was.Seq || a.ID != was.ID || a.Key() != was.Key() || a.Requestor != was.Requestor || !a.Created.Equal(was.Created) || a.File != was.File || a.Source != was.Source || a.MachineName != was.MachineName {
		return fmt.Errorf("cannot change action %s: what it is about, who asked for it and when is fixed", was.ID)
	}
	if err := checkAction(a); err != nil {
		return err
	}
	if api.Final(was.Status) && !api.Final(a.Status) {
		// It would have to be the only active one again.
		switch active, err := activeAction(t, a.Key()); {
		case err != nil:
			return err
		case active != "":
			return errActive()
		}
	}
	instants(&a.Updated, &a.Expires, &a.CancelRequested)
	err := t.exec(updateAction, a.Seq, a.Status, micros(a.Updated), micros(a.Expires), a.CancelledBy.Name, string(a.CancelledBy.Kind), a.CancelledBy.ID,
		a.CancelComment, micros(a.CancelRequested), int64(a.ErrorHResult), a.TroubleshootInfo, a.Acknowledged,
		a.Order, a.CancelOrder, a.Receipt, a.Comment, a.ExternalID)
	if err != nil {
		return fmt.Errorf("cannot keep action %s: %w", a.ID, err)
	}
	return nil
}

func errNoAction(id string) error {
	return api.Errorf(api.ResourceNotFound, "Machine action %.128q was not found", id)
}

// Action is action.Store's.
func (s *Store) Action(ctx context.Context, id string) (action.Action, error) {
	if !storable(id) {
		return action.Action{}, errNoAction(id)
	}
	return readAction(s.reader(ctx), id)
}

func readAction(q querier, id string) (action.Action, error) {
	a, err := scanAction(q.row(selectAction+"WHERE id = $1", id).Scan)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return action.Action{}, errNoAction(id)
	case err != nil:
		return action.Action{}, fmt.Errorf("cannot read action %s: %w", id, err)
	}
	return a, nil
}

// Actions is action.Store's. The actions of a list come without Order,
// CancelOrder and Receipt.
func (s *Store) Actions(ctx context.Context, q odata.Query) ([]action.Action, int64, error) {
	return readPage(ctx, s, actionList, q, scanAction)
}

// ActiveAction is action.Store's.
func (s *Store) ActiveAction(ctx context.Context, key string) (string, error) {
	return activeAction(s.reader(ctx), key)
}

func activeAction(q querier, key string) (id string, err error) {
	err = q.row("SELECT id FROM actions WHERE active_key = $1 AND status IN ('Pending', 'InProgress')", key).Scan(&id)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("cannot look for an active action: %w", err)
	}
	return id, nil
}

// Undelivered is action.Store's.
func (s *Store) Undelivered(ctx context.Context, device string, limit int) ([]action.Action, error) {
	if !storable(device) {
		return nil, nil
	}
	text, args := selectAction+"WHERE NOT acknowledged ORDER BY seq LIMIT $1", []any{within(limit)}
	if device != "" {
		text, args = selectAction+"WHERE NOT acknowledged AND machine_id = $2 ORDER BY seq LIMIT $1", append(args, device)
	}
	rows, err := s.reader(ctx).query(text, args...)
	return collect(rows, err, scanAction)
}

// Waiting is action.Store's.
func (s *Store) Waiting(ctx context.Context, after string, limit int) ([]string, error) {
	rows, err := s.reader(ctx).query("SELECT DISTINCT machine_id FROM actions WHERE NOT acknowledged AND machine_id > $1 ORDER BY machine_id LIMIT $2", after, within(limit))
	return collect(rows, err, scanString)
}

// Overdue is action.Store's.
func (s *Store) Overdue(ctx context.Context, now time.Time, limit int) ([]string, error) {
	rows, err := s.reader(ctx).query("SELECT id FROM actions WHERE expires <= $1 AND status NOT IN ('Succeeded', 'Failed', 'TimeOut', 'Cancelled') ORDER BY expires LIMIT $2", now.UnixMicro(), within(limit))
	return collect(rows, err, scanString)
}

func scanString(scan func(...any) error) (s string, err error) { return s, scan(&s) }
