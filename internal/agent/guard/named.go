// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// named is a file that the machine or the agent needs, by name: whatever lies
// there when an order comes is protected.
type named struct {
	path   string
	rule   Rule
	detail string
}

// loaders match the dynamic loader and the C library.
var loaders = []string{
	"lib*/ld-linux*.so*", "lib*/ld-musl-*.so*", "lib*/*/ld-linux*.so*", "usr/lib*/ld-*.so*", "usr/lib*/*/ld-*.so*",
	"lib*/libc.so.6", "lib*/*/libc.so.6", "usr/lib*/libc.so.6", "usr/lib*/*/libc.so.6",
}

// needed lists the agent's units, the loader and the kernel's files.
func (g *Guard) needed(note func(string)) ([]named, error) {
	var all []named
	l := lister{note: note, names: map[string][]string{}}
	for _, dir := range unitFolders {
		for _, pattern := range ownUnits {
			for _, p := range l.glob(g.path(dir), pattern) {
				all = append(all, named{p, Agent, "it belongs to the agent"})
			}
		}
	}
	for _, pattern := range loaders {
		for _, p := range l.glob(g.cfg.Root, pattern) {
			all = append(all, named{p, Loader, "every dynamic program needs it to start"})
		}
	}
	for _, p := range []string{"vmlinuz-" + g.kernel, "initrd.img-" + g.kernel, "initramfs-" + g.kernel + ".img", "System.map-" + g.kernel} {
		all = append(all, named{g.path("boot", p), Kernel, "the running kernel was started from it"})
	}
	return all, nil
}

// A lister lists folders, each once, and tells note of them before.
type lister struct {
	note  func(string)
	names map[string][]string
}

// glob lists what matches a pattern below a folder; each element of the pattern
// may hold the signs of path.Match. As filepath.Glob it leaves out what it
// cannot list.
func (l *lister) glob(dir, pattern string) []string {
	found := []string{dir}
	for elem := range strings.SplitSeq(pattern, "/") {
		var next []string
		for _, dir := range found {
			for _, n := range l.list(dir) {
				if ok, _ := filepath.Match(elem, n); ok { // the patterns are ours
					next = append(next, filepath.Join(dir, n))
				}
			}
		}
		found = next
	}
	return found
}

func (l *lister) list(dir string) []string {
	names, ok := l.names[dir]
	if ok {
		return names
	}
	if fi, err := os.Stat(dir); err == nil && !fi.IsDir() {
		return nil // were it to become a folder, the one it lies in would tell
	}
	l.note(dir)
	if f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0); err == nil {
		names, _ = f.Readdirnames(-1) // what was read counts
		_ = f.Close()                 // read only
	}
	l.names[dir] = names
	return names
}
