// SPDX-License-Identifier: Apache-2.0

package e2e

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
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"staunch/internal/filehash"
	"staunch/test/rig"
)

// story is what the commands of one script share.
type story struct {
	server *rig.Server
	agents map[string]*rig.Agent // by state folder
	sums   map[string]filehash.Sum
	undo   []func()
}

type storyKey struct{}

func of(ts *testscript.TestScript) *story {
	return ts.Value(storyKey{}).(*story) //nolint:errcheck,forcetypeassert // setup put it there
}

// setup gives a script its disk and its environment:
//
//	DISK                 the device's disk, a file system of its own where that can be
//	STAUNCH_DATA         the server's folder
//	STAUNCH_AGENT_STATE  the agent's folder
//	URL, CA              of the server, once it is started
//	TOKEN, DEVICE        of the caller and the device, once "site" has made them
func setup(e *testscript.Env, database string) error {
	s := &story{agents: map[string]*rig.Agent{}, sums: map[string]filehash.Sum{}}
	e.Values[storyKey{}] = s
	e.Defer(s.end)
	disk := filepath.Join(e.WorkDir, "disk")
	_, undo, err := rig.MountDisk(disk)
	if err != nil {
		return err
	}
	s.undo = append(s.undo, undo)
	home := filepath.Join(e.WorkDir, "home")
	if err := os.Mkdir(home, 0o700); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"PATH": bin + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME": home, "DISK": disk, "DATABASE": database,
		"STAUNCH_DATA": filepath.Join(e.WorkDir, "server"), "STAUNCH_AGENT_STATE": filepath.Join(e.WorkDir, "agent"),
	} {
		e.Setenv(name, value)
	}
	return nil
}

// end takes down what the script left, last things first.
func (s *story) end() {
	for _, undo := range slices.Backward(s.undo) {
		undo()
	}
}

// commands are what scripts can do beyond the usual.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"server":  cmdServer,
	"agent":   cmdAgent,
	"end":     cmdEnd,
	"site":    cmdSite,
	"http":    cmdHTTP,
	"await":   cmdAwait,
	"get":     cmdGet,
	"until":   cmdUntil,
	"looks":   cmdLooks,
	"program": cmdProgram,
	"spawn":   cmdSpawn,
	"running": cmdRunning,
	"copies":  cmdCopies,
}

// plain refuses "!" and the wrong number of arguments.
func plain(ts *testscript.TestScript, neg bool, args []string, least int, usage string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

// server [ARG...] starts a server, or the same again, and waits until it serves.
func cmdServer(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 0, "server [ARG...]")
	s := of(ts)
	if s.server == nil {
		s.server = &rig.Server{Program: filepath.Join(bin, "staunch"), Data: ts.Getenv("STAUNCH_DATA")}
	}
	if s.server.Args = args; ts.Getenv("DATABASE") != "" {
		s.server.Args = append(s.server.Args, "--database", ts.Getenv("DATABASE"))
	}
	ts.Check(s.server.Start())
	s.watch(ts, s.server.Process)
	ts.Setenv("URL", s.server.Ready.URL)
	ts.Setenv("CA", s.server.Ready.CAFile)
}

// watch ends a process with the script and shows what it said if that failed.
func (s *story) watch(ts *testscript.TestScript, p *rig.Process) {
	s.undo = append(s.undo, func() {
		if !p.Ended() {
			_ = p.End(syscall.SIGKILL) // the story is over
		}
		ts.Logf("%s", p.Tail())
	})
}

// agent [-offline] [ARG...] starts the agent of $STAUNCH_AGENT_STATE and waits
// until its index is complete and, without -offline, until it is connected.
func cmdAgent(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 0, "agent [-offline] [ARG...]")
	s := of(ts)
	connected := true
	if len(args) > 0 && args[0] == "-offline" {
		connected, args = false, args[1:]
	}
	state := ts.Getenv("STAUNCH_AGENT_STATE")
	a := s.agents[state]
	if a == nil {
		a = &rig.Agent{Program: filepath.Join(bin, "staunch-agent"), State: state, Disk: ts.Getenv("DISK")}
		s.agents[state] = a
	}
	a.Args = args
	ts.Check(a.Start(context.Background(), connected))
	s.watch(ts, a.Process)
}

// end server|agent TERM|KILL ends one with a signal and waits for it. After TERM
// it must have ended with exit code 0.
func cmdEnd(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "end server|agent TERM|KILL")
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "KILL": syscall.SIGKILL}
	s := of(ts)
	p := map[bool]func() *rig.Process{
		true:  func() *rig.Process { return s.server.Process },
		false: func() *rig.Process { return s.agents[ts.Getenv("STAUNCH_AGENT_STATE")].Process },
	}[args[0] == "server"]()
	if err := p.End(signals[args[1]]); err != nil {
		ts.Fatalf("%s did not end well: %v\n%s", args[0], err, p.Tail())
	}
}

