// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/mountinfo"
)

// A tree reads the system's files within bounds. Its paths are absolute as
// seen from within the root.
type tree struct {
	ctx     context.Context
	cfg     Config
	files   int                    // opened so far
	links   map[string]string      // path → where the link points; "" for what is no link
	bases   map[string]*os.Root    // opened folders that no link may lead out of
	folders map[[2]string]*os.Root // others that are open, by their base and path
	slow    []string               // mounts that may hang: network and user-space file systems
	skipped []string
}

// A textFile is a file that was read.
type textFile struct {
	where string // as it was reached
	real  string // links resolved
	base  string
	data  []byte
}

// maxLinks bounds the links followed for one path, as the kernel does.
const maxLinks = 40

// maxDir bounds the entries looked at in one folder.
const maxDir = 10_000

func newTree(ctx context.Context, cfg Config) *tree {
	t := &tree{ctx: ctx, cfg: cfg, links: map[string]string{}, bases: map[string]*os.Root{}, folders: map[[2]string]*os.Root{}}
	if cfg.Root == "/" {
		mounts, _ := mountinfo.Read(mountinfo.Self) // as many as can be read
		t.slow = slowMounts(mounts)
	}
	return t
}

func (t *tree) close() {
	t.closeFolders()
	for _, r := range t.bases {
		_ = r.Close() // read only
	}
}

// slowMounts are those whose answers depend on somebody else: a user's file
// system in user space could hold us for ever.
func slowMounts(mounts []mountinfo.Mount) []string {
	var slow []string
	for _, m := range mounts {
		if m.Kind() == mountinfo.Remote || m.Type == "autofs" {
			slow = append(slow, m.Point)
		}
	}
	return slow
}

func octal(s string) (byte, bool) {
	if len(s) < 4 || s[0] != '\\' {
		return 0, false
	}
	n := 0
	for _, c := range []byte(s[1:4]) {
		if c < '0' || c > '7' {
			return 0, false
		}
		n = n*8 + int(c-'0')
	}
	return byte(n), n < 256
}

func (t *tree) isSlow(p string) bool {
	return slices.ContainsFunc(t.slow, func(m string) bool { return below(m, p) })
}

