// SPDX-License-Identifier: Apache-2.0

// Package demo tells the whole story of one order on this machine, with real
// parts: a server, an agent, a program that does not want to be stopped, and a
// client that speaks plain HTTP as a Defender client does. It believes nobody:
// what the receipt says is checked by looking at processes and files itself.
package demo

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"staunch/api"
	"staunch/internal/order"
	"staunch/internal/runnable"
)

// Config says how to tell the story.
type Config struct {
	Server string // required: path of the staunch program
	Agent  string // required: path of the staunch-agent program
	Keep   bool   // leave everything running and in place until ctx ends
	// Step is told of each step as it ends. Required.
	Step func(Step)
}

// Step is one step of the story.
type Step struct {
	Name   string  `json:"step"`
	OK     bool    `json:"ok"`
	MS     float64 `json:"ms"`
	Detail string  `json:"detail"`
}

// story is what the steps hand on to one another.
type story struct {
	Config
	dir, disk string
	gated     bool // the agent has a gate here, so a new copy must be refused too
	ready     api.Ready
	app       api.App
	token     string
	client    *http.Client
	program   *respawner
	before    []looks
	device    string
	action    api.MachineAction
	sent      time.Time
	receipt   order.Receipt
	undo      []func()
}

// Run tells the story and returns the first thing that was not proven.
func Run(ctx context.Context, cfg Config) (err error) {
	dir, err := os.MkdirTemp("", "staunch-demo-")
	if err != nil {
		return fmt.Errorf("cannot make a scratch folder: %w", err)
	}
	s := &story{Config: cfg, dir: dir, disk: filepath.Join(dir, "disk")}
	s.undo = append(s.undo, func() { _ = os.RemoveAll(dir) }) // scratch
	defer func() {
		for _, undo := range slices.Backward(s.undo) {
			undo()
		}
	}()
	for _, step := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"scratch", s.makeDisk},
		{"server", s.startServer},
		{"app", s.makeApp},
		{"agent", s.startAgent},
		{"program", s.startProgram},
		{"respawn", s.killOnce},
		{"token", s.getToken},
		{"order", s.sendOrder},
		{"succeeded", s.follow},
		{"receipt", s.readReceipt},
		{"no process", s.noProcess},
		{"no copy", s.noCopy},
		{"no start", s.noStart},
		{"restore", s.restore},
		{"equal", s.equal},
		{"audit", s.verifyAudit},
	} {
		start := time.Now()
		detail, err := step.do(ctx)
		if err != nil {
			detail = err.Error()
		}
		cfg.Step(Step{step.name, err == nil, float64(time.Since(start).Microseconds()) / 1000, detail})
		if err != nil {
			return fmt.Errorf("%s: %w%s", step.name, err, s.logs())
		}
	}
	if cfg.Keep {
		cfg.Step(Step{"keep", true, 0, fmt.Sprintf("%s, app %s, secret %s; stop with Ctrl-C", s.ready.URL, s.app.ClientID, s.app.ClientSecret)})
		<-ctx.Done()
	}
	return nil
}

// logs are the last lines of what server and agent said, for a failure.
func (s *story) logs() string {
	var b strings.Builder
	for _, name := range []string{"server.log", "agent.log"} {
		if log, err := os.ReadFile(filepath.Join(s.dir, name)); err == nil {
			lines := strings.Split(strings.TrimSpace(string(log)), "\n")
			fmt.Fprintf(&b, "\n%s:\n  %s", name, strings.Join(lines[max(0, len(lines)-12):], "\n  "))
		}
	}
	return b.String()
}

// makeDisk makes the folder that plays the device's disk: a file system of its
// own where we may mount one, so that the gate marks that and nothing else.
func (s *story) makeDisk(ctx context.Context) (string, error) {
	if err := os.Mkdir(s.disk, 0o755); err != nil {
		return "", err
	}
	if os.Geteuid() != 0 {
		return "not root: no gate, and only your own files and processes are covered", nil
	}
	if out, err := exec.CommandContext(ctx, "mount", "-t", "tmpfs", "-o", "size=256m,mode=755", "staunch-demo", s.disk).CombinedOutput(); err != nil {
		return "no file system of its own, so no gate: " + strings.TrimSpace(string(out)), nil
	}
	s.gated = true
	s.undo = append(s.undo, func() { _ = exec.Command("umount", "-l", s.disk).Run() }) // scratch
	return s.disk, nil
}

