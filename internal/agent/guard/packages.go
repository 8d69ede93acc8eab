// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bytes"
	"context"
	"crypto/md5" //nolint:gosec // the digest in the records of dpkg and old rpm; it decides what is spared, never what is taken
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
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

var algorithms = []algorithm{md5Sum, sha1Sum, sha256Sum, sha384Sum, sha512Sum}

// packaged is the content that the package records are asked about: does a
// package ship it? Where a copy of it lies does not matter: what is refused to
// start is the content, and with it the package's own file.
type packaged struct {
	file    File // one of the copies
	digests map[algorithm]string
}

// packages returns a *Refusal if a package of the distribution ships the
// content. It reads the records of dpkg, rpm, apk and
// pacman themselves and asks no tool: any that is there counts.
func (g *Guard) packages(ctx context.Context, files []File) error {
	p := &packaged{file: files[0], digests: map[algorithm]string{}}
	known, err := g.readRecords(ctx)
	if err != nil {
		return unreadable(ctx, err)
	}
	if may, err := known.mayHave(p); err != nil || !may {
		return err
	}
	return unreadable(ctx, g.scan(ctx, scan{note: func(string) {}, mentions: p.mentioned, each: p.check}))
}

// unreadable says what to do about records that cannot be read.
func unreadable(ctx context.Context, err error) error {
	var refusal *Refusal
	if err != nil && !errors.As(err, &refusal) && ctx.Err() == nil {
		return fmt.Errorf("%w; mend them, or give the order again with force", err)
	}
	return err
}

// mentioned reports whether a part of the records may name the content.
func (p *packaged) mentioned(part []byte) (bool, error) {
	for _, alg := range algorithms {
		sum, err := p.digest(alg)
		if err != nil {
			return false, compareError(p, err)
		}
		if bytes.Contains(part, []byte(sum)) {
			return true, nil
		}
	}
	return false, nil
}

func compareError(p *packaged, err error) error {
	return fmt.Errorf("cannot compare %q with the package records: %w", first(p.file.Paths), err)
}

// check returns a *Refusal if the record of a packaged file has the content.
func (p *packaged) check(alg algorithm, sum, path, pkg string) error {
	got, err := p.digest(alg)
	if err != nil {
		return compareError(p, err)
	}
	if got != "" && strings.EqualFold(got, sum) {
		return &Refusal{Package, first(p.file.Paths), fmt.Sprintf(
			"package %s ships this content as /%s; remove the package, or give the order again with force", pkg, strings.TrimLeft(path, "/."))}
	}
	return nil
}

// digest is the hex digest of the content, made once; "" for an unknown algorithm.
func (p *packaged) digest(alg algorithm) (string, error) {
	var h hash.Hash
	switch alg {
	case sha1Sum:
		return p.file.Sum.SHA1.String(), nil
	case sha256Sum:
		return p.file.Sum.SHA256.String(), nil
	case md5Sum:
		h = md5.New() //nolint:gosec // see import
	case sha384Sum:
		h = sha512.New384()
	case sha512Sum:
		h = sha512.New()
	default:
		return "", nil
	}
	if d := p.digests[alg]; d != "" {
		return d, nil
	}
	if _, err := io.Copy(h, io.NewSectionReader(p.file.File, 0, 1<<62)); err != nil {
		return "", err
	}
	p.digests[alg] = hex.EncodeToString(h.Sum(nil))
	return p.digests[alg], nil
}
