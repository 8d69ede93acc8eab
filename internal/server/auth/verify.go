// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"staunch/api"
)

// MaxToken bounds a bearer token, in bytes.
const MaxToken = 16 << 10

// Leeway is how far the clocks of issuer and verifier may be apart.
const Leeway = 5 * time.Minute

const (
	// cachedTokens bounds the tokens remembered: two generations of it, some 20 MB at most.
	cachedTokens = 10_000
	// appCheckFor is how long an answer of AppEnabled is believed.
	appCheckFor = 5 * time.Second
)

// Config of a Verifier.
type Config struct {
	Realm Realm                     // required
	Keys  func() jose.JSONWebKeySet // required: the public keys that sign tokens now, each with its kid
	Log   *slog.Logger              // nil: nothing is logged

	// AppEnabled reports whether the application may still call: it is
	// registered and not disabled. Its answer is believed for five seconds.
	// Nil: every application whose token verifies.
	AppEnabled func(ctx context.Context, id string) (bool, error)

	// Foreign returns the issuer outside this server whose tokens have that iss,
	// if it is trusted. Nil: there is none.
	Foreign func(iss string) (Foreign, bool)
	// ForeignAudience reports whether a token from outside that is for that
	// audience is for this API. Nil: as Realm has it.
	ForeignAudience func(name string) bool
	// AppDisabled reports whether an application of an issuer outside is shut out
	// here. Believed for five seconds. Nil: none is.
	AppDisabled func(ctx context.Context, id string) (bool, error)
	// Visitor returns what a person may do whom an issuer outside signed in, or an
	// api.Error ResourceNotFound when they are shut out. Believed for five seconds.
	// Nil: no token of such a person is accepted.
	Visitor func(ctx context.Context, who Visitor) (Person, error)

	// Person returns who the user with that object id is and what they may do,
	// or an api.Error ResourceNotFound when there is none or they are shut out.
	// Its answer is believed for five seconds. Nil: no token of a person is accepted.
	Person func(ctx context.Context, oid string) (Person, error)

	Now func() time.Time // nil: time.Now
}

// Verifier turns bearer tokens into callers. It is safe for concurrent use.
type Verifier struct {
	cfg  Config
	seen cache[[sha256.Size]byte, claims] // signature and form are good
	apps cache[string, appState]

	people cache[string, personState]
}

// Person is one of the people that may sign in.
type Person struct {
	UPN    string
	ID     string // what the record knows them by; "": the UPN
	Access Access

	// Since is when what they prove themselves by was last changed: tokens that
	// were made before are not theirs any more.
	Since time.Time
}

type personState struct {
	person Person
	known  bool
	asked  time.Time
}

type appState struct {
	enabled bool
	asked   time.Time
}

// claims is what we read of a token; see docs/identity.md.
type claims struct {
	foreignClaims

	Issuer   string           `json:"iss"`
	Audience jwt.Audience     `json:"aud"`
	Expires  *jwt.NumericDate `json:"exp"`
	NotYet   *jwt.NumericDate `json:"nbf"`
	SignedIn *jwt.NumericDate `json:"auth_time"`
	Tenant   string           `json:"tid"`
	AppID    string           `json:"appid"` // v1
	Party    string           `json:"azp"`   // v2
	AppName  string           `json:"app_displayname"`
	Roles    []Permission     `json:"roles"`
	Scopes   scopes           `json:"scp"`
	UPN      string           `json:"upn"`
	Name     string           `json:"preferred_username"`
	ObjectID string           `json:"oid"`

	key string // the id of the key that signed it
}

