// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

// SearchConfig says what to search for, and where.
type SearchConfig struct {
	Roots    []string                 // folders or files; empty: every local file system
	Foreign  bool                     // what only other mount namespaces have mounted, at or below the roots
	Skip     []string                 // folders left out, by identity: the agent's own; may not exist
	Hash     filehash.Hash            // required
	Size     int64                    // of the content in bytes, which spares nearly all reading; -1: not known
	Workers  int                      // 0: one per processor
	Progress func(files, bytes int64) // called now and then from one goroutine; nil: nobody asks
	Log      *slog.Logger             // nil: silent
}

// Result is what a search found, and how far its word goes.
type Result struct {
	Copies     []Copy   // the caller closes their files
	Covered    []string // the roots that were searched
	NotCovered []string // "path: reason", where files may be that were not seen
	Failed     []string // those of them that should have been seen: reading failed; a few
	Skipped    []string // "path: reason", where there are none to see, or only the agent's
	Watched    bool     // names that moved while the search ran were followed
	Files      int64    // names looked at
	Bytes      int64    // read and hashed
}

// Close closes the files of all copies.
func (r *Result) Close() {
	for _, c := range r.Copies {
		_ = c.File.Close() // read only
	}
}

// Search looks at every regular file below the roots. It returns an error only
// when a root cannot be searched at all or ctx is done; single files and
// folders that cannot be read are gaps in the result.
func Search(ctx context.Context, cfg SearchConfig) (res Result, err error) {
	switch {
	case cfg.Hash.IsZero():
		return res, errors.New("cannot search: no hash given; name the content by SHA-1 or SHA-256")
	case cfg.Size > sizeLimit:
		return res, fmt.Errorf("cannot search for a file of %d bytes: it is %w", cfg.Size, errTooLarge)
	}
	s, err := newSearch(cfg)
	if err != nil {
		return res, fmt.Errorf("cannot search: %w", err)
	}
	defer s.watches.close()
	stop := s.reportProgress()
	err = s.run(ctx)
	if err == nil {
		err = s.linkNames(ctx)
	}
	stop()
	res = s.result()
	if err != nil {
		res.Close()
		return Result{}, fmt.Errorf("cannot search: %w", err)
	}
	return res, nil
}

// copyLimit bounds the copies of one search: each is an open descriptor. Content
// that more files share is no malware but part of everything, like the empty file.
const copyLimit = 4096

// search is one search under way.
type search struct {
	cfg     SearchConfig
	mounts  []mount
	skip    map[inode.ID]bool
	layers  map[inode.ID]layer
	walk    *walker
	roots   []work
	watches watches
	across  bool // walk into local file systems mounted below: only where roots are named

	files, bytes atomic.Int64

	mu    sync.Mutex // guards what follows
	seen  map[inode.ID]*verdict
	gaps  []string
	lost  int // gaps beyond gapLimit
	found int // matches
	res   Result
}

func newSearch(cfg SearchConfig) (*search, error) {
	s := &search{cfg: cfg, seen: map[inode.ID]*verdict{}, skip: idsOf(cfg.Skip)}
	if s.cfg.Workers <= 0 {
		s.cfg.Workers = runtime.GOMAXPROCS(0)
	}
	if s.cfg.Log == nil {
		s.cfg.Log = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.mounts, err = readMounts(); err != nil {
		return nil, err
	}
	s.layers = overlays(s.mounts)
	s.walk = &walker{workers: s.cfg.Workers, dirs: newDirs(s.cfg.Workers), file: s.file, enter: s.enter, problem: s.problem}
	switch {
	case cfg.Foreign:
		s.foreign()
		return s, nil
	case len(cfg.Roots) == 0:
		return s, s.everywhere()
	}
	s.across = true
	return s, s.named(cfg.Roots)
}

// idsOf returns the identities of the folders that exist.
func idsOf(paths []string) map[inode.ID]bool {
	ids := map[inode.ID]bool{}
	for _, p := range paths {
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil {
			ids[inode.ID{Dev: st.Dev, Ino: st.Ino}] = true
		}
	}
	return ids
}

// everywhere makes every local file system a root.
func (s *search) everywhere() error {
	var picked []mount
	picked, s.gaps, s.res.Skipped = sources(s.mounts)
	for i := range picked {
		if err := s.root(picked[i].Point, &picked[i]); err != nil {
			s.problem(picked[i].Point, err)
		}
	}
	if len(s.roots) == 0 {
		return errors.New("no local file system can be read; name the folders to search")
	}
	return nil
}

var errHidden = errors.New("another file system is mounted over it")

// named makes the given folders and files roots; one below another is left out.
func (s *search) named(paths []string) error {
	var real []string
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err == nil {
			abs, err = filepath.EvalSymlinks(abs)
		}
		if err != nil {
			return fmt.Errorf("root %s: %w", order.TextOf(p), err)
		}
		real = append(real, abs)
	}
	slices.SortFunc(real, func(a, b string) int { return len(a) - len(b) })
	for _, p := range real {
		if slices.ContainsFunc(s.res.Covered, func(c string) bool { return within(p, c) }) {
			continue
		}
		if err := s.root(p, nil); err != nil {
			return fmt.Errorf("root %w", err)
		}
	}
	return nil
}

