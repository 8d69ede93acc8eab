// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/people"
)

// named finds the row of a name, in any case. table is one of this package's.
func named(q querier, table, what, name string) (seq int64, err error) {
	err = sql.ErrNoRows
	if storable(name) {
		err = q.row("SELECT seq FROM "+table+" WHERE folded = $1", fold(name)).Scan(&seq)
	}
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, absent(what, name)
	case err != nil:
		return 0, fmt.Errorf("cannot look up %s %s: %w", what, name, err)
	}
	return seq, nil
}

// room refuses one more row than a table may have.
func room(t *tx, table, what string, most int64) error {
	var n int64
	if err := t.row("SELECT count(*) FROM " + table).Scan(&n); err != nil {
		return fmt.Errorf("cannot count %ss: %w", what, err)
	}
	if n >= most {
		return api.Errorf(api.InvalidInput, "There are %d %ss, which is the most that this server keeps: delete some first", n, what)
	}
	return nil
}

// CreateGroup is people.Store's.
func (s *Store) CreateGroup(ctx context.Context, g people.Group, e audit.Entry) error {
	name := g.Name
	if err := checkTexts(text{"group name", name, maxName}, text{"group name", fold(name), maxName}, text{"issuer", g.Issuer, maxName}, text{"group of the issuer", g.External, maxName}); err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		if err := room(t, "user_groups", "group", maxPeople); err != nil {
			return err
		}
		made, err := t.execCount("INSERT INTO user_groups (name, folded, created, issuer, external) VALUES ($1,$2,$3,$4,$5) ON CONFLICT DO NOTHING",
			name, fold(name), micros(t.now()), g.Issuer, g.External)
		switch {
		case err != nil:
			return fmt.Errorf("cannot keep group %s: %w", name, err)
		case made == 0 && g.Issuer != "":
			return api.Errorf(api.InvalidInput, "A group named %q exists already, or another one stands for that group of the issuer: choose another name, or delete that group first", name)
		case made == 0:
			return nameTaken("group", name)
		}
		return t.record(&e)
	})
}

// Groups is people.Store's, by name.
func (s *Store) Groups(ctx context.Context) ([]people.Group, error) {
	rows, err := s.reader(ctx).query("SELECT seq, name, created, issuer, external FROM user_groups ORDER BY folded LIMIT $1", maxPeople)
	groups, err := collect(rows, err, func(scan func(...any) error) (g people.Group, err error) {
		return g, scan(&g.ID, &g.Name, scanMicros{&g.Created}, &g.Issuer, &g.External)
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list groups: %w", err)
	}
	members, err := s.pairs(ctx, "SELECT CAST(m.user_group AS TEXT), u.upn FROM group_members m JOIN users u ON u.id = m.user_id ORDER BY u.upn")
	if err != nil {
		return nil, fmt.Errorf("cannot list groups: %w", err)
	}
	for i, g := range groups {
		groups[i].Members = append([]string{}, members[strconv.FormatInt(g.ID, 10)]...)
	}
	return groups, nil
}

// SetMember is people.Store's. What is so already is no error, and on record.
func (s *Store) SetMember(ctx context.Context, group, user string, in bool, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		g, err := named(t, "user_groups", "Group", group)
		if err != nil {
			return err
		}
		u, err := readUser(t, user)
		if err != nil {
			return err
		}
		text := "DELETE FROM group_members WHERE user_group = $1 AND user_id = $2"
		if in {
			text = "INSERT INTO group_members (user_group, user_id) VALUES ($1,$2) ON CONFLICT DO NOTHING"
		}
		if err := t.exec(text, g, u.ID); err != nil {
			return fmt.Errorf("cannot change the members of group %s: %w", group, err)
		}
		return t.record(&e)
	})
}

