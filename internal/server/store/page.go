// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/server/odata"
)

// maxRows bounds every list. It is one more than a page, so that a caller can
// see whether another page follows.
const maxRows = odata.MaxTop + 1

// within brings a limit into its bounds.
func within(limit int) int { return min(max(limit, 0), maxRows) }

// list is a table that can be paged through.
type list struct {
	table   string
	columns string // of the SELECT
	only    string // a condition that all of it fulfils, or ""
	newest  string // the column that says how new a row is; "": seq does

	reach func(groups []int64) string // the condition of q.Groups; nil: the table is not about devices
}

// page compiles q into the SELECT of one page, newest first where it does not
// say otherwise. Ties are broken by seq, so that pages never overlap; in the
// direction of the last term, so that an index on (column, seq) serves both.
//
// A page that goes on behind a place costs the same wherever it lies. One that
// skips rows has to count them: it does so on the index alone, where one has
// the order, and only then reads the rows that it shows.
//
// sparse has SQLite sort the rows of a range rather than walk past all others.
func (l list) page(q odata.Query, sparse bool) (string, []any) {
	order := l.order(q)
	args := slices.Clip(q.Args)
	where := l.where(q)
	if q.After != nil {
		var after string
		after, args = behind(order, q.After, args)
		where = joined(where, after)
	}
	args = append(args, int64(within(q.Top)))
	by := orderBy(order)
	if sparse {
		by = "+" + by // which no index has
	}
	tail := fmt.Sprintf(" ORDER BY %s LIMIT $%d", by, len(args))
	columns := l.columns
	if q.Mark != nil {
		for _, o := range order {
			columns += ", " + o.Column
		}
	}
	if q.After != nil || q.Skip <= 0 {
		return "SELECT " + columns + " FROM " + l.table + where + tail, args
	}
	args = append(args, int64(q.Skip))
	seq := l.table + ".seq"
	return fmt.Sprintf("SELECT %s FROM %s WHERE %s IN (SELECT %s FROM %s%s%s OFFSET $%d) ORDER BY %s",
		columns, l.table, seq, seq, l.table, where, tail, len(args), by), args
}

// order is the terms of q's order with the tie-breaker, which is the last.
func (l list) order(q odata.Query) []odata.Order {
	order := slices.Clip(q.Order)
	if len(order) == 0 && l.newest != "" {
		order = []odata.Order{{Column: l.newest, Type: odata.DateTime, Desc: true}}
	}
	desc := len(order) == 0 || order[len(order)-1].Desc
	return append(order, odata.Order{Column: l.table + ".seq", Type: odata.Number, Desc: desc})
}

func orderBy(order []odata.Order) string {
	terms := make([]string, len(order))
	for i, o := range order {
		terms[i] = o.Column + term(o)
	}
	return strings.Join(terms, ", ")
}

const (
	fewRows  = 2000 // and as many again as are wanted, are sorted sooner than a table is walked
	maxSpans = 4    // of one filter, are looked at
)

// sparse tells whether few rows lie in one of q's ranges, those of a property
// that is not the order's: what changed since the last look, mostly. SQLite
// would walk in the order of the list until the page is full, which such a page
// never is. PostgreSQL keeps statistics and chooses itself.
func (l list) sparse(r querier, e engine, q odata.Query) (bool, error) {
	if e.config != nil {
		return false, nil
	}
	most := int64(fewRows + within(q.Top))
	for _, span := range q.Spans[:min(len(q.Spans), maxSpans)] {
		if span.Column == l.order(q)[0].Column {
			continue
		}
		var n int64
		if err := r.row("SELECT count(*) FROM (SELECT 1 FROM "+l.table+" WHERE "+span.Cond+" LIMIT $1)", most).Scan(&n); err != nil {
			return false, err
		}
		if n < most {
			return true, nil
		}
	}
	return false, nil
}

// term is the direction of one ORDER BY term. OData has null before everything
// else; a plain column is never null, and without saying so PostgreSQL can use its index.
func term(o odata.Order) string {
	switch {
	case o.Desc && mayBeNull(o):
		return " DESC NULLS LAST"
	case o.Desc:
		return " DESC"
	case mayBeNull(o):
		return " ASC NULLS FIRST"
	}
	return " ASC"
}

func mayBeNull(o odata.Order) bool { return strings.Contains(strings.ToLower(o.Column), "null") }

