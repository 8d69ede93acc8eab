// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// loop is a script in the language of sh and bash that gives signs of life.
const loop = `i=0
while [ $i -lt 600 ]; do
	printf x >>"$STAUNCH_BEAT.txt"
	sleep 0.05
	i=$((i + 1))
done
`

const pyLoop = `import os, time
for i in range(600):
    with open(os.environ["STAUNCH_BEAT"] + ".txt", "a") as f:
        f.write("x")
    time.sleep(0.05)
`

// pyErased removes its own file once an agent is there that may know of it.
const pyErased = `import os, time
for i in range(600):
    with open(os.environ["STAUNCH_BEAT"] + ".txt", "a") as f:
        f.write("x")
    if os.path.exists(%q) and os.path.exists(__file__):
        os.unlink(__file__)
    time.sleep(0.05)
`

// script makes the content a script of which no other world has the text.
func (w *world) script(name, text string) string {
	w.content = []byte(text + "# " + w.mark + strings.Repeat("#", w.pad%4096) + "\n")
	return w.evil(name)
}

// shell is a scene of a script that the shells run in some way.
func shell(text string, start func(w *world, path string) *exec.Cmd) func(*world) {
	return func(w *world) {
		path := w.script("evil.sh", text)
		cmd := start(w, path)
		cmd.Env = append(cmd.Env, "STAUNCH_BEAT="+w.beat())
		w.begin(cmd)
		w.lives()
	}
}

// by runs the script with an interpreter, the file among its arguments.
func by(interpreter ...string) func(*world, string) *exec.Cmd {
	return func(w *world, path string) *exec.Cmd {
		if _, err := exec.LookPath(interpreter[0]); err != nil {
			w.t.Skipf("SKIPPED, NOT PROVEN: %v", err)
		}
		return w.command(append(interpreter, path)...)
	}
}

// python is one that is no wrapper.
func python() string {
	for _, p := range []string{"/usr/bin/python3", "/usr/local/bin/python3", "python3"} {
		if found, err := exec.LookPath(p); err == nil {
			return found
		}
	}
	return "python3"
}

func hostilePrograms() []scenario {
	p := func(name string, set func(*world)) scenario { return scenario{name: name, set: set, processes: true} }
	return []scenario{
		p("script: sh FILE", shell(loop, by("/bin/sh"))),
		p("script: bash FILE", shell(loop, by("/bin/bash"))),
		p("script: python3 FILE", shell(pyLoop, by(python()))),
		p("script: perl FILE", shell(`open(my $f,">>","$ENV{STAUNCH_BEAT}.txt"); $f->autoflush(1); for(1..600){print $f "x"; select(undef,undef,undef,.05)}`+"\n", by("/usr/bin/perl", "-MIO::Handle"))),
		p("script: #!", shell("#!/bin/sh\n"+loop, func(w *world, path string) *exec.Cmd { return w.command(path) })),
		p("script: sh < FILE", shell(loop, func(w *world, path string) *exec.Cmd {
			cmd := w.command("/bin/sh")
			f, err := os.Open(path)
			w.check(err)
			w.t.Cleanup(func() { _ = f.Close() })
			cmd.Stdin = f
			return cmd
		})),
		p("script: relative name, other folder since", shell("cd /\n"+loop, func(w *world, path string) *exec.Cmd {
			return w.command("/bin/bash", filepath.Base(path))
		})),
		p("script: sourced by sh -c", shell(loop, func(w *world, path string) *exec.Cmd {
			return w.command("/bin/sh", "-c", ". "+path)
		})),
		{
			name: "script: removes itself", processes: true, moves: true, erased: true, only: running,
			set: func(w *world) { shell(fmt.Sprintf(pyErased, filepath.Join(w.state, "agent.sock")), by(python()))(w) },
		},
		p("script: python3 < FILE", shell(pyLoop, func(w *world, path string) *exec.Cmd {
			cmd := w.command(python())
			f, err := os.Open(path)
			w.check(err)
			w.t.Cleanup(func() { _ = f.Close() })
			cmd.Stdin = f
			return cmd
		})),
		p("program given to the loader", func(w *world) {
			w.content = w.padded(kit.dyn, "A")
			evil := w.evil("evil")
			w.below(w.loader(), evil, "sleep", until(), "0")
			w.lives()
		}),
		p("dynamic program", func(w *world) {
			w.content = w.padded(kit.dyn, "A")
			w.run(w.evil("evil"), "hop", 300)
			w.lives()
		}),
		p("preloaded library", func(w *world) {
			w.content = w.padded(kit.lib, "A")
			lib := w.evil("evil.so")
			host := w.innocent(w.at("bin/host"), w.padded(kit.dyn, "host"))
			w.below("/usr/bin/env", "LD_PRELOAD="+lib, host, "hop", until(), "500")
			w.lives()
		}),
		p("library opened while running", func(w *world) {
			w.content = w.padded(kit.lib, "A")
			lib := w.evil("evil.so")
			host := w.innocent(w.at("bin/host"), w.padded(kit.dyn, "host"))
			w.run(host, "dlopen", 0, lib)
			w.lives()
		}),
	}
}

// loader is the interpreter that the dynamic program names.
func (w *world) loader() string {
	m, _ := filepath.Glob("/lib64/ld-linux-*.so.*") // the pattern is valid
	if len(m) == 0 {
		m, _ = filepath.Glob("/lib/ld-linux-*.so.*") // the same
	}
	if len(m) == 0 || !strings.Contains(m[0], "ld-linux") {
		w.t.Skip("SKIPPED, NOT PROVEN: no loader found")
	}
	return m[0]
}
