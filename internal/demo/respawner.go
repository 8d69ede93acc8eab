// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// respawner is a harmless program that does not want to be stopped: two
// processes of the same file, each of which starts the other again when it
// dies. Its file is the system's shell with a few random bytes at the end, so
// that its content is nobody else's.
type respawner struct {
	names  []string // every path of it: the second is a hard link, the third a copy
	sum    filehash.Sum
	marker []byte
	live   string // the pair goes on while this file is there
}

const pair = `
watch() { # keep one other alive
	while [ -e "$LIVE" ]; do
		"$SELF" -c 'while [ -e "$LIVE" ] && kill -0 $PPID 2>/dev/null; do sleep 0.05; done
			[ -e "$LIVE" ] && exec "$SELF" -c "$PAIR"'
	done
}
watch
`

func newRespawner(disk, scratch string) (*respawner, error) {
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		return nil, fmt.Errorf("cannot make the program: %w", err)
	}
	marker := make([]byte, 32)
	_, _ = rand.Read(marker) // never fails
	r := &respawner{
		names:  []string{filepath.Join(disk, "opt/updater/sh"), filepath.Join(disk, "home/ana/invoice viewer"), filepath.Join(disk, "tmp/.cache/sh")},
		marker: marker,
		live:   filepath.Join(scratch, "respawner-may-live"),
	}
	for _, n := range r.names {
		if err := os.MkdirAll(filepath.Dir(n), 0o755); err != nil {
			return nil, err
		}
	}
	content := append(shell, marker...)
	for _, i := range []int{0, 2} {
		if err := runnable.Write(r.names[i], content, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.Link(r.names[0], r.names[1]); err != nil {
		return nil, err
	}
	old := time.Date(2026, 2, 3, 4, 5, 6, 789012345, time.UTC)
	if err := os.Chtimes(r.names[0], old, old); err != nil {
		return nil, err
	}
	if err := os.WriteFile(r.live, nil, 0o600); err != nil {
		return nil, err
	}
	f, err := os.Open(r.names[0])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r.sum, err = filehash.Compute(f)
	return r, err
}

// start runs the pair, in a process group of its own.
func (r *respawner) start(ctx context.Context) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, r.names[0], "-c", pair)
	c.Args[0] = "sh" // a shell of many names looks at this one
	c.Env = append(os.Environ(), "SELF="+r.names[0], "LIVE="+r.live, "PAIR="+pair)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c, c.Start()
}

// end lets the pair go, whatever became of the order.
func (r *respawner) end() { _ = os.Remove(r.live) }

// running lists the processes whose executable has the content, by looking at
// every one: independent of the agent.
func (r *respawner) running() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		f, err := os.Open(filepath.Join("/proc", e.Name(), "exe"))
		if err != nil {
			continue // a kernel thread, somebody else's, or gone
		}
		fi, err := f.Stat()
		if err == nil && fi.Size() == r.sum.Size {
			if sum, err := filehash.Compute(f); err == nil && sum == r.sum {
				pids = append(pids, pid)
			}
		}
		_ = f.Close() // read only
	}
	return pids, nil
}

// copies lists the files below dir with the content, by reading them all.
func (r *respawner) copies(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		sum, err := filehash.Compute(f)
		if sum == r.sum {
			found = append(found, path)
		}
		return err
	})
	return found, err
}

// looks is what must be the same after a restore.
type looks struct {
	sum   filehash.Sum
	mode  fs.FileMode
	uid   uint32
	gid   uint32
	mtime time.Time
	links uint64
}

func look(path string) (looks, error) {
	f, err := os.Open(path)
	if err != nil {
		return looks{}, err
	}
	defer f.Close()
	sum, err := filehash.Compute(f)
	if err != nil {
		return looks{}, err
	}
	fi, err := f.Stat()
	if err != nil {
		return looks{}, err
	}
	st := fi.Sys().(*syscall.Stat_t) // always, on Linux
	return looks{sum, fi.Mode(), st.Uid, st.Gid, fi.ModTime(), uint64(st.Nlink)}, nil
}