// site [ARG...] is what most stories begin with, done by the same commands that
// a person would use: a server, an app that is logged in, an agent that is
// enrolled and runs (with ARGs). -offline leaves the agent out.
func cmdSite(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 0, "site [-offline] [ARG...]")
	cmdServer(ts, false, nil)
	s := of(ts)
	run := func(stdin, program string, arg ...string) string {
		c := exec.Command(filepath.Join(bin, program), arg...)
		c.Stdin = strings.NewReader(stdin)
		c.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"), "STAUNCH_DATA="+ts.Getenv("STAUNCH_DATA"), "STAUNCH_AGENT_STATE="+ts.Getenv("STAUNCH_AGENT_STATE"))
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.Output()
		if err != nil {
			ts.Fatalf("%s %s: %v: %s", program, strings.Join(arg, " "), err, stderr.String())
		}
		return strings.TrimSpace(string(out))
	}
	var app struct{ TenantID, ClientID, ClientSecret string }
	ts.Check(json.Unmarshal([]byte(run("", "staunch", "admin", "app", "create", "soc",
		"--permission", "Machine.StopAndQuarantine", "--permission", "Machine.Read.All")), &app))
	run(app.ClientSecret, "staunch", "login", s.server.Ready.URL, "--ca", s.server.Ready.CAFile, "--client-id", app.ClientID, "--client-secret-stdin")
	for name, value := range map[string]string{"TENANT": app.TenantID, "APP": app.ClientID, "SECRET": app.ClientSecret} {
		ts.Setenv(name, value)
	}
	ts.Setenv("TOKEN", token(ts, app.TenantID, app.ClientID, app.ClientSecret))
	// For a story that fails: what the device said last.
	s.undo = append(s.undo, func() {
		c := exec.Command("sh", "-c", `id=$(staunch --json actions list --top 1 | sed 's/.*"id":"\([^"]*\)".*/\1/') && staunch --json actions evidence "$id"`)
		c.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"), "HOME="+ts.Getenv("HOME"))
		out, err := c.CombinedOutput()
		ts.Logf("the last action's evidence (%v): %.4000s", err, out)
	})
	run("", "staunch-agent", "enroll", run("", "staunch", "admin", "enroll-token", "create"))
	var st struct{ DeviceID string }
	ts.Check(json.Unmarshal([]byte(run("", "staunch-agent", "--json", "status")), &st))
	ts.Setenv("DEVICE", st.DeviceID)
	if len(args) == 0 || args[0] != "-offline" {
		cmdAgent(ts, false, args)
	}
}

// token gets an access token, as any OAuth2 client does.
func token(ts *testscript.TestScript, tenant, id, secret string) string {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}, "scope": {"https://api.securitycenter.microsoft.com/.default"}}
	resp, err := httpClient(ts).PostForm(ts.Getenv("URL")+"/"+tenant+"/oauth2/v2.0/token", form)
	ts.Check(err)
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	ts.Check(json.NewDecoder(resp.Body).Decode(&answer))
	return answer.Token
}

func httpClient(ts *testscript.TestScript) *http.Client {
	pem, err := os.ReadFile(ts.Getenv("CA"))
	ts.Check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return &http.Client{
		Timeout:       60 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableKeepAlives: true},
	}
}

// http STATUS METHOD PATH [-H 'NAME: VALUE']... [BODY|@FILE] makes one raw call,
// with the bearer token in $TOKEN if that is set and no -H Authorization is
// given, and prints the answer's headers and body to standard output. Another
// status fails the script.
func cmdHTTP(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 3, "http "+httpUsage)
	status, answer := call(ts, args)
	fmt.Fprint(ts.Stdout(), answer)
	if status != args[0] {
		ts.Fatalf("%s %s answered %s, want %s: %s", args[1], args[2], status, args[0], answer)
	}
}

// await STATUS METHOD PATH ... makes the same call as http again and again until
// that is the status: what a server keeps of a person is a few seconds old.
func cmdAwait(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 3, "await "+httpUsage)
	ts.Check(rig.Until(fmt.Sprintf("%s %s answered %s", args[1], args[2], args[0]), func() (bool, error) {
		status, answer := call(ts, args)
		if status != args[0] {
			return false, nil
		}
		fmt.Fprint(ts.Stdout(), answer)
		return true, nil
	}))
}

const httpUsage = "STATUS METHOD PATH [-H 'NAME: VALUE']... [BODY|@FILE]"

// call makes the call of http and returns the status and the answer as text.
func call(ts *testscript.TestScript, args []string) (status, answer string) {
	method, target := args[1], args[2]
	header := http.Header{}
	var body io.Reader
	for rest := args[3:]; len(rest) > 0; {
		if rest[0] == "-H" && len(rest) > 1 {
			name, value, _ := strings.Cut(rest[1], ":")
			header.Add(name, strings.TrimSpace(value))
			rest = rest[2:]
			continue
		}
		text := rest[0]
		if name, ok := strings.CutPrefix(text, "@"); ok {
			text = ts.ReadFile(name)
		}
		body, rest = strings.NewReader(text), rest[1:]
	}
	req, err := http.NewRequest(method, ts.Getenv("URL")+target, body)
	ts.Check(err)
	if t := ts.Getenv("TOKEN"); t != "" {
		req.Header.Set("Authorization", "Bearer "+t)
	}
	for name, values := range header {
		req.Header[name] = values
		if values[0] == "" {
			req.Header.Del(name)
		}
	}
	resp, err := httpClient(ts).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	ts.Check(err)
	var head bytes.Buffer
	ts.Check(resp.Header.Write(&head))
	return strconv.Itoa(resp.StatusCode), fmt.Sprintf("%s %s\n%s\n%s\n", resp.Proto, resp.Status, strings.ReplaceAll(head.String(), "\r\n", "\n"), b)
}

