// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// strong are the rungs that must leave nothing, whatever the file does.
func strong() []string { return []string{RungBPF, RungFreeze, RungConnector} }

// ready waits for a process to have got as far as its program.
func ready(t testing.TB, cmd *exec.Cmd, exe string) {
	t.Helper()
	waitFor(t, exe, func() bool {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
		return err == nil && strings.HasPrefix(filepath.Base(link), exe)
	})
}

// opened reports whether a process holds a file open.
func opened(cmd *exec.Cmd, file string) bool {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid)) // the pattern is valid
	return slices.ContainsFunc(links, func(l string) bool {
		to, err := os.Readlink(l)
		return err == nil && to == file
	})
}

// gives arms and stops a target, and checks what must always hold.
func (k *kit) gives(h *Holder, target Target, path string) Result {
	k.t.Helper()
	sum := sumOf(k.t, path)
	fi, err := os.Stat(path)
	if err != nil {
		k.t.Fatal(err)
	}
	d, err := h.Arm(target)
	if err != nil {
		k.t.Fatal(err)
	}
	defer d.Release()
	r := stop(k.t, d)
	left := k.survivors(sum, fi.Size(), 100*time.Millisecond)
	if len(left) > 0 {
		k.t.Errorf("proven %v, yet %v live on: %v", r.Proven, left, r.Notes)
	}
	k.thawed()
	return r
}

func how(r Result) map[int]How {
	all := make(map[int]How)
	for _, m := range r.Matches {
		all[m.PID] = m.How
	}
	return all
}

func TestPreloadedLibrary(t *testing.T) {
	static := runner(t)
	dynamic := built(t, "runner.c", "-pthread")
	lib := built(t, "lib.c", "-shared", "-fPIC")
	for _, rung := range strong() {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, static)
			h := newHolder(t, rung)
			evil := k.program("evil.so", lib, k.mark)
			host := k.program("host", dynamic, k.mark)
			twin := k.innocent(k.program("twin", dynamic, k.mark))
			for _, m := range []string{"sleep", "hop"} {
				cmd := exec.Command(k.nursery, "nursery", host, m, deadline(), "300")
				cmd.Dir = k.dir
				cmd.Env = append(os.Environ(), k.mark, "STAUNCH_BEAT="+k.beat(), "LD_PRELOAD="+evil)
				k.run(cmd)
			}
			waitFor(t, "signs of life", func() bool { return k.beats() > 20 })
			r := k.gives(h, k.target(evil, true), evil)
			maps := 0
			for _, m := range r.Matches {
				if m.How == Maps {
					maps++
				}
			}
			if maps < 2 {
				t.Errorf("%d matches map the library, want the sleeper and the hopper: %v", maps, r)
			}
			if err := alive(twin); err != nil {
				t.Errorf("an innocent was harmed: %v", err)
			}
		})
	}
}

func TestLoaderGivenProgram(t *testing.T) {
	static := runner(t)
	dynamic := built(t, "runner.c", "-pthread")
	loaders, err := filepath.Glob("/lib64/ld-linux-*.so.2")
	if err != nil || len(loaders) == 0 {
		t.Skip("SKIPPED, NOT PROVEN: no dynamic loader where it was looked for")
	}
	for _, rung := range strong() {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, static)
			h := newHolder(t, rung)
			evil := k.program("evil", dynamic, k.mark)
			k.start(loaders[0], evil, "sleep", deadline(), "0")
			waitFor(t, "signs of life", func() bool { return k.beats() > 3 })
			if r := k.gives(h, k.target(evil, true), evil); r.Met != 1 || r.Matches[0].How != Maps {
				t.Errorf("want one match that maps: %+v", r)
			}
		})
	}
}

