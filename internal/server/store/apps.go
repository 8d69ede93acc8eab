// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/issuer"
)

const selectApp = `SELECT id, name, permissions, secrets, created, disabled, coalesce(delegated, 'null'), coalesce(redirect_uris, 'null'),
	coalesce(certificates, 'null'), coalesce(public, false), coalesce(reach, '{}') FROM apps `

// maxApps bounds the list of apps.
const maxApps = 10_000

// secret is an app's secret as it is kept in JSON.
type secret struct {
	ID      string    `json:"id"`
	Digest  string    `json:"digest"` // hex of SHA-256
	Expires time.Time `json:"expires"`
}

func scanApp(scan func(...any) error) (a issuer.App, err error) {
	var secrets []secret
	if err := scan(&a.ID, &a.Name, scanJSON{&a.Permissions}, scanJSON{&secrets}, scanMicros{&a.Created}, &a.Disabled,
		scanJSON{&a.Delegated}, scanJSON{&a.RedirectURIs}, scanJSON{&a.Certificates}, &a.Public, scanJSON{&a.Reach}); err != nil {
		return a, err
	}
	for _, s := range secrets {
		kept := issuer.Secret{ID: s.ID, Expires: s.Expires}
		if n, err := hex.Decode(kept.Digest[:], []byte(s.Digest)); err != nil || n != len(kept.Digest) {
			return a, fmt.Errorf("the digest of secret %s is damaged", s.ID)
		}
		a.Secrets = append(a.Secrets, kept)
	}
	return a, nil
}

// appArgs are the columns that may change.
func appArgs(a issuer.App) ([]any, error) {
	if err := checkTexts(text{"app id", a.ID, maxName}, text{"app name", a.Name, maxName}); err != nil {
		return nil, err
	}
	kept := []secret{}
	for _, s := range a.Secrets {
		if err := checkTexts(text{"secret id", s.ID, maxName}); err != nil {
			return nil, err
		}
		kept = append(kept, secret{s.ID, hex.EncodeToString(s.Digest[:]), audit.Instant(s.Expires)})
	}
	args := []any{a.Name}
	for _, v := range []struct {
		field string
		value any
	}{{"permissions", a.Permissions}, {"secrets", kept}, {"", a.Disabled}, {"delegated permissions", a.Delegated}, {"redirect URIs", a.RedirectURIs}, {"certificates", a.Certificates}} {
		if v.field == "" {
			args = append(args, v.value)
			continue
		}
		encoded, err := toJSON(v.field, v.value)
		if err != nil {
			return nil, err
		}
		args = append(args, encoded)
	}
	reach, err := toJSON("reach", a.Reach)
	return append(args, a.Public, reach), err
}

// CreateApp is issuer.Store's.
func (s *Store) CreateApp(ctx context.Context, a issuer.App, e audit.Entry) error {
	args, err := appArgs(a)
	if err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		if err := freeAppName(t, a.Name); err != nil {
			return err
		}
		made, err := t.execCount(`INSERT INTO apps (id, created, name, permissions, secrets, disabled, delegated, redirect_uris, certificates, public, reach)
			VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11) ON CONFLICT DO NOTHING`, append([]any{a.ID, micros(a.Created)}, args...)...)
		switch {
		case err != nil:
			return fmt.Errorf("cannot keep app %s: %w", a.ID, err)
		case made == 0:
			return api.Errorf(api.InvalidInput, "The app %s is there already: its id is in use", a.ID)
		}
		return t.record(&e)
	})
}

// freeAppName refuses a name that another app has, in any case: it is what
// people read in requestor.
func freeAppName(t *tx, name string) error {
	rows, err := t.query("SELECT id, name FROM apps")
	apps, err := collect(rows, err, func(scan func(...any) error) (a issuer.App, err error) { return a, scan(&a.ID, &a.Name) })
	if err != nil {
		return fmt.Errorf("cannot list apps: %w", err)
	}
	if len(apps) >= maxApps {
		return api.Errorf(api.InvalidInput, "There are %d apps, which is the most that this server keeps", len(apps))
	}
	for _, other := range apps {
		if strings.EqualFold(other.Name, name) {
			return api.Errorf(api.InvalidInput, "An app named %q exists already (client id %s): choose another name", other.Name, other.ID)
		}
	}
	return nil
}

// App is issuer.Store's.
func (s *Store) App(ctx context.Context, id string) (issuer.App, error) {
	return readApp(s.reader(ctx), id)
}

func readApp(q querier, id string) (issuer.App, error) {
	err := error(sql.ErrNoRows)
	var a issuer.App
	if storable(id) {
		a, err = scanApp(q.row(selectApp+"WHERE id = $1", id).Scan)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return issuer.App{}, api.Errorf(api.ResourceNotFound, "App %.128q was not found", id)
	case err != nil:
		return issuer.App{}, fmt.Errorf("cannot read app %s: %w", id, err)
	}
	return a, nil
}

// Apps is issuer.Store's, the oldest first.
func (s *Store) Apps(ctx context.Context) ([]issuer.App, error) {
	rows, err := s.reader(ctx).query(selectApp+"ORDER BY seq LIMIT $1", maxApps)
	return collect(rows, err, scanApp)
}

// Setting returns the value of a setting and whether it was ever set.
func (s *Store) Setting(ctx context.Context, key string) (value string, ok bool, err error) {
	if !storable(key) {
		return "", false, nil
	}
	err = s.reader(ctx).row("SELECT value FROM settings WHERE name = $1", key).Scan(&value)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("cannot read setting %s: %w", key, err)
	}
	return value, true, nil
}

// SetSetting keeps a setting's value with its audit entry.
func (s *Store) SetSetting(ctx context.Context, key, value string, e audit.Entry) error {
	if err := checkTexts(text{"setting", key, maxName}, text{"value of setting " + key, value, maxText}); err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		if err := t.exec("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", key, value); err != nil {
			return fmt.Errorf("cannot keep setting %s: %w", key, err)
		}
		return t.record(&e)
	})
}
