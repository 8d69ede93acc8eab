// SPDX-License-Identifier: Apache-2.0

package index

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// walker visits every file below some folders with several workers. It goes by
// descriptors only: no link is followed, no name is looked up twice, and depth
// is bounded by memory, not by PATH_MAX.
//
// The work is a stack. A folder is read a buffer at a time: the rest of it goes
// back onto the stack below what the buffer held, so that the stack holds one
// buffer per level, however many names a folder has.
type walker struct {
	workers int
	dirs    *dirs
	// file is called for every name that is no folder, by many workers at once.
	file func(ctx context.Context, w *worker, n *node, dir int, e entry)
	// enter is asked before a folder is opened.
	enter func(n *node, name string, f *facts) bool
	// problem hears of what could not be read.
	problem func(path string, err error)

	mu     sync.Mutex // guards stack, active, done
	more   *sync.Cond
	stack  []work
	active int
	done   bool
}

// work is a folder to open, a folder to read on, or names in a folder.
type work struct {
	n     *node
	files []entry
	next  int64 // where to read on; 0: from the start
}

// worker is what one goroutine keeps for itself.
type worker struct {
	entries []byte
	sum     *summer
}

// filesPerWork is small enough that idle workers find something to take.
const filesPerWork = 64

// run walks from the given folders, which dirs knows, and returns when all is
// visited or ctx is done.
func (w *walker) run(ctx context.Context, from ...work) error {
	w.more = sync.NewCond(&w.mu)
	w.push(from...)
	stop := context.AfterFunc(ctx, w.finish)
	defer stop()
	var all sync.WaitGroup
	for range w.workers {
		all.Go(func() {
			me := &worker{entries: make([]byte, direntBuf), sum: newSummer()}
			for {
				job, ok := w.take()
				if !ok {
					return
				}
				w.do(ctx, me, job)
				w.dirs.drop(job.n)
				w.end()
			}
		})
	}
	all.Wait()
	for _, job := range w.stack { // given up: ctx is done
		w.dirs.drop(job.n)
	}
	w.stack = nil
	return ctx.Err()
}

// push adds work; each piece holds its folder's node until it is done.
func (w *walker) push(jobs ...work) {
	w.dirs.hold(jobs)
	w.mu.Lock()
	w.stack = append(w.stack, jobs...)
	w.mu.Unlock()
	w.more.Broadcast()
}

func (w *walker) take() (job work, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.stack) == 0 && w.active > 0 && !w.done {
		w.more.Wait()
	}
	if len(w.stack) == 0 || w.done {
		w.more.Broadcast()
		return work{}, false
	}
	top := len(w.stack) - 1
	job, w.stack[top] = w.stack[top], work{}
	w.stack = w.stack[:top]
	w.active++
	return job, true
}

func (w *walker) end() {
	w.mu.Lock()
	w.active--
	idle := w.active == 0 && len(w.stack) == 0
	w.mu.Unlock()
	if idle {
		w.more.Broadcast()
	}
}

func (w *walker) finish() {
	w.mu.Lock()
	w.done = true
	w.mu.Unlock()
	w.more.Broadcast()
}

func (w *walker) do(ctx context.Context, me *worker, job work) {
	fd, err := w.dirs.use(job.n)
	if err != nil {
		if !gone(err) {
			w.problem(job.n.path(), err)
		}
		return
	}
	defer w.dirs.unuse(job.n)
	if job.files == nil {
		w.list(me, job, fd)
		return
	}
	for _, e := range job.files {
		if ctx.Err() != nil {
			return
		}
		w.file(ctx, me, job.n, fd, e)
	}
}

// list reads the next buffer of a folder and pushes what it holds.
func (w *walker) list(me *worker, job work, fd int) {
	if _, err := unix.Seek(fd, job.next, unix.SEEK_SET); err != nil {
		w.problem(job.n.path(), err)
		return
	}
	names, next, err := readEntries(fd, me.entries)
	if err != nil {
		w.problem(job.n.path(), fmt.Errorf("cannot read the folder: %w", err))
		return
	}
	if len(names) == 0 {
		return
	}
	jobs := []work{{n: job.n, next: next}}
	var files []entry
	for _, e := range names {
		switch e.typ {
		case unix.DT_DIR:
			if n := w.child(job.n, fd, e.name, nil); n != nil {
				jobs = append(jobs, work{n: n})
			}
		case unix.DT_REG:
			files = append(files, e)
		case unix.DT_UNKNOWN:
			f, err := look(fd, e.name)
			switch {
			case err != nil:
				if !gone(err) {
					w.problem(job.n.join(e.name), err)
				}
			case f.folder():
				if n := w.child(job.n, fd, e.name, &f); n != nil {
					jobs = append(jobs, work{n: n})
				}
			case f.regular():
				files = append(files, e)
			}
		}
	}
	byInode(files)
	for len(files) > 0 {
		k := min(len(files), filesPerWork)
		jobs = append(jobs, work{n: job.n, files: files[:k:k]})
		files = files[k:]
	}
	w.push(jobs...)
}

// child makes the node of a folder the walker may enter, else nil.
func (w *walker) child(parent *node, fd int, name string, f *facts) *node {
	if f == nil {
		got, err := look(fd, name)
		if err != nil {
			if !gone(err) {
				w.problem(parent.join(name), err)
			}
			return nil
		}
		f = &got
	}
	if !f.folder() || !w.enter(parent, name, f) {
		return nil
	}
	return &node{parent: parent, name: name, id: f.id, fd: -1}
}

// gone reports whether a name vanished or became something else between two
// looks, which is no gap: whoever moved it is heard of by other means.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, errReplaced)
}

// errReplaced is a name that leads to another inode than a moment ago.
var errReplaced = errors.New("another folder took this name meanwhile")

// node is a folder the walker knows.
type node struct {
	parent *node  // nil: a root
	name   string // in parent; of a root its absolute path
	id     inode.ID

	// Guarded by dirs.mu.
	fd         int // -1: not open
	users      int // goroutines that use fd now
	holds      int // pieces of work that will
	prev, next *node
}

// path is for people: the names may have changed since they were read.
func (n *node) path() string {
	size := 0
	for d := n; d != nil; d = d.parent {
		size += len(d.name) + 1
	}
	b := make([]byte, size)
	at := size
	for d := n; d != nil; d = d.parent {
		at -= copy(b[at-len(d.name):], d.name)
		if d.parent != nil && d.parent.name != "/" {
			at--
			b[at] = '/'
		}
	}
	return string(b[at:])
}

// join is the path of a name in n.
func (n *node) join(name string) string {
	if p := n.path(); p != "/" {
		return p + "/" + name
	}
	return "/" + name
}
