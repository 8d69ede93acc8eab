// SPDX-License-Identifier: Apache-2.0

package adversary

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// mode is a scene of one foe that runs in a mode.
func mode(name string, arg int) func(*world) {
	return func(w *world) {
		evil := w.evil("evil")
		w.sameNumber(evil)
		w.run(evil, name, arg)
		w.lives()
	}
}

func hostileProcesses() []scenario {
	p := func(name string, set func(*world)) scenario { return scenario{name: name, set: set, processes: true} }
	return []scenario{
		p("one", mode("sleep", 0)),
		p("many", mode("many", 40)),
		p("hop every 300 us", mode("hop", 300)),
		p("hop at once", mode("hop", 0)),
		p("hop with a new session", mode("sessionhop", 200)),
		p("hop as a sibling", mode("sibling", 200)),
		p("comet: fork and exec at once", mode("comet", 0)),
		p("comet every 500 us", mode("comet", 500)),
		p("fork bomb", mode("bomb", 150)),
		p("watchdog pair", mode("pair", 0)),
		p("threads", mode("threads", 0)),
		p("leader gone, threads live", mode("leaderless", 0)),
		p("exec from a thread", mode("threadexec", 400)),
		p("stopped", mode("stopped", 0)),
		p("traced and stopped", mode("traced", 0)),
		p("daemon", mode("daemon", 0)),
		{name: "deleted executable", set: mode("deleted", 0), processes: true, moves: true},
		p("in memory", mode("memfd", 0)),
		p("hop through memory", mode("memhop", 300)),
		p("hard link runs", func(w *world) {
			evil := w.evil("evil")
			link := w.at("bin/other-name")
			w.check(os.Link(evil, link))
			w.run(link, "hop", 300)
			w.lives()
		}),
		p("four hops and a comet from two copies", func(w *world) {
			evil, copied := w.evil("evil"), w.evil(filepath.Join(w.other, "copy"))
			for i := range 4 {
				w.run([]string{evil, copied}[i%2], "hop", 150+100*i)
			}
			w.run(copied, "comet", 300)
			w.lives()
		}),
		p("a parent that respawns", func(w *world) {
			evil := w.evil("evil")
			w.accomplice("respawn", 200, evil)
			w.lives()
		}),
		p("a shell that respawns", func(w *world) {
			evil := w.evil("evil")
			script := w.innocent(w.at("bin/respawn.sh"),
				[]byte("while :; do \""+evil+"\" sleep "+until()+" 0; sleep 0.01; done\n"))
			cmd := w.command("/bin/sh", script)
			cmd.Env = append(cmd.Env, "STAUNCH_BEAT="+w.beat())
			w.innocents = append(w.innocents, neighbour{w.begin(cmd), "the respawning shell"})
			w.lives()
		}),
		p("nested control groups", func(w *world) {
			evil := w.evil("evil")
			for i, g := range []string{"a", "a/b", "a/b/c"} {
				w.inGroup(g, evil, "hop", 200+100*i)
			}
			w.lives()
		}),
		p("in a group that is frozen already", func(w *world) {
			evil := w.evil("evil")
			dir := w.inGroup("meant", evil, "sleep", 0)
			w.lives()
			w.innocents = w.innocents[:len(w.innocents)-1] // its nursery is meant to be frozen too
			w.check(os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte("1"), 0))
		}),
		{name: "a descriptor is kept and executed", processes: true, set: func(w *world) {
			evil := w.evil("evil")
			w.accomplice("keep", 300, evil)
			w.lives()
		}},
		{name: "a file in memory is kept and executed", processes: true, set: func(w *world) {
			evil := w.evil("evil")
			w.accomplice("keepmemory", 300, evil)
			w.lives()
		}},
	}
}

// inGroup starts the foe in a control group below the world's.
func (w *world) inGroup(name, evil, mode string, arg int) string {
	w.t.Helper()
	if w.group == nil {
		w.t.Skip("SKIPPED, NOT PROVEN: no cgroup v2 here")
	}
	dir := filepath.Join(w.group.Name(), name)
	w.check(os.Mkdir(dir, 0o755))
	g, err := os.Open(dir)
	w.check(err)
	defer g.Close()
	cmd := w.command(w.helper("nursery"), "nursery", evil, mode, until(), strconv.Itoa(arg))
	cmd.Env = append(cmd.Env, "STAUNCH_BEAT="+w.beat())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, UseCgroupFD: true, CgroupFD: int(g.Fd())}
	w.innocents = append(w.innocents, neighbour{w.begin(cmd), "a nursery in " + name})
	return dir
}
