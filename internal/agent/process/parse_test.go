// SPDX-License-Identifier: Apache-2.0

package process

import (
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"staunch/internal/agent/mountinfo"
)

func TestParseMaps(t *testing.T) {
	const text = `00400000-00401000 r--p 00000000 fe:01 12 /bin/x
00401000-00402000 r-xp 00001000 fe:01 12                                 /bin/x
7f0000000000-7f0000001000 r-xp 00000000 00:01 2049                       /memfd:a b (deleted)
7f0000001000-7f0000002000 r-xp 00000000 00:01 2049                       /memfd:a b (deleted)
7f0000003000-7f0000004000 rwxp 00000000 00:00 0 
7f0000004000-7f0000005000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
`
	want := []mapping{
		{at: "401000-402000", dev: "fe:01", ino: "12", path: "/bin/x"},
		{at: "7f0000000000-7f0000001000", dev: "00:01", ino: "2049", path: "/memfd:a b (deleted)"},
	}
	if diff := cmp.Diff(want, parseMaps([]byte(text)), cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func FuzzParseMaps(f *testing.F) {
	f.Add([]byte("00401000-00402000 r-xp 00001000 fe:01 12   /bin/x\n"))
	f.Add([]byte("0-1 r-xp 0 0:0 7\n"))
	if b, err := os.ReadFile("/proc/self/maps"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, m := range parseMaps(b) {
			if m.ino == "" || m.ino == "0" || !strings.Contains(m.at, "-") || strings.HasPrefix(m.at, "00") {
				t.Errorf("%+v", m)
			}
		}
	})
}

func TestParseVital(t *testing.T) {
	const tail = " S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9 9"
	for _, name := range []string{"bash", "a) S 1 (b", "x\ny", ") ) )"} {
		got, err := parseVital([]byte("12 (" + name + ")" + tail))
		want := vital{state: 'S', ppid: 7, start: 4242}
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", name, got, err)
		}
	}
	for _, bad := range []string{"", "1 (x) S", "1 (x)" + strings.Replace(tail, "4242", "x", 1)} {
		if v, err := parseVital([]byte(bad)); err == nil || !strings.Contains(err.Error(), "cannot read process status") {
			t.Errorf("%q: %+v, %v", bad, v, err)
		}
	}
}

func FuzzParseVital(f *testing.F) {
	f.Add([]byte("1 (x) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 9"))
	f.Add([]byte("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := parseVital(b); err == nil && v.state == 0 {
			t.Errorf("%+v", v)
		}
	})
}

func TestScriptOf(t *testing.T) {
	for _, c := range []struct {
		line, script string
		none         bool
	}{
		{"bash x.sh", "x.sh", false},
		{"bash -e -u x.sh y.sh", "x.sh", false},
		{"bash -eo pipefail x.sh", "x.sh", false},
		{"bash -o pipefail x.sh", "x.sh", false},
		{"bash +O extglob --rcfile r x.sh", "x.sh", false},
		{"bash --norc x.sh", "x.sh", false},
		{"bash -c text x.sh", "", true},
		{"bash -lc text x.sh", "", true},
		{"bash -s a b", "", false},
		{"bash", "", false},
		{"bash -- x.sh", "x.sh", false},
		{"-bash", "", false},
		{"python3 x.py", "x.py", false},
		{"python3.11 -Wignore -X dev -u x.py", "x.py", false},
		{"python3 -W ignore x.py", "x.py", false},
		{"python3 -m http.server x.py", "", true},
		{"python3 -Im x x.py", "", true},
		{"python3 -c text x.py", "", true},
		{"python3 - x.py", "", false},
		{"python3 scan.py x.py", "scan.py", false},
		{"perl -I lib -w x.pl", "x.pl", false},
		{"perl -e text x.pl", "", true},
		{"perl -lane text x.pl", "", true},
		{"ruby -r json x.rb", "x.rb", false},
		{"node --require a x.js", "x.js", false},
		{"node -e text x.js", "", true},
		{"php -f x.php y.php", "x.php", false},
		{"php x.php", "x.php", false},
		{"awk -f x.awk data", "x.awk", false},
		{"awk -v a=1 -fx.awk data", "x.awk", false},
		{"awk text data", "", true},
		{"lua -l m x.lua", "x.lua", false},
	} {
		args := strings.Fields(c.line)
		fam := familyOf(strings.TrimPrefix(args[0], "-"))
		if fam == nil {
			t.Fatalf("%q is no interpreter", args[0])
		}
		if script, none := fam.scriptOf(args); script != c.script || none != c.none {
			t.Errorf("%q: %q, %v; want %q, %v", c.line, script, none, c.script, c.none)
		}
	}
	for _, name := range []string{"/usr/bin/cat", "/usr/bin/bash-completion", "", "/"} {
		if f := familyOf(name); f != nil {
			t.Errorf("%q is an interpreter: %v", name, f.names)
		}
	}
	if familyOf("/usr/bin/python3.11 (deleted)") == nil {
		t.Error("a deleted python is none")
	}
}