func TestScripts(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	h := newHolder(t, RungBPF)
	shell := k.program("evil.sh", []byte("#!/bin/bash\ncd /\nwhile :; do sleep 0.2; done\n#"), k.mark)
	python := k.program("evil.py", []byte("#!/usr/bin/env python3\nimport time\ntime.sleep(60)\n#"), k.mark)
	harmless := k.program("harmless.py", []byte("import sys, time\nf = open(sys.argv[1])\ntime.sleep(60)\n#"), k.mark)

	start := func(name string, args ...string) *exec.Cmd {
		t.Helper()
		if _, err := exec.LookPath(name); err != nil && !filepath.IsAbs(name) {
			t.Skipf("SKIPPED, NOT PROVEN: %s is missing", name)
		}
		cmd := k.start(name, args...)
		ready(t, cmd, strings.TrimSuffix(filepath.Base(name), "3"))
		return cmd
	}
	bash := start("bash", "evil.sh")
	waitFor(t, "bash to leave its folder", func() bool {
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", bash.Process.Pid))
		return err == nil && cwd == "/"
	})
	guilty := map[int]*exec.Cmd{bash.Process.Pid: bash}
	for _, cmd := range []*exec.Cmd{start("bash", "-e", shell), start("dash", shell), k.start(shell), start("dash", "-c", ". "+shell)} {
		guilty[cmd.Process.Pid] = cmd
	}
	innocent := []*exec.Cmd{
		start("tail", "-f", shell),
		start("bash", "-c", "exec 3<"+shell+" 11<"+shell+"; while :; do sleep 1; done", shell),
		start("python3", harmless, shell),
	}
	for _, cmd := range slices.Concat(slices.Collect(maps.Values(guilty)), innocent) {
		waitFor(t, fmt.Sprintf("%v to open the script", cmd.Args), func() bool { return opened(cmd, shell) })
	}
	r := k.gives(h, k.target(shell, true), shell)
	for pid, cmd := range guilty {
		if how(r)[pid] != Interprets {
			t.Errorf("%v was not met as an interpreter: %v", cmd.Args, r.Matches)
		}
	}
	for _, cmd := range innocent {
		if err := alive(cmd); err != nil {
			t.Errorf("%v only reads the script and was harmed: %v", cmd.Args, err)
		}
	}

	py := []*exec.Cmd{start("python3", "evil.py"), start("python3", "-W", "ignore", python), k.start(python)}
	reads := start("python3", harmless, python)
	waitFor(t, "the shebang to come to python", func() bool {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", py[2].Process.Pid))
		return err == nil && strings.Contains(exe, "python")
	})
	piped := k.fed("python3", python)
	py = append(py, piped)
	r = k.gives(h, k.target(python, false), python)
	for _, cmd := range py {
		if how(r)[cmd.Process.Pid] != Interprets {
			t.Errorf("%v was not met: %v", cmd.Args, r.Matches)
		}
	}
	if err := alive(reads); err != nil {
		t.Errorf("a program that reads the script was harmed: %v", err)
	}
}

// fed starts a program with a file as its standard input.
func (k *kit) fed(name, path string) *exec.Cmd {
	k.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() { closeFile(f) })
	cmd := exec.Command(name)
	cmd.Env, cmd.Dir, cmd.Stdin = append(os.Environ(), k.mark), k.dir, f
	k.run(cmd)
	ready(k.t, cmd, "python")
	return cmd
}

func TestOtherNamespaces(t *testing.T) {
	bin := runner(t)
	for _, rung := range strong() {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h := newHolder(t, rung)
			evil := k.program("evil", bin, k.mark)
			// A tmpfs nobody else sees, and process numbers of its own.
			private := filepath.Join(k.dir, "private")
			if err := os.Mkdir(private, 0o755); err != nil {
				t.Fatal(err)
			}
			script := fmt.Sprintf("mount -t tmpfs t %s && cp %s %s/copy && exec %s nursery %s/copy hop %s 500", private, evil, private, k.nursery, private, deadline())
			cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script)
			cmd.Dir = k.dir
			cmd.Env = append(os.Environ(), k.mark, "STAUNCH_BEAT="+k.beat())
			k.run(cmd)
			waitFor(t, "signs of life", func() bool { return k.beats() > 3 })
			if r := k.gives(h, k.target(evil, true), evil); r.Met == 0 {
				t.Errorf("nobody was met: %v", r.Notes)
			}
		})
	}
}

