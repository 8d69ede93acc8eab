// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
)

// procfs reads /proc through one descriptor.
type procfs struct {
	dir  *os.File
	root bool // other users' processes can be read and killed
	host bool // pids are those of the first pid namespace

	buffers sync.Pool // of *bytes.Buffer, for read
}

// initPIDNS is the fixed inode number of the first pid namespace
// (include/linux/proc_ns.h, PROC_PID_INIT_INO).
const initPIDNS = "pid:[4026531836]"

func openProc() (*procfs, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot read processes: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &fs); err != nil || fs.Type != unix.PROC_SUPER_MAGIC {
		return nil, errors.Join(errors.New("cannot read processes: /proc is not the proc file system; mount it"), err, dir.Close())
	}
	p := &procfs{dir: dir}
	ns, err := os.Readlink("/proc/self/ns/pid")
	p.host = err == nil && ns == initPIDNS
	p.root = able(unix.CAP_SYS_PTRACE, unix.CAP_KILL)
	return p, nil
}

// able reports whether this process has all the capabilities.
func able(caps ...int) bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return false
	}
	for _, c := range caps {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}

func (p *procfs) close() error { return p.dir.Close() }

// path returns the name of a process's entry, relative to /proc.
func path(pid int, entry string) string {
	b := make([]byte, 0, 48)
	b = strconv.AppendInt(b, int64(pid), 10)
	b = append(b, '/')
	return string(append(b, entry...))
}

// pids lists the processes, in the kernel's order.
func (p *procfs) pids() ([]int, error) {
	return p.numbers(".")
}

// threads lists a process's threads.
func (p *procfs) threads(pid int) ([]int, error) {
	return p.numbers(path(pid, "task"))
}

// numbers lists the entries of a folder below /proc whose names are numbers.
func (p *procfs) numbers(dir string) ([]int, error) {
	fd, err := unix.Openat(int(p.dir.Fd()), dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot list /proc/%s: %w", dir, err)
	}
	d := os.NewFile(uintptr(fd), dir)
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, fmt.Errorf("cannot list /proc/%s: %w", dir, err)
	}
	all := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil && n > 0 {
			all = append(all, n)
		}
	}
	return all, nil
}

// stat follows an entry of a process to the file it names. It asks no remote
// file system, whose server may be away.
func (p *procfs) stat(pid int, entry string) (inode.Stat, error) {
	const mask = unix.STATX_BASIC_STATS
	var st unix.Statx_t
	err := unix.Statx(int(p.dir.Fd()), path(pid, entry), unix.AT_STATX_DONT_SYNC, mask, &st)
	if err != nil {
		return inode.Stat{}, err
	}
	at := func(t unix.StatxTimestamp) time.Time { return time.Unix(t.Sec, int64(t.Nsec)) }
	return inode.Stat{
		ID:    inode.ID{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino},
		Size:  int64(st.Size), //nolint:gosec // the kernel keeps sizes signed
		Mode:  uint32(st.Mode),
		Nlink: uint64(st.Nlink),
		UID:   st.Uid,
		GID:   st.Gid,
		Atime: at(st.Atime),
		Mtime: at(st.Mtime),
		Ctime: at(st.Ctime),
	}, nil
}

// open opens what an entry of a process names, or the entry itself.
func (p *procfs) open(pid int, entry string) (*os.File, error) {
	name := path(pid, entry)
	return openQuiet(int(p.dir.Fd()), name, "/proc/"+name)
}

// handle opens what an entry names without reading rights to it.
func (p *procfs) handle(pid int, entry string) (int, error) {
	return unix.Openat(int(p.dir.Fd()), path(pid, entry), unix.O_PATH|unix.O_CLOEXEC, 0)
}

// read returns at most limit bytes of an entry.
func (p *procfs) read(pid int, entry string, limit int64) ([]byte, error) {
	f, err := p.open(pid, entry)
	if err != nil {
		return nil, err
	}
	buf, ok := p.buffers.Get().(*bytes.Buffer)
	if !ok {
		buf = bytes.NewBuffer(make([]byte, 0, 64<<10))
	}
	defer p.buffers.Put(buf)
	buf.Reset()
	_, err = buf.ReadFrom(io.LimitReader(f, limit))
	return bytes.Clone(buf.Bytes()), errors.Join(err, f.Close())
}

// link returns what a link points to.
func (p *procfs) link(pid int, entry string) (string, error) {
	b := make([]byte, 4096)
	n, err := unix.Readlinkat(int(p.dir.Fd()), path(pid, entry), b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

// vital is what /proc/PID/stat says of a process.
type vital struct {
	state  byte // R, S, D, T, t, Z, X …
	ppid   int
	kernel bool   // a kernel thread
	start  uint64 // clock ticks since boot
}

// PF_KTHREAD of include/linux/sched.h.
const pfKthread = 0x00200000

// parseVital reads /proc/PID/stat (proc(5)). The command in parentheses may
// hold any byte, parentheses and newlines included, so the last one counts.
func parseVital(b []byte) (vital, error) {
	end := bytes.LastIndexByte(b, ')')
	if end < 0 {
		return vital{}, errors.New("cannot read process status: no command in it")
	}
	f := bytes.Fields(b[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return vital{}, errors.New("cannot read process status: fields are missing")
	}
	if c := f[0][0] | 0x20; c < 'a' || c > 'z' {
		return vital{}, fmt.Errorf("cannot read process status: %q is no state", f[0])
	}
	ppid, err1 := strconv.Atoi(string(f[1]))
	flags, err2 := strconv.ParseUint(string(f[6]), 10, 64)
	start, err3 := strconv.ParseUint(string(f[19]), 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return vital{}, fmt.Errorf("cannot read process status: %w", err)
	}
	return vital{state: f[0][0], ppid: ppid, kernel: flags&pfKthread != 0, start: start}, nil
}

func (p *procfs) vital(pid int) (vital, error) {
	b, err := p.read(pid, "stat", 8192)
	if err != nil {
		return vital{}, err
	}
	return parseVital(b)
}

// owner returns the user a process runs as: its entry is owned by the
// effective user, or by root where the process may not be dumped.
func (p *procfs) owner(pid int) uint32 {
	b, err := p.read(pid, "status", 8192)
	if err != nil {
		return 0
	}
	return parseUID(b)
}

// parseUID returns the effective user of /proc/PID/status.
func parseUID(b []byte) uint32 {
	for line := range bytes.Lines(b) {
		rest, ok := bytes.CutPrefix(line, []byte("Uid:"))
		if !ok {
			continue
		}
		if f := bytes.Fields(rest); len(f) >= 2 {
			if n, err := strconv.ParseUint(string(f[1]), 10, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return 0
}

// gone reports whether err means that the process is not there any more, or
// never had what was asked for, as kernel threads and zombies have no program.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)
}

// forbidden reports whether err means that this user may not look.
func forbidden(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)
}
