// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"staunch/api"
)

// Foreign is an issuer of tokens outside this server that its operator trusts.
type Foreign struct {
	Name    string // as the operator named it: what people and groups are tied to
	Tenant  string // of Microsoft Entra's form: what tid must be; "": of no such form
	Version string // of Microsoft Entra's form: what ver must be, 1.0 or 2.0

	// Key returns the issuer's key of that kid, ErrUnknownKey or ErrIssuerDown.
	Key func(ctx context.Context, kid string) (jose.JSONWebKey, error)
}

// Why a Foreign has no key to give.
var (
	ErrUnknownKey = errors.New("the issuer has no such key")
	ErrIssuerDown = errors.New("the issuer's keys cannot be had")
)

// Visitor is a person whom an issuer outside signed in.
type Visitor struct {
	Issuer  string   // Foreign.Name
	Subject string   // who they are to it, for good: oid, else sub
	UPN     string   // what it calls them at the moment, which decides nothing
	Groups  []string // the groups that it says they are in
}

// foreignClaims are those that only tokens from outside are read for.
type foreignClaims struct {
	Version    string   `json:"ver"`
	Subject    string   `json:"sub"`
	Client     string   `json:"client_id"`   // RFC 9068, for azp
	ClientID   string   `json:"cid"`         // Okta's word for it
	UniqueName string   `json:"unique_name"` // Entra v1, for upn
	Email      string   `json:"email"`
	Groups     []string `json:"groups"`

	// Of an id_token, which is for the application alone.
	Nonce      string `json:"nonce"`
	AccessHash string `json:"at_hash"`
	CodeHash   string `json:"c_hash"`
}

// scopes are delegated permissions: one text with blanks between them, or a list
// (Okta).
type scopes []Permission

// UnmarshalJSON reads either form.
func (s *scopes) UnmarshalJSON(b []byte) error {
	var words []string
	if err := json.Unmarshal(b, &words); err != nil {
		var text string
		if err := json.Unmarshal(b, &text); err != nil {
			return errors.New("scp is neither a text nor a list of texts")
		}
		words = strings.Fields(text)
	}
	*s = nil
	for _, w := range words {
		*s = append(*s, Permission(w))
	}
	return nil
}

// maxForeignGroups bounds the groups of a visitor. Entra puts at most 200 into a token.
const maxForeignGroups = 1000

func (v *Verifier) foreign(iss string) (Foreign, bool) {
	if v.cfg.Foreign == nil || v.cfg.Realm.Issued(iss) {
		return Foreign{}, false
	}
	return v.cfg.Foreign(iss)
}

// algorithms are those that a signature may be made with: RS256 of ours, and of
// issuers outside what providers use today. None works with a shared secret, so
// that a public key can never be taken for one.
func (v *Verifier) algorithms() []jose.SignatureAlgorithm {
	if v.cfg.Foreign == nil {
		return []jose.SignatureAlgorithm{jose.RS256}
	}
	return []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512}
}

// foreignKey is the key that a token's header names, which must be for the
// algorithm that the header names: an issuer that says so of its key is believed.
func foreignKey(ctx context.Context, h jose.Header, from Foreign) (any, error) {
	typ, _ := h.ExtraHeaders[jose.HeaderType].(string)
	switch strings.TrimPrefix(strings.ToLower(typ), "application/") {
	case "", "jwt", "at+jwt": // RFC 9068, section 2.1
	default:
		return nil, unauthorized("The token is a %s, not an access token", shown(typ))
	}
	if h.KeyID == "" {
		return nil, unauthorized("The access token does not name the key that signed it (kid)")
	}
	k, err := findKey(ctx, h.KeyID, from)
	if err != nil {
		return nil, err
	}
	if k.Algorithm != "" && k.Algorithm != h.Algorithm {
		return nil, unauthorized("The access token is signed with %s, its issuer's key is for %s", shown(h.Algorithm), shown(k.Algorithm))
	}
	return k.Key, nil
}

func findKey(ctx context.Context, kid string, from Foreign) (jose.JSONWebKey, error) {
	k, err := from.Key(ctx, kid)
	switch {
	case errors.Is(err, ErrUnknownKey):
		return k, unauthorized("The access token is signed by a key that its issuer does not publish: get a new one")
	case err != nil:
		return k, api.Errorf(api.ServiceUnavailable, "The keys of the access token's issuer cannot be had at the moment: try again")
	}
	return k, nil
}