// DeleteGroup is people.Store's.
func (s *Store) DeleteGroup(ctx context.Context, name string, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		g, err := named(t, "user_groups", "Group", name)
		if err != nil {
			return err
		}
		var limited int64
		if err := t.row("SELECT count(*) FROM device_group_access WHERE user_group = $1", g).Scan(&limited); err != nil {
			return fmt.Errorf("cannot delete group %s: %w", name, err)
		}
		if limited > 0 {
			return api.Errorf(api.InvalidInput, "Group %q has access to %d device groups, which would be open to everybody without it: change their access first", name, limited)
		}
		for _, text := range []string{
			"DELETE FROM group_members WHERE user_group = $1", "DELETE FROM role_groups WHERE user_group = $1", "DELETE FROM user_groups WHERE seq = $1",
		} {
			if err := t.exec(text, g); err != nil {
				return fmt.Errorf("cannot delete group %s: %w", name, err)
			}
		}
		return t.record(&e)
	})
}

// CreateRole is people.Store's.
func (s *Store) CreateRole(ctx context.Context, name string, rights []auth.Right, e audit.Entry) error {
	if err := checkTexts(text{"role name", name, maxName}, text{"role name", fold(name), maxName}); err != nil {
		return err
	}
	kept, err := toJSON("role permissions", rights)
	if err != nil {
		return err
	}
	return s.change(ctx, func(t *tx) error {
		if err := room(t, "roles", "role", maxPeople); err != nil {
			return err
		}
		made, err := t.execCount("INSERT INTO roles (name, folded, rights, created) VALUES ($1,$2,$3,$4) ON CONFLICT DO NOTHING", name, fold(name), kept, micros(t.now()))
		switch {
		case err != nil:
			return fmt.Errorf("cannot keep role %s: %w", name, err)
		case made == 0:
			return nameTaken("role", name)
		}
		return t.record(&e)
	})
}

// Roles is people.Store's, by name.
func (s *Store) Roles(ctx context.Context) ([]people.Role, error) {
	rows, err := s.reader(ctx).query("SELECT seq, name, rights, created FROM roles ORDER BY folded LIMIT $1", maxPeople)
	roles, err := collect(rows, err, func(scan func(...any) error) (r people.Role, err error) {
		return r, scan(&r.ID, &r.Name, scanJSON{&r.Rights}, scanMicros{&r.Created})
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list roles: %w", err)
	}
	groups, err := s.pairs(ctx, "SELECT CAST(rg.role AS TEXT), g.name FROM role_groups rg JOIN user_groups g ON g.seq = rg.user_group ORDER BY g.folded")
	if err != nil {
		return nil, fmt.Errorf("cannot list roles: %w", err)
	}
	for i, r := range roles {
		roles[i].Groups = append([]string{}, groups[strconv.FormatInt(r.ID, 10)]...)
	}
	return roles, nil
}

// SetRole is people.Store's.
func (s *Store) SetRole(ctx context.Context, role, group string, assigned bool, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		r, err := named(t, "roles", "Role", role)
		if err != nil {
			return err
		}
		g, err := named(t, "user_groups", "Group", group)
		if err != nil {
			return err
		}
		text := "DELETE FROM role_groups WHERE role = $1 AND user_group = $2"
		if assigned {
			text = "INSERT INTO role_groups (role, user_group) VALUES ($1,$2) ON CONFLICT DO NOTHING"
		}
		if err := t.exec(text, r, g); err != nil {
			return fmt.Errorf("cannot assign role %s: %w", role, err)
		}
		return t.record(&e)
	})
}

// DeleteRole is people.Store's.
func (s *Store) DeleteRole(ctx context.Context, name string, e audit.Entry) error {
	return s.change(ctx, func(t *tx) error {
		r, err := named(t, "roles", "Role", name)
		if err != nil {
			return err
		}
		for _, text := range []string{"DELETE FROM role_groups WHERE role = $1", "DELETE FROM roles WHERE seq = $1"} {
			if err := t.exec(text, r); err != nil {
				return fmt.Errorf("cannot delete role %s: %w", name, err)
			}
		}
		return t.record(&e)
	})
}
