// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// unitFolders are where the system's manager looks for units, the first winning
// (systemd.unit(5)). /lib is for systems where it is not a link to /usr/lib.
var unitFolders = strings.Fields(`/etc/systemd/system.control /run/systemd/system.control /run/systemd/transient
	/run/systemd/generator.early /etc/systemd/system /etc/systemd/system.attached /run/systemd/system
	/run/systemd/system.attached /run/systemd/generator /usr/local/lib/systemd/system /usr/lib/systemd/system
	/lib/systemd/system /run/systemd/generator.late`)

// userFolders are those of every user's manager.
var userFolders = strings.Fields(`/etc/systemd/user /run/systemd/user /usr/local/lib/systemd/user /usr/local/share/systemd/user
	/usr/lib/systemd/user /usr/share/systemd/user`)

// homeFolders and runFolders are a user's own, in the home and in /run/user/UID.
var (
	homeFolders = strings.Fields(`.config/systemd/user.control .config/systemd/user .local/share/systemd/user`)
	runFolders  = strings.Fields(`systemd/user.control systemd/transient systemd/generator.early systemd/user systemd/generator systemd/generator.late`)
)

var unitTypes = []string{".service", ".timer", ".path", ".socket", ".target", ".mount", ".swap", ".automount"}

// A manager is one systemd with its units.
type manager struct {
	f     *finder
	home  string // for %h and ~
	units map[string]*loaded
	links []unitLink
}

// loaded is a unit with its drop-ins.
type loaded struct {
	name     string
	files    []unitFile
	own      bool // the unit's own file was seen; others of that name are shadowed
	masked   bool
	guilty   bool // it starts a target
	reported bool // it is a timer or the like that starts a guilty one
}

type unitFile struct {
	textFile
	settings []setting
}

// A unitLink is a link in a .wants or .requires folder, or an alias.
type unitLink struct {
	where, base, unit string
	alias             bool
}

// units looks through the system's manager, then through every user's.
func (f *finder) units() error {
	m := &manager{f: f, home: "/root", units: map[string]*loaded{}}
	for _, d := range unitFolders {
		if err := m.load("/", d); err != nil {
			return err
		}
	}
	if err := m.judge(); err != nil {
		return err
	}
	m = &manager{f: f, units: map[string]*loaded{}}
	for _, d := range userFolders {
		if err := m.load("/", d); err != nil {
			return err
		}
	}
	return m.judge()
}

// userUnits looks through the units one user may write.
func (f *finder) userUnits(a account) error {
	m := &manager{f: f, home: a.home, units: map[string]*loaded{}}
	for _, d := range homeFolders {
		if err := m.load(a.home, path.Join(a.home, d)); err != nil {
			return err
		}
	}
	run := fmt.Sprintf("/run/user/%d", a.uid)
	for _, d := range runFolders {
		if a.uid < 0 {
			break
		}
		if err := m.load(run, path.Join(run, d)); err != nil {
			return err
		}
	}
	return m.judge()
}