// run starts a long-lived program whose output goes to a log in the scratch folder.
func (s *story) run(name, program string, args ...string) (ended <-chan struct{}, err error) {
	log, err := os.Create(filepath.Join(s.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	c := exec.Command(program, args...)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := c.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	gone := make(chan struct{})
	go func() {
		_ = c.Wait() // how it ended is in its log
		close(gone)
	}()
	s.undo = append(s.undo, func() {
		_ = c.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(20 * time.Second):
			_ = c.Process.Kill()
			<-gone
		}
		_ = log.Close()
	})
	return gone, nil
}

// command runs a short-lived program and decodes its JSON answer.
func command(ctx context.Context, answer any, program string, args ...string) error {
	c := exec.CommandContext(ctx, program, args...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(out, answer); err != nil {
		return fmt.Errorf("%s %s: cannot read its answer: %w", filepath.Base(program), strings.Join(args, " "), err)
	}
	return nil
}

const (
	quick  = 10 * time.Millisecond
	polite = 250 * time.Millisecond // of an API that counts calls
)

// until asks again until done says so, or the program or the time ends.
func until(ctx context.Context, gone <-chan struct{}, pause time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-gone:
			return fmt.Errorf("it ended before %s", what)
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %s", what)
		case <-time.After(pause):
		}
	}
}

func (s *story) data() string { return filepath.Join(s.dir, "server") }

func (s *story) startServer(ctx context.Context) (string, error) {
	gone, err := s.run("server", s.Server, "server", "--data", s.data(), "--listen", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	err = until(ctx, gone, quick, "the server was ready", func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(s.data(), "ready.json"))
		if err != nil {
			return false, nil
		}
		return true, json.Unmarshal(b, &s.ready)
	})
	if err != nil {
		return "", err
	}
	pem, err := os.ReadFile(s.ready.CAFile)
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	s.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}}
	return s.ready.URL, nil
}

func (s *story) makeApp(ctx context.Context) (string, error) {
	err := command(ctx, &s.app, s.Server, "--json", "admin", "--data", s.data(), "app", "create", "soc-automation",
		"--permission", "Machine.StopAndQuarantine", "--permission", "Machine.Read.All")
	return "soc-automation, " + s.app.ClientID, err
}

func (s *story) startAgent(ctx context.Context) (string, error) {
	var token struct {
		Token string `json:"token"`
	}
	if err := command(ctx, &token, s.Server, "--json", "admin", "--data", s.data(), "enroll-token", "create", "--uses", "1", "--ttl", "10m"); err != nil {
		return "", err
	}
	state := filepath.Join(s.dir, "agent")
	var enrolled struct {
		DeviceID string `json:"deviceId"`
	}
	if err := command(ctx, &enrolled, s.Agent, "--json", "enroll", token.Token, "--state", state); err != nil {
		return "", err
	}
	s.device = enrolled.DeviceID
	gone, err := s.run("agent", s.Agent, "run", "--state", state, "--index", s.disk)
	if err != nil {
		return "", err
	}
	err = until(ctx, gone, quick, "the agent was connected and its index complete", func() (bool, error) {
		var st struct {
			Running, Connected bool
			Index              struct{ Complete bool }
		}
		if command(ctx, &st, s.Agent, "--json", "status", "--state", state) != nil {
			return false, nil
		}
		return st.Running && st.Connected && st.Index.Complete, nil
	})
	return "device " + s.device, err
}

