// SPDX-License-Identifier: Apache-2.0

package order

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"staunch/internal/filehash"
)

// RulesType is the payload type of a rule set's envelope.
const RulesType = "application/vnd.staunch.rules.v1+json"

// RuleSet names all standing rules of one device. The rules themselves are in
// parts, which are named by their SHA-256 and need no signature of their own: a
// device fetches those that it has not got. Parts are the same for all devices
// of a group, and a changed rule changes one of them.
type RuleSet struct {
	Device  string    `json:"device"`
	Version int64     `json:"version"` // of the organisation's rules; never falls
	Issued  time.Time `json:"issued"`  // decides between two sets of one version
	Rules   int       `json:"rules"`   // in all parts together
	Parts   []string  `json:"parts"`   // SHA-256 in hex, each once
}

// RulePart is one part: JSON of this, at most MaxPart bytes.
type RulePart struct {
	Rules []Rule `json:"rules"`
}

// Rule is one standing rule about a content.
type Rule struct {
	ID      string          `json:"id"` // the indicator's: digits
	SHA1    filehash.SHA1   `json:"sha1,omitzero"`
	SHA256  filehash.SHA256 `json:"sha256,omitzero"` // one of the two is there
	Do      RuleAction      `json:"do"`
	Alert   bool            `json:"alert,omitempty"`
	Expires time.Time       `json:"expires,omitzero"` // not in force from this instant on
}

// RuleAction is what becomes of an execution that a rule is about.
type RuleAction string

// The actions.
const (
	RuleAllow     RuleAction = "allow"     // never refused, whatever other rule says so; never contained
	RuleAudit     RuleAction = "audit"     // reported
	RuleBlock     RuleAction = "block"     // refused and reported
	RuleRemediate RuleAction = "remediate" // that, and every copy contained
)

// Bounds of a rule set.
const (
	MaxRules = 250_000
	MaxParts = 4096
	MaxPart  = 256 << 10 // bytes of one part
	MaxWant  = 16        // parts asked for at once
)

// RulesWanted is a device's answer to a rule set: the parts it lacks, at most
// MaxWant of them; none: the set of that version is in force.
type RulesWanted struct {
	Version int64    `json:"version"`
	Parts   []string `json:"parts,omitempty"`
	Refused string   `json:"refused,omitempty"` // why the set will not be followed
}

// RulesPart carries one part.
type RulesPart struct {
	Digest string `json:"digest"`
	Data   []byte `json:"data"`
}

var (
	digestForm = regexp.MustCompile(`^[0-9a-f]{64}$`)
	ruleIDForm = regexp.MustCompile(`^[0-9]{1,19}$`)
)

// ValidDigest reports whether s has the form of a part's name.
func ValidDigest(s string) bool { return digestForm.MatchString(s) }

// SignRules seals a rule set.
func SignRules(s RuleSet, key ed25519.PrivateKey) (Envelope, error) {
	if err := s.validate(); err != nil {
		return Envelope{}, fmt.Errorf("cannot sign rules: %w", err)
	}
	return seal(RulesType, s, key)
}

// VerifyRules returns the rule set in e if one of keys signed it and it is for
// device. Whether it is older than the one in force only the device can tell.
func VerifyRules(e Envelope, device string, keys ...ed25519.PublicKey) (RuleSet, error) {
	var s RuleSet
	if err := open(e, RulesType, &s, keys...); err != nil {
		return RuleSet{}, fmt.Errorf("cannot accept rules: %w", err)
	}
	if err := s.validate(); err != nil {
		return RuleSet{}, fmt.Errorf("cannot accept rules: %w", err)
	}
	if s.Device != device {
		return RuleSet{}, errors.New("cannot accept rules: they are for another device")
	}
	return s, nil
}

func (s RuleSet) validate() error {
	switch {
	case !ValidDevice(s.Device):
		return fmt.Errorf("device id %q is not 40 hex digits", s.Device)
	case s.Version < 0 || s.Issued.IsZero():
		return errors.New("the version or the date is missing")
	case s.Rules < 0 || s.Rules > MaxRules:
		return fmt.Errorf("%d rules are not from 0 to %d", s.Rules, MaxRules)
	case len(s.Parts) > MaxParts:
		return fmt.Errorf("%d parts are more than the %d allowed", len(s.Parts), MaxParts)
	}
	seen := make(map[string]bool, len(s.Parts))
	for _, p := range s.Parts {
		if !ValidDigest(p) || seen[p] {
			return fmt.Errorf("part %.80q is no digest, or stands twice", p)
		}
		seen[p] = true
	}
	return nil
}

// EncodePart writes rules, sorted, as a part, and returns its name too.
func EncodePart(rules []Rule) (digest string, data []byte, err error) {
	sorted := slices.Clone(rules)
	slices.SortFunc(sorted, func(a, b Rule) int {
		if c := bytes.Compare(a.SHA256[:], b.SHA256[:]); c != 0 {
			return c
		}
		return bytes.Compare(a.SHA1[:], b.SHA1[:])
	})
	if data, err = json.Marshal(RulePart{Rules: sorted}); err != nil {
		return "", nil, fmt.Errorf("cannot write rules: %w", err)
	}
	if len(data) > MaxPart {
		return "", nil, fmt.Errorf("cannot write rules: a part of %d bytes is larger than the %d allowed", len(data), MaxPart)
	}
	return digestOf(data), data, nil
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// DecodePart reads a part that has this name.
func DecodePart(digest string, data []byte) ([]Rule, error) {
	if len(data) > MaxPart {
		return nil, fmt.Errorf("cannot read rules: %d bytes are more than the %d allowed", len(data), MaxPart)
	}
	if digestOf(data) != digest {
		return nil, errors.New("cannot read rules: the part is not the one that was named")
	}
	var p RulePart
	if err := decodeStrict(data, &p); err != nil {
		return nil, fmt.Errorf("cannot read rules: %w", err)
	}
	for _, r := range p.Rules {
		if err := r.validate(); err != nil {
			return nil, fmt.Errorf("cannot read rules: %w", err)
		}
	}
	return p.Rules, nil
}

func (r Rule) validate() error {
	switch r.Do {
	case RuleAllow, RuleAudit, RuleBlock, RuleRemediate:
	default:
		return fmt.Errorf("rule %s: action %q is not known to this version", r.ID, r.Do)
	}
	switch {
	case !ruleIDForm.MatchString(r.ID):
		return fmt.Errorf("rule id %.40q is not a number", r.ID)
	case r.SHA1.IsZero() == r.SHA256.IsZero():
		return fmt.Errorf("rule %s names no content, or two", r.ID)
	case r.File().Empty():
		return fmt.Errorf("rule %s names the empty content", r.ID)
	}
	return nil
}

// File is the content that the rule is about.
func (r Rule) File() filehash.Hash { return filehash.Hash{SHA1: r.SHA1, SHA256: r.SHA256} }
