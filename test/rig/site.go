// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"staunch/api"
	"staunch/client"
	"staunch/internal/agent"
)

// Server is a staunch server in a folder. It can be started again after it has
// ended, and then has the same address.
type Server struct {
	Program string   // required
	Data    string   // required: its folder
	Args    []string // further arguments of "staunch server"

	Ready   api.Ready // once started
	Process *Process  // the one that runs, or ran last
}

// Start starts it and waits until it serves.
func (s *Server) Start() error {
	u, err := url.Parse(s.Ready.URL)
	if err == nil && u.Host != "" {
		return s.start(u.Host)
	}
	for range 5 {
		// Not port 0: what the kernel hands out it may hand to another while this
		// server is away.
		err = s.start(fmt.Sprintf("127.0.0.1:%d", 20_000+mathrand.IntN(12_000)))
		if err == nil || !strings.Contains(err.Error(), "address already in use") {
			break
		}
	}
	return err
}

func (s *Server) start(listen string) error {
	args := append([]string{"server", "--data", s.Data, "--listen", listen}, s.Args...)
	p, err := Start(s.Data+".log", s.Program, args...)
	if err != nil {
		return err
	}
	s.Process = p
	err = until(Patience, "the server was ready", p.gone, func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(s.Data, "ready.json"))
		if err != nil {
			return false, nil
		}
		if err := json.Unmarshal(b, &s.Ready); err != nil {
			return false, fmt.Errorf("cannot read ready.json: %w", err)
		}
		return s.Ready.PID == p.PID(), nil // else one that was killed left it
	})
	if err != nil {
		_ = p.End(syscall.SIGKILL)
		return fmt.Errorf("%w\n%s", err, p.Tail())
	}
	return nil
}

// Admin runs "staunch admin" and decodes its JSON answer.
func (s *Server) Admin(ctx context.Context, answer any, args ...string) error {
	out, err := Run(ctx, s.Program, append([]string{"--json", "admin", "--data", s.Data}, args...)...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, answer)
}

// Client makes an app with all the permissions that Staunch uses and returns a
// client that is logged in as it.
func (s *Server) Client(ctx context.Context, name string) (*client.Client, api.App, error) {
	var app api.App
	err := s.Admin(ctx, &app, "app", "create", name, "--permission", "Machine.StopAndQuarantine", "--permission", "Machine.Read.All")
	if err != nil {
		return nil, app, err
	}
	c, err := client.New(client.Config{
		URL: s.Ready.URL, CAFile: s.Ready.CAFile, TenantID: app.TenantID, ClientID: app.ClientID, ClientSecret: app.ClientSecret,
	})
	return c, app, err
}

// Agent is a staunch-agent in a folder. It can be started again after it has ended.
type Agent struct {
	Program string   // required
	State   string   // required: its folder
	Disk    string   // required: what it covers, and gates
	Args    []string // further arguments of "staunch-agent run"

	Device  string   // its id, once enrolled
	Process *Process // the one that runs, or ran last
}

// Enroll makes it a device of s.
func (a *Agent) Enroll(ctx context.Context, s *Server) error {
	var token api.EnrollmentToken
	if err := s.Admin(ctx, &token, "enroll-token", "create"); err != nil {
		return err
	}
	out, err := Run(ctx, a.Program, "--json", "enroll", token.Token, "--state", a.State)
	if err != nil {
		return err
	}
	var enrolled struct {
		DeviceID string `json:"deviceId"`
	}
	err = json.Unmarshal(out, &enrolled)
	a.Device = enrolled.DeviceID
	return err
}

// Start starts it and waits until its index is complete and, if connected is
// set, until it is connected.
func (a *Agent) Start(ctx context.Context, connected bool) error {
	args := append([]string{"run", "--state", a.State, "--index", a.Disk}, a.Args...)
	p, err := Start(a.State+".log", a.Program, args...)
	if err != nil {
		return err
	}
	a.Process = p
	err = until(Patience, "the agent was ready", p.gone, func() (bool, error) {
		st, err := a.Status(ctx)
		return err == nil && st.Running && st.Index.Complete && (st.Connected || !connected), nil
	})
	if err != nil {
		_ = p.End(syscall.SIGKILL)
		return fmt.Errorf("%w\n%s", err, p.Tail())
	}
	return nil
}

// Status asks the agent that runs.
func (a *Agent) Status(ctx context.Context) (agent.Status, error) {
	r, err := agent.State{Dir: a.State}.Dial(ctx)
	if err != nil {
		return agent.Status{}, err
	}
	return r.Status(ctx)
}
