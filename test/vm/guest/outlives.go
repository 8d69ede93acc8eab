// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"staunch/internal/order"
)

const outliveState = "/tmp/outlives"

// outlives contains a program of which one copy lies in a container's image,
// where it is refused and not taken; kills all three processes of the agent;
// and looks who still refuses. Restoring ends it.
func outlives() {
	evil := []byte("#!/bin/sh\n# evil\nexit 7\n")
	_ = os.MkdirAll("/disk/image/lower", 0o755)
	_ = os.WriteFile("/disk/image/lower/evil", evil, 0o755)
	_ = os.WriteFile("/disk/outlived", evil, 0o755)
	_ = os.WriteFile("/disk/image/lower/innocent", []byte("#!/bin/sh\nexit 8\n"), 0o755)
	if err := container("first"); err != nil {
		result(false, "outlives", "%v", err)
		return
	}
	agent := exec.Command("/staunch-agent", "run", "--state", outliveState, "--index", "/disk")
	agent.Stderr = os.Stdout
	if err := agent.Start(); err != nil {
		result(false, "outlives", "%v", err)
		return
	}
	sum := sha1.Sum(evil)
	var r order.Receipt
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		if _, err := os.Stat(outliveState + "/agent.sock"); err == nil {
			break
		}
	}
	if err := ask(&r, "contain", hex.EncodeToString(sum[:])); err != nil {
		result(false, "outlives-contain", "%v", err)
		return
	}
	item, gated := "", 0
	for _, c := range r.Copies {
		if c.State == order.Gated {
			gated++
		}
		if c.Item != "" {
			item = c.Item
		}
	}
	result(r.Outcome == order.Proven && gated > 0 && item != "", "outlives-contain", "%s %s, %d gated, item %s, %s %q", r.Outcome, r.Code, gated, item, r.Reason, r.Notes)
	result(exit("/disk/image/lower/evil") == "refused", "outlives-alive", "%s", exit("/disk/image/lower/evil"))
	var s struct{ Pinned any }
	_ = ask(&s, "status")
	fmt.Printf("status: %v\n", s)

	kill9(agent)
	if err := container("second"); err != nil {
		result(false, "outlives", "%v", err)
	}
	for _, path := range []string{"/disk/image/lower/evil", "/disk/second/evil"} {
		got := exit(path)
		result(got == "refused", "outlives-exec", "%s: %s", path, got)
	}
	err := exec.Command("/bin/sh", "/disk/image/lower/evil").Run()
	var status *exec.ExitError
	result(errors.As(err, &status) && status.ExitCode() != 7, "outlives-script", "given to a shell: %v", err)
	result(exit("/disk/image/lower/innocent") == "exit 8", "outlives-innocent", "%s", exit("/disk/image/lower/innocent"))

	var all []order.Receipt
	if err := ask(&all, "quarantine", "restore", item); err != nil || len(all) == 0 {
		result(false, "outlives-restore", "%v", err)
		return
	}
	got := exit("/disk/image/lower/evil") + ", " + exit("/disk/second/evil")
	left, _ := filepath.Glob("/sys/fs/bpf/*")
	result(got == "exit 7, exit 7" && len(left) == 0, "outlives-restore", "%s, pins left %q, %s %s", got, left, all[0].Outcome, all[0].Reason)
	_ = syscall.Unmount("/disk/first", 0)
	_ = syscall.Unmount("/disk/second", 0)
}

// container mounts an overlay of its own over the image.
func container(name string) error {
	for _, dir := range []string{"/disk/upper-" + name, "/disk/work-" + name, "/disk/" + name} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	err := syscall.Mount("overlay", "/disk/"+name, "overlay", 0, "lowerdir=/disk/image/lower,upperdir=/disk/upper-"+name+",workdir=/disk/work-"+name)
	if err != nil {
		return fmt.Errorf("overlay %s: %w", name, err)
	}
	return nil
}

// kill9 kills the supervisor and its children at once.
func kill9(agent *exec.Cmd) {
	pids := []int{agent.Process.Pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, _ := os.ReadFile(path)
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(f) > 1 && f[1] == strconv.Itoa(agent.Process.Pid) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
	}
	_ = agent.Wait() // it was killed
	for _, pid := range pids {
		for syscall.Kill(pid, 0) == nil { // orphans are reaped by reap or not at all
			var ws syscall.WaitStatus
			_, _ = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
			time.Sleep(10 * time.Millisecond)
		}
	}
	result(len(pids) == 3, "outlives-killed", "%d processes", len(pids))
}

// exit says how an execution ended.
func exit(path string) string {
	err := exec.Command(path).Run()
	var status *exec.ExitError
	switch {
	case err == nil:
		return "exit 0"
	case errors.As(err, &status):
		return fmt.Sprintf("exit %d", status.ExitCode())
	case errors.Is(err, syscall.EPERM):
		return "refused"
	}
	return err.Error()
}

func ask(answer any, args ...string) error {
	cmd := exec.Command("/staunch-agent", append([]string{"--json"}, append(args, "--state", outliveState)...)...)
	var msg bytes.Buffer
	cmd.Stderr = &msg
	out, err := cmd.Output()
	if jerr := json.Unmarshal(out, answer); jerr != nil {
		return fmt.Errorf("%w: %w: %s%s", err, jerr, out, msg.Bytes())
	}
	return nil
}
