// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"crypto/md5" //nolint:gosec // the digest in dpkg's own records; it decides what is spared, never what is taken
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// local are folders in which no package may put a file (Filesystem Hierarchy
// Standard 3.0; Debian Policy 9.1): reading all the records, some 10 MB, is
// spared for what lies there.
var local = []string{"/dev", "/home", "/media", "/mnt", "/proc", "/root", "/run", "/tmp", "/usr/local", "/var/tmp"}

// dpkg reads dpkg's records (dpkg(1), deb-md5sums(5)): a file named in a
// package's md5sums whose content has that digest is the package's, unmodified.
// Configuration files carry their digest in the status file.
func (g *Guard) dpkg(ctx context.Context, files []File) error {
	want := map[string][]int{} // path as dpkg may write it → indexes into files
	for i, f := range files {
		for _, p := range f.Paths {
			p = strings.TrimPrefix(p, strings.TrimSuffix(g.cfg.Root, "/"))
			if slices.ContainsFunc(local, func(dir string) bool { return below(dir, p) }) {
				continue
			}
			for _, alias := range aliases(p) {
				want[alias] = append(want[alias], i)
			}
		}
	}
	if len(want) == 0 {
		return nil
	}
	lists, err := filepath.Glob(g.path("var/lib/dpkg/info/*.md5sums"))
	if err != nil {
		return fmt.Errorf("cannot read the package records: %w", err)
	}
	digests := map[int]string{}
	check := func(sum, path, pkg string) error {
		for _, i := range want["/"+strings.TrimPrefix(path, "/")] {
			if digests[i] == "" {
				if digests[i], err = md5Of(files[i].File); err != nil {
					return fmt.Errorf("cannot compare %q with its package: %w", path, err)
				}
			}
			if digests[i] == sum {
				return &Refusal{Package, first(files[i].Paths), fmt.Sprintf(
					"package %s put it there and it is unmodified; remove the package, or give the order again with force", pkg)}
			}
		}
		return nil
	}
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return err
		}
		pkg := strings.TrimSuffix(filepath.Base(list), ".md5sums")
		err := scanLines(list, func(line string) error {
			if sum, path, ok := strings.Cut(line, "  "); ok {
				return check(sum, path, pkg)
			}
			return nil
		})
		if err != nil {
			return err
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
				return check(fields[1], fields[0], pkg)
			}
		}
		return nil
	})
}

// aliases are the paths under which dpkg may know p: on a merged-/usr system
// /bin is a link to /usr/bin, and records name either.
func aliases(p string) []string {
	if rest, ok := strings.CutPrefix(p, "/usr/"); ok {
		return []string{p, "/" + rest}
	}
	return []string{p, "/usr" + p}
}

func md5Of(f io.ReaderAt) (string, error) {
	h := md5.New() //nolint:gosec // see import
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
