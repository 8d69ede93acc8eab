// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// dpkg reads dpkg's records (dpkg(1), deb-md5sums(5)): a file named in a
// package's md5sums whose content has that digest is the package's, unmodified.
// Configuration files carry their digest in the status file.
func (g *Guard) dpkg(ctx context.Context, r scan) error {
	lists, err := r.glob(g.path("var/lib/dpkg/info"), "*.md5sums")
	if err != nil {
		return err
	}
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return err
		}
		r.note(list)
		b, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return err
		}
		if may, err := r.mentions(b); err != nil {
			return err
		} else if !may {
			continue
		}
		pkg := strings.TrimSuffix(filepath.Base(list), ".md5sums")
		for line := range strings.Lines(string(b)) {
			if sum, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  "); ok {
				if err := r.each(md5Sum, sum, path, pkg); err != nil {
					return err
				}
			}
		}
	}
	return g.conffiles(r)
}

// conffiles reads the configuration files in the status file.
func (g *Guard) conffiles(r scan) error {
	status := g.path("var/lib/dpkg/status")
	r.note(status)
	pkg, conffiles := "", false
	return scanLines(status, func(line string) error {
		switch name, isName := strings.CutPrefix(line, "Package: "); {
		case isName:
			pkg = name
		case !strings.HasPrefix(line, " "):
			conffiles = line == "Conffiles:"
		case conffiles:
			if fields := strings.Fields(line); len(fields) == 2 {
				return r.each(md5Sum, fields[1], fields[0], pkg)
			}
		}
		return nil
	})
}
