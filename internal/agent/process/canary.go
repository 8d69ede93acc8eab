// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"staunch/internal/runnable"
)

// A canary is a tiny program that the agent runs and has killed, to see with
// its own eyes that a mechanism works: there are kernels that load and attach
// programs and never obey them. It reads one byte; at the end of its input it
// exits, else it forks, and parent and child sleep for five seconds and exit:
//
//	read(0, sp, 1) > 0 && (clone(SIGCHLD), nanosleep(5 s)); exit_group(0)
func canaryCode(arch string) (machine uint16, code string, ok bool) {
	switch arch {
	case "amd64":
		return 62, "\x48\x83\xec\x20\x31\xff\x48\x89\xe6\xba\x01\x00\x00\x00\x31\xc0\x0f\x05" + // read
			"\x48\x85\xc0\x7e\x24\xb8\x39\x00\x00\x00\x0f\x05" + // fork unless at the end
			"\x48\xc7\x04\x24\x05\x00\x00\x00\x48\xc7\x44\x24\x08\x00\x00\x00\x00\x48\x89\xe7\x31\xf6\xb8\x23\x00\x00\x00\x0f\x05" + // nanosleep
			"\x31\xff\xb8\xe7\x00\x00\x00\x0f\x05", true // exit_group
	case "arm64":
		return 183, "\xff\x83\x00\xd1\x00\x00\x80\xd2\xe1\x03\x00\x91\x22\x00\x80\xd2\xe8\x07\x80\xd2\x01\x00\x00\xd4" + // read
			"\x1f\x00\x00\xf1\xed\x01\x00\x54\x20\x02\x80\xd2\x01\x00\x80\xd2\x02\x00\x80\xd2\x03\x00\x80\xd2\x04\x00\x80\xd2\x88\x1b\x80\xd2\x01\x00\x00\xd4" + // clone unless at the end
			"\xa0\x00\x80\xd2\xe0\x03\x00\xf9\xff\x07\x00\xf9\xe0\x03\x00\x91\x01\x00\x80\xd2\xa8\x0c\x80\xd2\x01\x00\x00\xd4" + // nanosleep
			"\x00\x00\x80\xd2\xc8\x0b\x80\xd2\x01\x00\x00\xd4", true // exit_group
	}
	return 0, "", false
}

// canaryImage is the whole ELF file: header, one segment, code.
func canaryImage(arch string) ([]byte, error) {
	machine, code, ok := canaryCode(arch)
	if !ok {
		return nil, fmt.Errorf("there is no test program for %s", arch)
	}
	const base, header = 0x400000, 64 + 56
	le := binary.LittleEndian
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, header-7)...)
	le.PutUint16(b[16:], 2) // executable
	le.PutUint16(b[18:], machine)
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[24:], base+header) // entry
	le.PutUint64(b[32:], 64)          // where the segment table is
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	p := b[64:]
	le.PutUint32(p[0:], 1) // load
	le.PutUint32(p[4:], 5) // read, execute
	le.PutUint64(p[16:], base)
	le.PutUint64(p[24:], base)
	le.PutUint64(p[32:], uint64(header+len(code)))
	le.PutUint64(p[40:], uint64(header+len(code)))
	le.PutUint64(p[48:], 0x10000)
	return append(b, code...), nil
}

// canary is the program as a file that can be executed, open for reading.
type canary struct{ file *os.File }

