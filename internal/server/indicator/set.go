// SPDX-License-Identifier: Apache-2.0

package indicator

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"staunch/internal/order"
	"staunch/internal/server/odata"
)

// set is the rules of one device group as parts, ready to be named in a
// device's signed list.
type set struct {
	version int64
	until   time.Time // when the first of its rules expires; zero: never
	rules   int
	parts   []string
	data    map[string][]byte // by name
	key     string            // version and parts, shortened: what tells two sets apart
}

// partRules is how many rules a part holds on average: small enough that a
// changed one costs a device little, large enough that their names do too.
const partRules = 256

// Rules returns the signed list of the device's rules, with a word that stands
// for its content; nil when that is the word which the device has already.
func (s *Service) Rules(ctx context.Context, device, have string) (*order.Indicators, string, error) {
	group, err := s.cfg.GroupOf(ctx, device)
	if err != nil {
		return nil, "", fmt.Errorf("cannot tell the device group of %s: %w", device, err)
	}
	set, err := s.set(ctx, group)
	if err != nil {
		return nil, "", err
	}
	if set.key == have {
		return nil, have, nil
	}
	e, err := order.SignRules(order.RuleSet{
		Device: device, Version: set.version, Issued: s.cfg.Now().UTC(), Rules: set.rules, Parts: set.parts,
	}, s.cfg.OrderKey)
	if err != nil {
		return nil, "", err
	}
	return &order.Indicators{Version: set.version, Envelope: e}, set.key, nil
}

// Part returns one part of the device's rules, by name; nil if its list has none such any more.
func (s *Service) Part(ctx context.Context, device, digest string) ([]byte, error) {
	group, err := s.cfg.GroupOf(ctx, device)
	if err != nil {
		return nil, fmt.Errorf("cannot tell the device group of %s: %w", device, err)
	}
	set, err := s.set(ctx, group)
	if err != nil {
		return nil, err
	}
	return set.data[digest], nil
}

// maxSets bounds the groups whose sets are kept ready.
const maxSets = 1000

// set returns the rules of a device group as they are now.
func (s *Service) set(ctx context.Context, group string) (*set, error) {
	group = odata.Fold(group)
	version, err := s.cfg.Store.IndicatorVersion(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the version of the indicators: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock() // one is made at a time: all that wait want the same
	now := s.now()
	if have := s.sets[group]; have != nil && have.version == version && (have.until.IsZero() || now.Before(have.until)) {
		return have, nil
	}
	all, version, err := s.cfg.Store.FileIndicators(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("cannot read the indicators: %w", err)
	}
	made, err := compose(all, group, version)
	if err != nil {
		return nil, err
	}
	if len(s.sets) >= maxSets {
		clear(s.sets)
	}
	s.sets[group] = made
	return made, nil
}

// compose resolves what holds for a device group and cuts it into parts.
func compose(all []Indicator, group string, version int64) (*set, error) {
	rules := resolve(all, group)
	made := &set{version: version, rules: len(rules), data: map[string][]byte{}, parts: []string{}}
	for _, r := range rules {
		if !r.Expires.IsZero() && (made.until.IsZero() || r.Expires.Before(made.until)) {
			made.until = r.Expires
		}
	}
	for _, bucket := range buckets(rules) {
		digest, data, err := order.EncodePart(bucket)
		if err != nil {
			return nil, err
		}
		made.parts = append(made.parts, digest)
		made.data[digest] = data
	}
	slices.Sort(made.parts)
	made.key = strconv.FormatInt(version, 36) + " " + partsKey(made.parts)
	return made, nil
}

// partsKey shortens a list of digests, which are random as they are.
func partsKey(parts []string) string {
	var sum [8]byte
	for _, p := range parts {
		b, err := hex.DecodeString(p[:16])
		if err != nil { // EncodePart names in hex
			continue
		}
		for i := range sum {
			sum[i] ^= b[i]
		}
	}
	return hex.EncodeToString(sum[:])
}

// buckets spreads rules by the first bits of their hash, so that one more or
// less changes one bucket.
func buckets(rules []order.Rule) [][]order.Rule {
	n := 0 // bits
	if len(rules) > partRules {
		n = bits.Len(uint(len(rules)-1) / partRules)
	}
	n = min(n, 12)
	all := make([][]order.Rule, 1<<n)
	for _, r := range rules {
		first := uint(r.SHA1[0])<<8 | uint(r.SHA1[1])
		if r.SHA1.IsZero() {
			first = uint(r.SHA256[0])<<8 | uint(r.SHA256[1])
		}
		at := first >> (16 - n)
		all[at] = append(all[at], r)
	}
	var full [][]order.Rule
	for _, b := range all {
		// Hashes chosen for their first bits would crowd one bucket.
		for chunk := range slices.Chunk(b, 2*partRules) {
			full = append(full, chunk)
		}
	}
	return full
}

// resolve leaves one rule for each hash: that of the device's group before that
// of all devices, and among equals the one that wins a conflict. Of two hashes
// of one file, the device lets SHA-256 decide.
func resolve(all []Indicator, group string) []order.Rule {
	type choice struct {
		in   *Indicator
		mine bool // of the group
	}
	best := map[string]choice{}
	for i := range all {
		in := &all[i]
		mine := slices.ContainsFunc(in.Groups, func(g Group) bool { return group != "" && odata.Fold(g.Name) == group })
		if len(in.Groups) > 0 && !mine {
			continue
		}
		key := in.Type + in.Value
		have, ok := best[key]
		if !ok || mine && !have.mine || mine == have.mine && precedes(*in, *have.in) {
			best[key] = choice{in, mine}
		}
	}
	rules := make([]order.Rule, 0, len(best))
	for _, c := range best {
		// One that no device could follow must not keep it from the others.
		if r, err := rule(*c.in); err == nil && !r.File().IsZero() && !r.File().Empty() {
			rules = append(rules, r)
		}
	}
	slices.SortFunc(rules, func(a, b order.Rule) int {
		return cmp.Or(strings.Compare(a.SHA256.String(), b.SHA256.String()), strings.Compare(a.SHA1.String(), b.SHA1.String()))
	})
	return rules
}

// precedes tells which of two rules about one hash wins: refusing before
// allowing, allowing before reporting; then the newer one.
func precedes(a, b Indicator) bool {
	if x, y := strength(a.Action), strength(b.Action); x != y {
		return x > y
	}
	return a.Seq > b.Seq
}

func strength(action string) int {
	switch action {
	case BlockAndRemediate:
		return 4
	case Block, Warn, AlertAndBlock:
		return 3
	case Allowed:
		return 2
	}
	return 1
}

// rule is an indicator as devices read it.
func rule(in Indicator) (order.Rule, error) {
	r := order.Rule{ID: strconv.FormatInt(in.Seq, 10), Alert: in.GenerateAlert, Expires: in.Expires}
	var err error
	if in.Type == FileSHA256 {
		err = r.SHA256.UnmarshalText([]byte(in.Value))
	} else {
		err = r.SHA1.UnmarshalText([]byte(in.Value))
	}
	if err != nil {
		return r, fmt.Errorf("cannot read indicator %d: %w", in.Seq, err)
	}
	switch in.Action {
	case BlockAndRemediate:
		r.Do = order.RuleRemediate
	case Block, Warn, AlertAndBlock:
		r.Do = order.RuleBlock
	case Allowed:
		r.Do = order.RuleAllow
	default:
		r.Do = order.RuleAudit
	}
	if in.Action == Alert || in.Action == AlertAndBlock {
		r.Alert = true
	}
	return r, nil
}
