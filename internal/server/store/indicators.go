// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/indicator"
	"staunch/internal/server/odata"
)

var _ indicator.Store = (*Store)(nil)

const indicatorRow = `seq, type, value, shown, limited_to, action, severity, title, description, recommended, application, educate_url,
	external_id, generate_alert, expires, created, updated, created_by, creator, creator_kind, updated_by, source`

// maxValue bounds an indicator's value in bytes: it is indexed.
const maxValue = 2048

const selectIndicator = "SELECT " + indicatorRow + " FROM indicators "

// IndicatorFields are the properties by which indicators may be filtered and ordered.
func IndicatorFields() []odata.Field {
	group := func(name, column string) odata.Field {
		return odata.Field{Name: name, Column: "(SELECT indicator_groups.indicator AS owner, indicator_groups." + column + " AS value FROM indicator_groups)", Owner: "indicators.seq", Type: odata.Strings}
	}
	return []odata.Field{
		{Name: "id", Column: "CAST(indicators.seq AS TEXT)", Type: odata.String},
		{Name: "indicatorValue", Column: "indicators.shown", Type: odata.Folded},
		{Name: "indicatorType", Column: "indicators.type", Type: odata.Folded, Values: indicator.Types()},
		{Name: "action", Column: "indicators.action", Type: odata.Folded, Values: indicator.Actions()},
		{Name: "severity", Column: "indicators.severity", Type: odata.Folded, Values: indicator.Severities()},
		{Name: "title", Column: "indicators.title", Type: odata.Folded},
		{Name: "description", Column: "indicators.description", Type: odata.Folded},
		{Name: "application", Column: "nullif(indicators.application, '')", Type: odata.Folded},
		{Name: "createdBy", Column: "indicators.created_by", Type: odata.Folded},
		{Name: "createdByDisplayName", Column: "indicators.creator", Type: odata.Folded},
		{Name: "createdBySource", Column: "indicators.source", Type: odata.Folded},
		{Name: "lastUpdatedBy", Column: "nullif(indicators.updated_by, '')", Type: odata.Folded},
		{Name: "externalId", Column: "nullif(indicators.external_id, '')", Type: odata.String},
		{Name: "generateAlert", Column: "indicators.generate_alert", Type: odata.Bool},
		{Name: "expirationTime", Column: "nullif(indicators.expires, 0)", Type: odata.DateTime},
		{Name: "creationTimeDateTimeUtc", Column: "indicators.created", Type: odata.DateTime},
		{Name: "lastUpdateTime", Column: "indicators.updated", Type: odata.DateTime},
		group("rbacGroupNames", "name"),
		group("rbacGroupIds", "group_id"),
	}
}

func scanIndicator(scan func(...any) error) (in indicator.Indicator, err error) {
	var expires int64
	var kind string
	err = scan(&in.Seq, &in.Type, &in.Value, &in.Shown, scanJSON{&in.Groups}, &in.Action, &in.Severity, &in.Title, &in.Description,
		&in.RecommendedActions, &in.Application, &in.EducateURL, &in.ExternalID, &in.GenerateAlert, &expires,
		scanMicros{&in.Created}, scanMicros{&in.Updated}, &in.Creator.ID, &in.Creator.Name, &kind, &in.UpdatedBy, &in.Source)
	in.Creator.Kind = auth.Kind(kind)
	if expires > 0 {
		in.Expires = time.UnixMicro(expires).UTC()
	}
	return in, err
}

// alive is the condition that the date of an indicator has not come.
func alive(now time.Time) string {
	return "(indicators.expires = 0 OR indicators.expires > " + strconv.FormatInt(now.UnixMicro(), 10) + ")"
}

