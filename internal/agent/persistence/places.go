// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// A place is where files of one sort lie.
type place struct {
	kind  Kind
	globs string // relative to the root, or to a home
	parse func([]byte) []statement
	edit  Edit
}

// systemPlaces belong to the machine. Their text is read as root runs it.
var systemPlaces = []place{
	{Preload, "etc/ld.so.preload", preload, Word},
	{Preload, "etc/environment etc/environment.d/*.conf usr/lib/environment.d/*.conf etc/security/pam_env.conf etc/default/*", environment, Comment},
	{Preload, "etc/systemd/system.conf etc/systemd/user.conf etc/systemd/*.conf.d/*.conf", managerConf, Comment},
	{Cron, "etc/crontab etc/cron.d/*", crontab(true), Comment},
	{Cron, "etc/anacrontab", anacrontab, Comment},
	{Cron, "etc/cron.hourly/* etc/cron.daily/* etc/cron.weekly/* etc/cron.monthly/* etc/periodic/*/*", script, Null},
	{Init, "etc/rc.local etc/rc.d/rc.local etc/init.d/* etc/rc.d/init.d/* etc/rc[0-6S].d/* etc/local.d/* etc/sv/*/run etc/service/*/run var/service/*/run", script, Null},
	{Init, "etc/inittab", inittab, Comment},
	{Init, "etc/supervisord.conf etc/supervisor/supervisord.conf etc/supervisor/conf.d/*.conf etc/supervisord.d/*", supervisor, Comment},
	{Profile, "etc/profile etc/profile.d/* etc/bash.bashrc etc/bash.bash_logout etc/bashrc etc/zsh/* etc/zshrc etc/zshenv etc/zprofile etc/zlogin etc/csh.* etc/fish/config.fish etc/fish/conf.d/*.fish etc/ssh/sshrc etc/skel/.*", script, Null},
	{Profile, "etc/update-motd.d/* etc/X11/Xsession.d/* etc/X11/xinit/xinitrc.d/* etc/X11/xinit/xinitrc", script, Null},
	{Autostart, "etc/xdg/autostart/*.desktop usr/share/dbus-1/system-services/*.service usr/share/dbus-1/services/*.service usr/local/share/dbus-1/*services/*.service etc/dbus-1/*services/*.service", desktop, Comment},
	{Udev, "etc/udev/rules.d/*.rules run/udev/rules.d/*.rules usr/local/lib/udev/rules.d/*.rules usr/lib/udev/rules.d/*.rules lib/udev/rules.d/*.rules", udev, Comment},
	{Module, "etc/modprobe.d/*.conf run/modprobe.d/*.conf usr/local/lib/modprobe.d/*.conf usr/lib/modprobe.d/*.conf lib/modprobe.d/*.conf", modprobe, Comment},
	{PAM, "etc/pam.d/* etc/pam.conf usr/lib/pam.d/*", pam, Comment},
	{Hook, "etc/network/if-*.d/* etc/NetworkManager/dispatcher.d/* etc/NetworkManager/dispatcher.d/*/* etc/dhcp/dhclient-*-hooks.d/* etc/ppp/ip-*.d/* etc/pm/sleep.d/* usr/lib/systemd/system-sleep/* etc/kernel/*.d/* etc/acpi/* etc/apm/*/*", script, Null},
	{Hook, "etc/systemd/system-generators/* run/systemd/system-generators/* usr/local/lib/systemd/system-generators/* etc/systemd/user-generators/* usr/local/lib/systemd/user-generators/*", script, Null},
	{Hook, "etc/logrotate.conf etc/logrotate.d/* etc/apt/apt.conf etc/apt/apt.conf.d/*", script, None},
	{At, "var/spool/cron/atjobs/* var/spool/at/* var/spool/atjobs/*", script, Null},
}

// homePlaces belong to one user, who may have made them to mislead.
var homePlaces = []place{
	{Profile, ".bashrc .bash_profile .bash_login .profile .bash_logout .bash_aliases .bashrc.d/* .zshrc .zshenv .zprofile .zlogin .zlogout .kshrc .mkshrc .cshrc .tcshrc .login .logout .config/fish/config.fish .config/fish/conf.d/*.fish .xprofile .xinitrc .xsession .xsessionrc .Xclients .ssh/rc .config/plasma-workspace/env/* .config/autostart-scripts/*", script, Null},
	{Profile, ".ssh/authorized_keys .ssh/authorized_keys2", script, Comment},
	{Autostart, ".config/autostart/*.desktop .local/share/dbus-1/services/*.service", desktop, Comment},
	{Preload, ".pam_environment .config/environment.d/*.conf .ssh/environment", environment, Comment},
}

