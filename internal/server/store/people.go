// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/people"
)

var _ people.Store = (*Store)(nil)

// maxPeople bounds the lists of users, groups and roles.
const maxPeople = 10_000

const selectUser = "SELECT id, upn, name, password, totp, totp_step, disabled, created, since, issuer, subject FROM users "

func scanUser(scan func(...any) error) (u people.User, err error) {
	err = scan(&u.ID, &u.UPN, &u.Name, &u.Password, &u.TOTP, &u.Step, &u.Disabled, scanMicros{&u.Created}, scanMicros{&u.Since}, &u.Issuer, &u.Subject)
	if len(u.TOTP) == 0 {
		u.TOTP = nil
	}
	return u, err
}

// blob is bytes that may be NULL.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// fold is how names of people's things are compared: in any case, also beyond A to Z.
func fold(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

func nameTaken(what, name string) error {
	return api.Errorf(api.InvalidInput, "A %s named %q exists already: choose another name", what, name)
}

func absent(what, name string) error {
	return api.Errorf(api.ResourceNotFound, "%s %.128q was not found", what, name)
}

// CreateUser is people.Store's.
func (s *Store) CreateUser(ctx context.Context, u people.User, e audit.Entry) error {
	if err := checkTexts(text{"user id", u.ID, maxName}, text{"user name", u.UPN, maxName}, text{"display name", u.Name, maxName}, text{"password digest", u.Password, maxName},
		text{"issuer", u.Issuer, maxName}, text{"subject", u.Subject, maxName}); err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		var n int64
		if err := t.row("SELECT count(*) FROM users").Scan(&n); err != nil {
			return fmt.Errorf("cannot count users: %w", err)
		}
		if n >= maxPeople {
			return api.Errorf(api.InvalidInput, "There are %d users, which is the most that this server keeps: delete some, or use another identity provider", n)
		}
		made, err := t.execCount("INSERT INTO users (id, upn, name, password, totp, totp_step, disabled, created, since, issuer, subject) VALUES ($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11) ON CONFLICT DO NOTHING",
			u.ID, fold(u.UPN), u.Name, u.Password, blob(u.TOTP), u.Step, u.Disabled, micros(u.Created), micros(u.Since), u.Issuer, u.Subject)
		switch {
		case err != nil:
			return fmt.Errorf("cannot keep user %s: %w", u.UPN, err)
		case made == 0 && u.Issuer != "":
			return api.Errorf(api.InvalidInput, "A user named %q exists already, or another one is tied to that subject of the issuer: choose another name, or delete that user first", u.UPN)
		case made == 0:
			return nameTaken("user", u.UPN)
		}
		return t.record(&e)
	})
}

func readUser(q querier, id string) (people.User, error) {
	err := error(sql.ErrNoRows)
	var u people.User
	if storable(id) {
		u, err = scanUser(q.row(selectUser+"WHERE id = $1 OR upn = $1", fold(id)).Scan)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return people.User{}, absent("User", id)
	case err != nil:
		return people.User{}, fmt.Errorf("cannot read user %s: %w", id, err)
	}
	return u, nil
}

// User is people.Store's.
func (s *Store) User(ctx context.Context, id string) (people.User, error) {
	u, err := readUser(s.reader(ctx), id)
	if err != nil {
		return people.User{}, err
	}
	rows, err := s.reader(ctx).query("SELECT g.name FROM group_members m JOIN user_groups g ON g.seq = m.user_group WHERE m.user_id = $1 ORDER BY g.folded", u.ID)
	if u.Groups, err = collect(rows, err, scanString); err != nil {
		return people.User{}, fmt.Errorf("cannot read the groups of user %s: %w", u.UPN, err)
	}
	return u, nil
}

// UserOf is people.Store's.
func (s *Store) UserOf(ctx context.Context, issuer, subject string) (people.User, error) {
	err := error(sql.ErrNoRows)
	var u people.User
	if issuer != "" && storable(issuer) && storable(subject) {
		u, err = scanUser(s.reader(ctx).row(selectUser+"WHERE issuer <> '' AND issuer = $1 AND subject = $2", issuer, subject).Scan)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return people.User{}, absent("User", subject)
	case err != nil:
		return people.User{}, fmt.Errorf("cannot read user %s: %w", subject, err)
	}
	return u, nil
}

// Users is people.Store's, by UPN.
func (s *Store) Users(ctx context.Context) ([]people.User, error) {
	rows, err := s.reader(ctx).query(selectUser+"ORDER BY upn LIMIT $1", maxPeople)
	users, err := collect(rows, err, scanUser)
	if err != nil {
		return nil, fmt.Errorf("cannot list users: %w", err)
	}
	groups, err := s.pairs(ctx, "SELECT m.user_id, g.name FROM group_members m JOIN user_groups g ON g.seq = m.user_group ORDER BY g.folded")
	if err != nil {
		return nil, fmt.Errorf("cannot list users: %w", err)
	}
	for i := range users {
		users[i].Groups = append([]string{}, groups[users[i].ID]...)
	}
	return users, nil
}

