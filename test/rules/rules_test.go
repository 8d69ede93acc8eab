// SPDX-License-Identifier: Apache-2.0

// Package rules sets indicators on a real server and looks at a real device:
// whether programs start or not, within seconds, while the server is away and
// after restarts; whether what is to be contained is; and what people are told.
package rules

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"staunch/api"
	"staunch/client"
	"staunch/internal/runnable"
	"staunch/test/rig"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// site is a server and a device on a disk of its own.
type site struct {
	t      *testing.T
	server *rig.Server
	agent  *rig.Agent
	client *client.Client
	disk   string
}

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED, NOT PROVEN: standing rules on a real device need root")
	}
	bin, remove, err := rig.Build()
	must(t, err)
	t.Cleanup(remove)
	dir, err := os.MkdirTemp("", "staunch-rules-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &site{t: t, disk: filepath.Join(dir, "disk")}
	must(t, os.Mkdir(s.disk, 0o755))
	own, undo, err := rig.MountDisk(s.disk)
	must(t, err)
	t.Cleanup(undo)
	if !own {
		t.Skip("SKIPPED, NOT PROVEN: no disk of our own to gate")
	}
	s.server = &rig.Server{Program: filepath.Join(bin, "staunch"), Data: filepath.Join(dir, "server")}
	must(t, s.server.Start())
	t.Cleanup(func() { _ = s.server.Process.End(syscall.SIGTERM) })
	var app api.App
	must(t, s.server.Admin(t.Context(), &app, "app", "create", "soc", "--permission", "Ti.ReadWrite.All", "--permission", "File.Read.All",
		"--permission", "Alert.Read.All", "--permission", "Machine.ReadWrite.All", "--permission", "Machine.Read.All", "--permission", "Machine.StopAndQuarantine"))
	s.client, err = client.New(client.Config{URL: s.server.Ready.URL, CAFile: s.server.Ready.CAFile, TenantID: app.TenantID, ClientID: app.ClientID, ClientSecret: app.ClientSecret})
	must(t, err)
	for _, limit := range []string{"limits.perMinute", "limits.perHour"} {
		var ignored struct{}
		must(t, s.server.Admin(t.Context(), &ignored, "settings", "set", limit, "1000000"))
	}
	s.agent = &rig.Agent{Program: filepath.Join(bin, "staunch-agent"), State: filepath.Join(dir, "state"), Disk: s.disk}
	must(t, s.agent.Enroll(t.Context(), s.server))
	must(t, s.agent.Start(t.Context(), true))
	t.Cleanup(func() { _ = s.agent.Process.End(syscall.SIGTERM) })
	st, err := s.agent.Status(t.Context())
	must(t, err)
	if st.Gate == nil {
		t.Skipf("SKIPPED, NOT PROVEN: there is no gate here: %v", st.Off)
	}
	return s
}

func (s *site) rule(hash, action string, change ...func(*api.IndicatorRequest)) string {
	s.t.Helper()
	r := api.IndicatorRequest{IndicatorValue: hash, IndicatorType: "FileSha1", Action: action, Title: "rule " + action, Description: "a test", GenerateAlert: true}
	if len(hash) == 64 {
		r.IndicatorType = "FileSha256"
	}
	for _, c := range change {
		c(&r)
	}
	in, err := s.client.SubmitIndicator(s.t.Context(), r)
	must(s.t, err)
	return in.ID
}

// starts reports whether a program can be started; it is killed at once.
func starts(path string) (bool, error) {
	cmd := exec.Command(path)
	err := cmd.Start()
	switch {
	case errors.Is(err, syscall.EPERM):
		return false, nil
	case err != nil:
		return false, err
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	return true, nil
}

// until waits for a program to start, or not to, any more.
func (s *site) until(what, path string, want bool) time.Duration {
	s.t.Helper()
	begun := time.Now()
	err := rig.Until(what, func() (bool, error) {
		got, err := starts(path)
		return got == want, err
	})
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.agent.Process.Tail())
	}
	return time.Since(begun)
}

func (s *site) stays(what, path string, want bool) {
	s.t.Helper()
	if got, err := starts(path); err != nil || got != want {
		s.t.Errorf("%s: starts %v, %v", what, got, err)
	}
}