// PutIndicators is indicator.Store's.
func (s *Store) PutIndicators(ctx context.Context, list []indicator.Indicator, now time.Time, limit int,
	change func(old, in *indicator.Indicator) (audit.Entry, error)) (done []indicator.Put, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	err = s.change(ctx, func(t *tx) error {
		done = make([]indicator.Put, len(list))
		var count int
		if err := t.row("SELECT (SELECT count(*) FROM indicators) - (SELECT count(*) FROM indicators WHERE expires > 0 AND expires <= $1)", now.UnixMicro()).Scan(&count); err != nil {
			return fmt.Errorf("cannot count indicators: %w", err)
		}
		kept := false
		for i, in := range list {
			added, err := putIndicator(t, &in, now, count < limit, limit, change)
			var refusal *api.Error
			switch {
			case err == nil:
				kept = true
			case !errors.As(err, &refusal):
				return fmt.Errorf("cannot keep indicator: %w", err)
			}
			if added {
				count++
			}
			done[i] = indicator.Put{Indicator: in, Err: err}
		}
		if !kept {
			return nil
		}
		return nextVersion(t, now)
	})
	return done, err
}

// putIndicator refuses before it writes, so that a refused row leaves nothing.
func putIndicator(t *tx, in *indicator.Indicator, now time.Time, room bool, limit int,
	change func(old, in *indicator.Indicator) (audit.Entry, error)) (added bool, err error) {
	if err := checkIndicator(in); err != nil {
		return false, err
	}
	old, err := scanIndicator(t.row(selectIndicator+"WHERE subject = $1", indicatorSubject(in)).Scan)
	was := &old
	switch {
	case errors.Is(err, sql.ErrNoRows):
		was = nil
	case err != nil:
		return false, err
	case !old.Expires.IsZero() && !old.Expires.After(now): // it is gone, only not swept up yet
		if err := deleteIndicator(t, old.Seq); err != nil {
			return false, err
		}
		was = nil
	}
	if was == nil && !room {
		return false, api.Errorf(api.BadRequest, "There are %d indicators already, which is the limit: delete some first", limit)
	}
	if was != nil {
		in.Seq = was.Seq
	}
	e, err := change(was, in)
	if err != nil {
		return false, err
	}
	if err := writeIndicator(t, in); err != nil {
		return false, err
	}
	if e.Target == "" {
		e.Target = strconv.FormatInt(in.Seq, 10)
	}
	return was == nil, t.record(&e)
}

// indicatorSubject is what there is one indicator for.
func indicatorSubject(in *indicator.Indicator) string {
	sum := sha256.Sum256([]byte(in.Type + "\x00" + in.Value + "\x00" + in.Scope()))
	return hex.EncodeToString(sum[:])
}

func checkIndicator(in *indicator.Indicator) error {
	return checkTexts(text{"indicatorValue", in.Value, maxValue}, text{"indicatorValue", in.Shown, maxValue}, text{"rbacGroupNames", in.Scope(), maxText},
		text{"title", in.Title, maxText}, text{"description", in.Description, maxText}, text{"recommendedActions", in.RecommendedActions, maxText},
		text{"application", in.Application, maxText}, text{"educateUrl", in.EducateURL, maxText}, text{"externalId", in.ExternalID, maxText},
		text{"createdBy", in.Creator.ID, maxName}, text{"createdByDisplayName", in.Creator.Name, maxName}, text{"lastUpdatedBy", in.UpdatedBy, maxName})
}

