// SPDX-License-Identifier: Apache-2.0

package persistence

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seeds adds every file of the corpus and counts them.
func seeds(f *testing.F) {
	f.Helper()
	n := 0
	err := filepath.WalkDir("testdata/root", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		f.Add(b)
		n++
		return err
	})
	if err != nil || n < 40 {
		f.Fatalf("%d seeds, %v", n, err)
	}
}

// FuzzParsers: every parser, on any bytes, gives lines that are in the file,
// and whatever is found in them can be planned against or is refused.
func FuzzParsers(f *testing.F) {
	seeds(f)
	root := f.TempDir()
	m := newMatcher(newTree(context.Background(), Config{Root: root}), Targets{Paths: []string{target}})
	fd := &finder{cfg: Config{Root: root}, m: m, tree: m.tree, seen: map[string]bool{}, guilty: map[string]bool{"upd.service": true}}
	sc := scope{home: "/root", dir: "/", path: systemPath}
	f.Fuzz(func(t *testing.T, data []byte) {
		last := bytes.Count(data, []byte("\n")) + 1
		for _, p := range append(append([]place{{Cron, "", crontab(false), Comment}}, systemPlaces...), homePlaces...) {
			for _, n := range fd.statements(p, textFile{where: "/f", real: "/f", base: "/", data: data}, sc) {
				if n.Line < 1 || n.Line > last {
					t.Fatalf("line %d of %d", n.Line, last)
				}
				if n.Edit == Null && whole(n, data) == nil && strings.Contains(commented(n), "\n") {
					t.Fatalf("a shell line of several lines: %q", commented(n))
				}
			}
		}
		man := &manager{f: fd, units: map[string]*loaded{}}
		for _, s := range settings(data, "#;") {
			if s.line < 1 || s.end > last || s.end < s.line {
				t.Fatalf("lines %d to %d of %d", s.line, s.end, last)
			}
			if s.key != "EnvironmentFile" {
				man.setting(s, scope{unit: true, home: "/h", dir: "/", path: systemPath})
			}
		}
	})
}

// FuzzWords: the words of any text are in it in their order of lines, and a
// path that stands alone is always seen.
func FuzzWords(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		line := 1
		for _, k := range tokens(string(data), 1) {
			if k.line < line {
				t.Fatalf("line %d after %d", k.line, line)
			}
			line = k.line
		}
		unitTokens(string(data), 1)
		openQuote(string(data), 0)
		_, _ = withoutWord(string(data), "/x")
		GroupOf(string(data))
	})
}

// FuzzLines: changing lines and back gives the same bytes, whatever the file.
func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb\nc"), 2, "#b")
	f.Add([]byte(""), 1, "")
	f.Fuzz(func(t *testing.T, data []byte, line int, to string) {
		last := bytes.Count(data, []byte("\n")) + 1
		line = (line%last+last)%last + 1
		root := t.TempDir()
		if err := os.WriteFile(filepath.Join(root, "f"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		u := Undo{File: "/f", Base: "/", Line: line, Before: []byte(textOf(data, line, line)), After: []byte("# " + to)}
		cfg := Config{Root: root}
		if err := Apply(t.Context(), cfg, u); err != nil {
			t.Fatal(err)
		}
		if err := Enable(t.Context(), cfg, u); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(root, "f"))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %q, %v, want %q", got, err, data)
		}
	})
}