// get NAME [PATH] puts the last output into $NAME: all of it without the white
// space around it, or what lies at PATH (as in value.0.id) in its last line, which is JSON.
func cmdGet(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "get NAME [PATH]")
	text := strings.TrimSpace(ts.ReadFile("stdout"))
	if len(args) == 1 {
		ts.Setenv(args[0], text)
		return
	}
	lines := strings.Split(text, "\n")
	var v any
	ts.Check(json.Unmarshal([]byte(lines[len(lines)-1]), &v))
	for key := range strings.SplitSeq(args[1], ".") {
		ok := false
		switch at := v.(type) {
		case map[string]any:
			v, ok = at[key]
		case []any:
			if n, err := strconv.Atoi(key); err == nil && n < len(at) {
				v, ok = at[n], true
			}
		}
		if !ok {
			ts.Fatalf("there is no %s of %s in %s", key, args[1], text)
		}
	}
	ts.Setenv(args[0], fmt.Sprint(v))
}

// until PATTERN PROGRAM [ARG...] runs a program again and again until it
// succeeds and its standard output matches. "! until" waits for it not to match.
func cmdUntil(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, false, args, 2, "until PATTERN PROGRAM [ARG...]")
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	ts.Check(rig.Until(fmt.Sprintf("%q printed %q", args[1:], args[0]), func() (bool, error) {
		err := ts.Exec(args[1], args[2:]...)
		return err == nil && pattern.MatchString(ts.ReadFile("stdout")) != neg, nil
	}))
}

// looks FILE... prints a line for each: bytes, owner, mode, times, links,
// attributes, access lists and flags.
func cmdLooks(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "looks FILE...")
	for _, name := range args {
		line, err := rig.Looks(context.Background(), ts.MkAbs(name))
		ts.Check(err)
		fmt.Fprintln(ts.Stdout(), line)
	}
}

// program NAME FILE writes a program of a new content; $NAME is its SHA-1 and
// $NAME256 its SHA-256.
func cmdProgram(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 2, "program NAME FILE")
	sum, err := rig.Program(ts.MkAbs(args[1]))
	ts.Check(err)
	of(ts).sums[sum.SHA1.String()] = sum
	ts.Setenv(args[0], sum.SHA1.String())
	ts.Setenv(args[0]+"256", sum.SHA256.String())
}

// spawn FILE [N] runs N processes of a program, or without N a pair each of
// which starts the other again.
func cmdSpawn(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, neg, args, 1, "spawn FILE [N]")
	n := 0
	if len(args) > 1 {
		var err error
		n, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	end, err := rig.Spawn(ts.MkAbs(args[0]), n)
	ts.Check(err)
	s := of(ts)
	s.undo = append(s.undo, end)
}

func (s *story) sum(ts *testscript.TestScript, sha1 string) filehash.Sum {
	sum, ok := s.sums[sha1]
	if !ok {
		ts.Fatalf("no program of this story has SHA-1 %q", sha1)
	}
	return sum
}

// running SHA1 looks at every process: one must come to execute that content, and
// none that does may stay frozen. "! running" looks five times, 50 ms apart, and there
// must be none.
func cmdRunning(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, false, args, 1, "running SHA1")
	sum := of(ts).sum(ts, args[0])
	if !neg {
		var pids []int
		ts.Check(rig.Until("something ran from "+args[0], func() (_ bool, err error) {
			pids, err = rig.Running(sum)
			return len(pids) > 0, err
		}))
		for _, pid := range pids {
			ts.Check(rig.Thawed(pid))
		}
		return
	}
	for range 5 {
		pids, err := rig.Running(sum)
		ts.Check(err)
		if len(pids) > 0 {
			ts.Fatalf("processes %v run from %s", pids, sum.SHA1)
		}
		time.Sleep(50 * time.Millisecond) // it had 50 ms to come back before
	}
}

// copies SHA1 reads every file on the disk and prints the paths of those with
// the content, quoted as Go strings. "! copies" fails if there are any.
func cmdCopies(ts *testscript.TestScript, neg bool, args []string) {
	plain(ts, false, args, 1, "copies SHA1")
	found, err := rig.Copies(ts.Getenv("DISK"), of(ts).sum(ts, args[0]))
	ts.Check(err)
	for _, path := range found {
		fmt.Fprintf(ts.Stdout(), "%q\n", path)
	}
	if neg && len(found) > 0 {
		ts.Check(errors.New("copies are left: " + strings.Join(found, ", ")))
	}
}