// New makes a Verifier.
func New(cfg Config) (*Verifier, error) {
	if err := cfg.Realm.Check(); err != nil {
		return nil, fmt.Errorf("cannot verify tokens: %w", err)
	}
	if cfg.Keys == nil {
		return nil, errors.New("cannot verify tokens: Keys is not set")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Verifier{
		cfg:  cfg,
		seen: cache[[sha256.Size]byte, claims]{size: cachedTokens},
		apps: cache[string, appState]{size: cachedTokens},

		people: cache[string, personState]{size: cachedTokens},
	}, nil
}

// Bearer takes the token out of the value of an Authorization header.
func Bearer(authorization string) (string, error) {
	scheme, token, _ := strings.Cut(strings.TrimSpace(authorization), " ")
	token = strings.TrimSpace(token)
	switch {
	case scheme == "":
		return "", unauthorized("The request carries no access token: send the header Authorization: Bearer TOKEN")
	case !strings.EqualFold(scheme, "Bearer"):
		return "", unauthorized("The Authorization header is not of the form Bearer TOKEN")
	case token == "":
		return "", unauthorized("The Authorization header carries no token after Bearer")
	}
	return token, nil
}

// Verify returns who calls with this access token, or an api.Error
// Unauthorized that says what is wrong with it.
func (v *Verifier) Verify(ctx context.Context, token string) (Caller, error) {
	if len(token) > MaxToken {
		return Caller{}, unauthorized("The access token is %d bytes long, %d are allowed", len(token), MaxToken)
	}
	digest := sha256.Sum256([]byte(token))
	cl, ok := v.seen.get(digest)
	if !ok {
		var err error
		if cl, err = v.open(ctx, token); err != nil {
			return Caller{}, err
		}
	}
	// Dates, audience and issuer are looked at each time: the first pass, and
	// the others change with the settings.
	c, err := v.decide(ctx, cl)
	if err == nil && !ok {
		v.seen.put(digest, cl)
	}
	return c, err
}

// decide tells whom a token with these claims, whose signature is good, makes of
// its bearer now.
func (v *Verifier) decide(ctx context.Context, cl claims) (Caller, error) {
	if from, ok := v.foreign(cl.Issuer); ok {
		return v.decideForeign(ctx, cl, from)
	}
	if err := v.check(cl); err != nil {
		return Caller{}, err
	}
	c, err := caller(cl)
	if err != nil {
		return Caller{}, err
	}
	if err := v.checkApp(ctx, c.AppID); err != nil {
		return Caller{}, err
	}
	if c.Kind == User {
		return v.identify(ctx, c, cl)
	}
	return c, nil
}

// open checks the signature and reads the claims. The algorithms are ours to
// name, never the token's; whose keys count, its iss says before it is believed,
// and the signature then proves.
func (v *Verifier) open(ctx context.Context, token string) (claims, error) {
	accepted := v.algorithms()
	tok, err := jwt.ParseSigned(token, accepted)
	switch {
	case err != nil && strings.Count(token, ".") == 2 && isAlgorithm(err):
		return claims{}, notSignedWith(accepted)
	case err != nil:
		return claims{}, unauthorized("The access token is not a signed JSON Web Token")
	}
	var says struct {
		Issuer string `json:"iss"`
	}
	if err := tok.UnsafeClaimsWithoutVerification(&says); err != nil {
		return claims{}, unauthorized("The access token cannot be read")
	}
	var key any = v.cfg.Keys()
	if from, ok := v.foreign(says.Issuer); ok {
		if key, err = foreignKey(ctx, tok.Headers[0], from); err != nil {
			return claims{}, err
		}
	} else if alg := tok.Headers[0].Algorithm; alg != string(jose.RS256) {
		return claims{}, notSignedWith([]jose.SignatureAlgorithm{jose.RS256})
	}
	var cl claims
	switch err := tok.Claims(key, &cl); {
	case errors.Is(err, jose.ErrJWKSKidNotFound):
		return claims{}, unauthorized("The access token is signed by a key that is not known here: get a new one from this server's token endpoint")
	case errors.Is(err, jose.ErrCryptoFailure):
		return claims{}, unauthorized("The access token's signature is not valid")
	case err != nil:
		v.cfg.Log.Debug("token_unreadable", "error", err)
		return claims{}, unauthorized("The access token cannot be read")
	}
	cl.key = tok.Headers[0].KeyID
	return cl, nil
}

func notSignedWith(accepted []jose.SignatureAlgorithm) error {
	names := make([]string, len(accepted))
	for i, a := range accepted {
		names[i] = string(a)
	}
	return unauthorized("The access token is not signed with %s", strings.Join(names, ", "))
}

func isAlgorithm(err error) bool {
	var alg *jose.ErrUnexpectedSignatureAlgorithm
	return errors.As(err, &alg)
}

func (v *Verifier) check(cl claims) error {
	keys := v.cfg.Keys()
	if len(keys.Key(cl.key)) == 0 { // a key that was taken away ends what it signed
		return unauthorized("The access token is signed by a key that is not known here any more: get a new one")
	}
	if err := cl.checkDates(v.cfg.Now()); err != nil {
		return err
	}
	switch {
	case !v.cfg.Realm.Issued(cl.Issuer):
		return unauthorized("The access token comes from an issuer that is not trusted here: %s", shown(cl.Issuer))
	case cl.Tenant != v.cfg.Realm.Tenant:
		return unauthorized("The access token is of another tenant: %s", shown(cl.Tenant))
	case !slices.ContainsFunc(cl.Audience, func(a string) bool { _, ok := v.cfg.Realm.Audience(a); return ok }):
		return otherAudience(cl)
	}
	return nil
}

func otherAudience(cl claims) error {
	return unauthorized("The access token is for another audience: %s", shown(strings.Join(cl.Audience, ", ")))
}

func (cl claims) checkDates(now time.Time) error {
	switch {
	case cl.Expires == nil:
		return unauthorized("The access token has no expiry (exp)")
	case !now.Before(cl.Expires.Time().Add(Leeway)):
		return unauthorized("The access token expired at %s: get a new one", stamp(cl.Expires))
	case cl.NotYet != nil && now.Add(Leeway).Before(cl.NotYet.Time()):
		return unauthorized("The access token is not valid before %s: check the clocks", stamp(cl.NotYet))
	}
	return nil
}

// caller reads who it is: a token with scp is a person's through an
// application, any other an application's own. One without roles is a caller
// that may do nothing, which is for Allow to say.
func caller(cl claims) (Caller, error) {
	app := strings.ToLower(firstOf(cl.AppID, cl.Party))
	if !IsGUID(app) {
		return Caller{}, unauthorized("The access token names no application (appid or azp)")
	}
	if len(cl.Scopes) == 0 {
		return Caller{Kind: App, ID: app, Name: firstOf(cl.AppName, app), AppID: app, Tenant: cl.Tenant, Permissions: cl.Roles}, nil
	}
	user := firstOf(cl.UPN, cl.Name, cl.ObjectID)
	if user == "" {
		return Caller{}, unauthorized("The access token names no user (upn or oid)")
	}
	return Caller{Kind: User, ID: user, Name: user, AppID: app, Tenant: cl.Tenant, Permissions: cl.Scopes}, nil
}

// checkApp asks whether the application may still call.
func (v *Verifier) checkApp(ctx context.Context, id string) error {
	if v.cfg.AppEnabled == nil {
		return nil
	}
	return v.askOfApp(id, "", func() (bool, error) { return v.cfg.AppEnabled(ctx, id) })
}

// askOfApp believes an answer for a while. When there is none the request waits:
// a disabled application must not profit from a fault.
func (v *Verifier) askOfApp(id, whose string, enabled func() (bool, error)) error {
	now := v.cfg.Now()
	st, ok := v.apps.get(whose + id)
	if age := now.Sub(st.asked); !ok || age < 0 || age >= appCheckFor {
		on, err := enabled()
		if err != nil {
			v.cfg.Log.Error("app_check_failed", "app", id, "error", err)
			return api.Errorf(api.ServiceUnavailable, "The application cannot be looked up at the moment: try again")
		}
		st = appState{enabled: on, asked: now}
		v.apps.put(whose+id, st)
	}
	if !st.enabled {
		return unauthorized("The application %s is disabled or no longer registered", id)
	}
	return nil
}

// identify finds the person that the token names, by their object id: a UPN may
// be given to somebody else one day. What they may do is looked up and never in
// the token, so that it ends when it is taken away.
func (v *Verifier) identify(ctx context.Context, c Caller, cl claims) (Caller, error) {
	if v.cfg.Person == nil || !IsGUID(cl.ObjectID) {
		return Caller{}, unauthorized("The access token names no user that is known here (oid)")
	}
	oid := strings.ToLower(cl.ObjectID)
	p, err := v.askOfPerson(oid, func() (Person, error) { return v.cfg.Person(ctx, oid) })
	if err != nil {
		return Caller{}, err
	}
	if cl.SignedIn == nil || cl.SignedIn.Time().Before(p.Since.Truncate(time.Second)) {
		return Caller{}, unauthorized("The user's credentials were changed after the access token was made: sign in again")
	}
	c.ID, c.Name, c.Access = p.UPN, p.UPN, p.Access
	return c, nil
}

// askOfPerson believes an answer for a while.
func (v *Verifier) askOfPerson(key string, ask func() (Person, error)) (Person, error) {
	now := v.cfg.Now()
	st, ok := v.people.get(key)
	if age := now.Sub(st.asked); !ok || age < 0 || age >= appCheckFor {
		p, err := ask()
		if err != nil && api.CodeOf(err) != api.ResourceNotFound {
			v.cfg.Log.Error("person_check_failed", "error", err)
			return Person{}, api.Errorf(api.ServiceUnavailable, "The user cannot be looked up at the moment: try again")
		}
		st = personState{person: p, known: err == nil, asked: now}
		v.people.put(key, st)
	}
	if !st.known {
		return Person{}, unauthorized("The user of the access token is disabled or no longer known")
	}
	return st.person, nil
}

func unauthorized(format string, args ...any) error {
	return api.Errorf(api.Unauthorized, format, args...)
}

func stamp(d *jwt.NumericDate) string { return d.Time().UTC().Format(time.RFC3339) }

// shown quotes a claim for a message, cut to a length that fits one.
func shown(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return fmt.Sprintf("%q", s)
}

func firstOf(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}
