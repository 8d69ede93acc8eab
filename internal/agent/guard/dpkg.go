// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// dpkg reads dpkg's records (dpkg(1), deb-md5sums(5)): a file named in a
// package's md5sums whose content has that digest is the package's, unmodified.
// Configuration files carry their digest in the status file.
func (g *Guard) dpkg(ctx context.Context, p *packaged) error {
	lists, err := filepath.Glob(g.path("var/lib/dpkg/info/*.md5sums"))
	if err != nil {
		return fmt.Errorf("cannot read the package records: %w", err)
	}
	sum, err := p.digest(md5Sum)
	if err != nil {
		return fmt.Errorf("cannot compare with the package records: %w", err)
	}
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return err
		}
		b, err := os.ReadFile(list)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // removed meanwhile
			return err
		}
		if !bytes.Contains(b, []byte(sum)) {
			continue
		}
		pkg := strings.TrimSuffix(filepath.Base(list), ".md5sums")
		for line := range strings.Lines(string(b)) {
			if sum, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  "); ok {
				if err := p.check(md5Sum, sum, path, pkg); err != nil {
					return err
				}
			}
		}
	}
	pkg, conffiles := "", false
	return scanLines(g.path("var/lib/dpkg/status"), func(line string) error {
		switch name, isName := strings.CutPrefix(line, "Package: "); {
		case isName:
			pkg = name
		case !strings.HasPrefix(line, " "):
			conffiles = line == "Conffiles:"
		case conffiles:
			if fields := strings.Fields(line); len(fields) == 2 {
				return p.check(md5Sum, fields[1], fields[0], pkg)
			}
		}
		return nil
	})
}
