// SPDX-License-Identifier: Apache-2.0

package guard

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// A scan goes through the package records, whoever keeps them.
type scan struct {
	note     func(path string)                                // of each file and folder, before it is read
	mentions func(part []byte) (bool, error)                  // spares the work on parts of the records that do not matter
	each     func(alg algorithm, sum, path, pkg string) error // of each file that a package ships; sum in hex
}

// glob lists what matches below a folder, which need not exist but must be readable.
func (r scan) glob(dir, pattern string) ([]string, error) {
	if _, err := os.ReadDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read the package records: %w", err)
	}
	l := lister{note: r.note, names: map[string][]string{}}
	return l.glob(dir, pattern), nil
}

func (g *Guard) scan(ctx context.Context, r scan) error {
	for _, of := range []func(context.Context, scan) error{g.dpkg, g.rpm, g.apk, g.pacman} {
		if err := of(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// records say which content no package ships: all but what shares the first 8
// bytes of its digest with a file of a package. About the others the records
// themselves are read, which name the package. It takes 8 bytes a packaged file.
type records struct {
	algorithms []algorithm // that the records use
	prefixes   []uint64    // sorted
}

// readRecords returns what the package records say now. They are read again
// only when one of their files or folders has changed.
func (g *Guard) readRecords(ctx context.Context) (records, error) {
	return g.records.get(func(note func(string)) (r records, err error) {
		used := map[algorithm]bool{}
		err = g.scan(ctx, scan{
			note:     note,
			mentions: func([]byte) (bool, error) { return true, nil },
			each: func(alg algorithm, sum, _, _ string) error {
				if p, ok := prefix(sum); ok { // else no digest is like it
					used[alg] = true
					r.prefixes = append(r.prefixes, p)
				}
				return nil
			},
		})
		for _, alg := range algorithms {
			if used[alg] {
				r.algorithms = append(r.algorithms, alg)
			}
		}
		slices.Sort(r.prefixes)
		r.prefixes = slices.Clip(slices.Compact(r.prefixes))
		return r, err
	})
}

// mayHave reports whether a package may ship the content.
func (r records) mayHave(p *packaged) (bool, error) {
	for _, alg := range r.algorithms {
		sum, err := p.digest(alg)
		if err != nil {
			return false, compareError(p, err)
		}
		at, ok := prefix(sum)
		if _, found := slices.BinarySearch(r.prefixes, at); ok && found {
			return true, nil
		}
	}
	return false, nil
}

func prefix(sum string) (uint64, bool) {
	const digits = 16
	if len(sum) < digits {
		return 0, false
	}
	var b [digits / 2]byte
	_, err := hex.Decode(b[:], []byte(sum[:digits]))
	return binary.BigEndian.Uint64(b[:]), err == nil
}
