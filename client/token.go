// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"staunch/api"
)

// credentials is the TokenSource of an application (OAuth 2.0 client
// credentials, the v2.0 endpoint).
type credentials struct {
	client             *Client
	tenant, id, secret string

	mu    sync.Mutex
	token string    // guarded by mu
	ends  time.Time // guarded by mu
}

// early is how long before its end a token is replaced.
const early = time.Minute

// Token implements TokenSource. Callers at the same time wait for one request.
func (s *credentials) Token(ctx context.Context, refresh bool) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !refresh && s.token != "" && time.Until(s.ends) > early {
		return s.token, nil
	}
	form := url.Values{
		"grant_type":    {"client_credentials"},
		"client_id":     {s.id},
		"client_secret": {s.secret},
		"scope":         {"https://api.securitycenter.microsoft.com/.default"},
	}
	address := s.client.base.String() + "/" + url.PathEscape(s.tenant) + "/oauth2/v2.0/token"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, strings.NewReader(form.Encode()))
	if err != nil {
		return "", fmt.Errorf("cannot make token request: %w", err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, b, err := s.client.fetch(r)
	if err != nil {
		return "", err
	}
	var answer struct {
		Token       string `json:"access_token"`
		Expires     int64  `json:"expires_in"` // seconds
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	err = json.Unmarshal(b, &answer)
	switch {
	case resp.StatusCode == http.StatusOK && err == nil && answer.Token != "":
		s.token, s.ends = answer.Token, time.Now().Add(time.Duration(answer.Expires)*time.Second)
		return s.token, nil
	case err == nil && answer.Error != "":
		return "", api.Errorf(api.Unauthorized, "no token for application %s: %s", s.id, answer.Description)
	case err == nil:
		return "", errors.New("cannot get a token: the answer holds none")
	}
	return "", fmt.Errorf("cannot get a token: the server answered %s: %.200q", resp.Status, b)
}

// Login gets a token, to prove that the server knows the caller.
func (c *Client) Login(ctx context.Context) error {
	if c.tokens == nil {
		return errors.New("cannot log in: no credentials were given")
	}
	_, err := c.tokens.Token(ctx, true)
	return err
}