func below(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

func (t *tree) outside(p string) string { return path.Join(t.cfg.Root, p) }

// resolve follows every link of a path within the root, also the last one. The
// end need not exist: what a link pointed to may have been taken.
func (t *tree) resolve(p string) string {
	todo := strings.Split(p, "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		p := path.Join(at, next)
		to := t.readlink(p)
		if to == "" || links == maxLinks {
			at = p
			continue
		}
		links++
		if path.IsAbs(to) {
			at = "/"
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	return at
}

// readlink is where p points, or "" for what is no link or cannot be asked.
// Links of /proc are not names.
func (t *tree) readlink(p string) string {
	to, known := t.links[p]
	if known || below("/proc", p) || t.isSlow(p) {
		return to
	}
	to, err := os.Readlink(t.outside(p))
	if err != nil {
		to = ""
	}
	if len(t.links) < 200_000 {
		t.links[p] = to
	}
	return to
}

// base opens the folder that no link may lead out of, once.
func (t *tree) base(dir string) (*os.Root, error) {
	if r := t.bases[dir]; r != nil {
		return r, nil
	}
	r, err := os.OpenRoot(t.outside(dir))
	if err == nil {
		t.bases[dir] = r
	}
	return r, err
}

// maxFolders bounds the folders that are kept open.
const maxFolders = 128

// folder opens the folder that a resolved path lies in, once, and returns what
// the path is called there. It is reached from its base without a link.
func (t *tree) folder(home, real string) (*os.Root, string, error) {
	r, err := t.base(home)
	if err != nil || real == home {
		return r, ".", err
	}
	dir, name := path.Split(real)
	dir = path.Clean(dir)
	if dir == home {
		return r, name, nil
	}
	at := [2]string{home, dir}
	if r := t.folders[at]; r != nil {
		return r, name, nil
	}
	r, err = r.OpenRoot(strings.TrimPrefix(strings.TrimPrefix(dir, home), "/"))
	if err != nil {
		return nil, "", err
	}
	if len(t.folders) >= maxFolders {
		t.closeFolders()
	}
	t.folders[at] = r
	return r, name, nil
}

func (t *tree) closeFolders() {
	for _, r := range t.folders {
		_ = r.Close() // read only
	}
	clear(t.folders)
}

// open opens a file or folder below base, links resolved, without blocking on
// a pipe and without leaving base.
func (t *tree) open(base, p string) (*os.File, string, error) {
	if t.ctx.Err() != nil || t.files >= t.cfg.MaxFiles {
		return nil, "", errCut
	}
	home, real := t.resolve(base), t.resolve(p)
	if !below(home, real) {
		t.skip(p, fmt.Errorf("it leads out of %s to %s", base, real))
		return nil, "", fs.ErrPermission
	}
	if t.isSlow(real) {
		t.skip(p, errors.New("it lies on a file system that may not answer"))
		return nil, "", fs.ErrPermission
	}
	r, rel, err := t.folder(home, real)
	if err != nil {
		return nil, "", err
	}
	fi, err := r.Lstat(rel)
	if err != nil {
		return nil, "", err
	}
	if m := fi.Mode().Type(); m != 0 && m != fs.ModeDir {
		return nil, "", fs.ErrInvalid // a device may do something when it is opened
	}
	t.files++
	f, err := r.OpenFile(rel, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	return f, real, err
}

// read returns a text file below base.
func (t *tree) read(base, p string) (textFile, error) {
	f, real, err := t.open(base, p)
	if err != nil {
		if !quiet(err) {
			t.skip(p, err)
		}
		return textFile{}, err
	}
	defer f.Close() // read only
	fi, err := f.Stat()
	switch {
	case err != nil:
		return textFile{}, err
	case !fi.Mode().IsRegular():
		return textFile{}, fs.ErrInvalid
	case fi.Size() > t.cfg.MaxFile:
		t.skip(p, fmt.Errorf("it has %d bytes, more than the %d looked at", fi.Size(), t.cfg.MaxFile))
		return textFile{}, fs.ErrInvalid
	}
	data, err := io.ReadAll(io.LimitReader(f, t.cfg.MaxFile))
	if err != nil {
		t.skip(p, err)
		return textFile{}, err
	}
	return textFile{where: p, real: real, base: base, data: data}, nil
}

// quiet errors are of what is not there or is no text, or were told already.
func quiet(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) || errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EACCES) ||
		errors.Is(err, unix.ENOTDIR) || errors.Is(err, errCut)
}

func (t *tree) skip(p string, why error) {
	if len(t.skipped) < 20 {
		t.skipped = append(t.skipped, fmt.Sprintf("%q: %v", p, why))
	}
}

// glob lists what matches a pattern below base, sorted; each element of the
// pattern may hold the signs of path.Match.
func (t *tree) glob(base, pattern string) ([]string, error) {
	found := []string{base}
	for elem := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range found {
			if !strings.ContainsAny(elem, "*?[") {
				next = append(next, path.Join(dir, elem))
				continue
			}
			names, err := t.list(base, dir)
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				if ok, _ := path.Match(elem, n); ok { // the patterns are ours
					next = append(next, path.Join(dir, n))
				}
			}
		}
		found = next
	}
	return found, nil
}

// list returns the names in a folder, sorted; none when it cannot be read.
func (t *tree) list(base, dir string) ([]string, error) {
	f, _, err := t.open(base, dir)
	if errors.Is(err, errCut) {
		return nil, err
	}
	if err != nil {
		if !quiet(err) {
			t.skip(dir, err)
		}
		return nil, nil
	}
	defer f.Close() // read only
	names, err := f.Readdirnames(maxDir)
	if len(names) == maxDir {
		t.skip(dir, fmt.Errorf("only %d of its entries were looked at", maxDir))
	} else if err != nil && !errors.Is(err, io.EOF) && !quiet(err) {
		t.skip(dir, err)
	}
	slices.Sort(names)
	return names, nil
}