// managerConf reads the environment that systemd gives all it starts.
func managerConf(data []byte) []statement {
	var out []statement
	for _, s := range settings(data, "#;") {
		if s.key == "DefaultEnvironment" || s.key == "ManagerEnvironment" {
			out = append(out, statement{line: s.line, end: s.end, text: "export " + s.value})
		}
	}
	return out
}

// leftovers are endings of files that daemons do not read.
var leftovers = []string{"~", ".dpkg-old", ".dpkg-dist", ".dpkg-new", ".dpkg-tmp", ".rpmsave", ".rpmorig", ".rpmnew", ".bak", ".swp", ".disabled"}

// system looks through the machine's places and the crontabs of users.
func (f *finder) system() error {
	sc := scope{home: "/root", dir: "/", path: systemPath}
	for _, p := range systemPlaces {
		if err := f.look(p, "/", "/", sc); err != nil {
			return err
		}
	}
	if err := f.modules(); err != nil {
		return err
	}
	for _, pattern := range []string{"var/spool/cron/crontabs/*", "var/spool/cron/*", "etc/crontabs/*"} {
		found, err := f.tree.glob("/", pattern)
		if err != nil {
			return err
		}
		for _, where := range found {
			a := f.users[path.Base(where)]
			sc := scope{home: a.home, dir: a.home, path: cronPath}
			if err := f.examine(place{Cron, "", crontab(false), Comment}, "/", where, sc); err != nil {
				return err
			}
		}
	}
	return nil
}

// cronPath is cron's PATH where the table sets none.
var cronPath = []string{"/usr/bin", "/bin"}

// homes looks through every home folder.
func (f *finder) homes() error {
	for _, a := range f.homeList() {
		sc := scope{home: a.home, dir: a.home, path: slices.Concat(systemPath, []string{path.Join(a.home, "bin"), path.Join(a.home, ".local/bin")})}
		if err := f.userUnits(a); err != nil {
			return err
		}
		for _, p := range homePlaces {
			if err := f.look(p, a.home, a.home, sc); err != nil {
				return err
			}
		}
	}
	return nil
}

// homeList are the homes to look through: none that is a folder of the system.
func (f *finder) homeList() []account {
	byHome := map[string]account{}
	add := func(a account) {
		top, _, _ := strings.Cut(strings.TrimPrefix(a.home, "/"), "/")
		system := slices.Contains([]string{"", "bin", "sbin", "usr", "dev", "proc", "sys", "run", "etc", "nonexistent"}, top)
		if _, known := byHome[a.home]; !system && !known {
			byHome[a.home] = a
		}
	}
	for _, h := range f.cfg.Homes {
		add(account{home: path.Clean(h), uid: -1})
	}
	if len(f.cfg.Homes) == 0 {
		for _, a := range f.users {
			add(a)
		}
		add(account{home: "/root"})
		inHome, _ := f.tree.list("/", "/home") // cut: the next read says so again
		for _, n := range inHome {
			add(account{home: path.Join("/home", n), uid: -1})
		}
	}
	for h, a := range byHome { // a folder of Homes may be a known user's
		for _, u := range f.users {
			if u.home == h && a.uid < 0 {
				byHome[h] = u
			}
		}
	}
	list := make([]account, 0, len(byHome))
	for _, a := range byHome {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b account) int { return strings.Compare(a.home, b.home) })
	return list
}

// look examines all files of a place.
func (f *finder) look(p place, base, dir string, sc scope) error {
	for g := range strings.FieldsSeq(p.globs) {
		found, err := f.tree.glob(dir, g)
		if err != nil {
			return err
		}
		for _, where := range found {
			if err := f.examine(p, base, where, sc); err != nil {
				return err
			}
		}
	}
	return nil
}