// root adds one root, which must belong to want if that is given.
func (s *search) root(path string, want *mount) error {
	f, err := look(unix.AT_FDCWD, path)
	switch {
	case err != nil:
		return &os.PathError{Op: "stat", Path: path, Err: err}
	case want != nil && f.mountID != 0 && f.mountID != want.ID:
		return errHidden
	case f.folder():
		s.roots = append(s.roots, work{n: &node{name: path, id: f.id, fd: -1}})
	case f.regular():
		dir, err := look(unix.AT_FDCWD, filepath.Dir(path))
		if err != nil {
			return &os.PathError{Op: "stat", Path: path, Err: err}
		}
		parent := &node{name: filepath.Dir(path), id: dir.id, fd: -1}
		s.roots = append(s.roots, work{n: parent, files: []entry{{name: filepath.Base(path), ino: f.id.Ino, typ: unix.DT_REG}}})
	default:
		return fmt.Errorf("%s: is neither a folder nor a regular file", order.TextOf(path))
	}
	s.res.Covered = append(s.res.Covered, path)
	return nil
}

// run walks, and then follows what moved meanwhile.
func (s *search) run(ctx context.Context) error {
	s.watches = watch(s.watchPoints())
	s.res.Watched = s.watches.whole
	return s.walkAndFollow(ctx)
}

// enter keeps out of the agent's own folders and of what is not local.
func (s *search) enter(parent *node, name string, f *facts) bool {
	if s.skip[f.id] {
		s.mu.Lock()
		s.res.Skipped = append(s.res.Skipped, gap(parent.join(name), "the agent's own"))
		s.mu.Unlock()
		return false
	}
	if !f.mountRoot {
		return true
	}
	if !s.across {
		return false // a root of its own, or told of as a gap
	}
	i := slices.IndexFunc(s.mounts, func(m mount) bool { return m.ID == f.mountID })
	if i < 0 {
		return true // mounted since the search began
	}
	switch m := &s.mounts[i]; m.Kind() {
	case remote:
		s.outside(parent.join(name), m.Type+" is not a local file system")
		return false
	case pseudo:
		s.mu.Lock()
		s.res.Skipped = append(s.res.Skipped, gap(parent.join(name), m.Type+" holds no files"))
		s.mu.Unlock()
		return false
	default:
		return true
	}
}

// outside notes what is not searched, by intention.
func (s *search) outside(path, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.gaps) >= gapLimit {
		s.lost++
		return
	}
	s.gaps = append(s.gaps, gap(path, why))
}

// maxFailed bounds Result.Failed: the first ones tell what is wrong.
const maxFailed = 8

// problem notes what should have been searched. A file that is locked by a key
// that is not there can be read by nobody, and run by nobody.
func (s *search) problem(path string, err error) {
	s.outside(path, err.Error())
	if errors.Is(err, unix.ENOKEY) || errors.Is(err, errHidden) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.res.Failed) < maxFailed {
		s.res.Failed = append(s.res.Failed, gap(path, err.Error()))
	}
}

// file decides about one name.
func (s *search) file(ctx context.Context, w *worker, n *node, dir int, e entry) {
	s.files.Add(1)
	if s.cfg.Size >= 0 {
		f, err := look(dir, e.name)
		if err == nil && (!f.regular() || f.size != s.cfg.Size) {
			return
		}
	}
	fd, err := openAt(dir, e.name, openFileFlags)
	if err != nil {
		if !gone(err) && !errors.Is(err, unix.ENXIO) { // ENXIO: a socket took the name
			s.problem(n.join(e.name), fmt.Errorf("cannot open: %w", err))
		}
		return
	}
	s.examine(ctx, w, fd, foundName{n, e.name})
}

// examine decides about one open file, and keeps or closes it.
func (s *search) examine(ctx context.Context, w *worker, fd int, name foundName) {
	kept := false
	defer func() {
		if !kept {
			closeFD(fd)
		}
	}()
	f, err := look(fd, "")
	if err != nil || !f.regular() || (s.cfg.Size >= 0 && f.size != s.cfg.Size) {
		return
	}
	v := s.claim(&f, name)
	if v == nil {
		return
	}
	w.sum.worked = func(k int) { s.bytes.Add(int64(k)) }
	sum, found, err := w.sum.match(ctx, fd, &f, s.cfg.Hash)
	if err != nil && ctx.Err() == nil {
		s.problem(name.path(), err)
	}
	kept = s.settle(v, fd, f, sum, found)
}

// reportProgress calls Progress until the returned function is called, which
// does so once more.
func (s *search) reportProgress() (stop func()) {
	if s.cfg.Progress == nil {
		return func() {}
	}
	done, ended := make(chan struct{}), make(chan struct{})
	tick := time.NewTicker(100 * time.Millisecond)
	go func() {
		defer close(ended)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-done:
				s.cfg.Progress(s.files.Load(), s.bytes.Load())
				return
			}
			s.cfg.Progress(s.files.Load(), s.bytes.Load())
		}
	}()
	return func() { close(done); <-ended }
}
