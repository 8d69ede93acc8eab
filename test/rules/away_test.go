// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"staunch/api"
	"staunch/client"
)

// part is the process that the supervisor started for one of its parts, "gate"
// or "worker"; 0 while there is none.
func (s *site) part(name string) int {
	found, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", s.agent.Process.PID()))
	must(s.t, err)
	for _, f := range found {
		b, _ := os.ReadFile(f) // a thread may have gone
		for _, child := range strings.Fields(string(b)) {
			words, _ := os.ReadFile("/proc/" + child + "/cmdline")
			if w := strings.Split(string(words), "\x00"); len(w) > 1 && w[1] == name {
				pid, err := strconv.Atoi(child)
				must(s.t, err)
				return pid
			}
		}
	}
	return 0
}

// kill kills parts of the agent and waits until others do their work.
func (s *site) kill(names ...string) {
	s.t.Helper()
	old := map[string]int{}
	for _, name := range names {
		old[name] = s.part(name)
		if old[name] == 0 {
			s.t.Fatalf("the agent has no %s", name)
		}
		must(s.t, syscall.Kill(old[name], syscall.SIGKILL))
	}
	for _, name := range names {
		s.eventually("there was another "+name, func() (bool, error) {
			now := s.part(name)
			return now != 0 && now != old[name], nil
		})
	}
	s.eventually("the agent answered", func() (bool, error) {
		st, err := s.agent.Status(s.t.Context())
		return err == nil && st.Gate != nil, nil
	})
}

// A rule holds while the server is away, whatever of the agent is killed
// meanwhile and when all of it is; it ends by the device's own clock; and what
// was refused meanwhile is an alert in the end, one, that counts.
func TestRulesHoldWithoutTheServer(t *testing.T) {
	s := newSite(t)
	ctx := t.Context()
	blocked, one, _ := s.program("blocked")
	short, shortHash, _ := s.program("short")
	spared, sparedHash, _ := s.program("spared")
	s.rule(one, "Block")
	s.rule(sparedHash, "Allowed")
	s.until("the rule was in force", blocked, false)
	// Long enough to be in force before it ends, on a busy machine too.
	ends := time.Now().Add(20 * time.Second)
	s.rule(shortHash, "Block", func(r *api.IndicatorRequest) { r.ExpirationTime = api.At(ends) })
	s.eventually("the rule was in force", func() (bool, error) {
		got, err := starts(short)
		return !got || time.Now().After(ends), err
	})
	must(t, s.server.Process.End(syscall.SIGTERM))

	const tries = 200
	for range tries { // as one that is started again and again
		s.stays("the server is away", blocked, false)
	}
	for _, parts := range [][]string{{"worker"}, {"gate"}, {"gate", "worker"}} {
		s.kill(parts...)
		for range 5 {
			s.stays("after kill -9 of "+strings.Join(parts, " and "), blocked, false)
		}
	}
	must(t, s.agent.Process.End(syscall.SIGKILL))
	must(t, s.agent.Start(ctx, false))
	s.stays("after kill -9 of all of the agent", blocked, false)
	s.until("the rule had ended", short, true)

	t.Run("a containment by hand spares what a rule allows", func(t *testing.T) {
		must(t, s.agent.Process.End(syscall.SIGTERM))
		out, err := exec.CommandContext(ctx, s.agent.Program, "--json", "contain", sparedHash, "--state", s.agent.State, "--scan", s.disk).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "allow") {
			t.Errorf("%v: %s", err, out)
		}
		if _, err := os.Stat(spared); err != nil {
			t.Errorf("it was taken: %v", err)
		}
		must(t, s.agent.Start(ctx, false))
	})
	must(t, s.server.Start())
	s.eventually("the refusals were an alert", func() (bool, error) {
		l, err := s.client.MachineAlerts(ctx, s.agent.Device, client.Query{})
		if err != nil {
			return false, err
		}
		for _, a := range l.Value {
			if a.Title == "rule Block" && a.Evidence[0].FileName == "blocked" {
				return true, nil
			}
		}
		return false, nil
	})
	l, err := s.client.FileAlerts(ctx, one, client.Query{})
	if err != nil || len(l.Value) != 1 {
		t.Errorf("%d alerts of one rule, %v", len(l.Value), err)
	}
}

// What a rule wants contained is contained where it lies, though nobody starts
// it: more contents than are contained at once, before the rule and after it.
func TestRemediesAtRest(t *testing.T) {
	s := newSite(t)
	const many = 9
	var paths []string
	var rows []api.IndicatorRequest
	for i := range many {
		path, one, _ := s.program(fmt.Sprint("there", i))
		must(t, os.Chmod(path, 0o600))
		paths = append(paths, path)
		rows = append(rows, api.IndicatorRequest{IndicatorValue: one, IndicatorType: "FileSha1", Action: "BlockAndRemediate", Title: "t", Description: "d"})
	}
	keep, _, _ := s.program("innocent")
	content, err := os.ReadFile(paths[0])
	must(t, err)
	s.eventually("the programs were indexed", func() (bool, error) {
		st, err := s.agent.Status(t.Context())
		return err == nil && st.Index.Complete, err
	})
	_, err = s.client.ImportIndicators(t.Context(), api.IndicatorImport{Indicators: rows})
	must(t, err)
	for _, path := range paths {
		s.eventually(path+" was contained", gone(path))
	}
	later := filepath.Join(s.disk, "later")
	must(t, os.WriteFile(later, content, 0o600))
	s.eventually("what appeared later was contained", gone(later))
	if _, err := os.Stat(keep); err != nil {
		t.Errorf("another file: %v", err)
	}
	s.eventually("all lay in the vault", func() (bool, error) {
		l, err := s.client.Quarantine(t.Context(), client.QuarantineQuery{MachineID: s.agent.Device, State: "sealed"})
		return err == nil && len(l.Value) >= many, err
	})
}

// A rule moves with its device group, and a device with its tags, in seconds.
func TestRulesMoveWithGroups(t *testing.T) {
	s := newSite(t)
	path, one, _ := s.program("grouped")
	var ignored struct{}
	must(t, s.server.Admin(t.Context(), &ignored, "device-group", "create", "Finance", "--rule", "tag=finance"))
	s.rule(one, "Block", func(r *api.IndicatorRequest) { r.RbacGroupNames = []string{"Finance"} })
	s.stays("the device is in no group", path, true)
	_, err := s.client.TagMachine(t.Context(), s.agent.Device, api.TagRequest{Value: "finance", Action: "Add"})
	must(t, err)
	t.Logf("in the group the rule is in force after %v", s.until("the rule came", path, false))
	_, err = s.client.TagMachine(t.Context(), s.agent.Device, api.TagRequest{Value: "finance", Action: "Remove"})
	must(t, err)
	t.Logf("out of it the rule is gone after %v", s.until("the rule went", path, true))
}
