// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"staunch/api"
)

// deviceGrant names the grant of a device code (RFC 8628).
const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// TokenError is a refusal of the token service.
type TokenError struct {
	Code        string `json:"error"` // as in authorization_pending
	Description string `json:"error_description"`
}

func (e *TokenError) Error() string { return e.Code + ": " + e.Description }

// SignInScope is what the command line asks for: all that the application may do
// for the person, and to be renewed.
const SignInScope = "openid offline_access https://api.securitycenter.microsoft.com/.default"

// BeginSignIn begins a person's sign-in by device code. Show them the message,
// and then wait with EndSignIn.
func (c *Client) BeginSignIn(ctx context.Context, tenant, app string) (api.DeviceCode, error) {
	var d api.DeviceCode
	err := c.tokenService(ctx, tenant, "devicecode", url.Values{"client_id": {app}, "scope": {SignInScope}}, &d)
	return d, err
}

// EndSignIn waits until the person has signed in, or declined, or the code has expired.
func (c *Client) EndSignIn(ctx context.Context, tenant, app string, d api.DeviceCode) (api.Tokens, error) {
	every := time.Duration(max(d.Interval, 1)) * time.Second
	for {
		var t api.Tokens
		err := c.tokenService(ctx, tenant, "token", url.Values{"grant_type": {deviceGrant}, "client_id": {app}, "device_code": {d.DeviceCode}}, &t)
		refusal, ok := err.(*TokenError) //nolint:errorlint // made just above
		switch {
		case ok && refusal.Code == "slow_down":
			every += 5 * time.Second
		case !ok || refusal.Code != "authorization_pending":
			return t, err
		}
		if err := sleep(ctx, every); err != nil {
			return t, err
		}
	}
}

// RenewSignIn redeems a refresh token, which is good once: keep the new one.
func (c *Client) RenewSignIn(ctx context.Context, tenant, app, refresh string) (api.Tokens, error) {
	var t api.Tokens
	err := c.tokenService(ctx, tenant, "token", url.Values{"grant_type": {"refresh_token"}, "client_id": {app}, "refresh_token": {refresh}}, &t)
	return t, err
}

func (c *Client) tokenService(ctx context.Context, tenant, endpoint string, form url.Values, out any) error {
	address := c.base.String() + "/" + url.PathEscape(tenant) + "/oauth2/v2.0/" + endpoint
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("cannot make token request: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, b, err := c.fetch(r)
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return decode(b, out)
	}
	var e TokenError
	if json.Unmarshal(b, &e) != nil || e.Code == "" {
		return fmt.Errorf("cannot sign in: the server answered %s: %.200q", resp.Status, b)
	}
	return &e
}
