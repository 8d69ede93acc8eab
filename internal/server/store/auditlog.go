// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"staunch/api"
	"staunch/internal/server/audit"
)

// countLines reads the primary key's end, not the table.
func countLines(q querier) (int64, error) {
	var last sql.NullInt64
	if err := q.row("SELECT max(line) FROM audit_lines").Scan(&last); err != nil {
		return 0, fmt.Errorf("cannot count the lines of the audit log: %w", err)
	}
	if !last.Valid {
		return 0, nil
	}
	return last.Int64 + 1, nil
}

// hashReader reads stored hashes for tlog.
type hashReader struct{ q querier }

// ReadHashes is tlog's: the stored hashes with those indexes, in that order.
func (r hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		line, place := audit.HashIndex(index)
		var stored []byte
		if err := r.q.row("SELECT hashes FROM audit_lines WHERE line = $1", line).Scan(&stored); err != nil {
			return nil, fmt.Errorf("cannot read the hashes of line %d: %w", line, err)
		}
		if len(stored) < (place+1)*tlog.HashSize {
			return nil, &audit.Fault{Line: line, Reason: "hashes that were stored with it are missing"}
		}
		copy(hashes[i][:], stored[place*tlog.HashSize:])
	}
	return hashes, nil
}

// AuditEntries returns up to limit entries with an index greater than after, by
// index. after −1 begins at the first.
func (s *Store) AuditEntries(ctx context.Context, after int64, limit int) ([]audit.Entry, error) {
	rows, err := s.reader(ctx).query("SELECT line, leaf FROM audit_lines WHERE line > $1 ORDER BY line LIMIT $2", after, within(limit))
	return collect(rows, err, func(scan func(...any) error) (e audit.Entry, err error) {
		var line int64
		var leaf []byte
		if err := scan(&line, &leaf); err != nil {
			return e, err
		}
		if e, err = audit.ParseLeaf(leaf); err != nil {
			return e, &audit.Fault{Line: line, Reason: "it cannot be read: " + err.Error()}
		}
		return e, nil
	})
}

// auditLines streams the log with its stored hashes, from the first line.
func auditLines(q querier) iter.Seq2[audit.Line, error] {
	return func(yield func(audit.Line, error) bool) {
		rows, err := q.query("SELECT line, leaf, hashes FROM audit_lines ORDER BY line")
		if err != nil {
			yield(audit.Line{}, err)
			return
		}
		defer func() { _ = rows.Close() }() // rows.Err has what matters
		for rows.Next() {
			var l audit.Line
			var hashes []byte
			if err = rows.Scan(&l.Index, &l.Leaf, &hashes); err == nil {
				l.Hashes, err = splitHashes(hashes)
			}
			if err != nil {
				err = &audit.Fault{Line: l.Index, Reason: err.Error()}
			}
			if !yield(l, err) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(audit.Line{}, err)
		}
	}
}

// VerifyAudit verifies the whole log against its stored hashes, the checkpoints
// kept beside it, and those given: signed checkpoints from elsewhere, which are
// what can show that the end was cut off together with its checkpoints. The
// error is an *audit.Fault when the log is broken.
func (s *Store) VerifyAudit(ctx context.Context, key note.Verifier, elsewhere ...[]byte) (audit.Report, error) {
	// One snapshot: the log grows meanwhile.
	snapshot, err := s.read.BeginTx(ctx, &sql.TxOptions{Isolation: s.engine.snapshot, ReadOnly: true})
	if err != nil {
		return audit.Report{}, fmt.Errorf("cannot read the audit log: %w", err)
	}
	defer func() { _ = snapshot.Rollback() }() // nothing was written
	q := snapshotReader{ctx, snapshot}
	rows, err := q.query("SELECT note FROM audit_checkpoints ORDER BY lines")
	kept, err := collect(rows, err, func(scan func(...any) error) (b []byte, err error) { return b, scan(&b) })
	if err != nil {
		return audit.Report{}, fmt.Errorf("cannot read the audit log's checkpoints: %w", err)
	}
	var checkpoints []audit.Checkpoint
	for _, signed := range append(kept, elsewhere...) {
		c, err := audit.OpenCheckpoint(signed, key)
		if err != nil {
			return audit.Report{}, err
		}
		checkpoints = append(checkpoints, c)
	}
	return audit.Verify(auditLines(q), checkpoints)
}