func TestSourced(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"sh", "-c", ". ./x.sh"}, "./x.sh"},
		{[]string{"bash", "-lc", "source '/tmp/x.sh' a; echo"}, "/tmp/x.sh"},
		{[]string{"bash", "--norc", "-e", "-c", " . x.sh&&echo", "arg"}, "x.sh"},
		{[]string{"sh", "-c", "sleep 9; . x.sh"}, ""}, // not begun, for all that is known
		{[]string{"sh", "-c", "./x.sh"}, ""},
		{[]string{"sh", ". x.sh"}, ""},
		{[]string{"sh", "-c"}, ""},
		{[]string{"sh", "-c", "."}, ""},
		{[]string{"python3", "-c", ". x.sh"}, ""},
		{nil, ""},
	} {
		name := "sh"
		if len(c.args) > 0 {
			name = c.args[0]
		}
		if got := strings.Join(familyOf(name).sourced(c.args), "|"); got != c.want {
			t.Errorf("%q: %q; want %q", c.args, got, c.want)
		}
	}
}

func FuzzScriptOf(f *testing.F) {
	f.Add("bash", "-o\x00pipefail\x00x.sh")
	f.Add("awk", "-f\x00x")
	f.Add("php", "-f")
	f.Add("busybox", "busybox\x00sh\x00x.sh")
	f.Add("python", "python\x00-um\x00x")
	f.Add("node", "node\x00--require=x\x00-r")
	f.Fuzz(func(t *testing.T, name, cmdline string) {
		fam := familyOf(name)
		if fam == nil {
			fam = familyOf("bash")
		}
		args := arguments([]byte(cmdline))
		script, none := fam.scriptOf(args)
		if script != "" && none {
			t.Errorf("%q both and none", script)
		}
		if !strings.Contains(cmdline, script) {
			t.Errorf("%q is not in %q", script, cmdline)
		}
		if sub, rest := fam.applet(args); sub != nil {
			sub.given(rest)
		}
		for _, s := range fam.sourced(args) {
			if !strings.Contains(cmdline, s) {
				t.Errorf("%q is not in %q", s, cmdline)
			}
		}
	})
}

func TestParseConnector(t *testing.T) {
	ne := binary.NativeEndian
	msg := func(what uint32, ids ...uint32) []byte {
		b := make([]byte, netlinkHeader+cnHeader+16+4*len(ids))
		p := b[netlinkHeader+cnHeader:]
		ne.PutUint32(p, what)
		ne.PutUint64(p[8:], 99)
		for i, id := range ids {
			ne.PutUint32(p[16+4*i:], id)
		}
		return b
	}
	for _, c := range []struct {
		b    []byte
		want event
		ok   bool
	}{
		{msg(procEventFork, 1, 1, 12, 12), event{ns: 99, pid: 12}, true},
		{msg(procEventFork, 1, 1, 13, 12), event{}, false},
		{msg(procEventExec, 14, 12), event{ns: 99, pid: 12, exec: true}, true},
		{msg(0x80000000, 1, 1, 1, 1), event{}, false},
		{msg(procEventFork, 1, 1), event{}, false},
		{nil, event{}, false},
	} {
		if got, ok := parseConnector(c.b); got != c.want || ok != c.ok {
			t.Errorf("%x: %+v, %v", c.b, got, ok)
		}
	}
}

func TestConnectorGaps(t *testing.T) {
	c := &connector{next: make(map[uint32]uint32)}
	msg := func(what, cpu, seq uint32) []byte {
		b := make([]byte, netlinkHeader+cnHeader+40)
		binary.NativeEndian.PutUint32(b[netlinkHeader+8:], seq)
		binary.NativeEndian.PutUint32(b[netlinkHeader+cnHeader:], what)
		binary.NativeEndian.PutUint32(b[netlinkHeader+cnHeader+4:], cpu)
		return b
	}
	for i, x := range []struct {
		b   []byte
		gap bool
	}{
		{msg(1, 0, 100), false}, {msg(1, 1, 7), false}, {msg(2, 0, 101), false}, {msg(procEventNone, 0, 0), false},
		{msg(1, 1, 9), true}, {msg(1, 1, 10), false}, {msg(1, 0, 102), false}, {nil, false},
	} {
		if got := c.gap(x.b); got != x.gap {
			t.Errorf("message %d: a gap %v, want %v", i, got, x.gap)
		}
	}
}

func FuzzParseConnector(f *testing.F) {
	f.Add(make([]byte, 76))
	f.Fuzz(func(_ *testing.T, b []byte) {
		parseConnector(b)
		(&connector{next: make(map[uint32]uint32)}).gap(b)
	})
}

func TestFreezers(t *testing.T) {
	const text = `30 20 0:26 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
31 20 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
32 20 0:28 / /sys/fs/cgroup/a\040b rw shared:4 master:1 - cgroup2 cgroup2 rw,nsdelegate
33 20 0:29 / /x rw - tmpfs tmpfs rw
`
	mounts, err := mountinfo.Parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(freezers(mounts))
	want := "[{/sys/fs/cgroup/freezer freezer.state FROZEN THAWED} {/sys/fs/cgroup/a b cgroup.freeze 1 0}]"
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestParseUID(t *testing.T) {
	if got := parseUID([]byte("Name:\tUid:\t5\nUid:\t1\t1000\t1\t1\n")); got != 1000 {
		t.Errorf("%d", got)
	}
	if got := parseUID([]byte("Uid:\t1\n")); got != 0 {
		t.Errorf("%d", got)
	}
}