// decideForeign is decide for a token of an issuer outside.
func (v *Verifier) decideForeign(ctx context.Context, cl claims, from Foreign) (Caller, error) {
	if _, err := findKey(ctx, cl.key, from); err != nil { // one that was withdrawn ends what it signed
		return Caller{}, err
	}
	if err := cl.checkDates(v.cfg.Now()); err != nil {
		return Caller{}, err
	}
	if err := v.checkForeign(cl, from); err != nil {
		return Caller{}, err
	}
	c, err := foreignCaller(cl, from)
	if err != nil {
		return Caller{}, err
	}
	if v.cfg.AppDisabled != nil {
		err := v.askOfApp(c.AppID, from.Name+" ", func() (bool, error) {
			off, err := v.cfg.AppDisabled(ctx, c.AppID)
			return !off, err
		})
		if err != nil {
			return Caller{}, err
		}
	}
	if c.Kind == User {
		return v.identifyVisitor(ctx, c, cl, from)
	}
	return c, nil
}

func (v *Verifier) checkForeign(cl claims, from Foreign) error {
	forUs := v.cfg.ForeignAudience
	if forUs == nil {
		forUs = func(name string) bool { _, ok := v.cfg.Realm.Audience(name); return ok }
	}
	switch {
	case from.Tenant != "" && !strings.EqualFold(cl.Tenant, from.Tenant):
		return unauthorized("The access token is of another tenant than its issuer: %s", shown(cl.Tenant))
	case from.Version != "" && cl.Version != from.Version:
		return unauthorized("The access token is of version %s, its issuer makes those of %s", shown(cl.Version), from.Version)
	case !slices.ContainsFunc(cl.Audience, forUs):
		return otherAudience(cl)
	case cl.Nonce != "" || cl.AccessHash != "" || cl.CodeHash != "":
		return unauthorized("The token is an ID token, which is for its application alone: send the access token")
	case len(cl.Groups) > maxForeignGroups:
		return unauthorized("The access token names %d groups, %d are allowed", len(cl.Groups), maxForeignGroups)
	}
	return nil
}

// foreignCaller is caller for a token of an issuer outside.
func foreignCaller(cl claims, from Foreign) (Caller, error) {
	app := firstOf(cl.Party, cl.AppID, cl.Client, cl.ClientID)
	switch from.Version {
	case "1.0":
		app = cl.AppID
	case "2.0":
		app = cl.Party
	}
	called, tenant := app, from.Name
	switch {
	case !plain(app):
		return Caller{}, unauthorized("The access token names no application (appid or azp)")
	case from.Version == "":
		// Such an issuer lets its people choose the name, so it must not become the
		// id of an application that is known here.
		app = NameGUID("foreign application", from.Name, app)
	case !IsGUID(app):
		return Caller{}, unauthorized("The access token names no application (appid or azp)")
	default:
		app, tenant = strings.ToLower(app), from.Tenant
		called = app
	}
	name := cl.AppName
	if !plain(name) {
		name = called
	}
	c := Caller{Kind: App, ID: app, Name: name, AppID: app, Tenant: tenant, Permissions: cl.Roles}
	if len(cl.Scopes) > 0 {
		c.Kind, c.Permissions = User, cl.Scopes
		return c, nil
	}
	if cl.UPN != "" || cl.UniqueName != "" || cl.Email != "" {
		// Roles of a person, which are not the application's own.
		return Caller{}, unauthorized("The access token is a person's, but holds no delegated permission (scp)")
	}
	return c, nil
}

// plain reports whether a text from outside can stand in lists and logs.
func plain(s string) bool {
	return s != "" && len(s) <= 200 && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}

// identifyVisitor finds what the person may do here. Their name is the issuer's to
// say; what they may do is not, but for the groups that it puts them into.
func (v *Verifier) identifyVisitor(ctx context.Context, c Caller, cl claims, from Foreign) (Caller, error) {
	who := Visitor{Issuer: from.Name, Subject: firstOf(cl.ObjectID, cl.Subject), Groups: slices.Compact(slices.Sorted(slices.Values(cl.Groups)))}
	who.UPN = strings.ToLower(firstOf(cl.UPN, cl.Name, cl.UniqueName, cl.Email, who.Subject))
	switch {
	case v.cfg.Visitor == nil || from.Version != "" && !IsGUID(cl.ObjectID), !plain(who.Subject):
		return Caller{}, unauthorized("The access token names no user (oid or sub)")
	case from.Version != "":
		who.Subject = strings.ToLower(who.Subject)
	}
	if !plain(who.UPN) {
		who.UPN = who.Subject
	}
	p, err := v.askOfPerson(who.key(), func() (Person, error) { return v.cfg.Visitor(ctx, who) })
	if err != nil {
		return Caller{}, err
	}
	c.ID, c.Name, c.Access = firstOf(p.ID, p.UPN), p.UPN, p.Access
	return c, nil
}

// key is the same for two visitors only if all of them is.
func (w Visitor) key() string {
	sum := sha256.New()
	for _, s := range append([]string{w.Issuer, w.Subject, w.UPN}, w.Groups...) {
		fmt.Fprintf(sum, "%d %s ", len(s), s)
	}
	return "visitor " + hex.EncodeToString(sum.Sum(nil))
}