// behind is the condition of lying behind a place in the order, the arguments
// of which it adds to args.
func behind(order []odata.Order, p *odata.Place, args []any) (string, []any) {
	keys := append(slices.Clip(p.Keys), p.Seq)
	var columns, values []string
	plain := true // one comparison of rows says it all, and an index takes it whole
	for i, o := range order {
		plain = plain && o.Desc == order[0].Desc && !mayBeNull(o)
		value := "NULL"
		if keys[i] != nil {
			args = append(args, keys[i])
			value = "$" + strconv.Itoa(len(args))
		}
		columns, values = append(columns, o.Column), append(values, value)
	}
	if plain {
		return "(" + strings.Join(columns, ", ") + ")" + follows(order[0]) + "(" + strings.Join(values, ", ") + ")", args
	}
	rest := ""
	for i, o := range slices.Backward(order) {
		var here, same string
		switch {
		case keys[i] == nil && o.Desc: // null is last
			here, same = "FALSE", o.Column+" IS NULL"
		case keys[i] == nil:
			here, same = o.Column+" IS NOT NULL", o.Column+" IS NULL"
		default:
			here, same = o.Column+follows(o)+values[i], o.Column+" = "+values[i]
			if o.Desc && mayBeNull(o) {
				here = "(" + here + " OR " + o.Column + " IS NULL)"
			}
		}
		if rest != "" {
			here = "(" + here + " OR (" + same + " AND " + rest + "))"
		}
		rest = here
	}
	return rest, args
}

func follows(o odata.Order) string {
	if o.Desc {
		return " < "
	}
	return " > "
}

func joined(where, term string) string {
	if where == "" {
		return " WHERE " + term
	}
	return where + " AND " + term
}

func (l list) where(q odata.Query) string {
	var terms []string
	if l.only != "" {
		terms = append(terms, l.only)
	}
	if q.Groups != nil && l.reach != nil {
		terms = append(terms, l.reach(q.Groups))
	}
	if q.Where != "" {
		terms = append(terms, "("+q.Where+")")
	}
	if len(terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(terms, " AND ")
}

// readPage reads a page and, when q asks for it, the count of all that match.
func readPage[T any](ctx context.Context, s *Store, l list, q odata.Query, scan func(func(...any) error) (T, error)) ([]T, int64, error) {
	given := q.Args
	if q.After != nil {
		order := l.order(q)
		if err := q.After.Fits(order[:len(order)-1]); err != nil {
			return nil, 0, err
		}
		given = slices.Concat(given, q.After.Keys)
	}
	for _, arg := range given {
		if v, ok := arg.(string); ok && !clean(v) {
			return nil, 0, api.Errorf(api.ODataError, "A value in $filter contains characters that no property has (NUL, or bytes that are not UTF-8)")
		}
	}
	// One snapshot, so that page and count agree.
	snapshot, err := s.read.BeginTx(ctx, &sql.TxOptions{Isolation: s.engine.snapshot, ReadOnly: true})
	if err != nil {
		return nil, 0, fmt.Errorf("cannot list %s: %w", l.table, err)
	}
	defer func() { _ = snapshot.Rollback() }() // nothing was written
	r := snapshotReader{ctx, snapshot}
	var count int64
	if q.Count {
		if err := r.row("SELECT count(*) FROM "+l.table+l.where(q), q.Args...).Scan(&count); err != nil {
			return nil, 0, fmt.Errorf("cannot count %s: %w", l.table, err)
		}
	}
	sparse, err := l.sparse(r, s.engine, q)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot list %s: %w", l.table, err)
	}
	text, args := l.page(q, sparse)
	rows, err := r.query(text, args...)
	page, err := collect(rows, err, marked(l, q, scan))
	if err != nil {
		return nil, 0, fmt.Errorf("cannot list %s: %w", l.table, err)
	}
	return page, count, nil
}

// marked scans rows as scan does, and takes the place of the one that q marks.
func marked[T any](l list, q odata.Query, scan func(func(...any) error) (T, error)) func(func(...any) error) (T, error) {
	if q.Mark == nil {
		return scan
	}
	order := l.order(q)
	row := 0
	return func(read func(...any) error) (T, error) {
		row++
		keys := make([]any, len(order))
		v, err := scan(func(into ...any) error {
			for i := range keys {
				into = append(into, &keys[i])
			}
			return read(into...)
		})
		if err == nil && row == q.Mark.Row {
			q.Mark.Place, err = place(order, keys)
		}
		return v, err
	}
}

func place(order []odata.Order, keys []any) (*odata.Place, error) {
	for i, o := range order {
		switch v := keys[i].(type) {
		case []byte:
			keys[i] = string(v)
		case int64:
			if o.Type == odata.Bool {
				keys[i] = v != 0
			}
		}
	}
	last := len(order) - 1
	seq, ok := keys[last].(int64)
	if !ok {
		return nil, fmt.Errorf("the row's number is a %T", keys[last])
	}
	return &odata.Place{Keys: keys[:last:last], Seq: seq}, nil
}

// conditions collects the terms of a WHERE and their arguments.
type conditions struct {
	terms []string
	args  []any
}

// add adds a term in which every ? stands for the argument.
func (c *conditions) add(term string, arg any) {
	c.args = append(c.args, arg)
	c.terms = append(c.terms, strings.ReplaceAll(term, "?", "$"+strconv.Itoa(len(c.args))))
}

func (c *conditions) where() string {
	if len(c.terms) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.terms, " AND ")
}
