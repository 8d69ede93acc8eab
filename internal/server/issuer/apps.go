// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// secretPrefix lets a secret that leaked be found by scanners, and never begins
// with a hyphen, which command lines take for an option.
const secretPrefix = "staunch_"

// maxName bounds an application's name, in characters.
const maxName = 120

// CreateApp registers an application and returns its client secret, which is
// kept nowhere; a public application has none. more is what else to make of it.
// Only an administrator may; refusals are recorded.
func (s *Service) CreateApp(ctx context.Context, c auth.Caller, name string, permissions []string, more ...AppChange) (App, string, error) {
	a, secret, err := s.newApp(c, name, permissions)
	detail := map[string]any{"name": a.Name, "permissions": a.Permissions}
	for _, ch := range more {
		if err != nil {
			break
		}
		var added map[string]any
		if added, _, err = s.applyApp(&a, ch); err == nil {
			maps.Copy(detail, added)
		}
	}
	foreign := ""
	for _, ch := range more {
		foreign += ch.ForeignID
	}
	if foreign != "" && err == nil {
		a.ID, err = foreignID(foreign)
	}
	if a.Public || foreign != "" {
		a.Secrets, secret = nil, ""
	}
	if len(a.Secrets) > 0 {
		detail["secretId"] = a.Secrets[0].ID
	}
	if err == nil {
		err = s.keepApp(ctx, c, a, detail)
	}
	var refusal *api.Error
	if errors.As(err, &refusal) {
		s.recordRefusal(ctx, audit.By(c, audit.CreateApp, cut(name), "refused: "+string(refusal.Code)), nil)
	}
	if err != nil {
		return App{}, "", err
	}
	return a, secret, nil
}

func (s *Service) keepApp(ctx context.Context, c auth.Caller, a App, detail map[string]any) (err error) {
	e := audit.By(c, audit.CreateApp, a.ID, "accepted")
	if e.Detail, err = json.Marshal(detail); err == nil {
		err = s.cfg.Store.CreateApp(ctx, a, e)
	}
	if err != nil {
		return fmt.Errorf("cannot create app: %w", err)
	}
	return nil
}

func (s *Service) newApp(c auth.Caller, name string, permissions []string) (App, string, error) {
	if err := adminOnly(c); err != nil {
		return App{}, "", err
	}
	name = strings.TrimSpace(name)
	if err := checkName(name); err != nil {
		return App{}, "", err
	}
	perms, err := parsePermissions(permissions)
	if err != nil {
		return App{}, "", err
	}
	text, secret := newSecret()
	now := s.cfg.Now()
	secret.Expires = now.Add(secretLifetime)
	return App{ID: auth.NewGUID(), Name: name, Permissions: perms, Secrets: []Secret{secret}, Created: now}, text, nil
}

// foreignID is under which an application of an issuer outside is registered
// here: so that it can be limited, or shut out.
func foreignID(id string) (string, error) {
	id = strings.ToLower(id)
	if !auth.IsGUID(id) || id == api.CommandLineApp {
		return "", api.Errorf(api.InvalidInput, "%q is not the id of an application of an issuer outside: it is a GUID, and stands in the audit log with what the application did", cut(id))
	}
	return id, nil
}

// Apps lists the applications.
func (s *Service) Apps(ctx context.Context, c auth.Caller) ([]App, error) {
	if err := adminOnly(c); err != nil {
		return nil, err
	}
	return s.cfg.Store.Apps(ctx)
}

func adminOnly(c auth.Caller) error {
	if c.Kind == auth.Admin || c.Kind == auth.System {
		return nil
	}
	return api.Errorf(api.Forbidden, "Only an administrator of this server may manage apps")
}

func checkName(name string) error {
	switch n := utf8.RuneCountInString(name); {
	case name == "":
		return api.Errorf(api.MissingRequiredParameter, "The app has no name")
	case n > maxName:
		return api.Errorf(api.InvalidInput, "The app's name has %d characters, %d are allowed", n, maxName)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return api.Errorf(api.InvalidInput, "The app's name holds characters that cannot be printed")
	}
	return nil
}

// parsePermissions reads permission names, exactly as the catalogue spells them.
func parsePermissions(names []string) ([]auth.Permission, error) {
	var perms []auth.Permission
	known := auth.Permissions()
	for _, n := range names {
		p := auth.Permission(strings.TrimSpace(n))
		if !slices.Contains(known, p) {
			return nil, api.Errorf(api.InvalidInput, "There is no permission %q. The nearest are: %s", cut(n), strings.Join(nearest(n, known), ", "))
		}
		if !slices.Contains(perms, p) {
			perms = append(perms, p)
		}
	}
	return perms, nil
}

func newSecret() (string, Secret) {
	var b [32]byte
	rand.Read(b[:])
	text := secretPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return text, Secret{ID: auth.NewGUID(), Digest: sha256.Sum256([]byte(text))}
}

// nearest returns the three permissions that are the fewest edits away from name.
func nearest(name string, known []auth.Permission) []string {
	name = strings.ToLower(cut(name))
	byDistance := slices.Clone(known)
	slices.SortStableFunc(byDistance, func(a, b auth.Permission) int {
		return edits(name, strings.ToLower(string(a))) - edits(name, strings.ToLower(string(b)))
	})
	var out []string
	for _, p := range byDistance[:3] {
		out = append(out, string(p))
	}
	return out
}

// edits is the Levenshtein distance of two short strings.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// cut shortens what a stranger sent to what fits a message or an audit line.
func cut(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
