// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// processes reports live parents that started the file again and again, the
// units whose control groups it ran in, and containers that restart it.
func (f *finder) processes() error {
	children := map[int][]Process{}
	dead := map[int]bool{}
	groups := map[string]bool{}
	for _, p := range f.targets.Processes {
		dead[p.PID] = true
	}
	for _, p := range f.targets.Processes {
		if !slices.ContainsFunc(children[p.PPID], func(q Process) bool { return q.PID == p.PID && q.Start == p.Start }) {
			children[p.PPID] = append(children[p.PPID], p)
		}
		groups[p.Cgroup] = true
	}
	for _, ppid := range sorted(children) {
		if ppid > 1 && ppid != 2 && !dead[ppid] {
			if err := f.parent(ppid, children[ppid]); err != nil {
				return err
			}
		}
	}
	for _, g := range sorted(groups) {
		if err := f.group(g); err != nil {
			return err
		}
	}
	return nil
}

func sorted[K int | string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// parent reports a live parent of several matches, or of one that its own
// command line or its script names.
func (f *finder) parent(pid int, children []Process) error {
	dir := fmt.Sprintf("/proc/%d", pid)
	start, comm, err := f.stat(dir)
	if err != nil || start > children[0].Start || comm == "systemd" {
		return nil // gone, another process by now, or a manager: its units tell
	}
	cmdline := f.proc(dir + "/cmdline")
	args := strings.Split(strings.TrimRight(cmdline, "\x00"), "\x00")
	cwd, _ := os.Readlink(f.tree.outside(dir + "/cwd")) // "" means unknown
	sc := scope{dir: cwd, bare: true}
	var named []hit
	for _, a := range args {
		if h, ok := f.m.argument(token{}, a, "an argument", sc); ok {
			named = append(named, h)
		} else {
			named = append(named, f.m.words(tokens(a, 1), sc)...)
		}
	}
	unit := unitOf(GroupOf(f.proc(dir + "/cgroup")))
	where := fmt.Sprintf("process %d", pid)
	detail := fmt.Sprintf("%s started it %d times", shown(args), len(children))
	if len(named) > 0 {
		detail += ", its command line names " + named[0].why
	}
	if unit != "" {
		detail += ", in the unit " + unit
	}
	if len(named) > 0 || len(children) > 1 {
		if err := f.add(Finding{Kind: Parent, Where: where, Detail: detail, Unit: unit}); err != nil {
			return err
		}
	}
	for _, a := range args[min(1, len(args)):] {
		if p := sc.join(a); p != "" && !strings.HasPrefix(a, "-") {
			if err := f.scripted(p, Parent, fmt.Sprintf("%s runs it and", where), scope{dir: cwd, path: systemPath}); err != nil {
				return err
			}
		}
	}
	return nil
}

func shown(args []string) string {
	s := strings.Join(args, " ")
	if len(s) > 200 {
		s = s[:200] + " …"
	}
	return s
}

// scripted reports the lines of a script that name a target.
func (f *finder) scripted(p string, kind Kind, who string, sc scope) error {
	if below("/proc", p) || below("/dev", p) || below("/sys", p) {
		return nil
	}
	file, err := f.tree.read("/", p)
	if errors.Is(err, errCut) {
		return err
	}
	if err != nil || f.m.paths[file.real] {
		return nil
	}
	for _, n := range f.statements(place{kind, "", script, Null}, file, sc) {
		n.Detail = who + " " + strings.TrimPrefix(n.Detail, "it ")
		if err := f.add(n); err != nil {
			return err
		}
	}
	return nil
}

// stat reads the start time and the name of a process (proc_pid_stat(5)).
func (f *finder) stat(dir string) (start uint64, comm string, err error) {
	s := f.proc(dir + "/stat")
	open, end := strings.IndexByte(s, '('), strings.LastIndexByte(s, ')')
	if open < 0 || end < open {
		return 0, "", fs.ErrNotExist
	}
	fields := strings.Fields(s[end+1:])
	if len(fields) < 20 {
		return 0, "", fs.ErrNotExist
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, s[open+1 : end], err
}

// proc reads a small file of /proc; "" when it is not there.
func (f *finder) proc(p string) string {
	file, err := os.Open(f.tree.outside(p))
	if err != nil {
		return ""
	}
	defer file.Close()                               // read only
	b, _ := io.ReadAll(io.LimitReader(file, 64<<10)) // what was read is used
	return string(b)
}

// GroupOf returns a process's control group from the text of
// /proc/PID/cgroup: the unified one, or where systemd keeps its own in v1.
func GroupOf(text string) string {
	v1 := ""
	for line := range strings.SplitSeq(text, "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 || f[2] == "/" {
			continue
		}
		if f[0] == "0" {
			return f[2]
		}
		if f[1] == "name=systemd" || v1 == "" {
			v1 = f[2]
		}
	}
	return v1
}

// unitOf is the service that a control group belongs to, or "".
func unitOf(group string) string {
	elems := strings.Split(group, "/")
	for _, e := range slices.Backward(elems) {
		if strings.HasSuffix(e, ".service") && !strings.HasPrefix(e, "user@") {
			return e
		}
	}
	return ""
}

// hosts are services that run what others give them to run: that a match ran
// in their control group says nothing about them.
var hosts = strings.Fields(`cron.service crond.service atd.service anacron.service ssh.service sshd.service containerd.service
	docker.service dbus.service gdm.service sddm.service lightdm.service crio.service`)

// group reports the unit or the container a match ran in.
func (f *finder) group(group string) error {
	if id := containerID(group); id != "" {
		return f.container(id)
	}
	name := unitOf(group)
	if name == "" || slices.Contains(hosts, name) || strings.HasPrefix(name, "getty@") || strings.HasPrefix(name, "systemd-") {
		return nil
	}
	dirs := unitFolders
	if strings.Contains(group, "/user@") {
		dirs = userFolders
		for _, a := range f.users {
			if !strings.Contains(group, fmt.Sprintf("/user@%d.service/", a.uid)) {
				continue
			}
			for _, d := range homeFolders {
				dirs = append([]string{path.Join(a.home, d)}, dirs...)
			}
		}
	}
	fragment := name
	if stem, rest, ok := strings.Cut(name, "@"); ok && !strings.HasPrefix(rest, ".") {
		fragment = stem + "@.service"
	}
	for _, d := range dirs {
		for _, n := range slices.Compact([]string{name, fragment}) {
			file, err := f.tree.read("/", path.Join(d, n))
			if errors.Is(err, errCut) {
				return err
			}
			if err == nil {
				return f.ranIn(name, file)
			}
		}
	}
	return nil
}

// ranIn reports a unit that restarts what it runs, and the scripts it starts.
func (f *finder) ranIn(name string, file textFile) error {
	all := settings(file.data, "#;")
	for _, s := range all {
		if s.key == "Restart" && s.value != "no" && s.value != "" {
			n := f.finding(Unit, file, s.line, s.end, "the file ran in this unit's control group, and the unit restarts")
			n.Unit = name
			if err := f.add(n); err != nil {
				return err
			}
		}
	}
	for _, s := range all {
		if !strings.HasPrefix(s.key, "ExecStart") {
			continue
		}
		for _, t := range unitTokens(s.value, s.line) {
			if p := strings.TrimLeft(t.text, "@-:+!|"); path.IsAbs(p) {
				if err := f.scripted(p, Unit, name+" runs it and", scope{dir: "/", path: systemPath}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

var hexID = regexp.MustCompile(`(?:^|[/-])([0-9a-f]{64})(?:\.scope)?(?:/|$)`)

// containerID is the id of the container that a control group belongs to.
func containerID(group string) string {
	if m := hexID.FindStringSubmatch(group); m != nil {
		return m[1]
	}
	return ""
}

// container reports a container that Docker or Podman starts again. Kubernetes
// restarts all of its own; its records are not on this machine.
func (f *finder) container(id string) error {
	where := "/var/lib/docker/containers/" + id + "/hostconfig.json"
	file, err := f.tree.read("/", where)
	if errors.Is(err, errCut) {
		return err
	}
	var c struct {
		RestartPolicy struct {
			Name string `json:"Name"`
		} `json:"RestartPolicy"`
	}
	switch {
	case err == nil && json.NewDecoder(bytes.NewReader(file.data)).Decode(&c) == nil:
		if p := c.RestartPolicy.Name; p != "" && p != "no" {
			return f.add(Finding{Kind: Container, Where: where, Detail: fmt.Sprintf("the file ran in container %s, whose restart policy is %s", id[:12], p)})
		}
		return nil
	}
	return f.add(Finding{Kind: Container, Where: "container " + id[:12], Detail: "the file ran in this container; its restart policy is not known here"})
}