// TestNamelessFiles checks that what has no name is handed out open, once for
// each file, with the content.
func TestNamelessFiles(t *testing.T) {
	bin := runner(t)
	for _, rung := range []string{RungBPF, RungFreeze, RungConnector, RungBestEffort} {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h := newHolder(t, rung)
			evil := k.program("evil", bin, k.mark)
			sum := sumOf(t, evil)
			gone := k.program("gone", bin, k.mark)
			k.mode(gone, "deleted", 0)
			k.mode(evil, "memfd", 0)
			waitFor(t, "the file to be gone", func() bool { _, err := os.Stat(gone); return err != nil })
			waitFor(t, "the copy in memory", func() bool {
				for _, pid := range k.mine() {
					if l, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); strings.HasPrefix(l, "/memfd:") {
						return true
					}
				}
				return false
			})
			d, err := h.Arm(k.target(evil, true))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			r, err := d.Stop(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			files := 0
			for _, m := range r.Matches {
				if !m.Killed || !m.Gone || m.Done.IsZero() {
					t.Errorf("%+v: not killed and gone", m)
				}
				if m.File == nil {
					continue
				}
				files++
				if s := sumOf(t, fmt.Sprintf("/proc/self/fd/%d", m.File.Fd())); s != sum {
					t.Errorf("the file of %s has another content", m.Exe)
				}
				closeFile(m.File)
			}
			if files != 2 {
				t.Errorf("%d files were handed out, want the unlinked one and the one in memory: %+v", files, r)
			}
		})
	}
}

// TestStandingHold: after Stop, and until Release, nothing of the content
// starts: not the known copy, not a new one, not one in memory.
func TestStandingHold(t *testing.T) {
	bin := runner(t)
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old kernel %v", old), func(t *testing.T) {
			k := newKit(t, bin)
			h, err := New(Config{Rung: RungBPF, oldKernel: old})
			if err != nil {
				t.Skipf("SKIPPED, NOT PROVEN: %v", err)
			}
			defer h.Close() //nolint:errcheck // checked by others
			evil := k.program("evil", bin, k.mark)
			seen := make(chan Match, 100)
			target := k.target(evil, true)
			target.Seen = func(m Match) { seen <- m }
			k.mode(evil, "hop", 300)
			k.mode(evil, "bomb", 60)
			waitFor(t, "signs of life", func() bool { return k.beats() > 60 })
			d, err := h.Arm(target)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			if r := stop(t, d); !r.Proven {
				t.Errorf("not proven: %v", r.Notes)
			}
			before := k.beats()
			if got := run(k, evil); got != "signal: killed" {
				t.Errorf("the known copy ended with %q", got)
			}
			if k.beats() != before {
				t.Error("the known copy came as far as its code")
			}
			if got := run(k, k.program("copy", bin, k.mark)); got != "signal: killed" {
				t.Errorf("another copy ended with %q", got)
			}
			twin := k.innocent(k.program("twin", bin, k.mark[:len(k.mark)-1]+"~"))
			for range 2 {
				select {
				case m := <-seen:
					if !m.Killed {
						t.Errorf("%+v was seen, not killed", m)
					}
				case <-time.After(lifetime / 3):
					t.Fatal("what the hooks killed was not told")
				}
			}
			if err := alive(twin); err != nil {
				t.Errorf("an innocent was harmed: %v", err)
			}
			d.Release()
			cmd := k.start(evil, "sleep", deadline(), "0")
			waitFor(t, "the released program to run", func() bool { return k.beats() > before+3 })
			if err := alive(cmd); err != nil {
				t.Errorf("after Release: %v", err)
			}
		})
	}
}

// run starts a program and returns how it ended.
func run(k *kit, path string) string {
	cmd := exec.Command(path, "sleep", deadline(), "0")
	cmd.Env = append(os.Environ(), k.mark, "STAUNCH_BEAT="+k.beat())
	if err := cmd.Start(); err != nil {
		return err.Error()
	}
	err := cmd.Wait()
	if err == nil {
		return "ended by itself"
	}
	return err.Error()
}

// TestChangedFile: a denied file that gets another content is no target any
// more.
func TestChangedFile(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	// All of the patience is spent: the kernel goes on to say that it is the target.
	h, err := New(Config{Rung: RungBPF, StateDir: t.TempDir(), Patience: 3 * time.Second, Death: time.Minute})
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	defer h.Close() //nolint:errcheck // checked by others
	evil := k.program("evil", bin, k.mark)
	d, err := h.Arm(k.target(evil, true))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	f, err := os.OpenFile(evil, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("~"), int64(len(bin))); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := k.innocent(evil)
	ready(t, cmd, "evil")
	if r := stop(t, d); r.Met != 0 {
		t.Errorf("a changed file was held to be the target: %+v", r)
	}
	if err := alive(cmd); err != nil {
		t.Errorf("an innocent was harmed: %v", err)
	}
}