type snapshotReader struct {
	ctx context.Context
	tx  *sql.Tx
}

func (r snapshotReader) query(text string, args ...any) (*sql.Rows, error) {
	return r.tx.QueryContext(r.ctx, text, args...)
}

func (r snapshotReader) row(text string, args ...any) *sql.Row {
	return r.tx.QueryRowContext(r.ctx, text, args...)
}

// Checkpoint returns a signed checkpoint that covers every line that was
// answered before the call.
func (s *Store) Checkpoint(ctx context.Context) ([]byte, error) {
	signed, err := s.kept(ctx)
	if err != nil || signed != nil {
		return signed, err
	}
	err = s.change(ctx, func(t *tx) (err error) {
		signed, err = s.sign(t)
		return err
	})
	return signed, err
}

// kept returns the kept checkpoint if it covers all lines, else nil.
func (s *Store) kept(ctx context.Context) ([]byte, error) {
	var signed []byte
	row := s.reader(ctx).row(`SELECT note FROM audit_checkpoints
		WHERE lines = (SELECT coalesce(max(line) + 1, 0) FROM audit_lines)`)
	if err := row.Scan(&signed); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("cannot read the audit checkpoint: %w", err)
	}
	return signed, nil
}

// checkpointsPer is how many lines share one kept checkpoint, but for the newest.
const checkpointsPer = 1024

// sign signs the lines that were committed before t, never those of its own
// batch: a signature must not get out for lines that then are not kept.
func (s *Store) sign(t *tx) ([]byte, error) {
	signed, err := audit.Sign(t.base, s.signer)
	if err != nil {
		return nil, err
	}
	lines := t.base.Size()
	if err := t.exec("INSERT INTO audit_checkpoints (lines, note) VALUES ($1, $2) ON CONFLICT (lines) DO NOTHING", lines, string(signed)); err != nil {
		return nil, err
	}
	from := (lines - 1) / checkpointsPer * checkpointsPer
	return signed, t.exec("DELETE FROM audit_checkpoints WHERE lines > $1 AND lines < $2", from, lines)
}

// signEvery is the shortest time between two checkpoints that nobody asked for.
const signEvery = time.Second

// signCheckpoints signs what was appended, soon after, and what is left when
// life ends.
func (s *Store) signCheckpoints(life context.Context) {
	defer close(s.signed)
	sign := func() {
		// Not life: what is under way is finished.
		if _, err := s.Checkpoint(context.WithoutCancel(life)); err != nil {
			s.log.Error("cannot sign audit checkpoint", "error", err)
		}
	}
	for {
		select {
		case <-s.writer.stale:
			sign()
		case <-life.Done():
			select {
			case <-s.writer.stale:
				sign()
			default:
			}
			return
		}
		select {
		case <-time.After(signEvery):
		case <-life.Done():
		}
	}
}

// InclusionProof proves that line index is in the log of the first size lines;
// audit.CheckInclusion checks it.
func (s *Store) InclusionProof(ctx context.Context, index, size int64) (tlog.RecordProof, error) {
	q := s.reader(ctx)
	if err := checkSize(q, size); err != nil {
		return nil, err
	}
	if index < 0 || index >= size {
		return nil, api.Errorf(api.InvalidInput, "index %d is not one of the first %d lines", index, size)
	}
	return tlog.ProveRecord(size, index, hashReader{q})
}

// ConsistencyProof proves that the log of size lines begins with the one of
// older lines; audit.CheckConsistency checks it.
func (s *Store) ConsistencyProof(ctx context.Context, older, size int64) (tlog.TreeProof, error) {
	q := s.reader(ctx)
	if err := checkSize(q, size); err != nil {
		return nil, err
	}
	switch {
	case older < 0 || older > size:
		return nil, api.Errorf(api.InvalidInput, "a log of %d lines does not begin with one of %d", size, older)
	case older == 0:
		return nil, nil
	}
	return tlog.ProveTree(size, older, hashReader{q})
}

func checkSize(q querier, size int64) error {
	lines, err := countLines(q)
	if err == nil && (size < 1 || size > lines) {
		return api.Errorf(api.InvalidInput, "size %d is not a size of this log, which has %d lines", size, lines)
	}
	return err
}
