// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"staunch/internal/filehash"
	"staunch/internal/runnable"
)

// MountDisk makes dir a file system of its own, a tmpfs, so that the gate marks
// that and nothing else. own is false where that cannot be, and dir is then a
// plain folder. undo takes it away, whoever still uses it.
func MountDisk(dir string) (own bool, undo func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // as a disk's root is
		return false, nil, err
	}
	if os.Geteuid() != 0 {
		return false, func() {}, nil
	}
	if err := syscall.Mount("staunch-test", dir, "tmpfs", 0, "size=512m,mode=755"); err != nil {
		if errors.Is(err, syscall.EPERM) {
			return false, func() {}, nil
		}
		return false, nil, fmt.Errorf("cannot mount a scratch disk: %w", err)
	}
	return true, func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }, nil
}

// Program writes a harmless program with a content that nothing else has: the
// system's shell with random bytes at its end, and as many that hardly two have
// the same size: agents of several tests, each with a gate, cannot look into one
// another's denied files, and need not where the size tells. It makes the
// folders above it.
func Program(path string) (filehash.Sum, error) {
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		return filehash.Sum{}, fmt.Errorf("cannot make a program: %w", err)
	}
	marker := make([]byte, 32+mathrand.IntN(1<<16))
	_, _ = rand.Read(marker)                                       // never fails
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // others run it
		return filehash.Sum{}, err
	}
	if err := runnable.Write(path, append(shell, marker...), 0o755); err != nil { //nolint:gosec // likewise
		return filehash.Sum{}, err
	}
	return SumOf(path)
}

// SumOf hashes a file.
func SumOf(path string) (filehash.Sum, error) {
	f, err := os.Open(path)
	if err != nil {
		return filehash.Sum{}, err
	}
	defer f.Close()
	return filehash.Compute(f)
}

// pair keeps another of itself alive: whichever of the two is killed, the other
// starts it again. It ends when the file LIVE is removed.
const pair = `
while [ -e "$LIVE" ]; do
	"$SELF" -c 'while [ -e "$LIVE" ] && kill -0 $PPID 2>/dev/null; do sleep 0.05; done
		[ -e "$LIVE" ] && exec "$SELF" -c "$PAIR"'
done
`

// Spawn runs a file that Program wrote: count processes that just sit there, or,
// if count is 0, a pair each of which starts the other again. It returns once
// they run; end lets go of what is left of them.
func Spawn(path string, count int) (end func(), err error) {
	live := path + ".may-live" // beside the file: on the disk that goes with the test
	if err := os.WriteFile(live, nil, 0o600); err != nil {
		return nil, err
	}
	script, want := pair, 2
	if count > 0 {
		// Each sits in a builtin, so that no other program has a part in it.
		script, want = `read x`, count
	}
	pipe, hold, err := os.Pipe() // what they read from; nothing comes
	if err != nil {
		return nil, err
	}
	var ends []func()
	end = func() {
		_ = os.Remove(live)
		for _, e := range ends {
			e()
		}
		_, _ = pipe.Close(), hold.Close()
	}
	for range max(count, 1) {
		c := exec.Command(path, "-c", script)
		c.Args[0] = "sh" // a shell of many names looks at this one
		c.Env = append(os.Environ(), "SELF="+path, "LIVE="+live, "PAIR="+pair)
		c.Stdin = pipe
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			end()
			return nil, err
		}
		gone := make(chan struct{})
		go func() {
			_ = c.Wait() // it was killed, or is let go
			close(gone)
		}()
		ends = append(ends, func() {
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // its group; usually gone
			<-gone
		})
	}
	sum, err := SumOf(path)
	if err == nil {
		err = Until(path+" ran", func() (bool, error) {
			pids, err := Running(sum)
			return len(pids) >= want, err
		})
	}
	if err != nil {
		end()
		return nil, err
	}
	return end, nil
}

// Running lists the processes that execute a content, by looking at every one.
func Running(sum filehash.Sum) ([]int, error) {
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
		// Opening somebody else's program may wait for a gate that is none of our
		// business, so only those of the right size are opened.
		exe := filepath.Join("/proc", e.Name(), "exe")
		fi, err := os.Stat(exe)
		if err != nil || fi.Size() != sum.Size {
			continue // another program, a kernel thread, somebody else's, or gone
		}
		got, err := SumOf(exe)
		// A gate refuses reads of a denied content with EPERM: that is one.
		if got == sum || errors.Is(err, syscall.EPERM) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Frozen says whether a process is stopped by a signal or a freezer.
func Frozen(pid int) (bool, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return false, nil // it has ended
	}
	if err != nil {
		return false, err
	}
	_, rest, _ := strings.Cut(string(b), ") ") // the name may hold anything but this, at its end
	if strings.HasPrefix(rest, "T") || strings.HasPrefix(rest, "t") {
		return true, nil
	}
	group, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return false, nil // it has ended
	}
	for line := range strings.Lines(string(group)) {
		dir, ok := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !ok {
			continue
		}
		events, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", dir, "cgroup.events"))
		if err == nil && strings.Contains(string(events), "frozen 1") {
			return true, nil
		}
	}
	return false, nil
}

// Thawed waits until a process is not frozen, or gone. Others on this machine may
// freeze everybody for a moment; whom nobody thaws was left frozen.
func Thawed(pid int) error {
	return Until(fmt.Sprintf("process %d ran on", pid), func() (bool, error) {
		frozen, err := Frozen(pid)
		return !frozen, err
	})
}

// Copies lists the files below dir with a content, by reading them all.
func Copies(dir string, sum filehash.Sum) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone while we looked
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		got, err := SumOf(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if got == sum {
			found = append(found, path)
		}
		return err
	})
	return found, err
}

// Looks is one line for a file with all that must be the same after a restore.
func Looks(ctx context.Context, path string) (string, error) {
	sum, err := SumOf(path)
	if err != nil {
		return "", err
	}
	fi, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	st := fi.Sys().(*syscall.Stat_t) //nolint:errcheck,forcetypeassert // always, on Unix
	line := fmt.Sprintf("%q %s %d %v %d:%d links %d mtime %d.%09d", path, sum.SHA256, sum.Size, fi.Mode(), st.Uid, st.Gid, st.Nlink, st.Mtim.Sec, st.Mtim.Nsec)
	for _, tool := range [][]string{
		{"getfattr", "-d", "-m", "-", "-e", "hex", "--absolute-names", "--"}, {"getfacl", "-c", "-p", "-n", "--"}, {"lsattr", "-d", "--"},
	} {
		if _, err := exec.LookPath(tool[0]); err != nil {
			continue
		}
		out, err := Run(ctx, tool[0], append(tool[1:], path)...)
		if err != nil {
			continue // this file system has none of these
		}
		line += fmt.Sprintf(" %s %q", tool[0], strings.TrimSpace(string(out)))
	}
	return line, nil
}
