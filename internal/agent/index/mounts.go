// SPDX-License-Identifier: Apache-2.0

package index

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/agent/mountinfo"
)

// mount is one line of /proc/self/mountinfo (proc_pid_mountinfo(5)).
type mount struct {
	id      uint64
	dev     uint64 // of the superblock; files of btrfs and overlay may show another
	root    string // the folder of the file system that is mounted
	point   string // where, as this process sees it
	fstype  string
	source  string
	options string // of the superblock
}

// mountsFile is what this process sees mounted.
const mountsFile = "/proc/self/mountinfo"

func readMounts() ([]mount, error) {
	f, err := os.Open(mountsFile)
	if err != nil {
		return nil, fmt.Errorf("cannot list what is mounted: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	return parseMounts(f)
}

func parseMounts(r io.Reader) ([]mount, error) {
	var all []mount
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		m, err := parseMount(lines.Text())
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot list what is mounted: %w", err)
	}
	return all, nil
}

// parseMount reads "36 35 98:0 /root /point options [tag:value]… - type source superoptions".
func parseMount(line string) (m mount, err error) {
	bad := func(what string) (mount, error) {
		return mount{}, fmt.Errorf("cannot read mount %q: %s", line, what)
	}
	head, tail, ok := strings.Cut(line, " - ")
	f, g := strings.Split(head, " "), strings.Split(tail, " ")
	if !ok || len(f) < 6 || len(g) < 2 {
		return bad("too few fields")
	}
	if m.id, err = strconv.ParseUint(f[0], 10, 64); err != nil {
		return bad("its number is no number")
	}
	major, minor, ok := strings.Cut(f[2], ":")
	maj, err1 := strconv.ParseUint(major, 10, 32)
	mnr, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return bad("its device is not MAJOR:MINOR")
	}
	m.dev = unix.Mkdev(uint32(maj), uint32(mnr))
	m.root, m.point = mountinfo.Unescape(f[3]), mountinfo.Unescape(f[4])
	m.fstype, m.source = g[0], mountinfo.Unescape(g[1])
	if len(g) > 2 {
		m.options = g[2] // still escaped: a value may hold an escaped comma's neighbours
	}
	return m, nil
}

// option returns the value of one superblock option.
func (m *mount) option(name string) (string, bool) {
	for o := range strings.SplitSeq(m.options, ",") {
		if v, ok := strings.CutPrefix(o, name+"="); ok {
			return mountinfo.Unescape(v), true
		}
	}
	return "", false
}

// kind says what to expect of a file system.
type kind int

const (
	local  kind = iota // files on a disk or in the memory of this machine
	layers             // overlay: its files are files of other file systems
	pseudo             // a view of the kernel: holds no files of anybody
	remote             // another machine's, or answered by a process: may hang
)

func (m *mount) kind() kind {
	switch m.fstype {
	case "overlay":
		return layers
	case "proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue", "debugfs", "tracefs", "securityfs", "configfs",
		"fusectl", "binfmt_misc", "pstore", "efivarfs", "bpf", "hugetlbfs", "autofs", "rpc_pipefs", "nsfs", "selinuxfs",
		"smackfs", "binder", "functionfs", "nfsd", "resctrl":
		return pseudo
	case "nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "gfs2", "ocfs2", "virtiofs",
		"vboxsf", "coda", "orangefs", "davfs", "ncpfs", "fuse":
		return remote
	}
	if strings.HasPrefix(m.fstype, "fuse.") {
		return remote
	}
	return local
}

// sources picks, of all mounts, those that together show every local file
// system once. What they leave out comes back as a gap (files may be there) or
// as skipped (there are none).
func sources(all []mount) (picked []mount, gaps, skipped []string) {
	byDev := map[uint64][]mount{}
	var devs []uint64
	for i, m := range all {
		switch k := m.kind(); {
		case hidden(all, i), strings.HasSuffix(m.root, "//deleted"):
		case k == pseudo:
			skipped = append(skipped, gap(m.point, m.fstype+" holds no files"))
		case k == remote:
			gaps = append(gaps, gap(m.point, m.fstype+" is not a local file system"))
		default:
			if byDev[m.dev] == nil {
				devs = append(devs, m.dev)
			}
			byDev[m.dev] = append(byDev[m.dev], m)
		}
	}
	for _, dev := range devs {
		picked = append(picked, tops(byDev[dev])...)
	}
	return slices.DeleteFunc(picked, func(m mount) bool {
		if m.kind() != layers || !backed(&m, picked) {
			return false
		}
		skipped = append(skipped, gap(m.point, "overlay: its layers are searched where they lie"))
		return true
	}), gaps, skipped
}

