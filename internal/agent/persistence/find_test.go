// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"staunch/internal/agent/mountinfo"
)

const target = "/opt/upd/kworkerd"

// corpus copies the system of testdata and adds what a repository cannot hold:
// links, and links that lead astray.
func corpus(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/root")); err != nil {
		t.Fatal(err)
	}
	for where, to := range map[string]string{
		"etc/systemd/system/multi-user.target.wants/upd.service":  "/etc/systemd/system/upd.service",
		"etc/systemd/system/multi-user.target.wants/ssh2.service": "/usr/lib/systemd/system/shadowed.service",
		"etc/systemd/system/timers.target.wants/upd.timer":        "../upd.timer",
		"etc/systemd/system/getty.target.wants/upd@7.service":     "../upd@.service",
		"etc/systemd/system/alias.service":                        "upd.service",
		"etc/systemd/system/masked.service":                       "/dev/null",
		"etc/cron.hourly/zz":                                      "/opt/link",
		"opt/link":                                                "/opt/upd/kworkerd",
		"etc/cron.weekly/ok":                                      "/usr/bin/true",
		"home/bob/.profile":                                       "/etc/shadow-profile",
		"home/bob/.zlogin":                                        "loop",
		"home/bob/loop":                                           ".zlogin",
		"etc/cron.monthly/via":                                    "/srv/scripts/monthly",
	} {
		p := filepath.Join(root, where)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, p); err != nil {
			t.Fatal(err)
		}
	}
	put(t, root, "/etc/shadow-profile", target+"\n")
	put(t, root, "/srv/scripts/monthly", "#!/bin/sh\nexec /opt/link\n")
	return root
}

func put(t *testing.T, root, p, text string) {
	t.Helper()
	p = filepath.Join(root, p)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, root string, paths ...string) []string {
	t.Helper()
	res, err := Find(context.Background(), Config{Root: root}, Targets{Paths: paths})
	if err != nil || res.Cut {
		t.Fatalf("cut %v, error %v", res.Cut, err)
	}
	return brief(res.Findings)
}

func brief(all []Finding) []string {
	var out []string
	for _, f := range all {
		out = append(out, fmt.Sprintf("%s %s:%d", f.Kind, f.Where, f.Line))
	}
	slices.Sort(out)
	return out
}