// pairs reads rows of two texts as lists of the second by the first.
func (s *Store) pairs(ctx context.Context, text string) (map[string][]string, error) {
	type pair struct{ key, value string }
	rows, err := s.reader(ctx).query(text)
	all, err := collect(rows, err, func(scan func(...any) error) (p pair, err error) { return p, scan(&p.key, &p.value) })
	if err != nil {
		return nil, err
	}
	byKey := map[string][]string{}
	for _, p := range all {
		byKey[p.key] = append(byKey[p.key], p.value)
	}
	return byKey, nil
}

// ChangeUser is people.Store's. A user's id and UPN never change.
func (s *Store) ChangeUser(ctx context.Context, id string, change func(*people.User) (*audit.Entry, error)) (u people.User, err error) {
	err = s.change(ctx, func(t *tx) error {
		if u, err = readUser(t, id); err != nil {
			return err
		}
		was := u
		e, err := change(&u)
		if err != nil {
			return err
		}
		if u.ID != was.ID || u.UPN != was.UPN {
			return fmt.Errorf("cannot change user %s: id and name are fixed", was.UPN)
		}
		if err := checkTexts(text{"display name", u.Name, maxName}, text{"password digest", u.Password, maxName}); err != nil {
			return err
		}
		instants(&u.Since)
		if err := t.exec("UPDATE users SET name = $2, password = $3, totp = $4, totp_step = $5, disabled = $6, since = $7 WHERE id = $1",
			u.ID, u.Name, u.Password, blob(u.TOTP), u.Step, u.Disabled, micros(u.Since)); err != nil {
			return fmt.Errorf("cannot keep user %s: %w", u.UPN, err)
		}
		if e == nil {
			return nil
		}
		return t.record(e)
	})
	if err != nil {
		return people.User{}, err
	}
	return u, nil
}

// DeleteUser is people.Store's.
func (s *Store) DeleteUser(ctx context.Context, id string, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		u, err := readUser(t, id)
		if err != nil {
			return err
		}
		for _, text := range []string{"DELETE FROM group_members WHERE user_id = $1", "DELETE FROM users WHERE id = $1"} {
			if err := t.exec(text, u.ID); err != nil {
				return fmt.Errorf("cannot delete user %s: %w", u.UPN, err)
			}
		}
		return t.record(&e)
	})
}

// Access is people.Store's.
func (s *Store) Access(ctx context.Context, userID, issuer string, external []string) (groups []auth.UserGroup, deviceGroups []auth.DeviceGroup, err error) {
	snapshot, err := s.read.BeginTx(ctx, &sql.TxOptions{Isolation: s.engine.snapshot, ReadOnly: true})
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read access: %w", err)
	}
	defer func() { _ = snapshot.Rollback() }() // nothing was written
	r := snapshotReader{ctx, snapshot}
	rows, err := r.query(`SELECT m.user_group, r.rights FROM group_members m JOIN role_groups rg ON rg.user_group = m.user_group JOIN roles r ON r.seq = rg.role
		WHERE m.user_id = $1 ORDER BY m.user_group`, userID)
	if groups, err = collect(rows, err, scanUserGroup); err != nil {
		return nil, nil, fmt.Errorf("cannot read access: %w", err)
	}
	more, err := externalGroups(r, issuer, external)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read access: %w", err)
	}
	groups = append(groups, more...)
	rows, err = r.query("SELECT seq FROM device_groups ORDER BY seq")
	ids, err := collect(rows, err, scanInt)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read access: %w", err)
	}
	to := map[int64][]int64{}
	rows, err = r.query("SELECT device_group, user_group FROM device_group_access")
	access, err := collect(rows, err, func(scan func(...any) error) (p [2]int64, err error) { return p, scan(&p[0], &p[1]) })
	if err != nil {
		return nil, nil, fmt.Errorf("cannot read access: %w", err)
	}
	for _, p := range access {
		to[p[0]] = append(to[p[0]], p[1])
	}
	for _, id := range append(ids, auth.Ungrouped) {
		deviceGroups = append(deviceGroups, auth.DeviceGroup{ID: id, Open: len(to[id]) == 0, To: to[id]})
	}
	return groups, deviceGroups, nil
}

// externalGroups are the groups that stand for those of an issuer outside.
func externalGroups(q querier, issuer string, external []string) ([]auth.UserGroup, error) {
	if issuer == "" || len(external) == 0 || !storable(issuer) {
		return nil, nil
	}
	type row struct {
		auth.UserGroup
		external string
	}
	rows, err := q.query(`SELECT g.seq, r.rights, g.external FROM user_groups g JOIN role_groups rg ON rg.user_group = g.seq JOIN roles r ON r.seq = rg.role
		WHERE g.issuer <> '' AND g.issuer = $1 ORDER BY g.seq`, issuer)
	all, err := collect(rows, err, func(scan func(...any) error) (g row, err error) {
		return g, scan(&g.ID, scanJSON{&g.Rights}, &g.external)
	})
	if err != nil {
		return nil, err
	}
	var groups []auth.UserGroup
	for _, g := range all {
		if slices.Contains(external, g.external) {
			groups = append(groups, g.UserGroup)
		}
	}
	return groups, nil
}

// scanUserGroup reads one role of one group: a group with several roles comes
// several times, which is the same to auth.AccessOf.
func scanUserGroup(scan func(...any) error) (g auth.UserGroup, err error) {
	return g, scan(&g.ID, scanJSON{&g.Rights})
}

func scanInt(scan func(...any) error) (n int64, err error) { return n, scan(&n) }
