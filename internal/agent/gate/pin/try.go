// SPDX-License-Identifier: Apache-2.0

package pin

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// try has a harmless file refused and allowed again, and sees that this process
// may open it all the same: there are kernels that load and attach such
// programs and never ask them.
func (p *Pins) try(dir string) error {
	f, err := newCanary(dir)
	if err != nil {
		return fmt.Errorf("cannot make a file to try it on: %w", err)
	}
	defer f.Close() //nolint:errcheck // in memory
	a, err := p.inspect(f)
	switch {
	case err != nil:
		return err
	case int(a.TGID) != os.Getpid():
		return errors.New("the agent does not see the machine's own process numbers: run it outside of containers")
	case a.Key.Generation == 0:
		return errors.New("the file system it was tried on keeps no generations")
	}
	marks := p.coll.Maps["marks"]
	if err := marks.Put(a.Key, mark{}); err != nil {
		return fmt.Errorf("cannot mark file in the kernel: %w", err)
	}
	refused := execute(f)
	own, ownErr := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if ownErr == nil {
		_ = own.Close() // it could be opened, which is all
	}
	if err := marks.Delete(a.Key); err != nil {
		return fmt.Errorf("cannot lift mark in the kernel: %w", err)
	}
	switch {
	case !errors.Is(refused, unix.EPERM):
		return fmt.Errorf("this kernel takes the programs and does not ask them: a marked file was not refused (%w)", orNot(refused))
	case ownErr != nil:
		return fmt.Errorf("the agent itself is refused: %w", ownErr)
	case errors.Is(execute(f), unix.EPERM):
		return errors.New("a file is refused after its mark was lifted")
	}
	return nil
}

func orNot(err error) error {
	if err == nil {
		return errors.New("it ran")
	}
	return err
}

// newCanary makes a file that can be executed as far as its interpreter, which
// is not there: what comes back says how far it came. It lies in memory or,
// where that may not be executed, in dir.
func newCanary(dir string) (*os.File, error) {
	fd, err := unix.MemfdCreate("staunch-canary", unix.MFD_CLOEXEC)
	if err == nil {
		var f *os.File
		if f, err = readable(os.NewFile(uintptr(fd), "staunch-canary")); err == nil {
			return f, nil
		}
	}
	f, err2 := os.CreateTemp(dir, ".canary-*")
	if err2 != nil {
		return nil, errors.Join(err, err2)
	}
	defer os.Remove(f.Name()) //nolint:errcheck // in the state folder: harmless if left
	r, err2 := readable(f)
	if err2 != nil {
		return nil, errors.Join(err, err2)
	}
	return r, nil
}

// readable writes the canary, has it open for reading only, which is what can
// be executed, and sees that it can.
func readable(f *os.File) (*os.File, error) {
	_, err := f.WriteString("#!/dev/null/staunch\n")
	if err := errors.Join(err, f.Chmod(0o700)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if err := execute(r); !errors.Is(err, unix.ENOTDIR) {
		return nil, errors.Join(fmt.Errorf("it cannot be executed as far as its interpreter: %w", orNot(err)), r.Close())
	}
	return r, nil
}

func execute(f *os.File) (err error) {
	for range 100 { // another thread that forks holds the descriptor for writing a moment longer
		err = (&exec.Cmd{Path: fmt.Sprintf("/proc/self/fd/%d", f.Fd()), Args: []string{"staunch-canary"}}).Run()
		if !errors.Is(err, unix.ETXTBSY) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}
