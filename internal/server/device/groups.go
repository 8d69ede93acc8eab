// SPDX-License-Identifier: Apache-2.0

package device

import (
	"context"
	"errors"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
)

// UngroupedName is how the devices of no group are called where a group is
// named: they can be given access, and nothing else.
const UngroupedName = "Ungrouped devices"

// Group is a set of devices by rules. A device is in exactly one: the one of the
// highest rank whose rules match it, or none.
type Group struct {
	ID          int64 // auth.Ungrouped of UngroupedName
	Name        string
	Description string
	Rank        int      // 1 is the highest; 0 at creation: below all others
	Rules       []Rule   // of the same kind any must match, of each kind one; none: no device
	Access      []string // the user groups that reach the devices; empty: every group with a role
}

// Rule is one condition.
type Rule struct {
	Kind    RuleKind `json:"kind"`
	Pattern string   `json:"pattern"` // of a tag the tag itself, else with * and ?; in any case
}

// RuleKind is what a rule looks at.
type RuleKind string

// The kinds of rule.
const (
	ByTag    RuleKind = "tag"
	ByName   RuleKind = "name"   // the DNS name, or its first label
	ByDomain RuleKind = "domain" // the DNS name without its first label
	ByOS     RuleKind = "os"     // osPlatform, or the kind of system: linux
)

// Bounds of device groups.
const (
	maxRulesOfKind = 10
	maxGroupName   = 120 // characters
	maxDescription = 1000
	maxPattern     = 255
)

func (r Rule) String() string { return string(r.Kind) + "=" + r.Pattern }

// ParseRule reads tag=V, name=GLOB, domain=GLOB or os=GLOB.
func ParseRule(s string) (Rule, error) {
	kind, pattern, ok := strings.Cut(s, "=")
	r := Rule{RuleKind(strings.ToLower(strings.TrimSpace(kind))), strings.TrimSpace(pattern)}
	switch {
	case !ok || !slices.Contains([]RuleKind{ByTag, ByName, ByDomain, ByOS}, r.Kind):
		return Rule{}, api.Errorf(api.InvalidInput, "Rule %s is not of the form tag=V, name=GLOB, domain=GLOB or os=GLOB", shown(s))
	case r.Pattern == "":
		return Rule{}, api.Errorf(api.InvalidInput, "Rule %s matches nothing: give a value after the =", shown(s))
	case utf8.RuneCountInString(r.Pattern) > maxPattern:
		return Rule{}, api.Errorf(api.InvalidInput, "Rule %s is longer than %d characters", shown(s), maxPattern)
	case !utf8.ValidString(r.Pattern), strings.ContainsFunc(r.Pattern, func(c rune) bool { return !unicode.IsPrint(c) }):
		return Rule{}, api.Errorf(api.InvalidInput, "Rule %s holds characters that cannot be printed", shown(s))
	}
	return r, nil
}

func (r Rule) matches(d Device) bool {
	label, domain, _ := strings.Cut(d.Name, ".")
	switch r.Kind {
	case ByTag:
		return slices.ContainsFunc(d.Tags, func(t string) bool { return strings.EqualFold(t, r.Pattern) })
	case ByName:
		return glob(r.Pattern, d.Name) || glob(r.Pattern, label)
	case ByDomain:
		return domain != "" && glob(r.Pattern, domain)
	case ByOS:
		return glob(r.Pattern, d.Facts.OSPlatform) || d.Facts.OS != "" && glob(r.Pattern, d.Facts.OS)
	}
	return false
}

// Matches reports whether the rules of g match d.
func (g Group) Matches(d Device) bool {
	met := map[RuleKind]bool{}
	for _, r := range g.Rules {
		met[r.Kind] = met[r.Kind] || r.matches(d)
	}
	for _, ok := range met {
		if !ok {
			return false
		}
	}
	return len(met) > 0
}

// Assign puts d into its group. groups come by rank, the highest first.
func (d *Device) Assign(groups []Group) {
	d.GroupID, d.GroupName = auth.Ungrouped, ""
	for _, g := range groups {
		if g.Matches(*d) {
			d.GroupID, d.GroupName = g.ID, g.Name
			return
		}
	}
}

// Groups lists the device groups by rank, the ungrouped devices last.
func (s *Service) Groups(ctx context.Context) ([]Group, error) { return s.cfg.Store.DeviceGroups(ctx) }

// CreateGroup makes a device group and puts the devices it matches into it.
func (s *Service) CreateGroup(ctx context.Context, c auth.Caller, g Group) (Group, error) {
	g.Name, g.Description = strings.TrimSpace(g.Name), strings.TrimSpace(g.Description)
	err := s.decide(ctx, c, audit.CreateDeviceGroup, g.Name, func(e audit.Entry) error {
		if err := g.check(); err != nil {
			return err
		}
		return s.cfg.Store.CreateDeviceGroup(ctx, &g, e)
	})
	return g, err
}

