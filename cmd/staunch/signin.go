// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
	"staunch/internal/durable"
)

// early is how long before its end an access token is renewed.
const early = time.Minute

// signIn has a person sign in by device code and returns the profile with their tokens.
func (p profile) signIn(ctx context.Context) (profile, error) {
	open, err := client.New(client.Config{URL: p.URL, CAFile: p.CAFile})
	if err != nil {
		return p, err
	}
	code, err := open.BeginSignIn(ctx, p.TenantID, p.ClientID)
	if err != nil {
		return p, fmt.Errorf("cannot begin to sign in: %w", err)
	}
	// Not Progress: without it nobody can go on, so a script's log has it too.
	fmt.Fprintln(os.Stderr, code.Message)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(code.ExpiresIn+10)*time.Second)
	defer cancel()
	tokens, err := open.EndSignIn(ctx, p.TenantID, p.ClientID, code)
	if err != nil {
		return p, fmt.Errorf("cannot sign in: %w", err)
	}
	return p.with(tokens), nil
}

func (p profile) with(t api.Tokens) profile {
	p.AccessToken, p.RefreshToken = t.AccessToken, t.RefreshToken
	p.Ends = time.Now().Add(time.Duration(t.ExpiresIn) * time.Second)
	return p
}

// signedIn is the token source of a person's profile. A refresh token is good
// once, so the file of profiles is locked while it is redeemed: two commands at
// once must not both do so.
type signedIn struct{ name string }

// Token implements client.TokenSource.
func (s signedIn) Token(ctx context.Context, refresh bool) (string, error) {
	unlock, err := lockProfiles(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	all, err := readProfiles() // again: another command may have renewed it
	if err != nil {
		return "", err
	}
	p, ok := all.Profiles[s.name]
	if !ok || p.RefreshToken == "" {
		return "", &cli.Hinted{Err: errors.New("not signed in any more"), Hint: "staunch login " + p.URL}
	}
	if !refresh && time.Until(p.Ends) > early {
		return p.AccessToken, nil
	}
	open, err := client.New(client.Config{URL: p.URL, CAFile: p.CAFile})
	if err != nil {
		return "", err
	}
	tokens, err := open.RenewSignIn(ctx, p.TenantID, p.ClientID, p.RefreshToken)
	var refusal *client.TokenError
	switch {
	case errors.As(err, &refusal):
		return "", &cli.Hinted{Err: fmt.Errorf("the sign-in has ended: %w", err), Hint: "staunch login " + p.URL}
	case err != nil:
		return "", err
	}
	p = p.with(tokens)
	all.Profiles[s.name] = p
	return p.AccessToken, all.write()
}

// lockProfiles waits for other commands that renew a sign-in.
func lockProfiles(ctx context.Context) (unlock func(), err error) {
	path, err := profilesPath()
	if err != nil {
		return nil, err
	}
	if err := durable.Mkdir(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		unlock, err := durable.Lock(path + ".lock")
		if !errors.Is(err, durable.ErrLocked) {
			return unlock, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot use the profiles: %w", err)
		}
	}
}
