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

	reach func(groups []int64) string // the condition of q.Groups; nil: the table is not about devices
}

// page compiles q into the SELECT of one page, newest first where it does not
// say otherwise. Ties are broken by seq, so that pages by $skip never overlap;
// in the direction of the last term, so that an index on (column, seq) serves both.
func (l list) page(q odata.Query) (string, []any) {
	var b strings.Builder
	fmt.Fprintf(&b, "SELECT %s FROM %s%s ORDER BY ", l.columns, l.table, l.where(q))
	direction := " DESC"
	for _, o := range q.Order {
		b.WriteString(o.Column + term(o) + ", ")
		direction = " ASC"
		if o.Desc {
			direction = " DESC"
		}
	}
	args := append(slices.Clip(q.Args), int64(within(q.Top)), int64(max(q.Skip, 0)))
	fmt.Fprintf(&b, "%s.seq%s LIMIT $%d OFFSET $%d", l.table, direction, len(args)-1, len(args))
	return b.String(), args
}

// term is the direction of one ORDER BY term. OData has null before everything
// else; a plain column is never null, and without saying so PostgreSQL can use its index.
func term(o odata.Order) string {
	mayBeNull := strings.Contains(strings.ToLower(o.Column), "null")
	switch {
	case o.Desc && mayBeNull:
		return " DESC NULLS LAST"
	case o.Desc:
		return " DESC"
	case mayBeNull:
		return " ASC NULLS FIRST"
	}
	return " ASC"
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
	for _, arg := range q.Args {
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
	text, args := l.page(q)
	rows, err := r.query(text, args...)
	page, err := collect(rows, err, scan)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot list %s: %w", l.table, err)
	}
	return page, count, nil
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