// load reads one folder of units.
func (m *manager) load(base, dir string) error {
	names, err := m.f.tree.list(base, dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		p := path.Join(dir, n)
		switch ext := path.Ext(n); {
		case ext == ".d":
			err = m.loadDropIns(base, p, strings.TrimSuffix(n, ".d"))
		case ext == ".wants" || ext == ".requires" || ext == ".upholds":
			err = m.loadWants(base, p)
		case slices.Contains(unitTypes, ext):
			err = m.loadUnit(base, p, n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *manager) unit(name string) *loaded {
	if m.units[name] == nil {
		m.units[name] = &loaded{name: name}
	}
	return m.units[name]
}

func (m *manager) loadUnit(base, p, name string) error {
	u := m.unit(name)
	if u.own || u.masked {
		return nil // shadowed
	}
	real := m.f.tree.resolve(p)
	if real == "/dev/null" {
		u.masked = true
		return nil
	}
	if b := path.Base(real); real != p && b != name && slices.Contains(unitTypes, path.Ext(b)) {
		m.links = append(m.links, unitLink{p, base, b, true})
		return nil
	}
	file, err := m.f.tree.read(base, p)
	if errors.Is(err, errCut) {
		return err
	}
	if err == nil {
		u.own = true
		u.files = append(u.files, unitFile{file, settings(file.data, "#;")})
	}
	return nil
}

func (m *manager) loadDropIns(base, dir, name string) error {
	names, err := m.f.tree.list(base, dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if path.Ext(n) != ".conf" {
			continue
		}
		file, err := m.f.tree.read(base, path.Join(dir, n))
		if errors.Is(err, errCut) {
			return err
		}
		if err == nil {
			u := m.unit(name)
			u.files = append(u.files, unitFile{file, settings(file.data, "#;")})
		}
	}
	return nil
}

func (m *manager) loadWants(base, dir string) error {
	names, err := m.f.tree.list(base, dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		p := path.Join(dir, n)
		if m.f.tree.readlink(p) != "" {
			m.links = append(m.links, unitLink{where: p, base: base, unit: n})
		} else if _, err := m.f.tree.read(base, p); err == nil {
			if err := m.loadUnit(base, p, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// judge reports the units that start a target, then what starts those units.
func (m *manager) judge() error {
	names := make([]string, 0, len(m.units))
	for n := range m.units {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := m.commands(m.units[n]); err != nil {
			return err
		}
	}
	for _, n := range names {
		if err := m.triggers(m.units[n]); err != nil {
			return err
		}
	}
	for _, l := range m.links {
		if !m.guilty(l.unit) {
			continue
		}
		what := "starts " + l.unit + " with " + strings.TrimSuffix(path.Base(path.Dir(l.where)), path.Ext(path.Dir(l.where)))
		if l.alias {
			what = "another name of " + l.unit
		}
		if err := m.f.addLink(Unit, l.base, l.where, what, l.unit); err != nil {
			return err
		}
	}
	return nil
}

// commands reports each line of a unit that names a target.
func (m *manager) commands(u *loaded) error {
	if u.masked {
		return nil
	}
	sc := scope{home: m.home, dir: "/", path: systemPath, unit: true}
	for _, file := range u.files {
		for _, s := range file.settings {
			switch s.key {
			case "WorkingDirectory":
				sc.dir = sc.join(sc.expand(strings.TrimPrefix(s.value, "-")))
			case "ExecSearchPath":
				sc.path = strings.Split(s.value, ":")
			}
		}
	}
	for _, file := range u.files {
		sc.base = file.base
		for _, s := range file.settings {
			hits, kind := m.setting(s, sc)
			for _, h := range hits {
				u.guilty = true
				m.f.guilty[u.name] = true
				n := m.f.finding(kind, file.textFile, s.line, s.end, fmt.Sprintf("%s names %s", s.key, h.why))
				n.Unit = u.name
				if err := m.f.add(n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// setting returns the targets in one setting of a unit.
func (m *manager) setting(s setting, sc scope) ([]hit, Kind) {
	switch {
	case strings.HasPrefix(s.key, "Exec") && s.key != "ExecSearchPath":
		toks := unitTokens(s.value, s.line)
		for i := range toks { // $$ and %% stand for themselves
			toks[i].text = strings.ReplaceAll(strings.ReplaceAll(toks[i].text, "$$", "$"), "%%", "%")
		}
		return m.f.m.words(toks, sc), Unit
	case s.key == "Environment" || s.key == "DefaultEnvironment" || s.key == "ManagerEnvironment":
		toks := append([]token{{text: "export"}}, unitTokens(s.value, s.line)...)
		hits := m.f.m.words(toks, sc)
		if len(hits) > 0 && preloads(hits[0].name) {
			return hits, Preload
		}
		return hits, Unit
	case s.key == "EnvironmentFile":
		p := sc.expand(strings.TrimPrefix(s.value, "-"))
		if !path.IsAbs(p) {
			return nil, Unit
		}
		file, err := m.f.tree.read(orBase(sc.base), p)
		if err != nil {
			return nil, Unit
		}
		hits := m.f.m.words(tokens(string(file.data), 1), scope{home: sc.home, path: sc.path})
		for i := range hits {
			hits[i].why += fmt.Sprintf(" (%s:%d)", p, hits[i].line)
		}
		return hits, Unit
	case s.section == "Mount" && s.key == "What", s.section == "Path" && s.key == "What":
		h, ok := m.f.m.argument(token{line: s.line}, s.value, "what is mounted", sc)
		if ok {
			return []hit{h}, Unit
		}
	}
	return nil, Unit
}

func orBase(b string) string {
	if b == "" {
		return "/"
	}
	return b
}

// pulls are the settings by which one unit starts others.
var pulls = []string{"Unit", "Service", "Wants", "Requires", "Requisite", "BindsTo", "Upholds", "OnFailure", "OnSuccess"}

// triggers reports a unit that starts a guilty one.
func (m *manager) triggers(u *loaded) error {
	ext := path.Ext(u.name)
	active := ext == ".timer" || ext == ".path" || ext == ".socket"
	named, says := false, false
	for _, file := range u.files {
		for _, s := range file.settings {
			says = true
			if !slices.Contains(pulls, s.key) {
				continue
			}
			for w := range strings.FieldsSeq(s.value) {
				named = named || active && (s.key == "Unit" || s.key == "Service")
				if !m.guilty(w) || w == u.name || !active && m.units[w] != nil && !m.units[w].guilty {
					continue // what starts a timer's like is too far from the file
				}
				if err := m.report(u, file, s.line, s.end, fmt.Sprintf("%s=%s starts a unit that starts the file", s.key, w)); err != nil {
					return err
				}
			}
		}
	}
	stem := strings.TrimSuffix(u.name, ext)
	if !active || named || !says || u.masked {
		return nil
	}
	for _, w := range []string{stem + ".service", stem + "@.service"} {
		if m.guilty(w) {
			return m.report(u, u.files[0], 1, 0, fmt.Sprintf("starts %s, which starts the file", w))
		}
	}
	return nil
}

func (m *manager) report(u *loaded, file unitFile, line, end int, why string) error {
	kind := Unit
	if ext := path.Ext(u.name); ext == ".timer" || ext == ".path" || ext == ".socket" {
		kind = Timer
	}
	if kind == Timer {
		u.reported = true
		m.f.guilty[u.name] = true
	}
	if end == 0 { // the whole unit: its first section, without which it says nothing
		line, end = 1, strings.Count(strings.TrimSuffix(string(file.data), "\n"), "\n")+1
	}
	n := m.f.finding(kind, file.textFile, line, end, why)
	n.Unit = u.name
	return m.f.add(n)
}

// guilty reports whether a unit, or the template it is made of, starts a target.
func (m *manager) guilty(name string) bool {
	if u := m.units[name]; u != nil && (u.guilty || u.reported) {
		return true
	}
	stem, rest, ok := strings.Cut(name, "@")
	if !ok || strings.HasPrefix(rest, ".") {
		return false
	}
	u := m.units[stem+"@"+path.Ext(name)]
	return u != nil && (u.guilty || u.reported)
}

// systemPath is where systemd looks for a command without a slash.
var systemPath = strings.Fields("/usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin")

func preloads(name string) bool { return name == "LD_PRELOAD" || name == "LD_AUDIT" }

// addLink reports a symbolic link.
func (f *finder) addLink(kind Kind, base, where, why, unit string) error {
	if f.tree.isSlow(where) {
		return fs.ErrPermission
	}
	return f.add(Finding{
		Kind: kind, Where: where, Detail: why, Unit: unit, Text: f.tree.readlink(where),
		File: path.Join(f.tree.resolve(path.Dir(where)), path.Base(where)), Base: base, Edit: Link,
	})
}
