// SPDX-License-Identifier: Apache-2.0

package inode

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAlone: whatever holds a file open stands against it, and nothing else.
func TestAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sleeper")
	// Written by a child: what this process has open for writing while it forks
	// could not be executed.
	if out, err := exec.Command("cp", "/bin/sleep", path).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: no program to copy: %v %s", err, out)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	alone := func(what string, want bool) {
		t.Helper()
		got, err := Alone(f)
		for end := time.Now().Add(60 * time.Second); err == nil && got != want && want && time.Now().Before(end); got, err = Alone(f) {
			time.Sleep(time.Millisecond) // what has ended is taken down a moment later
		}
		if err != nil || got != want {
			t.Errorf("%s: got %v, %v, want %v", what, got, err, want)
		}
	}
	if ok, err := Alone(f); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) || err == nil && !ok {
		t.Skipf("SKIPPED, NOT PROVEN: this file system does not tell who has a file open (%v)", err)
	}
	alone("nobody else", true)
	for what, how := range map[string]struct {
		flags int
		want  bool
	}{"read": {os.O_RDONLY, false}, "written": {os.O_WRONLY, false}, "only referred to": {unix.O_PATH, true}} {
		fd, err := unix.Open(path, how.flags|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		alone("open, "+what, how.want)
		_ = unix.Close(fd)
	}
	alone("closed again", true)

	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	m, err := unix.Mmap(fd, 0, 1, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	alone("mapped, its descriptor closed", false)
	if err := unix.Munmap(m); err != nil {
		t.Fatal(err)
	}
	alone("unmapped", true)

	run := exec.Command(path, "300")
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	alone("runs, without a name", false)
	_ = run.Process.Kill()
	_ = run.Wait()
	alone("ended", true)
}