func (s *story) startProgram(ctx context.Context) (detail string, err error) {
	if s.program, err = newRespawner(s.disk, s.dir); err != nil {
		return "", err
	}
	for _, n := range s.program.names {
		l, err := look(n)
		if err != nil {
			return "", err
		}
		s.before = append(s.before, l)
	}
	c, err := s.program.start(ctx)
	if err != nil {
		return "", err
	}
	go func() { _ = c.Wait() }() // it ends when the order is carried out
	s.undo = append(s.undo, func() {
		s.program.end()
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // its own group; usually gone
	})
	err = until(ctx, nil, quick, "the program ran", func() (bool, error) {
		pids, err := s.program.running()
		return len(pids) >= 2, err
	})
	return fmt.Sprintf("sha1 %s, under %d names, one of them a hard link, one a copy", s.program.sum.SHA1, len(s.program.names)), err
}

func (s *story) killOnce(ctx context.Context) (string, error) {
	pids, err := s.program.running()
	if err != nil || len(pids) == 0 {
		return "", fmt.Errorf("the program does not run: %w", err)
	}
	victim := pids[len(pids)-1]
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		return "", err
	}
	err = until(ctx, nil, quick, "the program started itself again", func() (bool, error) {
		now, err := s.program.running()
		return len(now) >= 2 && !slices.Contains(now, victim), err
	})
	return fmt.Sprintf("killed %d by hand: it started itself again", victim), err
}

func (s *story) getToken(ctx context.Context) (string, error) {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {s.app.ClientID}, "client_secret": {s.app.ClientSecret},
		"scope": {"https://api.securitycenter.microsoft.com/.default"},
	}
	var answer struct {
		Type   string `json:"token_type"`
		Token  string `json:"access_token"`
		Expiry int    `json:"expires_in"`
	}
	err := s.call(ctx, http.MethodPost, "/"+s.app.TenantID+"/oauth2/v2.0/token", strings.NewReader(form.Encode()), http.StatusOK, &answer)
	s.token = answer.Token
	return fmt.Sprintf("%s token for %d s", answer.Type, answer.Expiry), err
}

// call is one plain HTTP call, as any client makes it.
func (s *story) call(ctx context.Context, method, path string, body io.Reader, want int, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, s.ready.URL+path, body)
	if err != nil {
		return err
	}
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != want {
		return fmt.Errorf("%s %s answered %s: %s", method, path, resp.Status, bytes.TrimSpace(b))
	}
	return json.Unmarshal(b, answer)
}

func (s *story) sendOrder(ctx context.Context) (string, error) {
	body := fmt.Sprintf(`{"Comment":"Demo: it keeps coming back","Sha1":"%s"}`, s.program.sum.SHA1)
	s.sent = time.Now()
	err := s.call(ctx, http.MethodPost, "/api/machines/"+s.device+"/StopAndQuarantineFile", strings.NewReader(body), http.StatusCreated, &s.action)
	return fmt.Sprintf("POST /api/machines/%s…/StopAndQuarantineFile: 201, action %s %s", s.device[:8], s.action.ID, s.action.Status), err
}

// wait follows an action to its end.
func (s *story) wait(ctx context.Context, id string) (a api.MachineAction, err error) {
	err = until(ctx, nil, polite, "the action was final", func() (bool, error) {
		err := s.call(ctx, http.MethodGet, "/api/machineactions/"+id, nil, http.StatusOK, &a)
		return api.Final(a.Status), err
	})
	if err == nil && a.Status != api.Succeeded {
		why := ""
		if a.TroubleshootInfo != nil {
			why = *a.TroubleshootInfo
		}
		err = fmt.Errorf("it ended as %s: %s", a.Status, why)
	}
	return a, err
}

func (s *story) follow(ctx context.Context) (string, error) {
	a, err := s.wait(ctx, s.action.ID)
	return fmt.Sprintf("%s → %s, %.0f ms after the call", s.action.Status, a.Status, time.Since(s.sent).Seconds()*1000), err
}

