// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/issuer"
)

const selectGrant = "SELECT digest, kind, family, data, expires, used FROM grants WHERE digest = $1"

// sweepGrants is how many grants that are past their date one new grant takes
// away: more than one, so that they become fewer.
const sweepGrants = 10

func insertGrant(t *tx, g issuer.Grant) error {
	if err := checkTexts(text{"grant", g.Digest, maxName}, text{"kind of grant", g.Kind, maxName}, text{"family of grant", g.Family, maxName}, text{"grant data", string(g.Data), maxText}); err != nil {
		return err
	}
	if err := t.exec("DELETE FROM grants WHERE digest IN (SELECT digest FROM grants WHERE expires < $1 LIMIT $2)", micros(t.now()), int64(sweepGrants)); err != nil {
		return fmt.Errorf("cannot sweep grants: %w", err)
	}
	made, err := t.execCount("INSERT INTO grants (digest, kind, family, data, expires, used) VALUES ($1,$2,$3,$4,$5,$6) ON CONFLICT DO NOTHING",
		g.Digest, g.Kind, g.Family, string(g.Data), micros(g.Expires), micros(g.Used))
	switch {
	case err != nil:
		return fmt.Errorf("cannot keep grant: %w", err)
	case made == 0:
		return api.Errorf(api.ActiveRequestAlreadyExists, "This grant is there already")
	}
	return nil
}

// PutGrants is issuer.Store's.
func (s *Store) PutGrants(ctx context.Context, grants ...issuer.Grant) error {
	return s.change(ctx, func(t *tx) error {
		for _, g := range grants {
			if err := insertGrant(t, g); err != nil {
				return err
			}
		}
		return nil
	})
}

func readGrant(q querier, digest string) (g issuer.Grant, err error) {
	err = sql.ErrNoRows
	if storable(digest) {
		var data string
		err = q.row(selectGrant, digest).Scan(&g.Digest, &g.Kind, &g.Family, &data, scanMicros{&g.Expires}, scanMicros{&g.Used})
		g.Data = []byte(data)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return issuer.Grant{}, api.Errorf(api.ResourceNotFound, "There is no such grant")
	case err != nil:
		return issuer.Grant{}, fmt.Errorf("cannot read grant: %w", err)
	}
	return g, nil
}

// Grant is issuer.Store's.
func (s *Store) Grant(ctx context.Context, digest string) (issuer.Grant, error) {
	return readGrant(s.reader(ctx), digest)
}

// ChangeGrant is issuer.Store's.
func (s *Store) ChangeGrant(ctx context.Context, digest string, change func(*issuer.Grant) (*issuer.Grant, error)) error {
	return s.change(ctx, func(t *tx) error {
		g, err := readGrant(t, digest)
		if err != nil {
			return err
		}
		next, err := change(&g)
		if err != nil {
			return err
		}
		if err := t.exec("UPDATE grants SET data = $2, expires = $3, used = $4 WHERE digest = $1", digest, string(g.Data), micros(g.Expires), micros(g.Used)); err != nil {
			return fmt.Errorf("cannot keep grant: %w", err)
		}
		if next == nil {
			return nil
		}
		return insertGrant(t, *next)
	})
}

// DropGrants is issuer.Store's.
func (s *Store) DropGrants(ctx context.Context, family string) error {
	return s.change(ctx, func(t *tx) error { return t.exec("DELETE FROM grants WHERE family = $1", family) })
}

// ChangeApp is issuer.Store's. An app's id and when it was made never change.
func (s *Store) ChangeApp(ctx context.Context, id string, change func(*issuer.App) (audit.Entry, error)) (a issuer.App, err error) {
	err = s.change(ctx, func(t *tx) error {
		if a, err = readApp(t, id); err != nil {
			return err
		}
		e, err := change(&a)
		if err != nil {
			return err
		}
		args, err := appArgs(a)
		if err != nil {
			return err
		}
		if err := t.exec(`UPDATE apps SET name = $2, permissions = $3, secrets = $4, disabled = $5, delegated = $6, redirect_uris = $7,
			certificates = $8, public = $9, reach = $10 WHERE id = $1`, append([]any{id}, args...)...); err != nil {
			return fmt.Errorf("cannot keep app %s: %w", id, err)
		}
		return t.record(&e)
	})
	if err != nil {
		return issuer.App{}, err
	}
	return a, nil
}
