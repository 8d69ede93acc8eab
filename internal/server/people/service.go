// SPDX-License-Identifier: Apache-2.0

package people

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// Config of a Service.
type Config struct {
	Store  Store            // required
	Sealer Sealer           // required
	Log    *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now

	// Issuers are the issuers outside that may sign people in, as the operator
	// named them.
	Issuers []string
}

// Service is what the server does with people. It is safe for concurrent use.
type Service struct {
	cfg      Config
	refusals audit.Refusals
	hashing  chan struct{} // holds a token for each password being checked
	decoy    string        // a digest to compare with where there is no user
}

// maxHashing bounds the passwords checked at once, and with them the memory.
const maxHashing = 4

// New checks the configuration.
func New(cfg Config) (*Service, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("cannot make the people service: Store is not set")
	case cfg.Sealer == nil:
		return nil, errors.New("cannot make the people service: Sealer is not set")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Service{
		cfg: cfg, refusals: audit.Refusals{Now: cfg.Now},
		hashing: make(chan struct{}, maxHashing), decoy: digest(auth.NewGUID()),
	}, nil
}

// decide runs an administrator's change: do checks and keeps it with the entry;
// a refusal goes on record as well.
func (s *Service) decide(ctx context.Context, c auth.Caller, op audit.Operation, target string, do func(audit.Entry) error) error {
	err := error(nil)
	if c.Kind != auth.Admin && c.Kind != auth.System {
		err = api.Errorf(api.Forbidden, "Only an administrator of this server may manage people")
	}
	if err == nil {
		err = do(audit.By(c, op, clip(target), "accepted"))
	}
	var refusal *api.Error
	if errors.As(err, &refusal) {
		s.record(ctx, audit.By(c, op, clip(target), "refused: "+string(refusal.Code)), nil)
	}
	return err
}