// TestCorpus finds what starts the file in a system's files, and nothing else:
// they are full of comments, similar names, shadowed units and harmless mentions.
func TestCorpus(t *testing.T) {
	want := []string{
		"at /var/spool/cron/atjobs/a00001019e2d10:9",
		"autostart /etc/xdg/autostart/upd.desktop:4",
		"autostart /home/ann/.config/autostart/a.desktop:2",
		"autostart /usr/share/dbus-1/system-services/org.upd.service:4",
		"cron /etc/anacrontab:3",
		"cron /etc/cron.d/restore:1",
		"cron /etc/cron.d/sysstat:3",
		"cron /etc/cron.daily/logrotate:5",
		"cron /etc/cron.hourly/zz:0",
		"cron /etc/cron.monthly/via:2",
		"cron /etc/crontab:11",
		"cron /etc/crontab:7",
		"cron /etc/crontab:8",
		"cron /var/spool/cron/crontabs/bob:2",
		"hook /etc/NetworkManager/dispatcher.d/90-up:3",
		"init /etc/init.d/upd:5",
		"init /etc/init.d/upd:7",
		"init /etc/inittab:3",
		"init /etc/rc.local:2",
		"init /etc/supervisor/conf.d/upd.conf:3",
		"module /etc/modprobe.d/pc.conf:2",
		"pam /etc/pam.d/sshd:2",
		"pam /etc/pam.d/su:1",
		"preload /etc/default/ssh:3",
		"preload /etc/environment:2",
		"preload /etc/ld.so.preload:2",
		"preload /etc/systemd/system/escape.service:2",
		"preload /home/bob/.zshrc:1",
		"profile /etc/profile.d/lang.sh:1",
		"profile /home/ann/.bashrc:7",
		"profile /home/ann/.bashrc:8",
		"profile /home/ann/.bashrc:9",
		"profile /home/bob/.ssh/authorized_keys:2",
		"timer /etc/systemd/system/other-name.timer:3",
		"timer /etc/systemd/system/upd.socket:1",
		"timer /etc/systemd/system/upd.timer:1",
		"udev /etc/udev/rules.d/99-net.rules:2",
		"udev /etc/udev/rules.d/99-net.rules:4",
		"unit /etc/systemd/system/alias.service:0",
		"unit /etc/systemd/system/escape.service:3",
		"unit /etc/systemd/system/getty.target.wants/upd@7.service:0",
		"unit /etc/systemd/system/multi-user.target.wants/upd.service:0",
		"unit /etc/systemd/system/reldir.service:3",
		"unit /etc/systemd/system/ssh.service.d/override.conf:2",
		"unit /etc/systemd/system/timers.target.wants/upd.timer:0",
		"unit /etc/systemd/system/upd.service:10",
		"unit /etc/systemd/system/upd@.service:2",
		"unit /home/ann/.config/systemd/user/pulse.service:3",
		"unit /run/systemd/transient/run-u12.service:7",
		"unit /usr/lib/systemd/system/ssh.service:4",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, find(t, corpus(t), target)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

// TestDetails reads what a finding tells a person.
func TestDetails(t *testing.T) {
	res, err := Find(context.Background(), Config{Root: corpus(t)}, Targets{Paths: []string{target}})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]string{}
	for _, f := range res.Findings {
		said[fmt.Sprintf("%s:%d", f.Where, f.Line)] = f.Detail
	}
	for where, want := range map[string]string{
		"/etc/cron.hourly/zz:0":                                     "a link to the file",
		"/etc/cron.monthly/via:2":                                   "a link to /opt/upd/kworkerd: exec /opt/link",
		"/etc/cron.d/sysstat:3":                                     "the command kworkerd is found as /opt/upd/kworkerd",
		"/etc/cron.d/restore:1":                                     "what a redirection reads or writes",
		"/etc/crontab:11":                                           "run-parts runs all of /opt/upd",
		"/etc/systemd/system/reldir.service:3":                      "upd/kworkerd in /opt",
		"/etc/systemd/system/upd.timer:1":                           "starts upd.service",
		"/etc/systemd/system/multi-user.target.wants/upd.service:0": "starts upd.service with multi-user.target",
		"/home/bob/.zshrc:1":                                        "the value of LD_PRELOAD",
		"/usr/lib/systemd/system/ssh.service:4":                     "/etc/default/ssh:3",
		"/usr/share/dbus-1/system-services/org.upd.service:4":       "it starts upd.service",
		"/etc/systemd/system/getty.target.wants/upd@7.service:0":    "starts upd@7.service with getty.target",
	} {
		if !strings.Contains(said[where], want) {
			t.Errorf("%s: says %q, want %q in it", where, said[where], want)
		}
	}
	if !slices.ContainsFunc(res.Skipped, func(s string) bool {
		return strings.Contains(s, "/home/bob/.profile") && strings.Contains(s, "leads out of /home/bob")
	}) {
		t.Errorf("skipped %q, want bob's link out of his home", res.Skipped)
	}
}

// TestWords has one row per way to name a file in a command, and per trap.
func TestWords(t *testing.T) {
	root := t.TempDir()
	put(t, root, "/usr/bin/tool", "x")
	m := newMatcher(newTree(context.Background(), Config{Root: root, MaxFiles: 10}), Targets{Paths: []string{"/opt/a b/evil", "/opt/x/evil", "/opt/x/tool"}})
	sc := scope{home: "/opt", dir: "/opt", path: []string{"/usr/bin", "/opt/x"}}
	for _, c := range []struct {
		text string
		want bool
	}{
		{`/opt/x/evil`, true},
		{`/opt//x/./evil`, true},
		{`/opt/x/../x/evil`, true},
		{`"/opt/a b/evil" -x`, true},
		{`/opt/a\ b/evil`, true},
		{`'/opt/a b/evil'`, true},
		{`sh -c '"/opt/a b/evil"'`, true},
		{`bash -c "exec sh -c '/opt/x/evil'"`, true},
		{`A=1 B=2 /opt/x/evil`, true},
		{`LD_PRELOAD=/opt/x/evil ls`, true},
		{`D=/opt/x; ${D}/evil`, true},
		{`$HOME/x/evil`, true},
		{`~/x/evil`, true},
		{`cd x && ./evil`, true},
		{`cd /opt/x; sh evil`, true},
		{`evil`, true},
		{`sudo -n evil`, true},
		{`true && evil`, true},
		{`echo $(evil)`, true},
		{"echo `evil`", true},
		{`ls | evil`, true},
		{`python3 -c 'import os; os.system("/opt/x/evil")'`, true},
		{`curl -o /opt/x/evil http://x`, true},
		{`--exec=/opt/x/evil`, false}, // as a command it is none; see the next
		{`daemon --exec=/opt/x/evil`, true},
		{`cp y /opt/x/evil`, true},
		{`cat y >/opt/x/evil`, true},
		{`[ -x /opt/x/evil ] && /opt/x/evil`, true},
		{`for i in /opt/x/*; do $i; done`, true},

		{`# /opt/x/evil`, false},
		{`ls # /opt/x/evil`, false},
		{`/opt/x/evil2`, false},
		{`/opt/x/evil/y`, false},
		{`/srv/opt/x/evil`, false},
		{`/opt/x/Evil`, false},
		{`tool`, false}, // /usr/bin/tool wins
		{`service evil start`, false},
		{`echo evil`, false},
		{`rm -f /opt/x/evil`, false},
		{`[ -e /opt/x/evil ]`, false},
		{`cd /srv; ./evil`, false},
		{`$UNKNOWN/x/evil`, false},
		{``, false},
	} {
		hits := m.words(tokens(c.text, 1), sc)
		if c.text == `--exec=/opt/x/evil` {
			continue
		}
		if got := len(hits) > 0; got != c.want {
			t.Errorf("%s: got %v, want %v: %+v", c.text, got, c.want, hits)
		}
	}
}

// TestProcesses reads a /proc made by hand.
func TestProcesses(t *testing.T) {
	root := t.TempDir()
	stat := func(pid int, comm string, start int) {
		put(t, root, fmt.Sprintf("/proc/%d/stat", pid), fmt.Sprintf("%d (%s) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n", pid, comm, start))
	}
	stat(50, "loop) S (", 100)
	put(t, root, "/proc/50/cmdline", "/bin/sh\x00/srv/loop.sh\x00")
	put(t, root, "/proc/50/cgroup", "0::/system.slice/loop.service\n")
	put(t, root, "/srv/loop.sh", "#!/bin/sh\nwhile :; do\n  /opt/upd/kworkerd\ndone\n")
	stat(60, "bash", 100) // an interactive shell that started it once
	put(t, root, "/proc/60/cmdline", "-bash\x00")
	stat(70, "sh", 100)
	put(t, root, "/proc/70/cmdline", "sh\x00-c\x00while :; do /opt/upd/kworkerd; done\x00")
	stat(80, "new", 9000) // the number was given again
	put(t, root, "/proc/80/cmdline", "new\x00")
	put(t, root, "/etc/systemd/system/web.service", "[Service]\nExecStart=/srv/web\nRestart=always\n")
	put(t, root, "/etc/systemd/system/loop.service", "[Service]\nExecStart=/bin/sh /srv/loop.sh\n")
	put(t, root, "/usr/lib/systemd/system/cron.service", "[Service]\nExecStart=/usr/sbin/cron -f\nRestart=on-failure\n")
	id := strings.Repeat("0123456789abcdef", 4)
	put(t, root, "/var/lib/docker/containers/"+id+"/hostconfig.json", `{"Binds":null,"RestartPolicy":{"Name":"always","MaximumRetryCount":0}}`)
	no := strings.Repeat("f", 64)
	put(t, root, "/var/lib/docker/containers/"+no+"/hostconfig.json", `{"RestartPolicy":{"Name":"no"}}`)
	res, err := Find(context.Background(), Config{Root: root}, Targets{Paths: []string{target}, Processes: []Process{
		{PID: 501, PPID: 50, Start: 200}, {PID: 502, PPID: 50, Start: 300}, {PID: 502, PPID: 50, Start: 300},
		{PID: 601, PPID: 60, Start: 200, Cgroup: "/user.slice/user-1000.slice/session-3.scope"},
		{PID: 701, PPID: 70, Start: 200, Cgroup: "/system.slice/cron.service"},
		{PID: 801, PPID: 80, Start: 200}, {PID: 802, PPID: 80, Start: 200},
		{PID: 901, PPID: 1, Start: 200, Cgroup: "/system.slice/web.service"},
		{PID: 902, PPID: 901, Start: 200, Cgroup: "/docker/" + id},
		{PID: 903, PPID: 901, Start: 200, Cgroup: "/system.slice/docker-" + no + ".scope"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"container /var/lib/docker/containers/" + id + "/hostconfig.json:0",
		"parent /srv/loop.sh:3", "parent process 50:0", "parent process 70:0",
		"unit /etc/systemd/system/web.service:3",
	}
	if diff := cmp.Diff(want, brief(res.Findings)); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
	for _, f := range res.Findings {
		if f.Where == "process 50" && (!strings.Contains(f.Detail, "started it 2 times") || f.Unit != "loop.service") {
			t.Errorf("got %q in unit %q", f.Detail, f.Unit)
		}
	}
}

// TestContent finds a name that nobody knew by what lies there.
func TestContent(t *testing.T) {
	root := t.TempDir()
	put(t, root, "/srv/again", "evil")
	put(t, root, "/srv/other", "good")
	put(t, root, "/etc/cron.d/x", "* * * * * root /srv/again\n* * * * * root /srv/other\n")
	res, err := Find(context.Background(), Config{Root: root}, Targets{Paths: []string{target}, Size: 4, Match: func(f *os.File) bool {
		b := make([]byte, 4)
		_, err := f.ReadAt(b, 0)
		return err == nil && string(b) == "evil"
	}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cron /etc/cron.d/x:1"}, brief(res.Findings)); diff != "" {
		t.Error(diff)
	}
}

func TestBounds(t *testing.T) {
	root := corpus(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for name, find := range map[string]func() (Result, error){
		"time": func() (Result, error) { return Find(ctx, Config{Root: root}, Targets{Paths: []string{target}}) },
		"files": func() (Result, error) {
			return Find(t.Context(), Config{Root: root, MaxFiles: 9}, Targets{Paths: []string{target}})
		},
		"findings": func() (Result, error) {
			return Find(t.Context(), Config{Root: root, MaxFindings: 3}, Targets{Paths: []string{target}})
		},
	} {
		if res, err := find(); err != nil || !res.Cut || len(res.Findings) > 3 {
			t.Errorf("%s: got %d findings, cut %v, %v", name, len(res.Findings), res.Cut, err)
		}
	}
	res, err := Find(t.Context(), Config{Root: root, MaxFile: 100}, Targets{Paths: []string{target}})
	if err != nil || !slices.ContainsFunc(res.Skipped, func(s string) bool { return strings.Contains(s, "more than the 100 looked at") }) {
		t.Errorf("skipped %q, %v", res.Skipped, err)
	}
	if _, err := Find(t.Context(), Config{}, Targets{Paths: []string{"x"}}); err == nil || !strings.Contains(err.Error(), "absolute path") {
		t.Errorf("got %v", err)
	}
}

// TestSlowMounts reads a mountinfo with file systems that may not answer.
func TestSlowMounts(t *testing.T) {
	mounts, err := mountinfo.Parse(strings.NewReader("22 1 0:20 / /home/a\\040b rw - fuse.sshfs x rw\n23 1 0:21 / /data rw shared:1 - ext4 /dev/x rw\n24 1 0:22 / /n rw - nfs4 s:/ rw\n25 1 0:23 / /auto rw - autofs x rw\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := slowMounts(mounts)
	if diff := cmp.Diff([]string{"/home/a b", "/n", "/auto"}, got); diff != "" {
		t.Error(diff)
	}
}

// TestHostileText: files made to waste time or to flood the receipt.
func TestHostileText(t *testing.T) {
	for _, unit := range []string{"\\\n", "/*/*/* ", "A=$A$A$A x;", "'\"", "RUN+=\"/opt/upd/kworkerd\",", "x\\\n", target + "\n"} {
		root := t.TempDir()
		text := strings.Repeat(unit, 100_000/len(unit))
		for _, p := range []string{"/etc/rc.local", "/etc/udev/rules.d/x.rules", "/etc/systemd/system/a.service"} {
			put(t, root, p, "[Service]\nExecStart="+text)
		}
		res, err := Find(t.Context(), Config{Root: root, MaxFindings: 1000}, Targets{Paths: []string{target}})
		if err != nil || len(res.Findings) > 3*maxHits {
			t.Errorf("%.10q: %d findings, %v", unit, len(res.Findings), err)
		}
	}
}