func TestSpared(t *testing.T) {
	bin := runner(t)
	for _, rung := range []string{RungBPF, RungFreeze, RungConnector, RungBestEffort} {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			evil := k.program("evil", bin, k.mark)
			own := k.innocent(evil)
			ready(t, own, "evil")
			h, err := New(Config{Rung: rung, StateDir: t.TempDir(), Spare: func(pid int) bool { return pid == own.Process.Pid }})
			if err != nil {
				t.Skipf("SKIPPED, NOT PROVEN: %v", err)
			}
			defer h.Close() //nolint:errcheck // checked by others
			if _, err := h.Arm(k.target(evil, true)); err == nil || !strings.Contains(err.Error(), "the agent's own") {
				t.Errorf("Arm of what the agent runs: %v", err)
			}
			d, err := h.Arm(k.target(evil, false)) // not known to be running
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			r := stop(t, d)
			if r.Proven || r.Met != 1 || r.Matches[0].Err == nil {
				t.Errorf("want one match, not killed, not proven: %+v", r)
			}
			if err := alive(own); err != nil {
				t.Errorf("the agent's own was harmed: %v", err)
			}
		})
	}
}

func TestLook(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	h := newHolder(t, RungBestEffort)
	evil := k.program("evil", bin, k.mark)
	cmd := k.innocent(evil)
	ready(t, cmd, "evil")
	d, err := h.Arm(k.target(evil, false))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	all, err := d.Look(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	m := all[0]
	if m.PID != cmd.Process.Pid || m.How != Executes || m.Exe != evil || m.PPID != os.Getpid() || m.Start == 0 ||
		!strings.HasPrefix(m.Command, evil+"\x00sleep") {
		t.Errorf("%+v", m)
	}
	w := m.Wire(time.Now())
	if w.State != "running" || w.How != "executes" || !strings.HasPrefix(string(w.Command), evil+" sleep ") {
		t.Errorf("%+v", w)
	}
	if err := alive(cmd); err != nil {
		t.Errorf("Look harmed: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	if _, err := New(Config{Rung: "prayer"}); err == nil || !strings.Contains(err.Error(), `"prayer"`) || !strings.Contains(err.Error(), "besteffort") {
		t.Errorf("an unknown rung: %v", err)
	}
	if _, err := New(Config{Rung: RungFreeze}); err == nil || !strings.Contains(err.Error(), "no state folder") {
		t.Errorf("freeze without a state folder: %v", err)
	}
	h := newHolder(t, RungBestEffort)
	if _, err := h.Arm(Target{}); err == nil || !strings.Contains(err.Error(), "recognise its content") {
		t.Errorf("a target without content: %v", err)
	}
	no := func(*os.File) (bool, error) { return false, nil }
	if _, err := h.Arm(Target{Match: no, Size: -1}); err == nil || !strings.Contains(err.Error(), "-1 bytes") {
		t.Errorf("a negative size: %v", err)
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(dir)
	if _, err := h.Arm(Target{Match: no, Copies: []Copy{{File: dir}}}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
	f, err := os.CreateTemp(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(f)
	if _, err := h.Arm(Target{Match: no, Copies: []Copy{{File: f}}}); err == nil || !strings.Contains(err.Error(), "not the target's any more") {
		t.Errorf("a copy with another content: %v", err)
	}
	d, err := h.Arm(Target{Match: no})
	if err != nil {
		t.Fatal(err)
	}
	d.Release()
	d.Release()
	if _, err := d.Stop(t.Context()); err == nil || !strings.Contains(err.Error(), "released") {
		t.Errorf("Stop after Release: %v", err)
	}
}

// TestStopGivenUp: a context that ends leaves nothing stopped and nothing
// called proven.
func TestStopGivenUp(t *testing.T) {
	bin := runner(t)
	for _, rung := range []string{RungBPF, RungFreeze, RungConnector, RungBestEffort} {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h := newHolder(t, rung)
			evil := k.program("evil", bin, k.mark)
			k.mode(evil, "many", 20)
			waitFor(t, "signs of life", func() bool { return k.beats() > 20 })
			d, err := h.Arm(k.target(evil, true))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			r, err := d.Stop(ctx)
			if !errors.Is(err, context.Canceled) || r.Proven {
				t.Errorf("proven %v, %v", r.Proven, err)
			}
			k.thawed()
			for _, pid := range k.mine() {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				if v, perr := parseVital(b); err == nil && perr == nil && v.state == 'T' {
					t.Errorf("%d was left stopped", pid)
				}
			}
		})
	}
}

// TestBlockedFile: somebody's file cannot be opened, for a scanner that should
// allow it does not answer. The match is killed all the same, and nothing is
// called proven.
func TestBlockedFile(t *testing.T) {
	bin := runner(t)
	for _, rung := range []string{RungBPF, RungFreeze, RungConnector} {
		t.Run(rung, func(t *testing.T) {
			k := newKit(t, bin)
			h, err := New(Config{Rung: rung, StateDir: t.TempDir(), Patience: 4 * time.Second, Death: time.Second})
			if err != nil {
				t.Skipf("SKIPPED, NOT PROVEN: %v", err)
			}
			defer h.Close() //nolint:errcheck // checked by others
			scratch := filepath.Join(k.dir, "scratch")
			if err := os.Mkdir(scratch, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", scratch, "tmpfs", 0, ""); err != nil {
				t.Skipf("SKIPPED, NOT PROVEN: cannot mount: %v", err)
			}
			defer unix.Unmount(scratch, unix.MNT_DETACH) //nolint:errcheck // ours
			var blocked []*exec.Cmd
			for i := range 3 {
				twin := k.innocent(k.program(fmt.Sprintf("scratch/twin%d", i), bin, k.mark[:len(k.mark)-1]+string(rune('x'+i))))
				ready(t, twin, "twin")
				blocked = append(blocked, twin)
			}
			evil := k.program("evil", bin, k.mark)
			k.mode(evil, "many", 5)
			waitFor(t, "signs of life", func() bool { return k.beats() > 10 })

			fan, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY)
			if err != nil {
				t.Skipf("SKIPPED, NOT PROVEN: %v", err)
			}
			silent := os.NewFile(uintptr(fan), "fanotify")
			release := func() { silent.Close() } //nolint:errcheck // closing allows what waits
			watchdog := time.AfterFunc(time.Minute, release)
			defer watchdog.Stop()
			defer release()
			if err := unix.FanotifyMark(fan, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN_PERM, unix.AT_FDCWD, scratch); err != nil {
				t.Skipf("SKIPPED, NOT PROVEN: %v", err)
			}
			target := k.target(evil, false)
			target.Size = int64(len(bin) + len(k.mark)) // as that of the twins, so that they must be read
			d, err := h.Arm(target)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			r := stop(t, d)
			if r.Proven || r.Met < 5 {
				t.Errorf("met %d, proven %v: %v", r.Met, r.Proven, r.Notes)
			}
			if !strings.Contains(strings.Join(r.Notes, "\n"), "could not be examined in time") {
				t.Errorf("the notes do not say why: %v", r.Notes)
			}
			k.thawed()
			release()
			for _, twin := range blocked {
				if err := alive(twin); err != nil {
					t.Errorf("an innocent was harmed: %v", err)
				}
			}
		})
	}
}

func TestProbe(t *testing.T) {
	needRoot(t)
	for _, c := range Probe(t.TempDir()) {
		t.Logf("%-10s %v: %s", c.Name, c.OK, c.Detail)
		if c.Detail == "" {
			t.Errorf("%s says nothing", c.Name)
		}
		if c.Name == RungBestEffort && !c.OK {
			t.Error("the last rung is always there")
		}
	}
	if c := Probe("")[1]; c.OK || !strings.Contains(c.Detail, "state folder") {
		t.Errorf("freeze without a state folder: %+v", c)
	}
	if left, _ := filepath.Glob("/sys/fs/cgroup/*/staunch-canary-*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
