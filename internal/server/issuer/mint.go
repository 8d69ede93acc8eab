// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"crypto/rand"
	"encoding/base64"
	"time"

	"staunch/internal/server/auth"
)

// backdate is how far nbf and iat lie before the present, for clients and
// verifiers whose clocks are late.
const backdate = 5 * time.Minute

// claims of an application's access token, in the order that Entra writes them.
type claims struct {
	Audience string            `json:"aud"`
	Issuer   string            `json:"iss"`
	IssuedAt int64             `json:"iat"`
	NotYet   int64             `json:"nbf"`
	Expires  int64             `json:"exp"`
	AppName  string            `json:"app_displayname"`
	AppID    string            `json:"appid,omitempty"`    // v1
	AppACR   string            `json:"appidacr,omitempty"` // v1: how the app proved itself; see proven
	Party    string            `json:"azp,omitempty"`      // v2
	PartyACR string            `json:"azpacr,omitempty"`   // v2
	IDP      string            `json:"idp"`
	IDType   string            `json:"idtyp"`
	ObjectID string            `json:"oid"`
	Roles    []auth.Permission `json:"roles,omitempty"`
	Subject  string            `json:"sub"`
	Tenant   string            `json:"tid"`
	TokenID  string            `json:"uti"`
	JWTID    string            `json:"jti"`
	Version  version           `json:"ver"`
}

// mint makes a token for an application itself, in the shape of the endpoint's version.
func (s *Service) mint(p proven, aud, base string, v version) (any, *refusal) {
	c := s.baseClaims(p, aud, base, v)
	c.IDType, c.Roles = "app", p.app.Permissions
	c.ObjectID = auth.NameGUID("service principal", s.cfg.Realm.Tenant, p.app.ID)
	c.Subject = c.ObjectID
	token, ref := s.sign(p.app, c)
	switch {
	case ref != nil:
		return nil, ref
	case v == v2:
		return s.answerV2(token), nil
	}
	return s.answerV1(token, c), nil
}

// baseClaims are those that tokens of applications and of people share.
func (s *Service) baseClaims(p proven, aud, base string, v version) claims {
	now := s.cfg.Now()
	c := claims{
		Audience: aud, IssuedAt: now.Add(-backdate).Unix(), NotYet: now.Add(-backdate).Unix(), Expires: now.Add(s.cfg.Lifetime()).Unix(),
		AppName: p.app.Name, Tenant: s.cfg.Realm.Tenant, TokenID: tokenID(), Version: v,
	}
	c.JWTID = c.TokenID
	if v == v1 {
		c.AppID, c.AppACR, c.Issuer = p.app.ID, p.how, s.cfg.Realm.IssuerV1(base)
	} else {
		c.Party, c.PartyACR, c.Issuer = p.app.ID, p.how, s.cfg.Realm.IssuerV2(base)
	}
	c.IDP = c.Issuer
	return c
}

func tokenID() string {
	var b [16]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// answerV1 is a v1 answer: every number a string.
type answerV1 struct {
	Type      string `json:"token_type"`
	ExpiresIn string `json:"expires_in"`
	ExtExpire string `json:"ext_expires_in"`
	ExpiresOn string `json:"expires_on"`
	NotBefore string `json:"not_before"`
	Resource  string `json:"resource"`
	Token     string `json:"access_token"`
}

// answerV2 is a v2 answer.
type answerV2 struct {
	Type      string `json:"token_type"`
	ExpiresIn int64  `json:"expires_in"`
	ExtExpire int64  `json:"ext_expires_in"`
	Token     string `json:"access_token"`
}
