// SPDX-License-Identifier: Apache-2.0

// Package persistence names what would bring a contained file back: units,
// cron lines, shell profiles, preloaded libraries and the like, and a live
// parent that starts it again and again. On request it disables one of them,
// reversibly.
//
// It only reads, starts nothing and asks no daemon. What it opens in a place
// that somebody other than root may write to, it opens without being led out
// of that place by a link. Its work is bounded in time, files and bytes, and it
// says what it did not look at: what it names is there, what it does not name
// may be there all the same.
package persistence

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"staunch/internal/order"
)

// Kind is the sort of thing that brings a file back.
type Kind string

// The kinds.
const (
	Unit      Kind = "unit"      // a systemd unit, its drop-in or the link that enables it
	Timer     Kind = "timer"     // a systemd timer, path or socket unit that starts such a unit
	Cron      Kind = "cron"      // a line of a crontab, or a script of cron's folders
	At        Kind = "at"        // a job of at(1)
	Autostart Kind = "autostart" // an entry of a desktop's autostart or of the message bus
	Profile   Kind = "profile"   // what a shell or a login reads
	Preload   Kind = "preload"   // LD_PRELOAD, LD_AUDIT, /etc/ld.so.preload
	Udev      Kind = "udev"      // a rule that runs a program
	Module    Kind = "module"    // a kernel module's install line, or the module's name
	Init      Kind = "init"      // rc.local, init.d, inittab, runit, supervisor
	PAM       Kind = "pam"       // a PAM module or what pam_exec runs
	Hook      Kind = "hook"      // a script that some daemon runs on an event
	Container Kind = "container" // a container with a restart policy
	Parent    Kind = "parent"    // a live process that starts it
)

// Edit is how a finding can be disabled.
type Edit string

// The edits.
const (
	None    Edit = ""        // by hand only
	Comment Edit = "comment" // put # before the line
	Null    Edit = "null"    // shell: put the null command in the line's place
	Word    Edit = "word"    // take the path out of a list of paths
	Link    Edit = "link"    // remove the symbolic link
)

// Finding is one thing that would start or restore the file.
type Finding struct {
	Kind   Kind
	Where  string // path as it is reached, raw bytes; or "process PID"
	Line   int    // first line, from 1; 0 for a link, a process or a container
	Detail string // why it is one
	Unit   string // the unit's name, when there is one
	Text   string // the lines, or where the link points: Disable refuses when they changed
	File   string // the file that holds the lines, links resolved
	Base   string // folder that no link may lead out of
	Edit   Edit
}

// Wire returns the finding as a receipt carries it.
func (f Finding) Wire() order.Persistence {
	return order.Persistence{Kind: string(f.Kind), Where: order.TextOf(f.Where), Line: f.Line, Detail: order.TextOf(f.Detail)}
}

// Config says where to look and how far.
type Config struct {
	// Root is where the system lies; empty means "/". Paths in Targets and
	// Findings are as seen from within it.
	Root string
	// Homes are the home folders; none means those of etc/passwd and all in /home.
	Homes []string
	// MaxFiles, MaxFile (bytes) and MaxFindings bound the work; zero means
	// 50,000, 1 MiB and 200.
	MaxFiles    int
	MaxFile     int64
	MaxFindings int
}

// Targets are what must not come back.
type Targets struct {
	Paths     []string // every path a copy had, absolute, raw bytes
	Processes []Process
	// Match reports whether an open file has the content; nil when only names
	// count. It is asked only about files of Size bytes that a command names.
	Match func(*os.File) bool
	Size  int64
}

// Process is a process that ran the file, as it was when it was seen.
type Process struct {
	PID, PPID int
	Start     uint64 // clock ticks since boot
	Cgroup    string // path within the hierarchy; "" when it was not seen
}

// Result is what was found and what was not looked at.
type Result struct {
	Findings []Finding
	Skipped  []string // with the reason
	Cut      bool     // the time or another bound ended it early
}

// errCut ends a search whose bounds are used up.
var errCut = errors.New("bounds used up")

// finder is the work of one Find.
type finder struct {
	cfg     Config
	targets Targets
	tree    *tree
	m       *matcher
	users   map[string]account
	res     Result
	seen    map[string]bool
	guilty  map[string]bool // units that start a target
}

// Find names what would bring the targets back. When ctx ends it returns what
// it has so far, with Cut set; that is no error.
func Find(ctx context.Context, cfg Config, t Targets) (Result, error) {
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	cfg.MaxFiles = orElse(cfg.MaxFiles, 50_000)
	cfg.MaxFile = orElse(cfg.MaxFile, 1<<20)
	cfg.MaxFindings = orElse(cfg.MaxFindings, 200)
	f := &finder{cfg: cfg, targets: t, seen: map[string]bool{}, guilty: map[string]bool{}}
	f.tree = newTree(ctx, cfg)
	defer f.tree.close()
	for _, p := range t.Paths {
		if !path.IsAbs(p) {
			return Result{}, fmt.Errorf("cannot look for what starts %q: give an absolute path", p)
		}
	}
	f.m = newMatcher(f.tree, t)
	f.users = f.accounts()
	for _, part := range []func() error{f.processes, f.units, f.system, f.homes} {
		err := part()
		if errors.Is(err, errCut) {
			f.res.Cut = true
			break
		}
		if err != nil {
			return Result{}, err
		}
	}
	f.res.Cut = f.res.Cut || ctx.Err() != nil
	f.res.Skipped = f.tree.skipped
	return f.res, nil
}

func orElse[T int | int64](v, zero T) T {
	if v == 0 {
		return zero
	}
	return v
}

// add keeps a finding once.
func (f *finder) add(n Finding) error {
	file := n.File // one file is reached by several paths: /lib and /usr/lib, rc2.d and init.d
	if file == "" {
		file = n.Where
	}
	key := fmt.Sprint(file, "\x00", n.Line, "\x00", n.Kind)
	if f.seen[key] {
		return nil
	}
	f.seen[key] = true
	if len(f.res.Findings) >= f.cfg.MaxFindings {
		return errCut
	}
	f.res.Findings = append(f.res.Findings, n)
	return nil
}

// An account is a line of passwd(5).
type account struct {
	name, home string
	uid        int
}

// accounts reads etc/passwd. Users that only a directory service knows are
// missing; their folders in /home are found all the same.
func (f *finder) accounts() map[string]account {
	users := map[string]account{}
	data, err := f.tree.read("/", "/etc/passwd")
	if err != nil {
		return users
	}
	for line := range strings.SplitSeq(string(data.data), "\n") {
		fields := strings.Split(line, ":")
		if len(fields) < 7 {
			continue
		}
		uid, err := strconv.Atoi(fields[2])
		if err != nil || !path.IsAbs(fields[5]) {
			continue
		}
		users[fields[0]] = account{fields[0], path.Clean(fields[5]), uid}
	}
	return users
}