func (s *site) program(name string) (path, sha1, sha256 string) {
	s.t.Helper()
	path = filepath.Join(s.disk, name)
	sum, err := rig.Program(path)
	must(s.t, err)
	return path, sum.SHA1.String(), sum.SHA256.String()
}

func gone(path string) func() (bool, error) {
	return func() (bool, error) {
		_, err := os.Lstat(path)
		return errors.Is(err, os.ErrNotExist), nil
	}
}

func (s *site) eventually(what string, done func() (bool, error)) {
	s.t.Helper()
	if err := rig.Until(what, done); err != nil {
		s.t.Fatalf("%v\n%s", err, s.agent.Process.Tail())
	}
}

// The life of standing rules on one device.
func TestRules(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	blocked, one, _ := s.program("blocked")
	free, _, _ := s.program("free")
	s.stays("nothing is ruled yet", blocked, true)

	id := s.rule(one, "Block")
	t.Logf("a rule is in force after %v", s.until("the rule was in force", blocked, false))
	s.stays("another program", free, true)
	s.eventually("the refusal was an alert", func() (bool, error) {
		l, err := s.client.MachineAlerts(ctx, s.agent.Device, client.Query{})
		return err == nil && len(l.Value) == 1 && l.Value[0].Title == "rule Block" && l.Value[0].Evidence[0].FileName == "blocked", err
	})
	stats, err := s.client.FileStats(ctx, one, 0)
	if err != nil || stats.OrganizationPrevalence != 1 || stats.TopFileNames[0] != "blocked" {
		t.Errorf("%+v, %v", stats, err)
	}

	t.Run("holds without the server, over a restart of the agent", func(t *testing.T) {
		must(t, s.server.Process.End(syscall.SIGTERM))
		s.stays("the server is away", blocked, false)
		must(t, s.agent.Process.End(syscall.SIGTERM))
		must(t, s.agent.Start(ctx, false))
		s.stays("the agent is another one", blocked, false)
		must(t, s.server.Start())
		must(t, s.client.DeleteIndicator(ctx, id))
		s.until("the rule was gone", blocked, true)
	})
	t.Run("SHA-256 decides before SHA-1; Allowed lifts", func(t *testing.T) {
		path, one, two := s.program("both")
		s.rule(one, "Block")
		s.until("blocked by SHA-1", path, false)
		allow := s.rule(two, "Allowed")
		s.until("allowed by SHA-256", path, true)
		must(t, s.client.DeleteIndicator(ctx, allow))
		s.until("blocked again", path, false)
	})
	t.Run("Audit reports and lets run", func(t *testing.T) {
		path, one, _ := s.program("audited")
		s.rule(one, "Audit")
		s.eventually("the execution was an alert", func() (bool, error) {
			if ok, err := starts(path); err != nil || !ok {
				return false, fmt.Errorf("starts %v: %w", ok, err)
			}
			l, err := s.client.FileAlerts(ctx, one, client.Query{})
			return err == nil && len(l.Value) == 1 && l.Value[0].Title == "rule Audit", err
		})
	})
	t.Run("BlockAndRemediate contains what is there already, and what appears later", func(t *testing.T) {
		path, one, _ := s.program("bad")
		content, err := os.ReadFile(path)
		must(t, err)
		sum, err := rig.SumOf(path)
		must(t, err)
		end, err := rig.Spawn(path, 1)
		must(t, err)
		defer end()
		s.eventually("the program was indexed", func() (bool, error) {
			st, err := s.agent.Status(ctx)
			return err == nil && st.Index.Complete, err
		})
		s.rule(one, "BlockAndRemediate")
		s.eventually("the copy was contained", gone(path))
		s.eventually("its process was gone", func() (bool, error) {
			pids, err := rig.Running(sum)
			return len(pids) == 0, err
		})
		s.eventually("the vault was reported", func() (bool, error) {
			l, err := s.client.Quarantine(ctx, client.QuarantineQuery{Hash: one})
			return err == nil && len(l.Value) == 1 && l.Value[0].State == "sealed", err
		})
		later := filepath.Join(s.disk, "later")
		must(t, runnable.Write(later, content, 0o755))
		if ok, err := starts(later); ok || err != nil && !errors.Is(err, os.ErrNotExist) { // it may be contained by now
			t.Errorf("a later copy: starts %v, %v", ok, err)
		}
		s.eventually("the later copy was contained", gone(later))
	})
	t.Run("Allowed spares what an order asks for, and lifts what an order left", func(t *testing.T) {
		path, one, _ := s.program("ordered")
		content, err := os.ReadFile(path)
		must(t, err)
		a, err := s.client.StopAndQuarantineFile(ctx, s.agent.Device, api.StopAndQuarantineRequest{Comment: "c", Sha1: one})
		must(t, err)
		a, err = s.client.Watch(ctx, a.ID, nil)
		must(t, err)
		if a.Status != api.Succeeded {
			t.Fatalf("%s: %+v", a.Status, a.TroubleshootInfo)
		}
		must(t, runnable.Write(path, content, 0o755))
		s.stays("an order's gate", path, false)
		s.rule(one, "Allowed")
		s.until("the gate was lifted", path, true)
		a, err = s.client.StopAndQuarantineFile(ctx, s.agent.Device, api.StopAndQuarantineRequest{Comment: "again", Sha1: one})
		must(t, err)
		a, err = s.client.Watch(ctx, a.ID, nil)
		if err != nil || a.Status != api.Failed || a.TroubleshootInfo == nil {
			t.Errorf("%v: %+v", err, a)
		} else {
			t.Log(*a.TroubleshootInfo)
		}
		s.stays("spared", path, true)
	})
	t.Run("expired", func(t *testing.T) {
		path, one, _ := s.program("short")
		for lasts := 5 * time.Second; ; lasts *= 3 { // until the machine is fast enough to see it in force
			end := time.Now().Add(lasts)
			s.rule(one, "Block", func(r *api.IndicatorRequest) { r.ExpirationTime = api.At(end) })
			refused := false
			s.eventually("the rule was in force, or over", func() (_ bool, err error) {
				ok, err := starts(path)
				refused = !ok
				return refused || time.Now().After(end), err
			})
			if refused {
				break
			}
		}
		s.until("the rule was gone", path, true)
	})
}