// hidden reports whether a later mount on the same folder hides one.
func hidden(all []mount, i int) bool {
	return slices.ContainsFunc(all[i+1:], func(m mount) bool { return m.point == all[i].point })
}

// tops leaves out the mounts of one file system that show a part of another of its mounts.
func tops(same []mount) (top []mount) {
	slices.SortStableFunc(same, func(a, b mount) int {
		if len(a.root) != len(b.root) {
			return len(a.root) - len(b.root)
		}
		return len(a.point) - len(b.point)
	})
	for _, m := range same {
		if !slices.ContainsFunc(top, func(t mount) bool { return within(m.root, t.root) }) {
			top = append(top, m)
		}
	}
	return top
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// backed reports whether all layers of an overlay can be seen in picked.
func backed(m *mount, picked []mount) bool {
	dirs, ok := layerDirs(m)
	if !ok {
		return false
	}
	for _, d := range dirs {
		var st unix.Stat_t
		if !filepath.IsAbs(d.path) || unix.Stat(d.path, &st) != nil ||
			!slices.ContainsFunc(picked, func(p mount) bool { return p.kind() == local && p.dev == st.Dev }) {
			return false
		}
	}
	return true
}

type layerDir struct {
	path  string
	layer string // LayerLower or LayerUpper
}

// layerDirs reads lowerdir (a:b:c, data layers after "::") and upperdir.
func layerDirs(m *mount) (dirs []layerDir, ok bool) {
	lower, found := m.option("lowerdir")
	for d := range splitLower(lower) {
		dirs = append(dirs, layerDir{d, LayerLower})
	}
	for o := range strings.SplitSeq(m.options, ",") { // how 6.8 and later list layers given one by one
		for _, name := range []string{"lowerdir+=", "datadir+="} {
			if v, ok := strings.CutPrefix(o, name); ok {
				dirs, found = append(dirs, layerDir{mountinfo.Unescape(v), LayerLower}), true
			}
		}
	}
	if upper, ok := m.option("upperdir"); ok {
		dirs = append(dirs, layerDir{upper, LayerUpper})
	}
	return dirs, found
}

// splitLower cuts at colons that are not escaped by a backslash.
func splitLower(s string) func(func(string) bool) {
	return func(yield func(string) bool) {
		var b strings.Builder
		flush := func() bool {
			d := b.String()
			b.Reset()
			return d == "" || yield(d)
		}
		for i := 0; i < len(s); i++ {
			switch {
			case s[i] == '\\' && i+1 < len(s):
				i++
				b.WriteByte(s[i])
			case s[i] == ':':
				if !flush() {
					return
				}
			default:
				b.WriteByte(s[i])
			}
		}
		flush()
	}
}

// layer is the part a folder plays in an overlay.
type layer struct {
	layer string
	point string // where the overlay is mounted
}

// overlays maps the top folder of each layer in use to its part. A folder that
// is a lower layer of anything is lower: taking from it would tear a hole into
// every container that stands on it.
func overlays(all []mount) map[inode.ID]layer {
	parts := map[inode.ID]layer{}
	for i := range all {
		if all[i].kind() != layers {
			continue
		}
		dirs, _ := layerDirs(&all[i])
		for _, d := range dirs {
			var st unix.Stat_t
			if !filepath.IsAbs(d.path) || unix.Stat(d.path, &st) != nil {
				continue
			}
			id := inode.ID{Dev: st.Dev, Ino: st.Ino}
			if parts[id].layer != LayerLower {
				parts[id] = layer{d.layer, all[i].point}
			}
		}
	}
	return parts
}
