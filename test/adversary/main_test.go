// SPDX-License-Identifier: Apache-2.0

// Package adversary sets hostile programs against the real agent and looks at
// the world afterwards with eyes of its own: by reading every process and every
// file of the scene, starting what is left, and comparing every innocent
// neighbour byte for byte. What the agent calls proven and is not is a false
// success, and none is allowed.
//
// Every scene lives on file systems of its own in memory; the gate marks only
// those. Something that outlives the test is killed by a process that does not
// depend on it.
package adversary

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// options are the battery's flags.
type options struct {
	seeds int
	long  bool
	jobs  int
	agent string
	built string
	slow  int
}

// built is what TestMain made for all tests.
type built struct {
	options
	dir   string // of everything built; gone at the end
	agent string // the real binary
	foe   []byte // foe.c, static
	dyn   []byte // foe.c, dynamic
	lib   []byte // a library that does nothing
	off   string // why nothing can be proven here; "" = it can
	fuse  *fuse
	table *table
}

// kit is set by TestMain once, before any test.
var kit *built

func TestMain(m *testing.M) {
	if os.Getenv(envFuse) != "" {
		os.Exit(fuseMain())
	}
	var o options
	flag.IntVar(&o.seeds, "seeds", 1, "how often each scenario runs, each time with other numbers")
	flag.BoolVar(&o.long, "adversary.long", false, "every scenario in both ways and on every rung")
	flag.IntVar(&o.jobs, "jobs", 4, "how many scenes run side by side")
	flag.StringVar(&o.agent, "agent", "", "a staunch-agent that is built already")
	flag.StringVar(&o.built, "built", "", "a folder with all the programs, for where there is no compiler: staunch-agent, hostile/foe, hostile/dyn, hostile/lib")
	flag.IntVar(&o.slow, "slow", 1, "how many times longer everything may take: on an emulated machine")
	flag.Parse()
	_ = flag.Set("test.parallel", strconv.Itoa(o.jobs)) // scenes mostly wait
	code, err := run(m, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M, o options) (code int, err error) {
	dir, err := os.MkdirTemp("", "staunch-adversary-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	kit = &built{options: o, dir: dir, agent: o.agent, table: &table{}}
	if kit.off = missing(o.built != ""); kit.off == "" {
		if err := kit.build(); err != nil {
			return 1, err
		}
		if kit.fuse, err = light(); err != nil {
			return 1, err
		}
		defer kit.fuse.out()
	}
	code = m.Run()
	kit.table.print(os.Stdout)
	return code, nil
}

// missing says what the battery needs and this machine has not.
func missing(built bool) string {
	if os.Getuid() != 0 {
		return "the battery needs root: it mounts, gates and looks at every process"
	}
	if _, err := exec.LookPath("gcc"); err != nil && !built {
		return "gcc is missing, with which the hostile programs are built"
	}
	return ""
}

func (k *built) build() error {
	if k.built != "" {
		return k.load()
	}
	if k.agent == "" {
		k.agent = filepath.Join(k.dir, "staunch-agent")
		cmd := exec.Command("go", "build", "-o", k.agent, "staunch/cmd/staunch-agent")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build the agent: %w\n%s", err, out)
		}
	}
	lib := filepath.Join("..", "..", "internal", "agent", "process", "testdata", "lib.c")
	for _, b := range []struct {
		to   *[]byte
		args []string
	}{
		{&k.foe, []string{"testdata/foe.c", "-static", "-pthread"}},
		{&k.dyn, []string{"testdata/foe.c", "-DDYNAMIC", "-pthread", "-ldl"}},
		{&k.lib, []string{lib, "-shared", "-fPIC"}},
	} {
		out := filepath.Join(k.dir, "built")
		cmd := exec.Command("gcc", append([]string{"-O1", "-Wall", "-o", out}, b.args...)...)
		if msg, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", b.args[0], err, msg)
		}
		content, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		*b.to = content
	}
	return nil
}

// load takes the programs that were built elsewhere.
func (k *built) load() (err error) {
	k.agent = filepath.Join(k.options.built, "staunch-agent")
	for name, to := range map[string]*[]byte{"foe": &k.foe, "dyn": &k.dyn, "lib": &k.lib} {
		if *to, err = os.ReadFile(filepath.Join(k.options.built, "hostile", name)); err != nil {
			return err
		}
	}
	return nil
}

// envFuse makes the test program the fuse, and says how long it burns.
const envFuse = "STAUNCH_TEST_FUSE"

// bound is how long anything that a scene started may live at most.
func (o options) bound() time.Duration { return o.lifetime() + time.Minute }

// A fuse is a process that kills what it was told of: when its time is over, or
// when the test has died. A gate that hangs must not outlive its test.
type fuse struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func light() (*fuse, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envFuse+"="+kit.bound().String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	return &fuse{cmd, in}, cmd.Start()
}

// on has the process group of pid killed after the bound.
func (f *fuse) on(pid int) { _, _ = fmt.Fprintln(f.in, pid) } // a pipe; a fuse that has died shows at the end

func (f *fuse) out() {
	_ = f.in.Close() // the fuse ends when it has looked once more
	_ = f.cmd.Wait() // it has nothing to report
}

func fuseMain() int {
	bound, err := time.ParseDuration(os.Getenv(envFuse))
	if err != nil {
		return 1
	}
	type charge struct {
		pid  int
		born string
		at   time.Time
	}
	lines := make(chan int)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			if pid, err := strconv.Atoi(s.Text()); err == nil {
				lines <- pid
			}
		}
	}()
	var all []charge
	blow := func(c charge) {
		if born(c.pid) == c.born && c.born != "" {
			_ = syscall.Kill(-c.pid, syscall.SIGKILL) // gone is as well
		}
	}
	tick := time.NewTicker(time.Second)
	for {
		select {
		case pid, ok := <-lines:
			if !ok {
				for _, c := range all {
					blow(c)
				}
				return 0
			}
			all = append(all, charge{pid, born(pid), time.Now().Add(bound)})
		case now := <-tick.C:
			rest := all[:0]
			for _, c := range all {
				if now.After(c.at) {
					blow(c)
				} else {
					rest = append(rest, c)
				}
			}
			all = rest
		}
	}
}

// born is the start time of a process, which with its number identifies it.
func born(pid int) string {
	f := statFields(pid)
	if len(f) < 20 {
		return ""
	}
	return f[19]
}

// statFields are the fields of /proc/PID/stat from the state on; none if gone.
func statFields(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	i := strings.LastIndexByte(string(b), ')')
	if i < 0 {
		return nil
	}
	return strings.Fields(string(b[i+1:]))
}