// newCanary makes the program in memory, or, where that may not be executed,
// as a nameless file in one of the folders.
func newCanary(dirs ...string) (*canary, error) {
	image, err := canaryImage(runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, dir := range append([]string{""}, dirs...) {
		f, err := writeCanary(dir, image)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c := &canary{file: f}
		if err := c.run(); err != nil {
			errs = append(errs, err, c.close())
			continue
		}
		return c, nil
	}
	return nil, fmt.Errorf("the test program does not run: %w", errors.Join(errs...))
}

// writeCanary returns the program opened anew for reading only: a file open
// for writing cannot be executed.
func writeCanary(dir string, image []byte) (r *os.File, err error) {
	err = runnable.Alone(func() (err error) {
		r, err = createCanary(dir, image)
		return err
	})
	return r, err
}

func createCanary(dir string, image []byte) (*os.File, error) {
	var f *os.File
	if dir == "" {
		fd, err := unix.MemfdCreate("staunch-canary", unix.MFD_CLOEXEC)
		if err != nil {
			return nil, err
		}
		f = os.NewFile(uintptr(fd), "staunch-canary")
	} else {
		var err error
		if f, err = os.CreateTemp(dir, ".canary-*"); err != nil {
			return nil, err
		}
		defer os.Remove(f.Name()) //nolint:errcheck // in a temporary or state folder: harmless if left
	}
	_, err := f.Write(image)
	if err := errors.Join(err, f.Chmod(0o700)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r, err := reopen(f)
	return r, errors.Join(err, f.Close())
}

func (c *canary) close() error { return c.file.Close() }

// command prepares a run of the program.
func (c *canary) command() *exec.Cmd {
	return &exec.Cmd{Path: filepath.Join("/proc/self/fd", fmt.Sprint(c.file.Fd())), Args: []string{"staunch-canary"}}
}

// run lets the program exit by itself.
func (c *canary) run() error { return c.command().Run() }

// perch starts the program and leaves it waiting for a byte.
func (c *canary) perch() (cmd *exec.Cmd, fork io.WriteCloser, err error) {
	cmd = c.command()
	if fork, err = cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	return cmd, fork, cmd.Start()
}

// wasKilled reports whether a run ended by SIGKILL.
func wasKilled(cmd *exec.Cmd) bool {
	if cmd.ProcessState == nil {
		return false
	}
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// tryHooks denies the canary and sees that neither a fork nor an exec of it
// survives.
func (h *Holder) tryHooks() error {
	c, err := newCanary(h.cfg.StateDir, os.TempDir())
	if err != nil {
		return err
	}
	defer closeFile(c.file)
	a, err := h.hooks.inspect(int(c.file.Fd()))
	if err != nil {
		return err
	}
	if int(a.PID) != os.Getpid() { //nolint:gosec // pids are small
		return errors.New("the agent does not see the machine's own process numbers: run it outside of containers")
	}
	d := &Hold{h: h, judge: newJudge(Target{Size: 1}, nil)} // of no use but to arm the hooks
	if err := h.hooks.watch(d); err != nil {
		return err
	}
	defer h.hooks.unwatch(d)
	waiting, fork, err := c.perch()
	if err != nil {
		return err
	}
	defer fork.Close() //nolint:errcheck // a pipe of a dead process
	addr, err := h.hooks.deny(c.file, func(uint64) bool { return true })
	if err != nil {
		return errors.Join(err, waiting.Process.Kill(), waiting.Wait())
	}
	defer h.hooks.allow(addr)
	if _, err := fork.Write([]byte{1}); err != nil {
		return errors.Join(err, waiting.Process.Kill(), waiting.Wait())
	}
	_ = waiting.Wait() // how it ended is looked at below
	if !wasKilled(waiting) {
		return fmt.Errorf("a process of a denied file could fork: %s", waiting.ProcessState)
	}
	again := c.command()
	_ = again.Run() // the same
	if !wasKilled(again) {
		return errors.New("a denied file could be executed")
	}
	return h.canaryGone(addr)
}

// canaryGone waits until no process of the canary is left: the one it forked
// would sleep for five seconds.
func (h *Holder) canaryGone(addr uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	for {
		records, err := h.hooks.list()
		if err != nil {
			return err
		}
		left := 0
		for _, r := range records {
			if r.Inode == addr {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("what a process of a denied file forked lives on")
		case <-time.After(time.Millisecond):
		}
	}
}
