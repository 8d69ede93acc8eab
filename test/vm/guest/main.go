// SPDX-License-Identifier: Apache-2.0

// Command guest is the init of the machines that test/vm boots: it mounts what
// the agent needs, plays the program that does not want to be stopped, orders
// its containment by hand, and looks at the world afterwards; then it runs the
// tests it was given. A line a result: PASS NAME DETAIL or FAIL NAME DETAIL.
package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"staunch/internal/order"
	"staunch/internal/runnable"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "hop" {
		hop()
	}
	if len(os.Args) > 1 && os.Args[1] == "innocent" {
		time.Sleep(time.Hour)
	}
	run()
	fmt.Println("GUEST DONE")
	syscall.Sync()
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

// hop goes on as a new process every few milliseconds, so that a list of
// processes is old when it is read.
func hop() {
	for {
		time.Sleep(5 * time.Millisecond)
		c := exec.Command("/proc/self/exe", "hop")
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if c.Start() == nil {
			os.Exit(0)
		}
	}
}

func result(ok bool, name, format string, args ...any) {
	word := "PASS"
	if !ok {
		word = "FAIL"
	}
	fmt.Printf("%s %s %s\n", word, name, strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " | "))
}

func mount(source, dir, kind string) {
	_ = os.MkdirAll(dir, 0o755)
	if err := syscall.Mount(source, dir, kind, 0, ""); err != nil {
		fmt.Printf("mount %s: %v\n", dir, err)
	}
}

func run() {
	prepare()
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	fmt.Printf("kernel %s", kernel)
	only, _ := os.ReadFile("/only")
	for _, part := range []struct {
		name string
		do   func()
	}{
		{"doctor", doctor},
		{"hoppers", func() {
			for _, rung := range []string{"", "bpf", "freeze", "connector"} {
				contain(rung)
			}
		}},
		{"outlives", outlives},
		{"pins", func() { goTest("pins") }},
		{"battery", func() {
			goTest("battery", "-built", "/", "-slow", "4", "-jobs", "1", "-test.run", "^TestAdversary$/"+battery)
		}},
		{"rungs", func() {
			goTest("battery", "-built", "/", "-slow", "4", "-jobs", "1", "-adversary.long", "-test.run", "^TestRungs$//^(hop_every_300_us|in_memory)$")
		}},
	} {
		if len(only) == 0 || string(only) == part.name {
			part.do()
		}
	}
}

// battery are the scenes of the core that differ most from one another.
const battery = "^(hop_every_300_us|watchdog_pair|nested_control_groups|script:_bash_FILE|preloaded_library|renames_itself|" +
	"hard_links,_all_of_them|overlay:_copy_in_the_lower_layer|file_exchanged_for_a_victim's)$"

func prepare() {
	mount("proc", "/proc", "proc")
	mount("sysfs", "/sys", "sysfs")
	mount("devtmpfs", "/dev", "devtmpfs")
	mount("tmpfs", "/tmp", "tmpfs")
	mount("tmpfs", "/disk", "tmpfs")
	mount("securityfs", "/sys/kernel/security", "securityfs")
	mount("bpf", "/sys/fs/bpf", "bpf")
	mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
	_ = os.MkdirAll("/sys/fs/cgroup/apps", 0o755)
	_ = os.Setenv("PATH", "/:/bin:/usr/bin")
	if err := loadModules(); err != nil {
		fmt.Printf("modules: %v\n", err)
	}
	if err := loopMount("/images/ext4", "/ext4", "ext4"); err != nil {
		fmt.Printf("mount /ext4: %v\n", err)
	} else {
		_ = os.Setenv("STAUNCH_TEST_EXT4", "/ext4")
	}
	go reap()
}

func doctor() {
	if out, err := exec.Command("/staunch-agent", "doctor").CombinedOutput(); err != nil {
		result(false, "doctor", "%v %s", err, out)
	} else {
		fmt.Printf("%s", out)
	}
}

// reap is what an init owes orphans.
func reap() {
	for {
		var ws syscall.WaitStatus
		for _, pid := range orphans() {
			_, _ = syscall.Wait4(pid, &ws, syscall.WNOHANG, nil)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// orphans are zombies of ours that exec.Cmd does not wait for: hoppers.
func orphans() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if i := bytes.LastIndexByte(b, ')'); i > 0 && bytes.Contains(b, []byte("(evil")) && bytes.HasPrefix(b[i+1:], []byte(" Z")) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// contain lets the agent contain three chains of hoppers beside an innocent,
// and looks for itself.
func contain(rung string) {
	name := "contain"
	if rung != "" {
		name += "-" + rung
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		result(false, name, "%v", err)
		return
	}
	evil := append(bytes.Clone(self), []byte("evil"+rung)...)
	if err := runnable.Write("/disk/evil"+rung, evil, 0o755); err != nil {
		result(false, name, "%v", err)
		return
	}
	_ = os.Link("/disk/evil"+rung, "/disk/evil-link"+rung)
	_ = runnable.Write("/disk/innocent", self, 0o755)
	innocent := exec.Command("/disk/innocent", "innocent")
	if err := innocent.Start(); err != nil {
		result(false, name, "innocent: %v", err)
		return
	}
	for range 3 {
		c := exec.Command("/disk/evil"+rung, "hop")
		if err := c.Start(); err != nil {
			result(false, name, "evil: %v", err)
			return
		}
		go func() { _ = c.Wait() }()
		if rung == "freeze" {
			_ = os.WriteFile("/sys/fs/cgroup/apps/cgroup.procs", []byte(strconv.Itoa(c.Process.Pid)), 0)
		}
	}
	time.Sleep(300 * time.Millisecond)
	sum := sha1.Sum(evil)
	args := []string{"--json", "contain", hex.EncodeToString(sum[:]), "--state", "/tmp/state", "--scan", "/disk"}
	if rung != "" {
		args = append(args, "--rung", rung)
	}
	cmd := exec.Command("/staunch-agent", args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var r order.Receipt
	if jerr := json.Unmarshal(out, &r); jerr != nil {
		result(false, name, "%v %v %s %s", err, jerr, out, stderr.Bytes())
		return
	}
	time.Sleep(200 * time.Millisecond)
	left := running(evil)
	_, statErr := os.Lstat("/disk/evil" + rung)
	alive := syscall.Kill(innocent.Process.Pid, 0) == nil
	honest := r.Outcome == order.Proven && left == 0 && os.IsNotExist(statErr) || r.Outcome != order.Proven && rung != ""
	result(honest && alive, name, "outcome %s %s, rung %s, held %v, gate %s, left %d, gone %v, innocent alive %v, matches %d, %s %v",
		r.Outcome, r.Code, r.Rung, r.HeldProven, r.Gate, left, os.IsNotExist(statErr), alive, len(r.Matches), r.Reason, r.Notes)
	_ = innocent.Process.Kill()
	_ = innocent.Wait()
	killAll(evil)
	_ = os.Remove("/disk/evil" + rung)
	_ = os.Remove("/disk/evil-link" + rung)
}

func each(content []byte, do func(pid int)) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		if b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "exe")); err == nil && bytes.Equal(b, content) {
			do(pid)
		}
	}
}

func running(content []byte) (n int) {
	for range 20 { // they hop: one look proves nothing
		each(content, func(int) { n++ })
		time.Sleep(10 * time.Millisecond)
	}
	return n
}

// killAll ends what a failed containment left, so that the next starts clean.
func killAll(content []byte) {
	for range 200 {
		each(content, func(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) })
	}
}
