// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"crypto/md5" //nolint:gosec // the digest in the records of dpkg and old rpm; it decides what is spared, never what is taken
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
)

// An algorithm is a digest that package records use, named as they name it.
type algorithm string

const (
	md5Sum    algorithm = "md5"
	sha1Sum   algorithm = "sha1"
	sha256Sum algorithm = "sha256"
	sha384Sum algorithm = "sha384"
	sha512Sum algorithm = "sha512"
)

// local are folders in which no package may put a file (Filesystem Hierarchy
// Standard 3.0; Debian Policy 9.1): reading all the records, some 10 MB, is
// spared for what lies there.
var local = []string{"/dev", "/home", "/media", "/mnt", "/proc", "/root", "/run", "/tmp", "/usr/local", "/var/tmp"}

// packaged is what the package records are asked about: is a file the
// package's, unmodified? Paths bring candidates together, digests decide.
type packaged struct {
	files   []File
	want    map[string][]int // path as a record may write it → indexes into files
	digests map[string]string
}

func (g *Guard) packaged(files []File) *packaged {
	p := &packaged{files: files, want: map[string][]int{}, digests: map[string]string{}}
	for i, f := range files {
		for _, name := range f.Paths {
			name = strings.TrimPrefix(name, strings.TrimSuffix(g.cfg.Root, "/"))
			if slices.ContainsFunc(local, func(dir string) bool { return below(dir, name) }) {
				continue
			}
			for _, alias := range aliases(name) {
				p.want[alias] = append(p.want[alias], i)
			}
		}
	}
	return p
}

// packages returns a *Refusal if a distribution's package put one of the files
// there and it is unmodified. It reads the records of dpkg, rpm, apk and
// pacman themselves and asks no tool: any that is there counts.
func (g *Guard) packages(ctx context.Context, files []File) error {
	p := g.packaged(files)
	if len(p.want) == 0 {
		return nil
	}
	for _, records := range []func(context.Context, *packaged) error{g.dpkg, g.rpm, g.apk, g.pacman} {
		err := records(ctx, p)
		var refusal *Refusal
		if err != nil && !errors.As(err, &refusal) && ctx.Err() == nil {
			return fmt.Errorf("%w; mend them, or give the order again with force", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check returns a *Refusal if the record of a file fits one that is asked about.
func (p *packaged) check(alg algorithm, sum, path, pkg string) error {
	for _, i := range p.want["/"+strings.TrimPrefix(path, "/")] {
		got, err := p.digest(i, alg)
		if err != nil {
			return fmt.Errorf("cannot compare %q with its package: %w", path, err)
		}
		if got != "" && strings.EqualFold(got, sum) {
			return &Refusal{Package, first(p.files[i].Paths), fmt.Sprintf(
				"package %s put it there and it is unmodified; remove the package, or give the order again with force", pkg)}
		}
	}
	return nil
}

// digest is the hex digest of a file, made once; "" for an unknown algorithm.
func (p *packaged) digest(i int, alg algorithm) (string, error) {
	var h hash.Hash
	switch alg {
	case sha1Sum:
		return p.files[i].Sum.SHA1.String(), nil
	case sha256Sum:
		return p.files[i].Sum.SHA256.String(), nil
	case md5Sum:
		h = md5.New() //nolint:gosec // see import
	case sha384Sum:
		h = sha512.New384()
	case sha512Sum:
		h = sha512.New()
	default:
		return "", nil
	}
	key := fmt.Sprintf("%d %s", i, alg)
	if d := p.digests[key]; d != "" {
		return d, nil
	}
	if _, err := io.Copy(h, io.NewSectionReader(p.files[i].File, 0, 1<<62)); err != nil {
		return "", err
	}
	p.digests[key] = hex.EncodeToString(h.Sum(nil))
	return p.digests[key], nil
}

// aliases are the paths under which records may know p: on a merged-/usr
// system /bin is a link to /usr/bin, and records name either.
func aliases(p string) []string {
	if rest, ok := strings.CutPrefix(p, "/usr/"); ok {
		return []string{p, "/" + rest}
	}
	return []string{p, "/usr" + p}
}