// record puts a line that stands alone into the audit log, within the bound for
// refusals. What was decided stands whether or not that succeeds.
func (s *Service) record(ctx context.Context, e audit.Entry, detail map[string]any) {
	skipped, ok := s.refusals.Take()
	if !ok {
		return
	}
	if skipped > 0 {
		if detail == nil {
			detail = map[string]any{}
		}
		detail["notRecordedBefore"] = skipped
	}
	if detail != nil {
		e.Detail = mustJSON(detail)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.cfg.Store.Record(ctx, e); err != nil {
		s.cfg.Log.Error("refusal_not_recorded", "operation", e.Operation, "outcome", e.Outcome, "error", err)
	}
}

// Person is what auth.Verifier asks: who the user with that object id is and
// what they may do.
func (s *Service) Person(ctx context.Context, oid string) (auth.Person, error) {
	u, err := s.cfg.Store.User(ctx, oid)
	if err != nil {
		return auth.Person{}, err
	}
	if u.Issuer != "" { // no token of ours is theirs
		return auth.Person{}, api.Errorf(api.ResourceNotFound, "User %s is signed in by %s", u.UPN, u.Issuer)
	}
	return s.person(ctx, u, nil)
}

func (s *Service) person(ctx context.Context, u User, external []string) (auth.Person, error) {
	if u.Disabled {
		return auth.Person{}, api.Errorf(api.ResourceNotFound, "User %s is disabled", u.UPN)
	}
	groups, deviceGroups, err := s.cfg.Store.Access(ctx, u.ID, u.Issuer, external)
	if err != nil {
		return auth.Person{}, err
	}
	return auth.Person{UPN: u.UPN, Access: auth.AccessOf(groups, deviceGroups), Since: u.Since}, nil
}

// Groups lists the user groups.
func (s *Service) Groups(ctx context.Context) ([]Group, error) { return s.cfg.Store.Groups(ctx) }

// Roles lists the roles.
func (s *Service) Roles(ctx context.Context) ([]Role, error) { return s.cfg.Store.Roles(ctx) }

// CreateGroup makes a group of users: an empty one, or one that stands for a
// group of an issuer outside, whose members are then in it.
func (s *Service) CreateGroup(ctx context.Context, c auth.Caller, name string, of Outside) (Group, error) {
	g := Group{Name: strings.TrimSpace(name), Members: []string{}}
	err := s.decide(ctx, c, audit.CreateGroup, g.Name, func(e audit.Entry) (err error) {
		if err := checkName("group", g.Name); err != nil {
			return err
		}
		if g.Issuer, g.External, err = s.outside("group", of); err != nil {
			return err
		}
		if g.Issuer != "" {
			e.Detail = mustJSON(map[string]any{"issuer": g.Issuer, "external": g.External})
		}
		return s.cfg.Store.CreateGroup(ctx, g, e)
	})
	return g, err
}

// SetMember brings a user into a group, or out of it.
func (s *Service) SetMember(ctx context.Context, c auth.Caller, group, upn string, in bool) error {
	return s.decide(ctx, c, audit.ChangeGroup, group, func(e audit.Entry) error {
		e.Detail = mustJSON(map[string]any{"user": clip(upn), "member": in})
		return s.cfg.Store.SetMember(ctx, group, upn, in, e)
	})
}

// DeleteGroup takes a group away, and with it what it gave its members.
func (s *Service) DeleteGroup(ctx context.Context, c auth.Caller, name string) error {
	return s.decide(ctx, c, audit.DeleteGroup, name, func(e audit.Entry) error { return s.cfg.Store.DeleteGroup(ctx, name, e) })
}

// CreateRole makes a role with rights by the names that auth.ParseRight knows.
func (s *Service) CreateRole(ctx context.Context, c auth.Caller, name string, rights []string) (Role, error) {
	name = strings.TrimSpace(name)
	r := Role{Name: name, Groups: []string{}}
	err := s.decide(ctx, c, audit.CreateRole, name, func(e audit.Entry) (err error) {
		if err := checkName("role", name); err != nil {
			return err
		}
		if r.Rights, err = parseRights(rights); err != nil {
			return err
		}
		e.Detail = mustJSON(map[string]any{"permissions": r.Rights})
		return s.cfg.Store.CreateRole(ctx, name, r.Rights, e)
	})
	return r, err
}

// SetRole assigns a role to a group of users, or takes it away.
func (s *Service) SetRole(ctx context.Context, c auth.Caller, role, group string, assigned bool) error {
	return s.decide(ctx, c, audit.AssignRole, role, func(e audit.Entry) error {
		e.Detail = mustJSON(map[string]any{"group": clip(group), "assigned": assigned})
		return s.cfg.Store.SetRole(ctx, role, group, assigned, e)
	})
}

// DeleteRole takes a role away from everybody.
func (s *Service) DeleteRole(ctx context.Context, c auth.Caller, name string) error {
	return s.decide(ctx, c, audit.DeleteRole, name, func(e audit.Entry) error { return s.cfg.Store.DeleteRole(ctx, name, e) })
}

func parseRights(names []string) ([]auth.Right, error) {
	var known []string
	for _, r := range auth.Rights() {
		known = append(known, "'"+string(r)+"'")
	}
	rights := []auth.Right{}
	for _, n := range names {
		r, ok := auth.ParseRight(n)
		if !ok {
			return nil, api.Errorf(api.InvalidInput, "There is no role permission '%s'. There are: %s", clip(n), strings.Join(known, ", "))
		}
		if !slices.Contains(rights, r) {
			rights = append(rights, r)
		}
	}
	if len(rights) == 0 {
		return nil, api.Errorf(api.MissingRequiredParameter, "The role has no permission. There are: %s", strings.Join(known, ", "))
	}
	return rights, nil
}

// maxName bounds the names of groups and roles, in characters.
const maxName = 120

func checkName(what, name string) error {
	switch n := utf8.RuneCountInString(name); {
	case name == "":
		return api.Errorf(api.MissingRequiredParameter, "The %s has no name", what)
	case n > maxName:
		return api.Errorf(api.InvalidInput, "The %s's name has %d characters, %d are allowed", what, n, maxName)
	case !utf8.ValidString(name), strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return api.Errorf(api.InvalidInput, "The %s's name holds characters that cannot be printed", what)
	case strings.ContainsAny(name, "/()"), strings.Trim(name, ".") == "":
		return api.Errorf(api.InvalidInput, "The %s's name holds a slash or a bracket, or only dots, which does not fit a path of the API", what)
	}
	return nil
}

// clip shortens what a stranger sent to what fits a message or an audit line.
func clip(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// mustJSON encodes what always encodes: strings, numbers and lists of them.
func mustJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("cannot encode an audit detail: %v", err))
	}
	return b
}
