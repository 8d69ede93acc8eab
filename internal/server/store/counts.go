// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/stdlib"

	"staunch/internal/server/limit"
)

const (
	countConns = 4               // connections that count calls
	countTime  = 2 * time.Second // a count that takes longer is done without
	sweepCalls = 10              // rows that are over, taken away for each new one
)

// openCounts opens the pool that counts calls over all replicas; nil where there
// is but one process. It is no business of the writer's: a count needs neither the
// order of changes nor the disk.
func (e engine) openCounts() *sql.DB {
	if e.config == nil {
		return nil
	}
	config := e.config.Copy()
	config.RuntimeParams["synchronous_commit"] = "off"
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(countConns)
	db.SetMaxIdleConns(countConns)
	return db
}

// Counts is where the replicas on this database count calls together; nil when
// it is the one process's own.
func (s *Store) Counts() limit.Counts {
	if s.counts == nil {
		return nil
	}
	return counts{s.counts}
}

type counts struct{ db *sql.DB }

// LeaseCalls is limit.Counts's. Time is the database's, so that the windows of
// all replicas are the same.
func (c counts) LeaseCalls(ctx context.Context, key string, l limit.Limit, ask int, unused limit.Lease) (limit.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, countTime)
	defer cancel()
	lease, err := c.lease(ctx, key, l, ask, unused)
	if err != nil {
		return limit.Lease{}, fmt.Errorf("cannot count calls: %w", err)
	}
	return lease, nil
}

func (c counts) lease(ctx context.Context, key string, l limit.Limit, ask int, unused limit.Lease) (limit.Lease, error) {
	t, err := c.db.BeginTx(ctx, nil)
	if err != nil {
		return limit.Lease{}, err
	}
	defer func() { _ = t.Rollback() }() // after a commit there is nothing to undo
	w, now, err := readWindows(ctx, t, key)
	if errors.Is(err, sql.ErrNoRows) {
		if err := makeWindows(ctx, t, key); err != nil {
			return limit.Lease{}, err
		}
		w, now, err = readWindows(ctx, t, key)
	}
	if err != nil {
		return limit.Lease{}, err
	}
	lease := w.Lease(now, l, ask, unused)
	if _, err := t.ExecContext(ctx, "UPDATE call_counts SET minute = $2, minute_used = $3, hour = $4, hour_used = $5 WHERE name = $1",
		key, w.Minute, w.MinuteUsed, w.Hour, w.HourUsed); err != nil {
		return limit.Lease{}, err
	}
	return lease, t.Commit()
}

func readWindows(ctx context.Context, t *sql.Tx, key string) (w limit.Windows, now int64, err error) {
	err = t.QueryRowContext(ctx, `SELECT minute, minute_used, hour, hour_used, CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)
		FROM call_counts WHERE name = $1 FOR UPDATE`, key).Scan(&w.Minute, &w.MinuteUsed, &w.Hour, &w.HourUsed, &now)
	return w, now, err
}

// makeWindows makes a row, and takes some away that count nothing any more.
func makeWindows(ctx context.Context, t *sql.Tx, key string) error {
	if _, err := t.ExecContext(ctx, "INSERT INTO call_counts (name, minute, minute_used, hour, hour_used) VALUES ($1, 0, 0, 0, 0) ON CONFLICT DO NOTHING", key); err != nil {
		return err
	}
	_, err := t.ExecContext(ctx, `DELETE FROM call_counts WHERE name IN (SELECT name FROM call_counts
		WHERE hour > 0 AND hour < CAST(extract(epoch FROM clock_timestamp() - interval '2 hours') * 1000000 AS BIGINT) LIMIT $1 FOR UPDATE SKIP LOCKED)`, sweepCalls)
	return err
}
