// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// apk reads Alpine's records (apk-v2(5)): lines "P:package", "F:folder",
// "R:file" and "Z:Q1" with the file's SHA-1 in base64.
func (g *Guard) apk(ctx context.Context, r scan) error {
	for _, db := range []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"} {
		var pkg, dir, name string
		r.note(g.path(db))
		err := scanLines(g.path(db), func(line string) error {
			key, value, _ := strings.Cut(line, ":")
			switch key {
			case "P":
				pkg = value
			case "F":
				dir = value
			case "R":
				name = value
			case "Z":
				sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(value, "Q1"))
				if err != nil || !strings.HasPrefix(value, "Q1") {
					return ctx.Err() // another digest than we know
				}
				return r.each(sha1Sum, hex.EncodeToString(sum), path.Join(dir, name), pkg)
			}
			return nil
		})
		if err != nil {
			return recordsError("apk", err)
		}
	}
	return nil
}

// pacman reads Arch's records (alpm-mtree(5)): one compressed list a package,
// lines "./path key=value…" with md5digest and, of late, sha256digest.
func (g *Guard) pacman(ctx context.Context, r scan) error {
	lists, err := r.glob(g.path("var/lib/pacman/local"), "*/mtree")
	if err != nil {
		return recordsError("pacman", err)
	}
	for _, list := range lists {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := mtree(list, r); err != nil {
			return recordsError("pacman", err)
		}
	}
	return nil
}

// maxMtree bounds what one package's list may unfold to.
const maxMtree = 256 << 20

func mtree(list string, r scan) error {
	r.note(list)
	f, err := os.Open(list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer f.Close() // read only
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	return readMtree(io.LimitReader(z, maxMtree), filepath.Base(filepath.Dir(list)), r)
}

func readMtree(from io.Reader, pkg string, r scan) error {
	s := bufio.NewScanner(from)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "./") {
			continue
		}
		name := unoctal(fields[0][1:])
		for _, kv := range fields[1:] {
			key, value, _ := strings.Cut(kv, "=")
			alg, ok := map[string]algorithm{"sha256digest": sha256Sum, "md5digest": md5Sum}[key]
			if !ok {
				continue
			}
			if err := r.each(alg, value, name, pkg); err != nil {
				return err
			}
		}
	}
	return s.Err()
}

// unoctal undoes the \040 of mtree(5).
func unoctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		var c byte
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := fmt.Sscanf(s[i+1:i+4], "%03o", &c); n == 1 && err == nil {
				b.WriteByte(c)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// recordsError says whose records could not be read; a refusal stays one.
func recordsError(manager string, err error) error {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return err
	}
	return fmt.Errorf("cannot read the package records of %s: %w", manager, err)
}
