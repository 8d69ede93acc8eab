// SPDX-License-Identifier: Apache-2.0

package staunch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// goFiles parses every Go file of the module. It reads the files itself: a
// test that asks the go command is cached and misses what has changed since.
func goFiles(t *testing.T, mode parser.Mode) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && p != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, mode)
		if err != nil {
			return err
		}
		files[filepath.ToSlash(p)] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found %d Go files; the test looks in the wrong place", len(files))
	}
	return files
}

// TestPackageDocs: every package says what it is for, above its clause, and a
// licence line is not it.
func TestPackageDocs(t *testing.T) {
	documented := map[string]bool{}
	for p, f := range goFiles(t, parser.ParseComments|parser.PackageClauseOnly) {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		dir := path.Dir(p)
		documented[dir] = documented[dir] || f.Doc != nil && !strings.Contains(f.Doc.Text(), "SPDX")
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file has a package comment", dir)
		}
	}
}

// TestLicence: every Go file begins with its licence.
func TestLicence(t *testing.T) {
	for p := range goFiles(t, parser.PackageClauseOnly) {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(b), "\npackage ")
		if !strings.Contains(head, "SPDX-License-Identifier: Apache-2.0") && !strings.Contains(head, "Code generated") {
			t.Errorf("%s: no SPDX line", p)
		}
	}
}

// A wall says which packages of the module may not import what, and why.
type wall struct {
	from   string   // a package or, with "/...", all below it
	except []string // of those
	never  string   // an import path or, with "/...", all below it
	why    string
}

var walls = []wall{
	{"internal/server/...", nil, "staunch/internal/agent/...", "the server must not learn how a device works"},
	{"internal/agent/...", nil, "staunch/internal/server/...", "the agent must not trust the server's code"},
	{"internal/...", nil, "staunch/client", "the client is for those outside"},
	{"client", nil, "staunch/internal/server/...", "the client sees what every client sees"},
	{"client", nil, "staunch/internal/agent/...", "the client sees what every client sees"},
	{"api", nil, "staunch/internal/...", "the contract depends on nobody"},
	{"internal/filehash", nil, "staunch/...", "the shared words depend on nobody"},
	{"internal/durable", nil, "staunch/...", "the shared words depend on nobody"},
	{"internal/runnable", nil, "staunch/...", "the shared words depend on nobody"},
	{"internal/order", nil, "staunch/internal/server/...", "the shared words belong to both sides"},
	{"internal/order", nil, "staunch/internal/agent/...", "the shared words belong to both sides"},
	{"internal/server/action", nil, "net/http", "the domain knows no HTTP"},
	{"internal/server/device", nil, "net/http", "the domain knows no HTTP"},
	{"internal/server/people", nil, "net/http", "the domain knows no HTTP"},
	{"internal/server/indicator", nil, "net/http", "the domain knows no HTTP"},
	{"internal/server/file", nil, "net/http", "the domain knows no HTTP"},
	{"internal/server/alert", nil, "net/http", "the domain knows no HTTP"},
	{"internal/server/people", nil, "database/sql", "the domain knows no SQL"},
	{"internal/server/action", nil, "database/sql", "the domain knows no SQL"},
	{"internal/server/device", nil, "database/sql", "the domain knows no SQL"},
	{"...", []string{"internal/server/store", "internal/agent/index"}, "modernc.org/sqlite", "SQL lives in the stores"},
	{"...", []string{"internal/server/store", "internal/server/storetest"}, "github.com/jackc/pgx/v5/...", "SQL lives in the stores"},
	{"...", []string{"internal/server/store", "internal/server/storetest", "internal/agent/index"}, "database/sql", "SQL lives in the stores"},
	{"...", []string{"internal/server/bus"}, "github.com/nats-io/...", "only the bus knows what it rides on"},
	{"...", []string{"internal/server/gateway"}, "github.com/gobwas/...", "only the gateway speaks WebSocket to devices"},
	{"...", []string{"internal/agent/link"}, "github.com/coder/websocket", "only the link speaks WebSocket to the server"},
	{"internal/server/...", nil, "golang.org/x/sys/...", "raw system calls live in the agent's rooms and in durable"},
}

