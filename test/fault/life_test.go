// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"staunch/api"
	"staunch/client"
	"staunch/internal/agent"
	"staunch/internal/agent/link"
	"staunch/internal/order"
	"staunch/internal/server"
	"staunch/test/rig"
)

// TestLife starts a server and an agent in this process, lets them speak, and
// stops them: no goroutine is left, and no file is half written. Twice, because
// the second start finds what the first left.
func TestLife(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	dir := scratch(t)
	disk := filepath.Join(dir, "disk")
	must(t, os.Mkdir(disk, 0o755)) //nolint:gosec // as a disk is
	log := slog.New(slog.DiscardHandler)
	state, err := agent.OpenState(filepath.Join(dir, "agent"))
	must(t, err)
	listen := "127.0.0.1:0"
	for round := range 2 {
		s, err := server.New(t.Context(), server.Config{Data: filepath.Join(dir, "server"), Listen: listen, Log: log})
		must(t, err)
		must(t, s.Start(t.Context()))
		listen = strings.TrimPrefix(s.URL(), "https://")
		if round == 0 {
			enroll(t, state, &rig.Server{Program: filepath.Join(bin, "staunch"), Data: filepath.Join(dir, "server")})
		}
		a, err := agent.New(agent.Config{State: state, Roots: []string{disk}, GateOff: "not in this test", Log: log})
		must(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- a.Run(ctx) }()
		must(t, rig.Until("the agent was connected", func() (bool, error) {
			st, err := a.Status(ctx)
			return st.Connected, err
		}))
		if round == 1 { // the server goes first, then the agent
			must(t, s.Stop())
		}
		cancel()
		must(t, <-ended)
		if round == 0 {
			must(t, s.Stop())
		}
		whole(t, dir)
	}
	goleak.VerifyNone(t, leaks)
}

func enroll(t *testing.T, state agent.State, s *rig.Server) {
	t.Helper()
	var made api.EnrollmentToken
	must(t, s.Admin(t.Context(), &made, "enroll-token", "create"))
	token, err := order.ParseEnrollToken(made.Token)
	must(t, err)
	key, err := state.NewDeviceKey()
	must(t, err)
	resp, ca, err := link.Enroll(t.Context(), token, key, agent.Facts())
	must(t, err)
	must(t, state.Enroll(agent.Enrollment{URL: token.URL, DeviceID: resp.DeviceID, TenantID: resp.TenantID, OrderKeys: resp.OrderKeys, CA: string(ca)}))
}

// whole looks for what only a program at work may have in its folder.
func whole(t *testing.T, dir string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := e.Name(); {
		case e.Type()&fs.ModeSocket != 0, name == "ready.json", strings.Contains(name, ".tmp-"):
			t.Errorf("left behind: %s", path)
		case strings.HasSuffix(name, ".json"):
			if fi, err := e.Info(); err != nil || fi.Size() == 0 {
				t.Errorf("half written: %s (%v)", path, err)
			}
		}
		return nil
	}))
}

// TestStopDuringStart: a server that is told to stop while it starts, and one
// that cannot start, leave nothing either.
func TestStopDuringStart(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	dir := scratch(t)
	log := slog.New(slog.DiscardHandler)
	s, err := server.New(t.Context(), server.Config{Data: dir, Listen: "127.0.0.1:0", Log: log})
	must(t, err)
	if second, err := server.New(t.Context(), server.Config{Data: dir, Listen: "127.0.0.1:0", Log: log}); err == nil || !strings.Contains(err.Error(), "is another server running on it?") {
		t.Errorf("a second server on the folder: %v, %v", second, err)
	}
	must(t, s.Stop()) // never started
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if s, err = server.New(gone, server.Config{Data: dir, Listen: "127.0.0.1:0", Log: log}); err == nil {
		must(t, s.Stop())
	} else if !errors.Is(err, context.Canceled) {
		t.Errorf("started with its context ended: %v", err)
	}
	whole(t, dir)
	goleak.VerifyNone(t, leaks)
}

// TestCallerHangsOn: a caller in the middle of a call does not keep a server from
// stopping, and gets its answer.
func TestCallerHangsOn(t *testing.T) {
	s := startServer(t)
	c, _, err := s.Client(t.Context(), "hanging")
	must(t, err)
	answered := make(chan error, 8)
	for range cap(answered) {
		go func() {
			_, err := c.Machines(t.Context(), client.Query{})
			answered <- err
		}()
	}
	must(t, s.Process.End(15))
	for range cap(answered) {
		<-answered // an answer or a refused connection, but an end
	}
	if _, err := os.Stat(filepath.Join(s.Data, "ready.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ready.json of a server that has stopped: %v", err)
	}
}
