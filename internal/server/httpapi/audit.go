// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"strconv"

	"staunch/api"
	"staunch/internal/server/audit"
)

// auditEntries lists the log from its beginning. The cursor is the index of the
// last entry seen, so that a reader that has come to the end can go on later.
func (h *Handler) auditEntries(ctx context.Context, q *request) (answer, error) {
	values, err := q.options()
	if err != nil {
		return answer{}, err
	}
	limit, err := q.limit(values, 100, 1000)
	if err != nil {
		return answer{}, err
	}
	after := int64(-1)
	if s := values.Get("after"); s != "" {
		if after, err = strconv.ParseInt(s, 10, 64); err != nil || after < -1 {
			return answer{}, api.Errorf(api.InvalidInput, "after must be the index of an entry")
		}
	}
	entries, err := h.cfg.Audit.AuditEntries(ctx, after, limit+1)
	if err != nil {
		return answer{}, err
	}
	more := len(entries) > limit
	page := api.Page[api.AuditEntry]{Value: []api.AuditEntry{}}
	for _, e := range entries[:min(limit, len(entries))] {
		shown, err := auditEntry(e)
		if err != nil {
			return answer{}, err
		}
		page.Value = append(page.Value, shown)
		after = e.Index
	}
	if more {
		page.NextLink = q.nextLink("after", strconv.FormatInt(after, 10))
	}
	return answer{body: page}, nil
}

func auditEntry(e audit.Entry) (api.AuditEntry, error) {
	leaf, err := audit.Leaf(e)
	if err != nil {
		return api.AuditEntry{}, err
	}
	return api.AuditEntry{
		Index: e.Index, Time: api.Time{Time: e.Time}, Actor: e.Actor, ActorID: e.ActorID, ActorKind: string(e.Kind),
		Operation: string(e.Operation), Target: e.Target, Outcome: e.Outcome, Detail: e.Detail, Leaf: string(leaf),
	}, nil
}

func (h *Handler) checkpoint(ctx context.Context, _ *request) (answer, error) {
	signed, err := h.cfg.Audit.Checkpoint(ctx)
	return answer{raw: signed, kind: "text/plain; charset=utf-8"}, err
}
