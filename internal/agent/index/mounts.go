// SPDX-License-Identifier: Apache-2.0

package index

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"staunch/internal/agent/inode"
	"staunch/internal/agent/mountinfo"
)

type mount = mountinfo.Mount

// mountsFile is what this process sees mounted.
const mountsFile = mountinfo.Self

func readMounts() ([]mount, error) { return mountinfo.Read(mountsFile) }

const (
	local  = mountinfo.Local
	layers = mountinfo.Layers
	pseudo = mountinfo.Pseudo
	remote = mountinfo.Remote
)

// sources picks, of all mounts, those that together show every local file
// system once. What they leave out comes back as a gap (files may be there) or
// as skipped (there are none). The layers of an overlay may also lie on also.
func sources(all []mount, also ...mount) (picked []mount, gaps, skipped []string) {
	byDev := map[uint64][]mount{}
	var devs []uint64
	for i, m := range all {
		switch k := m.Kind(); {
		case hidden(all, i), m.Nameless():
		case k == pseudo:
			skipped = append(skipped, gap(m.Point, m.Type+" holds no files"))
		case k == remote:
			gaps = append(gaps, gap(m.Point, m.Type+" is not a local file system"))
		default:
			if byDev[m.Dev] == nil {
				devs = append(devs, m.Dev)
			}
			byDev[m.Dev] = append(byDev[m.Dev], m)
		}
	}
	for _, dev := range devs {
		picked = append(picked, tops(byDev[dev])...)
	}
	return slices.DeleteFunc(picked, func(m mount) bool {
		if m.Kind() != layers || !backed(&m, slices.Concat(picked, also)) {
			return false
		}
		skipped = append(skipped, gap(m.Point, "overlay: its layers are searched where they lie"))
		return true
	}), gaps, skipped
}

// hidden reports whether a later mount on the same folder hides one.
func hidden(all []mount, i int) bool {
	return slices.ContainsFunc(all[i+1:], func(m mount) bool { return m.Point == all[i].Point })
}

// tops leaves out the mounts of one file system that show a part of another of its mounts.
func tops(same []mount) (top []mount) {
	slices.SortStableFunc(same, func(a, b mount) int {
		if len(a.Root) != len(b.Root) {
			return len(a.Root) - len(b.Root)
		}
		return len(a.Point) - len(b.Point)
	})
	for _, m := range same {
		if !slices.ContainsFunc(top, func(t mount) bool { return within(m.Root, t.Root) }) {
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
			!slices.ContainsFunc(picked, func(p mount) bool { return p.Kind() == local && p.Dev == st.Dev }) {
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
	lower, found := m.Option("lowerdir")
	for d := range splitLower(lower) {
		dirs = append(dirs, layerDir{d, LayerLower})
	}
	for o := range strings.SplitSeq(m.Options, ",") { // how 6.8 and later list layers given one by one
		for _, name := range []string{"lowerdir+=", "datadir+="} {
			if v, ok := strings.CutPrefix(o, name); ok {
				dirs, found = append(dirs, layerDir{mountinfo.Unescape(v), LayerLower}), true
			}
		}
	}
	if upper, ok := m.Option("upperdir"); ok {
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
		if all[i].Kind() != layers {
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
				parts[id] = layer{d.layer, all[i].Point}
			}
		}
	}
	return parts
}