// examine reports what in one file stands for a target.
func (f *finder) examine(p place, base, where string, sc scope) error {
	if slices.ContainsFunc(leftovers, func(end string) bool { return strings.HasSuffix(where, end) }) {
		return nil
	}
	if real := f.tree.resolve(where); f.m.paths[real] {
		if f.tree.readlink(where) != "" {
			return f.addLink(p.kind, base, where, "a link to the file", "")
		}
		return nil // the file itself lay there
	}
	file, err := f.tree.read(base, where)
	if errors.Is(err, errCut) {
		return err
	}
	if err != nil {
		return nil
	}
	for _, n := range f.statements(p, file, sc) {
		if err := f.add(n); err != nil {
			return err
		}
	}
	return nil
}

// statements parses one file and matches what it runs. Disable uses it again
// on the changed text, to see that the finding is gone.
func (f *finder) statements(p place, file textFile, sc scope) []Finding {
	var out []Finding
	for _, s := range p.parse(file.data) {
		if f.tree.ctx.Err() != nil || len(out) >= maxHits {
			break
		}
		if s.wants != "" {
			if f.guilty[s.wants] {
				out = append(out, f.finding(p.kind, file, s.line, s.end, fmt.Sprintf("it starts %s, which starts the file", s.wants)))
			}
			continue
		}
		sc := sc
		if a, ok := f.users[s.user]; ok {
			sc.home, sc.dir = a.home, a.home
		}
		if s.path != "" {
			sc.path = strings.Split(s.path, ":")
		}
		if s.dir != "" {
			sc.dir = s.dir
		}
		for _, h := range f.hits(p, s, sc) {
			n := f.finding(p.kind, file, h.line, max(h.line, s.end), "it names "+h.why)
			n.Edit = p.edit
			if preloads(h.name) {
				n.Kind = Preload
			}
			if p.edit == Word {
				n.Text = h.link
			}
			out = append(out, n)
		}
	}
	return out
}

func (f *finder) hits(p place, s statement, sc scope) []hit {
	if p.edit == Word {
		h, ok := f.m.argument(token{text: s.text, line: s.line}, s.text, "the library", sc)
		if ok {
			return []hit{h}
		}
		return nil
	}
	hits := f.m.words(tokens(s.text, s.line), sc)
	if !s.script {
		for i := range hits {
			hits[i].line = s.line
		}
	}
	return hits
}

// finding is one whose lines can be made comments.
func (f *finder) finding(kind Kind, file textFile, line, end int, why string) Finding {
	text := textOf(file.data, line, end)
	shown, _, cut := strings.Cut(strings.TrimSpace(text), "\n")
	if len(shown) > 200 {
		shown, cut = shown[:200], true
	}
	if cut {
		shown += " …"
	}
	return Finding{
		Kind: kind, Where: file.where, Line: line, Detail: fmt.Sprintf("%s: %s", why, shown),
		Text: text, File: file.real, Base: file.base, Edit: Comment,
	}
}

// textOf returns lines from first to last, from 1, without the last newline.
func textOf(data []byte, first, last int) string {
	rest := data
	for range first - 1 {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
	}
	end := 0
	for n := max(last-first, 0) + 1; n > 0 && end < len(rest); n-- {
		if i := bytes.IndexByte(rest[end:], '\n'); i >= 0 {
			end += i + 1
		} else {
			return string(rest)
		}
	}
	return string(bytes.TrimSuffix(rest[:end], []byte("\n")))
}

// modules reports the lists of modules to load that name a target's module.
func (f *finder) modules() error {
	names := map[string]bool{}
	for _, t := range f.targets.Paths {
		if stem, _, ok := strings.Cut(path.Base(t), ".ko"); ok && strings.Contains(t, "/lib/modules/") {
			names[strings.ReplaceAll(stem, "-", "_")] = true
		}
	}
	if len(names) == 0 {
		return nil
	}
	for _, g := range []string{"etc/modules", "etc/modules-load.d/*.conf", "run/modules-load.d/*.conf", "usr/lib/modules-load.d/*.conf", "etc/initramfs-tools/modules"} {
		found, err := f.tree.glob("/", g)
		if err != nil {
			return err
		}
		for _, where := range found {
			file, err := f.tree.read("/", where)
			if err != nil {
				continue
			}
			for _, l := range lines(file.data, false, "#;") {
				words := strings.Fields(l.text)
				if len(words) == 0 || !names[strings.ReplaceAll(words[0], "-", "_")] {
					continue
				}
				if err := f.add(f.finding(Module, file, l.line, l.end, "it loads the module")); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
