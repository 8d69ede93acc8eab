// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"
)

// goTest runs a test program and turns what go test says of each test that has
// none below it into a result.
func goTest(name string, args ...string) {
	cmd := exec.Command("/tests/"+name, append([]string{"-test.v", "-test.timeout", "15m"}, args...)...)
	cmd.Dir = "/tmp"
	out, err := cmd.StdoutPipe()
	if err != nil {
		result(false, name, "%v", err)
		return
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		result(false, name, "%v", err)
		return
	}
	ended := regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \((.*)\)$`)
	for s := bufio.NewScanner(out); s.Scan(); {
		if m := ended.FindStringSubmatch(s.Text()); m != nil {
			fmt.Printf("%s %s %s\n", m[1], m[2], m[3])
			continue
		}
		fmt.Println(s.Text())
	}
	err = cmd.Wait()
	result(err == nil, name, "%v", err)
}

// loadModules loads what lies in /modules, whatever needs what.
func loadModules() error {
	files, err := filepath.Glob("/modules/*.ko")
	if err != nil {
		return err
	}
	for range files { // each round loads at least one, if any can be
		for _, path := range files {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			_ = unix.FinitModule(int(f.Fd()), "", 0) // loaded already, or what it needs is not yet
			_ = f.Close()                            // read only
		}
	}
	return nil
}

// loopMount mounts an image.
func loopMount(image, dir, kind string) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer ctl.Close()
	n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return err
	}
	loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(f.Fd())); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return unix.Mount(loop.Name(), dir, kind, 0, "")
}