// A GroupChange is what to change of a device group; what is nil stays.
type GroupChange struct {
	Description *string
	Rank        *int
	Rules       []Rule
	Access      []string // not nil and empty: open to every group with a role
}

// ChangeGroup changes a device group, and moves the devices that belong elsewhere now.
func (s *Service) ChangeGroup(ctx context.Context, c auth.Caller, name string, ch GroupChange) (Group, error) {
	var g Group
	err := s.decide(ctx, c, audit.ChangeDeviceGroup, name, func(e audit.Entry) (err error) {
		g, err = s.cfg.Store.ChangeDeviceGroup(ctx, name, e, func(g *Group) error {
			if ch.Access != nil {
				g.Access = ch.Access
			}
			if g.ID == auth.Ungrouped {
				if ch.Rules != nil || ch.Rank != nil || ch.Description != nil {
					return api.Errorf(api.InvalidInput, "Of the ungrouped devices only the access can be changed")
				}
				return nil
			}
			if ch.Description != nil {
				g.Description = strings.TrimSpace(*ch.Description)
			}
			if ch.Rank != nil && *ch.Rank < 1 {
				return api.Errorf(api.InvalidInput, "Rank %d is not from 1, the highest, to 1000000", *ch.Rank)
			}
			if ch.Rank != nil {
				g.Rank = *ch.Rank
			}
			if ch.Rules != nil {
				g.Rules = ch.Rules
			}
			return g.check()
		})
		return err
	})
	return g, err
}

// DeleteGroup takes a device group away; its devices go where they match next.
func (s *Service) DeleteGroup(ctx context.Context, c auth.Caller, name string) error {
	return s.decide(ctx, c, audit.DeleteDeviceGroup, name, func(e audit.Entry) error {
		return s.cfg.Store.DeleteDeviceGroup(ctx, name, e)
	})
}

func (g Group) check() error {
	switch n := utf8.RuneCountInString(g.Name); {
	case g.Name == "":
		return api.Errorf(api.MissingRequiredParameter, "The device group has no name")
	case n > maxGroupName:
		return api.Errorf(api.InvalidInput, "The device group's name has %d characters, %d are allowed", n, maxGroupName)
	case strings.EqualFold(g.Name, UngroupedName):
		return api.Errorf(api.InvalidInput, "%q is the name of the devices in no group: choose another name", g.Name)
	case strings.ContainsAny(g.Name, "/()"), strings.Trim(g.Name, ".") == "":
		return api.Errorf(api.InvalidInput, "The device group's name holds a slash or a bracket, or only dots, which does not fit a path of the API")
	case utf8.RuneCountInString(g.Description) > maxDescription:
		return api.Errorf(api.InvalidInput, "The description is longer than %d characters", maxDescription)
	case g.Rank < 0 || g.Rank > 1_000_000:
		return api.Errorf(api.InvalidInput, "Rank %d is not from 1, the highest, to 1000000", g.Rank)
	case len(g.Rules) == 0:
		return api.Errorf(api.MissingRequiredParameter, "The device group has no rule, so no device would be in it: give tag=V, name=GLOB, domain=GLOB or os=GLOB")
	}
	for _, s := range []string{g.Name, g.Description} {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
			return api.Errorf(api.InvalidInput, "The device group's name or description holds characters that cannot be printed")
		}
	}
	of := map[RuleKind]int{}
	for _, r := range g.Rules {
		if of[r.Kind]++; of[r.Kind] > maxRulesOfKind {
			return api.Errorf(api.InvalidInput, "There are more than %d rules by %s", maxRulesOfKind, r.Kind)
		}
	}
	return nil
}

// decide runs an administrator's change; a refusal goes on record as well.
func (s *Service) decide(ctx context.Context, c auth.Caller, op audit.Operation, target string, do func(audit.Entry) error) error {
	if c.Kind != auth.Admin && c.Kind != auth.System {
		return s.refused(ctx, c, op, shown(target), nil, api.Errorf(api.Forbidden, "Only an administrator of this server may manage device groups"))
	}
	err := do(audit.By(c, op, strings.ToValidUTF8(target, "\uFFFD"), "accepted"))
	var refusal *api.Error
	if errors.As(err, &refusal) {
		return s.refused(ctx, c, op, shown(target), nil, err)
	}
	if err == nil {
		s.cfg.Regrouped("")
	}
	return err
}

// Detail is what an audit line says of the group as it is kept.
func (g Group) Detail() []byte {
	rules := []string{}
	for _, r := range g.Rules {
		rules = append(rules, r.String())
	}
	return mustJSON(map[string]any{"id": g.ID, "rank": g.Rank, "rules": rules, "access": append([]string{}, g.Access...)})
}