func writeIndicator(t *tx, in *indicator.Indicator) error {
	instants(&in.Expires, &in.Created, &in.Updated)
	groups, err := toJSON("rbacGroupNames", in.Groups)
	if err != nil {
		return err
	}
	expires := int64(0)
	if !in.Expires.IsZero() {
		expires = in.Expires.UnixMicro()
	}
	args := []any{indicatorSubject(in), in.Type, in.Value, in.Shown, in.Scope(), groups, in.Action, in.Severity, in.Title, in.Description, in.RecommendedActions,
		in.Application, in.EducateURL, in.ExternalID, in.GenerateAlert, expires, micros(in.Created), micros(in.Updated),
		in.Creator.ID, in.Creator.Name, string(in.Creator.Kind), in.UpdatedBy, in.Source}
	if in.Seq == 0 {
		err = t.row(`INSERT INTO indicators (subject, type, value, shown, scope, limited_to, action, severity, title, description, recommended, application, educate_url,
			external_id, generate_alert, expires, created, updated, created_by, creator, creator_kind, updated_by, source) VALUES `+tuples(1, len(args))+` RETURNING seq`, args...).Scan(&in.Seq)
	} else {
		err = t.exec(`UPDATE indicators SET subject = $1, type = $2, value = $3, shown = $4, scope = $5, limited_to = $6, action = $7, severity = $8, title = $9,
			description = $10, recommended = $11, application = $12, educate_url = $13, external_id = $14, generate_alert = $15, expires = $16, created = $17,
			updated = $18, created_by = $19, creator = $20, creator_kind = $21, updated_by = $22, source = $23 WHERE seq = $24`, append(args, in.Seq)...)
	}
	if err != nil {
		return err
	}
	if err := t.exec("DELETE FROM indicator_groups WHERE indicator = $1", in.Seq); err != nil {
		return err
	}
	for _, g := range in.Groups {
		if err := t.exec("INSERT INTO indicator_groups (indicator, name, group_id) VALUES ($1, $2, $3)", in.Seq, g.Name, g.ID); err != nil {
			return err
		}
	}
	return nil
}

func deleteIndicator(t *tx, seq int64) error {
	if err := t.exec("DELETE FROM indicator_groups WHERE indicator = $1", seq); err != nil {
		return err
	}
	return t.exec("DELETE FROM indicators WHERE seq = $1", seq)
}

func nextVersion(t *tx, now time.Time) error {
	err := t.exec("UPDATE indicator_state SET version = CASE WHEN version >= $1 THEN version + 1 ELSE $1 END WHERE one = 1", now.UnixMicro())
	if err != nil {
		return fmt.Errorf("cannot count the version of the indicators: %w", err)
	}
	return nil
}

// DeleteIndicators is indicator.Store's.
func (s *Store) DeleteIndicators(ctx context.Context, ids []int64, now time.Time, check func([]indicator.Indicator) ([]audit.Entry, error)) error {
	return s.change(ctx, func(t *tx) error {
		list := make([]indicator.Indicator, len(ids))
		for i, id := range ids {
			var err error
			if list[i], err = readIndicator(t, id, now); err != nil {
				return err
			}
		}
		entries, err := check(list)
		if err != nil {
			return err
		}
		return dropIndicators(t, list, entries, now)
	})
}

func dropIndicators(t *tx, list []indicator.Indicator, entries []audit.Entry, now time.Time) error {
	for _, in := range list {
		if err := deleteIndicator(t, in.Seq); err != nil {
			return fmt.Errorf("cannot delete indicator %d: %w", in.Seq, err)
		}
	}
	for i := range entries {
		if err := t.record(&entries[i]); err != nil {
			return err
		}
	}
	return nextVersion(t, now)
}

// ExpireIndicators is indicator.Store's.
func (s *Store) ExpireIndicators(ctx context.Context, now time.Time, limit int, entry func(indicator.Indicator) audit.Entry) (n int, err error) {
	var due bool
	err = s.reader(ctx).row("SELECT EXISTS (SELECT 1 FROM indicators WHERE expires > 0 AND expires <= $1)", now.UnixMicro()).Scan(&due)
	if err != nil {
		return 0, fmt.Errorf("cannot look for expired indicators: %w", err)
	}
	if !due {
		return 0, nil
	}
	err = s.change(ctx, func(t *tx) error {
		rows, err := t.query(selectIndicator+"WHERE expires > 0 AND expires <= $1 ORDER BY expires LIMIT $2", now.UnixMicro(), limit)
		list, err := collect(rows, err, scanIndicator)
		if err != nil || len(list) == 0 {
			return err
		}
		entries := make([]audit.Entry, len(list))
		for i, in := range list {
			entries[i] = entry(in)
		}
		n = len(list)
		return dropIndicators(t, list, entries, now)
	})
	if err != nil {
		return 0, fmt.Errorf("cannot take expired indicators away: %w", err)
	}
	return n, nil
}