func (s *story) readReceipt(ctx context.Context) (string, error) {
	var e api.Evidence
	if err := s.call(ctx, http.MethodGet, "/v1/machineactions/"+s.action.ID+"/evidence", nil, http.StatusOK, &e); err != nil {
		return "", err
	}
	if err := json.Unmarshal(e.Receipt, &s.receipt); err != nil {
		return "", err
	}
	r := s.receipt
	if r.Outcome != order.Proven {
		return "", fmt.Errorf("the receipt says %s: %s", r.Outcome, r.Reason)
	}
	sealed, dead := int64(0), int64(0)
	for _, c := range r.Copies {
		if c.State != order.Sealed {
			return "", fmt.Errorf("copy %v is %s: %s", c.Paths, c.State, c.Error)
		}
		sealed = max(sealed, c.DoneNs)
	}
	for _, m := range r.Matches {
		dead = max(dead, m.DoneNs)
	}
	var steps []string
	for _, st := range r.Steps {
		steps = append(steps, fmt.Sprintf("%s %.1f", st.Name, float64(st.EndNs-st.StartNs)/1e6))
	}
	return fmt.Sprintf("%d processes stopped (last after %.1f ms, held by %s), %d copies sealed (last after %.1f ms), gate %s; ms: %s",
		len(r.Matches), float64(dead)/1e6, r.Rung, len(r.Copies), float64(sealed)/1e6, r.Gate, strings.Join(steps, ", ")), nil
}

func (s *story) noProcess(context.Context) (string, error) {
	for range 5 { // it had 50 ms to come back before
		pids, err := s.program.running()
		if err != nil {
			return "", err
		}
		if len(pids) > 0 {
			return "", fmt.Errorf("processes %v run from the file", pids)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "looked at every process, five times: none runs from the file", nil
}

func (s *story) noCopy(context.Context) (string, error) {
	found, err := s.program.copies(s.disk)
	if err == nil && len(found) > 0 {
		err = fmt.Errorf("still there: %q", found)
	}
	return "read every file on the disk: none has the content", err
}

func (s *story) noStart(ctx context.Context) (string, error) {
	for _, n := range s.program.names {
		if err := exec.CommandContext(ctx, n, "-c", ":").Run(); err == nil {
			return "", fmt.Errorf("%s started", n)
		}
	}
	if !s.gated {
		return "starting it by each of its names fails", nil
	}
	// A copy nobody knew of appears later: what it was is what the gate refuses.
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		return "", err
	}
	again := filepath.Join(s.disk, "home/ana/again")
	if err := runnable.Write(again, append(shell, s.program.marker...), 0o755); err != nil {
		return "", err
	}
	defer os.Remove(again)
	err = exec.CommandContext(ctx, again, "-c", ":").Run()
	if err == nil {
		return "", errors.New("a new copy of the content started")
	}
	if !errors.Is(err, syscall.EPERM) {
		return "", fmt.Errorf("a new copy failed to start for another reason than the gate: %w", err)
	}
	return "starting it by each of its names fails; a new copy of it is refused by the gate: " + err.Error(), nil
}

func (s *story) restore(ctx context.Context) (string, error) {
	items := map[string]bool{}
	for _, c := range s.receipt.Copies {
		items[c.Item] = true
	}
	for item := range items {
		var a api.MachineAction
		if err := s.call(ctx, http.MethodPost, "/v1/quarantine/"+item+"/restore", strings.NewReader(`{"comment":"Demo: give it back"}`), http.StatusCreated, &a); err != nil {
			return "", err
		}
		if _, err := s.wait(ctx, a.ID); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d items put back", len(items)), nil
}

func (s *story) equal(context.Context) (string, error) {
	for i, n := range s.program.names {
		after, err := look(n)
		if err != nil {
			return "", err
		}
		if after != s.before[i] {
			return "", fmt.Errorf("%s: was %+v, is %+v", n, s.before[i], after)
		}
	}
	return "bytes, owner, mode, times and hard links are as they were, under every name", nil
}

func (s *story) verifyAudit(ctx context.Context) (string, error) {
	var report map[string]any
	if err := command(ctx, &report, s.Server, "--json", "audit", "verify", "--data", s.data()); err != nil {
		return "", err
	}
	return fmt.Sprintf("the log verifies: %v entries", report["entries"]), nil
}
