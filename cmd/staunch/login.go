// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/cli"
	"staunch/internal/durable"
)

// profile is a server and a caller, kept by login.
type profile struct {
	URL          string `json:"url"`
	TenantID     string `json:"tenantId"`
	ClientID     string `json:"clientId"`
	ClientSecret string `json:"clientSecret,omitempty"` // of an application
	CAFile       string `json:"caFile,omitempty"`

	// Of a person who signed in.
	AccessToken  string    `json:"accessToken,omitempty"`
	RefreshToken string    `json:"refreshToken,omitempty"`
	Ends         time.Time `json:"ends,omitzero"` // of the access token
}

// profiles is the file of them: readable by its owner alone, because a secret
// in it is as good as the app it belongs to.
type profiles struct {
	Current  string             `json:"current"`
	Profiles map[string]profile `json:"profiles"`
}

func profilesPath() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("cannot find a folder for profiles: %w", err)
	}
	return filepath.Join(dir, "staunch", "profiles.json"), nil
}

func readProfiles() (p profiles, err error) {
	p.Profiles = map[string]profile{}
	path, err := profilesPath()
	if err != nil {
		return p, err
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &p)
	}
	if err != nil {
		return p, fmt.Errorf("cannot read profiles in %s: %w", path, err)
	}
	return p, nil
}

func (p profiles) write() error {
	path, err := profilesPath()
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Mkdir(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, append(b, '\n'), 0o600)
}

// profileName is the one asked for on the command line; "" is the last one.
type profileName string

// caller is the server as the profile's caller calls it.
type caller struct{ *client.Client }

// server calls the server as the profile's caller.
func (n profileName) server() (caller, error) {
	c, err := n.client()
	return caller{c}, err
}

func (n profileName) client() (*client.Client, error) {
	p, err := readProfiles()
	if err != nil {
		return nil, err
	}
	name := string(n)
	if name == "" {
		name = p.Current
	}
	use, ok := p.Profiles[name]
	if !ok {
		err := errors.New("not logged in")
		if name != "" {
			err = fmt.Errorf("there is no profile %q; there are: %s", name, strings.Join(slices.Sorted(maps.Keys(p.Profiles)), ", "))
		}
		return nil, &cli.Hinted{Err: err, Hint: "staunch login URL"}
	}
	if use.RefreshToken != "" {
		return client.New(client.Config{URL: use.URL, CAFile: use.CAFile, TokenSource: signedIn{name}})
	}
	return use.client()
}

func (p profile) client() (*client.Client, error) {
	return client.New(client.Config{URL: p.URL, TenantID: p.TenantID, ClientID: p.ClientID, ClientSecret: p.ClientSecret, CAFile: p.CAFile})
}

type loginCmd struct {
	URL               string `arg:"" help:"The server, as in https://staunch.example:8443."`
	ClientID          string `help:"Log in as an app, with its secret; or sign in as a person through it. Default: as a person, through this command line." env:"STAUNCH_CLIENT_ID" placeholder:"GUID"`
	ClientSecretStdin bool   `help:"Read the app's secret from standard input."`
	Tenant            string `help:"Tenant id. Default: the server's only one." default:"common" placeholder:"GUID"`
	CA                string `name:"ca" help:"PEM file of the authority that signed the server's certificate. Default: the system's." type:"existingfile" placeholder:"FILE"`
	As                string `help:"Name of the profile. Default: the server's host name." placeholder:"NAME"`
}

// Validate is asked by the parser.
func (c loginCmd) Validate() error {
	if c.ClientSecretStdin && c.ClientID == "" {
		return errors.New("--client-secret-stdin needs --client-id")
	}
	return nil
}

// Run proves that the caller is known before it keeps the profile.
func (c loginCmd) Run(ctx context.Context, out cli.Output) error {
	p := profile{URL: strings.TrimSuffix(c.URL, "/"), TenantID: c.Tenant, ClientID: cmp.Or(c.ClientID, api.CommandLineApp)}
	var err error
	if c.ClientSecretStdin {
		if p.ClientSecret, err = cli.ReadSecret("client secret: "); err != nil {
			return err
		}
	}
	if c.CA != "" {
		if p.CAFile, err = filepath.Abs(c.CA); err != nil {
			return err
		}
	}
	if p, err = c.prove(ctx, p); err != nil {
		return err
	}
	unlock, err := lockProfiles(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	all, err := readProfiles()
	if err != nil {
		return err
	}
	name := c.As
	if u, err := url.Parse(p.URL); name == "" && err == nil {
		name = u.Hostname()
	}
	all.Profiles[name], all.Current = p, name
	if err := all.write(); err != nil {
		return err
	}
	return out.Print(map[string]string{"profile": name, "url": p.URL}, func(w writer) {
		fmt.Fprintf(w, "logged in to %s as profile %s\n", p.URL, name)
	})
}

// prove gets a token as the caller of the profile.
func (c loginCmd) prove(ctx context.Context, p profile) (profile, error) {
	if !c.ClientSecretStdin {
		return p.signIn(ctx)
	}
	server, err := p.client()
	if err != nil {
		return p, err
	}
	return p, server.Login(ctx)
}