func under(pattern, pkg string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "..."); ok {
		return strings.HasPrefix(pkg+"/", prefix) || prefix == ""
	}
	return pattern == pkg
}

// TestWalls: imports stay within the rooms of ARCHITECTURE.md. Tests may cross.
func TestWalls(t *testing.T) {
	imports := map[string][]string{} // package → imports
	for p, f := range goFiles(t, parser.ImportsOnly) {
		if strings.HasSuffix(p, "_test.go") {
			continue
		}
		dir := path.Dir(p)
		for _, i := range f.Imports {
			name, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			imports[dir] = append(imports[dir], name)
		}
	}
	for _, w := range walls {
		seen := false
		for pkg, names := range imports {
			if !under(w.from, pkg) {
				continue
			}
			seen = true
			if slices.ContainsFunc(w.except, func(e string) bool { return under(e, pkg) }) {
				continue
			}
			for _, name := range names {
				if under(w.never, name) {
					t.Errorf("%s imports %s: %s", pkg, name, w.why)
				}
			}
		}
		if !seen {
			t.Errorf("the wall around %s guards nothing: no such package", w.from)
		}
		for _, e := range w.except {
			if _, err := os.Stat(e); err != nil {
				t.Errorf("the wall against %s excepts %s, which is not there", w.never, e)
			}
		}
	}
}

// TestArchitectureNames: each file and Go name that ARCHITECTURE.md mentions in
// backquotes exists.
func TestArchitectureNames(t *testing.T) {
	doc, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	for p, f := range goFiles(t, parser.SkipObjectResolution) {
		pkg := path.Base(path.Dir(p))
		for _, d := range f.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				declared[pkg+"."+d.Name.Name] = true
			case *ast.GenDecl:
				for _, s := range d.Specs {
					switch s := s.(type) {
					case *ast.TypeSpec:
						declared[pkg+"."+s.Name.Name] = true
					case *ast.ValueSpec:
						for _, n := range s.Names {
							declared[pkg+"."+n.Name] = true
						}
					}
				}
			}
		}
	}
	goName := regexp.MustCompile(`^[a-z]+\.[A-Z]\w*$`)
	checked := 0
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(string(doc), -1) {
		name := m[1]
		switch {
		case goName.MatchString(name):
			checked++
			if !declared[name] {
				t.Errorf("ARCHITECTURE.md names %s, which is not declared", name)
			}
		case strings.Contains(name, "/") && !strings.ContainsAny(name, " :{<$*…") && !strings.HasPrefix(name, "/"):
			checked++
			if _, err := os.Stat(name); err != nil {
				t.Errorf("ARCHITECTURE.md names %s, which is not there", name)
			}
		}
	}
	if checked < 10 {
		t.Errorf("ARCHITECTURE.md names only %d things that can be checked", checked)
	}
}

// TestCorpora: folders of scripts, vectors and samples are not empty.
func TestCorpora(t *testing.T) {
	for _, pattern := range []string{
		"test/testdata/script/*.txtar",
		"internal/agent/vault/testdata/*",
		"changelog/*.md",
		"docs/decisions/*.md",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if len(found) == 0 {
			t.Errorf("%s: nothing there; a test that reads it passes on nothing", pattern)
		}
	}
}

// TestModule: go.mod replaces nothing, and libc is the version that the SQLite
// driver was generated against.
func TestModule(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^replace\b`).Match(mod) {
		t.Error("go.mod has a replace directive; a fresh clone must build what is published")
	}
	if s := string(mod); strings.Contains(s, "modernc.org/sqlite v1.61.1") && !strings.Contains(s, "modernc.org/libc v1.79.0") {
		t.Error("modernc.org/libc must be v1.79.0 beside modernc.org/sqlite v1.61.1: another version breaks it at run time")
	}
}
