// SPDX-License-Identifier: Apache-2.0

// Package guard says which files must not be taken, whoever orders it: those
// without which the machine or the agent stops. A refusal names the rule and
// the file, so that a person can decide what to do instead.
//
// Rules compare identities and contents, not only names: a hard link to the
// loader is as protected as the loader.
package guard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
)

// Rule names what a refusal rests on.
type Rule string

// The rules.
const (
	EmptyFile  Rule = "empty-file"        // countless harmless files have that content
	Init       Rule = "init"              // pid 1 executes or maps it
	Agent      Rule = "agent"             // the agent, its state and its service files
	Kernel     Rule = "kernel"            // the running kernel, its modules, the boot loader's files
	Loader     Rule = "loader"            // the dynamic loader and the C library
	Package    Rule = "package"           // owned by a distribution package and unmodified; lifted by force
	Protected  Rule = "protected"         // on the operator's list
	FileSystem Rule = "pseudo-filesystem" // not a file on a disk
	TooMany    Rule = "too-many"          // more copies than a harmful file has: content that everybody has; lifted by force
)

// Refusal is why a file must not be taken.
type Refusal struct {
	Rule   Rule
	Path   string // raw bytes
	Detail string
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("rule %s protects %q: %s", r.Rule, r.Path, r.Detail)
}

// Config says what to guard beside the system.
type Config struct {
	// Own are files and folders of the agent: its state and its service files.
	Own []string
	// Protected is the operator's list: absolute paths; a folder stands for
	// all below it, and a last element may be a pattern of path.Match.
	Protected []string
	// Many is how many copies may be taken without force; zero means 1,000.
	Many int
	// Root is where the system lies; empty means "/". Tests set it.
	Root string
}

// Guard checks files against the rules. Make one with New.
type Guard struct {
	cfg    Config
	kernel string // release of the running kernel

	records remembered[records] // of the packages
	named   remembered[[]named] // files the machine or the agent needs, by name
	maps    mappings
}

// New returns a Guard.
func New(cfg Config) (*Guard, error) {
	for _, p := range cfg.Protected {
		if !filepath.IsAbs(p) {
			return nil, fmt.Errorf("cannot protect %q: give an absolute path", p)
		}
		if _, err := filepath.Match(p, "/"); err != nil {
			return nil, fmt.Errorf("cannot protect %q: %w", p, err)
		}
	}
	if cfg.Root == "" {
		cfg.Root = "/"
	}
	if cfg.Many == 0 {
		cfg.Many = 1000
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("cannot ask for the kernel's release: %w", err)
	}
	return &Guard{cfg: cfg, kernel: unix.ByteSliceToString(uts.Release[:])}, nil
}

// File is one copy to check.
type File struct {
	File  *os.File // open for reading
	ID    inode.ID
	Sum   filehash.Sum
	Paths []string // every name known, absolute, raw bytes
}

// Check returns a *Refusal for the first file that a rule protects, or nil.
// force lifts the Package and the TooMany rule and no other.
func (g *Guard) Check(ctx context.Context, files []File, force bool) error {
	if len(files) == 0 {
		return nil
	}
	if files[0].Sum.Hash().Empty() {
		return &Refusal{EmptyFile, first(files[0].Paths), "its content is empty, as that of countless other files"}
	}
	vital, err := g.vital()
	if err != nil {
		return err
	}
	for _, f := range files {
		if v, ok := vital[f.ID]; ok {
			return &Refusal{v.Rule, first(f.Paths), v.Detail}
		}
		for _, p := range f.Paths {
			if r := g.byPath(p); r != nil {
				return r
			}
		}
	}
	if force {
		return nil
	}
	if len(files) > g.cfg.Many {
		return &Refusal{TooMany, first(files[0].Paths), fmt.Sprintf(
			"%d files have this content of %d bytes, more than %d: it may be one that harmless files share; look at some of them, then give the order again with force",
			len(files), files[0].Sum.Size, g.cfg.Many)}
	}
	return g.packages(ctx, files)
}

func first(paths []string) string {
	if len(paths) == 0 {
		return "(no name)"
	}
	return paths[0]
}

func (g *Guard) path(elem ...string) string {
	return filepath.Join(append([]string{g.cfg.Root}, elem...)...)
}

// Warm reads what Check will need and can keep, so that the first order need
// not wait for it. What cannot be read is Check's to tell.
func (g *Guard) Warm(ctx context.Context) {
	_, _ = g.vital()
	_, _ = g.readRecords(ctx)
}

// vital lists the files without which the machine or the agent stops, by
// identity.
func (g *Guard) vital() (map[inode.ID]Refusal, error) {
	v := map[inode.ID]Refusal{}
	add := func(id inode.ID, rule Rule, path, detail string) {
		if _, known := v[id]; !known {
			v[id] = Refusal{rule, path, detail}
		}
	}
	at := func(path string, rule Rule, detail string) {
		var st unix.Stat_t
		if unix.Stat(path, &st) == nil { // what is not there needs no guard
			add(inode.FromStat(&st).ID, rule, path, detail)
		}
	}
	at("/proc/self/exe", Agent, "it is the agent itself")
	for _, pid := range processes() {
		at(fmt.Sprintf("/proc/%d/exe", pid), Agent, "a process of the agent runs from it")
		// What it maps to read is left out: that may be the very file that is
		// being taken. What cannot be read as well: it may have ended.
		ids, _ := g.maps.of(pid, true)
		for _, id := range ids {
			add(id, Agent, "", "a process of the agent runs from it")
		}
	}
	at("/proc/1/exe", Init, "pid 1 runs from it")
	ids, err := g.maps.of(1, false)
	if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot see what pid 1 maps: %w", err)
	}
	for _, id := range ids {
		add(id, Init, "", "pid 1 maps it")
	}
	names, err := g.named.get(g.needed)
	if err != nil {
		return nil, fmt.Errorf("cannot look for the loader: %w", err)
	}
	for _, n := range names {
		at(n.path, n.rule, n.detail)
	}
	for _, p := range g.cfg.Own {
		at(p, Agent, "it belongs to the agent")
	}
	return v, nil
}

func (g *Guard) byPath(p string) *Refusal {
	if g.isService(p) {
		return &Refusal{Agent, p, "it belongs to the agent"}
	}
	for _, own := range g.cfg.Own {
		if below(own, p) {
			return &Refusal{Agent, p, "it belongs to the agent"}
		}
	}
	for _, dir := range []string{"lib/modules/" + g.kernel, "usr/lib/modules/" + g.kernel, "boot/grub", "boot/efi", "boot/loader"} {
		if below(g.path(dir), p) {
			return &Refusal{Kernel, p, "the running kernel or its boot loader needs it"}
		}
	}
	for _, prot := range g.cfg.Protected {
		if match, _ := filepath.Match(prot, p); match || below(prot, p) { // New checked the pattern
			return &Refusal{Protected, p, fmt.Sprintf("the operator protects %s", prot)}
		}
	}
	return nil
}

// below reports whether p is dir or lies below it.
func below(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// scanLines calls line for each line of a file that may be missing.
func scanLines(path string, line func(string) error) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 64<<10), 1<<20)
	for s.Scan() {
		if err := line(s.Text()); err != nil {
			return err
		}
	}
	return s.Err()
}