// Indicator is indicator.Store's.
func (s *Store) Indicator(ctx context.Context, id int64, now time.Time) (indicator.Indicator, error) {
	return readIndicator(s.reader(ctx), id, now)
}

func readIndicator(q querier, id int64, now time.Time) (indicator.Indicator, error) {
	in, err := scanIndicator(q.row(selectIndicator+"WHERE seq = $1 AND "+alive(now), id).Scan)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return in, api.Errorf(api.ResourceNotFound, "Indicator %d was not found", id)
	case err != nil:
		return in, fmt.Errorf("cannot read indicator %d: %w", id, err)
	}
	return in, nil
}

// Indicators is indicator.Store's.
func (s *Store) Indicators(ctx context.Context, scope indicator.Scope, q odata.Query) ([]indicator.Indicator, int64, error) {
	if scope.CreatedBy != "" {
		q = q.And(odata.Query{Where: "indicators.created_by = $1", Args: []any{scope.CreatedBy}})
	}
	if scope.Groups != nil {
		ids := make([]string, len(scope.Groups))
		for i, id := range scope.Groups {
			ids[i] = "'" + strconv.FormatInt(id, 10) + "'"
		}
		where := "indicators.scope = ''"
		if len(ids) > 0 {
			where += " OR EXISTS (SELECT 1 FROM indicator_groups WHERE indicator_groups.indicator = indicators.seq AND indicator_groups.group_id IN (" + strings.Join(ids, ",") + "))"
		}
		q = q.And(odata.Query{Where: where})
	}
	return readPage(ctx, s, list{table: "indicators", columns: indicatorRow, only: alive(scope.Now)}, q, scanIndicator)
}

// FileIndicators is indicator.Store's.
func (s *Store) FileIndicators(ctx context.Context, now time.Time) ([]indicator.Indicator, int64, error) {
	snapshot, err := s.read.BeginTx(ctx, &sql.TxOptions{Isolation: s.engine.snapshot, ReadOnly: true})
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read indicators: %w", err)
	}
	defer func() { _ = snapshot.Rollback() }() // nothing was written
	r := snapshotReader{ctx, snapshot}
	var version int64
	if err := r.row("SELECT version FROM indicator_state WHERE one = 1").Scan(&version); err != nil {
		return nil, 0, fmt.Errorf("cannot read indicators: %w", err)
	}
	rows, err := r.query("SELECT seq, type, value, limited_to, action, generate_alert, expires FROM indicators WHERE type IN ($1, $2) AND "+alive(now)+" ORDER BY seq",
		indicator.FileSHA1, indicator.FileSHA256)
	all, err := collect(rows, err, scanFileIndicator)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot read indicators: %w", err)
	}
	return all, version, nil
}

// scanFileIndicator reads what a device's rules are made of: there may be a
// hundred thousand, read anew with every change.
func scanFileIndicator(scan func(...any) error) (in indicator.Indicator, err error) {
	var groups string
	var expires int64
	err = scan(&in.Seq, &in.Type, &in.Value, &groups, &in.Action, &in.GenerateAlert, &expires)
	if err == nil && groups != "null" && groups != "[]" {
		err = json.Unmarshal([]byte(groups), &in.Groups)
	}
	if expires > 0 {
		in.Expires = time.UnixMicro(expires).UTC()
	}
	return in, err
}

// IndicatorVersion is indicator.Store's.
func (s *Store) IndicatorVersion(ctx context.Context) (version int64, err error) {
	err = s.reader(ctx).row("SELECT version FROM indicator_state WHERE one = 1").Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("cannot read the version of the indicators: %w", err)
	}
	return version, nil
}
