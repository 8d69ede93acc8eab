// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/server/device"
	"staunch/internal/server/file"
	"staunch/internal/server/odata"
)

var _ file.Store = (*Store)(nil)

// PutSightings is file.Store's.
func (s *Store) PutSightings(ctx context.Context, device string, files []file.Sighting, old time.Time, most int) error {
	return s.change(ctx, func(t *tx) error {
		for _, f := range files {
			if err := checkTexts(text{"device id", device, maxName}, text{"path", f.Path, maxText}, text{"file name", f.Name, maxText}); err != nil {
				return err
			}
			executed := int64(0)
			if f.Executed {
				executed = f.Seen.UnixMicro()
			}
			// The path is that of the latest; the times only widen.
			err := t.exec(`INSERT INTO sightings (device, sha256, sha1, size, path, name, first_seen, last_seen, executed) VALUES ($1,$2,$3,$4,$5,$6,$7,$7,$8)
				ON CONFLICT (device, sha256) DO UPDATE SET
				path = CASE WHEN excluded.last_seen >= sightings.last_seen THEN excluded.path ELSE sightings.path END,
				name = CASE WHEN excluded.last_seen >= sightings.last_seen THEN excluded.name ELSE sightings.name END,
				first_seen = CASE WHEN excluded.first_seen < sightings.first_seen THEN excluded.first_seen ELSE sightings.first_seen END,
				last_seen = CASE WHEN excluded.last_seen > sightings.last_seen THEN excluded.last_seen ELSE sightings.last_seen END,
				executed = CASE WHEN excluded.executed > sightings.executed THEN excluded.executed ELSE sightings.executed END`,
				device, f.Sum.SHA256.String(), f.Sum.SHA1.String(), f.Sum.Size, f.Path, f.Name, f.Seen.UnixMicro(), executed)
			if err != nil {
				return fmt.Errorf("cannot keep sighting: %w", err)
			}
		}
		return pruneSightings(t, device, old, most)
	})
}

func pruneSightings(t *tx, device string, old time.Time, most int) error {
	if err := t.exec("DELETE FROM sightings WHERE device = $1 AND last_seen < $2", device, old.UnixMicro()); err != nil {
		return fmt.Errorf("cannot drop old sightings: %w", err)
	}
	// What lies at place most, newest first, and all before it in time has to go.
	err := t.exec(`DELETE FROM sightings WHERE device = $1 AND last_seen <=
		(SELECT last_seen FROM sightings WHERE device = $1 ORDER BY last_seen DESC LIMIT 1 OFFSET $2)`, device, most)
	if err != nil {
		return fmt.Errorf("cannot drop sightings: %w", err)
	}
	return nil
}

// ofContent is the condition that a sighting is of the content; $1 and on.
func ofContent(h filehash.Hash) (where string, args []any) {
	var terms []string
	if !h.SHA1.IsZero() {
		args = append(args, h.SHA1.String())
		terms = append(terms, fmt.Sprintf("sightings.sha1 = $%d", len(args)))
	}
	if !h.SHA256.IsZero() {
		args = append(args, h.SHA256.String())
		terms = append(terms, fmt.Sprintf("sightings.sha256 = $%d", len(args)))
	}
	return strings.Join(terms, " AND "), args
}

// File is file.Store's.
func (s *Store) File(ctx context.Context, h filehash.Hash, scope file.Scope) (k file.Known, ok bool, err error) {
	where, args := ofContent(h)
	if !scope.Since.IsZero() {
		args = append(args, scope.Since.UnixMicro())
		where += fmt.Sprintf(" AND sightings.last_seen >= $%d", len(args))
	}
	if scope.Groups != nil {
		where += " AND " + onDevicesOf("sightings.device", scope.Groups)
	}
	r := s.reader(ctx)
	var sha1, sha256 sql.NullString
	var size, first, last sql.NullInt64
	err = r.row("SELECT count(*), max(sha1), max(sha256), max(size), min(first_seen), max(last_seen) FROM sightings WHERE "+where, args...).
		Scan(&k.Devices, &sha1, &sha256, &size, &first, &last)
	if err != nil {
		return k, false, fmt.Errorf("cannot read sightings: %w", err)
	}
	if k.Devices == 0 {
		return k, false, nil
	}
	k.Sum.Size, k.First, k.Last = size.Int64, time.UnixMicro(first.Int64).UTC(), time.UnixMicro(last.Int64).UTC()
	if err := k.Sum.SHA1.UnmarshalText([]byte(sha1.String)); err != nil {
		return k, false, fmt.Errorf("cannot read sightings: %w", err)
	}
	if err := k.Sum.SHA256.UnmarshalText([]byte(sha256.String)); err != nil {
		return k, false, fmt.Errorf("cannot read sightings: %w", err)
	}
	rows, err := r.query("SELECT name FROM sightings WHERE name <> '' AND "+where+" GROUP BY name ORDER BY count(*) DESC, name LIMIT 5", args...)
	k.Names, err = collect(rows, err, func(scan func(...any) error) (n string, err error) { return n, scan(&n) })
	if err != nil {
		return k, false, fmt.Errorf("cannot read the names of a file: %w", err)
	}
	return k, true, nil
}

// Observed is file.Store's.
func (s *Store) Observed(ctx context.Context, device string, h filehash.Hash, since time.Time) (ok bool, err error) {
	where, args := ofContent(h)
	args = append(args, device, since.UnixMicro())
	err = s.reader(ctx).row(fmt.Sprintf("SELECT EXISTS (SELECT 1 FROM sightings WHERE %s AND device = $%d AND last_seen >= $%d)", where, len(args)-1, len(args)), args...).Scan(&ok)
	if err != nil {
		return false, fmt.Errorf("cannot read sightings: %w", err)
	}
	return ok, nil
}

// DevicesWith is file.Store's.
func (s *Store) DevicesWith(ctx context.Context, h filehash.Hash, since time.Time, q odata.Query) ([]device.Device, int64, error) {
	where, args := ofContent(h)
	args = append(args, since.UnixMicro())
	with := fmt.Sprintf("devices.id IN (SELECT sightings.device FROM sightings WHERE %s AND sightings.last_seen >= $%d)", where, len(args))
	return s.Devices(ctx, q.And(odata.Query{Where: with, Args: args}))
}