var many = flag.Int("rules.many", 10_000, "how many rules TestManyRules sets; 100000 takes some minutes")

// memory is what the worker and the gate have in memory, of their own and
// shared, in kB. It is told, and nothing is made of it.
func (s *site) memory() string {
	text := ""
	for _, name := range []string{"worker", "gate"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.part(name))) // it may be starting again
		for _, field := range []string{"RssAnon", "RssShmem"} {
			_, rest, _ := strings.Cut(string(b), field+":")
			value, _, _ := strings.Cut(rest, "kB")
			text += fmt.Sprintf("%s %s %s kB, ", name, field, strings.TrimSpace(value))
		}
	}
	return strings.TrimSuffix(text, ", ")
}

// Many rules reach a device, and are followed.
func TestManyRules(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED, NOT PROVEN: long")
	}
	s := newSite(t)
	ctx := context.Background()
	var ignored struct{}
	must(t, s.server.Admin(ctx, &ignored, "settings", "set", "indicators.limit", "200000"))
	many := *many
	t.Log("without rules: ", s.memory())
	rows := make([]api.IndicatorRequest, 500)
	for n := 0; n < many; n += len(rows) {
		for i := range rows {
			rows[i] = api.IndicatorRequest{IndicatorValue: fmt.Sprintf("%08x%032x", uint32(n+i)*42_949, n+i+1), IndicatorType: "FileSha1", Action: "Block", Title: "t", Description: "d"}
		}
		done, err := s.client.ImportIndicators(ctx, api.IndicatorImport{Indicators: rows})
		must(t, err)
		for _, d := range done.Value {
			if d.IsFailed {
				t.Fatalf("%+v", *d.FailureReason)
			}
		}
	}
	path, one, _ := s.program("blocked")
	s.stays("before", path, true)
	s.rule(one, "Block")
	t.Logf("one more rule beside %d is in force after %v", many, s.until("the rule was in force", path, false))
	s.eventually("the gate had them all", func() (bool, error) {
		st, err := s.agent.Status(ctx)
		return err == nil && st.Gate.Hashes == many+1, err
	})
	t.Log("with them: ", s.memory())
	must(t, s.agent.Process.End(syscall.SIGTERM))
	must(t, s.agent.Start(ctx, false))
	s.stays("after a restart", path, false)
	t.Log("after a restart: ", s.memory())
}
