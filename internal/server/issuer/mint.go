// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strconv"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

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
	AppACR   string            `json:"appidacr,omitempty"` // v1: how the app proved itself; 1 = by a secret
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

// mint signs a token for app and answers in the shape of the endpoint's version.
func (s *Service) mint(app App, aud, base string, v version) (any, *refusal) {
	now, lifetime := s.cfg.Now(), s.cfg.Lifetime()
	c := claims{
		Audience: aud, IssuedAt: now.Add(-backdate).Unix(), NotYet: now.Add(-backdate).Unix(), Expires: now.Add(lifetime).Unix(),
		AppName: app.Name, IDType: "app", Roles: app.Permissions, Tenant: s.cfg.Realm.Tenant, TokenID: tokenID(), Version: v,
	}
	c.ObjectID = auth.NameGUID("service principal", s.cfg.Realm.Tenant, app.ID)
	c.Subject, c.JWTID = c.ObjectID, c.TokenID
	if v == v1 {
		c.AppID, c.AppACR, c.Issuer = app.ID, "1", s.cfg.Realm.IssuerV1(base)
	} else {
		c.Party, c.PartyACR, c.Issuer = app.ID, "1", s.cfg.Realm.IssuerV2(base)
	}
	c.IDP = c.Issuer
	signed, err := jwt.Signed(s.keys.signer).Claims(c).Serialize()
	if err != nil {
		s.cfg.Log.Error("token_not_signed", "client", app.ID, "error", err)
		return nil, &refusal{status: http.StatusInternalServerError, code: "server_error", number: 90033, text: "The token could not be signed: see the server's log."}
	}
	// One second less than it is: who trusts the number to the last second
	// must not come too late.
	seconds := int64(lifetime/time.Second) - 1
	if v == v2 {
		return answerV2{"Bearer", seconds, seconds, signed}, nil
	}
	text := strconv.FormatInt(seconds, 10)
	return answerV1{"Bearer", text, text, strconv.FormatInt(c.Expires, 10), strconv.FormatInt(c.NotYet, 10), aud, signed}, nil
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
