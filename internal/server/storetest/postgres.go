// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a PostgreSQL server of the test's own: in a temporary folder, with
// a socket there and no TCP.
type Postgres struct {
	dir    string
	bin    string // the folder of initdb and postgres
	cred   *syscall.SysProcAttr
	server *exec.Cmd
	output *bytes.Buffer
	made   atomic.Int64 // databases
}

// StartPostgres starts a server that ends with the test. Where PostgreSQL is not
// installed it skips the test and says so.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	bin, ok := findPostgres()
	if !ok {
		t.Skip("SKIPPED, NOT PROVEN: PostgreSQL: no initdb and postgres on this machine (Debian: apt-get install postgresql)")
	}
	// Not t.TempDir: its path may be too long for a socket and closed to another user.
	dir, err := os.MkdirTemp("", "staunch-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := &Postgres{dir: dir, bin: bin, cred: unprivileged(t, dir)}
	initdb := p.command("initdb", "-D", filepath.Join(dir, "data"), "-U", "staunch", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("cannot run initdb: %v\n%s", err, out)
	}
	p.start(t)
	t.Cleanup(func() { p.stop(t, syscall.SIGINT) })
	return p
}

func findPostgres() (string, bool) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is sound
	slices.Reverse(dirs)
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, dir := range dirs {
		_, err1 := os.Stat(filepath.Join(dir, "initdb"))
		_, err2 := os.Stat(filepath.Join(dir, "postgres"))
		if err1 == nil && err2 == nil {
			return dir, true
		}
	}
	return "", false
}

// unprivileged gives dir to a user who is not root, as whom PostgreSQL refuses
// to run, and returns what starts a process as that user.
func unprivileged(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	// Should this process be killed, the server must not stay behind.
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Getuid() != 0 {
		return attr
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 != nil || err2 != nil {
			continue
		}
		if err := os.Chown(dir, int(uid), int(gid)); err != nil {
			t.Fatal(err)
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return attr
	}
	t.Skip("SKIPPED, NOT PROVEN: PostgreSQL: it refuses to run as root, and there is neither a user postgres nor a user nobody")
	return nil
}

func (p *Postgres) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = p.dir
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC"}
	attr := *p.cred
	cmd.SysProcAttr = &attr
	return cmd
}

// start starts the server and waits until it answers.
func (p *Postgres) start(t testing.TB) {
	t.Helper()
	p.output = new(bytes.Buffer)
	p.server = p.command("postgres", "-D", filepath.Join(p.dir, "data"), "-k", p.dir, "-c", "listen_addresses=", "-c", "max_connections=200")
	p.server.Stdout, p.server.Stderr = p.output, p.output
	if err := p.server.Start(); err != nil {
		t.Fatalf("cannot start postgres: %v", err)
	}
	for range 600 {
		conn, err := pgx.Connect(context.Background(), p.url("postgres"))
		if err == nil {
			_ = conn.Close(context.Background())
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	p.stop(t, syscall.SIGQUIT)
	t.Fatalf("postgres does not answer:\n%s", p.output)
}

func (p *Postgres) stop(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.server.Process.Signal(sig); err != nil {
		t.Errorf("cannot stop postgres: %v", err)
	}
	_ = p.server.Wait() // its exit code says how it was stopped
}

// Crash stops the server without letting it finish anything, and starts it again.
func (p *Postgres) Crash(t testing.TB) {
	t.Helper()
	p.stop(t, syscall.SIGQUIT)
	p.start(t)
}

// Create makes an empty database and returns its URL.
func (p *Postgres) Create(t testing.TB) string {
	t.Helper()
	ctx := context.Background()
	name := fmt.Sprintf("test%d", p.made.Add(1))
	conn, err := pgx.Connect(ctx, p.url("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	return p.url(name)
}

func (p *Postgres) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("staunch"), Path: "/" + database, RawQuery: url.Values{"host": {p.dir}}.Encode()}
	return u.String()
}
