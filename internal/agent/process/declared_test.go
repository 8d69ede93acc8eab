// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"staunch/internal/runnable"
)

func TestGiven(t *testing.T) {
	for _, c := range []struct {
		exe, line, names string
		stdin            bool
	}{
		{"busybox", "busybox sh x.sh", "x.sh", false},
		{"busybox", "sh x.sh", "x.sh", false},
		{"busybox", "/bin/sh -c text", "", false},
		{"busybox", "-sh", "", true},
		{"busybox", "awk -f x.awk data", "x.awk", false},
		{"busybox", "tail -f x.sh", "none", false},
		{"busybox", "busybox cat x.sh", "none", false},
		{"busybox", "busybox busybox ash x.sh", "x.sh", false},
		{"busybox", "", "none", false},
		{"python3", "python3 -m evil.main x.py", "evil/main.py evil/main/__main__.py", false},
		{"python3", "python3 -Wignore -um evil", "evil.py evil/__main__.py", false},
		{"python3", "python3 -W ignore -mevil", "evil.py evil/__main__.py", false},
		{"python3", "python3 -Im evil", "", false},
		{"python3", "python3 -c text -m evil", "", false},
		{"python3", "python3 x.zip -m evil", "x.zip", false},
		{"node", "node -r ./a.js --require=./b.js --import ./c.mjs x.js -r d.js", "x.js ./a.js ./b.js ./c.mjs", false},
		{"ruby", "ruby -r./a.rb -I lib x.rb", "x.rb ./a.rb", false},
		{"bash", "bash --rcfile r -i", "r", true},
		{"bash", "bash -o pipefail x.sh", "x.sh", false},
	} {
		fam, args := familyOf(c.exe).applet(strings.Fields(c.line))
		if fam == nil {
			if c.names != "none" {
				t.Errorf("%s: no interpreter", c.line)
			}
			continue
		}
		names, stdin := fam.given(args)
		if got := strings.Join(names, " "); got != c.names || stdin != c.stdin {
			t.Errorf("%s: %q, stdin %v; want %q, %v", c.line, got, stdin, c.names, c.stdin)
		}
	}
}

func TestDescriptor(t *testing.T) {
	for name, want := range map[string]string{
		"/dev/fd/3": "fd/3", "/proc/self/fd/255": "fd/255", "/dev/stdin": "fd/0",
		"/dev/fd/": "", "/dev/fd/3x": "", "/dev/fd/../x": "", "/dev/fd/12345678901": "", "x": "", "": "",
	} {
		if got := descriptor(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

// TestManyWaysToRun: each way in which a script comes to run is met, and each
// in which it is merely read is not.
func TestManyWaysToRun(t *testing.T) {
	bin := runner(t)
	k := newKit(t, bin)
	h := newHolder(t, RungBPF)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(k.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := runnable.Write(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	shell, err := os.ReadFile("/bin/dash")
	if err != nil {
		t.Skipf("SKIPPED, NOT PROVEN: %v", err)
	}
	odd := write("odd", string(shell)) // a copy of a shell under another name
	wrapper := write("wrapper", "#!/bin/sh\nwhile :; do sleep 1; done\n")
	reader := write("reader", "#!/bin/sh\nexec 9<\"$1\"; while :; do sleep 1; done\n")
	script := write("evil", "#!"+wrapper+"\nwhile :; do sleep 1; done\n#"+k.mark)
	f, err := os.Open(script)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(f)
	fed := exec.Command("/bin/sh", "/dev/fd/3")
	fed.ExtraFiles, fed.Env, fed.Dir = []*os.File{f}, append(os.Environ(), k.mark), k.dir
	k.run(fed)
	guilty := map[string]*exec.Cmd{
		"by descriptor":                    fed,
		"by a renamed shell":               k.start(odd, script),
		"its interpreter is a script":      k.start(script),
		"given to the script it names":     k.start("/bin/sh", wrapper, script),
		"given to a shell":                 k.start("/bin/sh", script),
		"relative, by a renamed shell":     k.start(odd, "evil"),
		"by a name that leads back and on": k.start("/bin/sh", "./../"+filepath.Base(k.dir)+"/evil"),
	}
	innocent := []*exec.Cmd{
		k.start("tail", "-f", script), k.start("/bin/sh", reader, script), k.start(reader, script), k.start(wrapper),
		k.start("/bin/sh", "-c", "while :; do sleep 1; done", script),
	}
	started := func(cmd *exec.Cmd) bool { // it is no copy of this program any more
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid))
		return err == nil && !strings.HasSuffix(exe, ".test")
	}
	for _, cmd := range guilty {
		waitFor(t, cmd.String(), func() bool { return started(cmd) })
	}
	for _, cmd := range innocent {
		waitFor(t, cmd.String(), func() bool { return started(cmd) })
	}
	r := k.gives(h, k.target(script, true), script)
	for name, cmd := range guilty {
		if how(r)[cmd.Process.Pid] != Interprets {
			t.Errorf("%s: was not met", name)
		}
	}
	for _, cmd := range innocent {
		if err := alive(cmd); err != nil {
			t.Errorf("%v was harmed: %v", cmd.Args, err)
		}
	}
}

// TestScriptReplaced: a file of the target's content has taken the name of a
// script that is running; who runs the one before is not harmed.
func TestScriptReplaced(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("SKIPPED, NOT PROVEN: python3 is missing")
	}
	bin := runner(t)
	k := newKit(t, bin)
	h := newTabled(t, RungBPF)
	path := k.program("service.py", []byte("import time\ntime.sleep(80)\n#"), k.mark)
	cmd := k.start("python3", path)
	waitFor(t, "the table to know the script", func() bool { s, _ := h.table.script(cmd.Process.Pid); return s.name == path })
	evil := k.program("evil.py", []byte("import time\nwhile True: time.sleep(80)\n#"), k.mark)
	target := k.summed(evil, size(t, evil))
	if err := unix.Rename(evil, path); err != nil {
		t.Fatal(err)
	}
	guilty := k.start("python3", path)
	waitFor(t, "the table to know the other", func() bool { s, _ := h.table.script(guilty.Process.Pid); return s.name == path })
	d, err := h.Arm(target)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Release()
	r := stop(t, d)
	if how(r)[guilty.Process.Pid] != Interprets {
		t.Errorf("who runs the target was not met: %+v", r.Matches)
	}
	if err := alive(cmd); err != nil {
		t.Errorf("who runs what had the name before was harmed: %v", err)
	}
}
