// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"staunch/api"
	"staunch/client"
	"staunch/internal/server/auth"
)

var update = flag.Bool("update", false, "write docs/openapi.yaml anew")

const docs = "../../../docs/"

// Every route has somebody who may call it, somebody who answers, a line in
// docs/api.md, and a method of the client.
func TestRoutesAreWhole(t *testing.T) {
	text, err := os.ReadFile(docs + "api.md")
	check(t, err)
	methods := reflect.TypeFor[*client.Client]()
	seen := map[string]bool{}
	for _, r := range routes() {
		name := r.method + " " + r.path
		if seen[strings.ToLower(name)] {
			t.Errorf("%s stands twice", name)
		}
		seen[strings.ToLower(name)] = true
		if r.access.kind == byToken && (len(r.access.app) == 0 || len(r.access.delegated) == 0) {
			t.Errorf("%s: nobody may call it", name)
		}
		if r.access.kind == byToken && len(r.access.rights) == 0 {
			t.Errorf("%s: any person may call it, whatever their role: say access.by(auth.ViewData) or the like", name)
		}
		for _, p := range slices.Concat(r.access.app, r.access.delegated) {
			if !slices.Contains(auth.Permissions(), p) {
				t.Errorf("%s: there is no permission %s", name, p)
			}
		}
		if (r.handle == nil) == (r.pass == nil) {
			t.Errorf("%s: wants one of handle and pass", name)
		}
		if (r.access.kind == byToken || r.access.kind == byAdmin) && r.rate != perCaller {
			t.Errorf("%s: callers are not counted", name)
		}
		if r.method != "GET" && r.access.kind != byKey && r.records == "" && r.client != "OtherAction" {
			t.Errorf("%s changes something, and no record says what", name)
		}
		if r.summary == "" || r.status == 0 {
			t.Errorf("%s: has no summary or status", name)
		}
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/api.md does not name `%s`", name)
		}
		if _, ok := methods.MethodByName(r.client); !ok && r.access.kind != byKey {
			t.Errorf("%s: the client has no method %q", name, r.client)
		}
	}
	// What the document names is there.
	for line := range strings.Lines(string(text)) {
		_, rest, ok := strings.Cut(line, "| `")
		name, _, _ := strings.Cut(rest, "`")
		if method, path, _ := strings.Cut(name, " "); ok && strings.HasPrefix(path, "/") && !seen[strings.ToLower(method+" "+path)] {
			t.Errorf("docs/api.md names %s, which there is not", name)
		}
	}
}

// docs/openapi.yaml is the document that the server makes of its routes.
func TestOpenAPIDocument(t *testing.T) {
	doc := openAPI(routes())
	var b strings.Builder
	b.WriteString("# Made from the route table: go test ./internal/server/httpapi -run OpenAPI -update\n")
	for _, m := range doc {
		b.WriteString(scalar(m.name) + ":")
		yaml(&b, "  ", m.value)
	}
	if *update {
		check(t, os.WriteFile(docs+"openapi.yaml", []byte(b.String()), 0o644))
	}
	kept, err := os.ReadFile(docs + "openapi.yaml")
	check(t, err)
	if string(kept) != b.String() {
		t.Error("docs/openapi.yaml is not what the routes say: look at the change with go test -run OpenAPI -update")
	}

	// Served, it is the same, and holds every route once, with its references resolved.
	k := newKit(t)
	raw, err := k.client(client.Config{}).OpenAPI(t.Context())
	check(t, err)
	if string(raw) != string(mustJSON(doc)) {
		t.Error("/v1/openapi.json is another document")
	}
	var parsed struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ OperationID string }
		Components struct{ Schemas map[string]any }
	}
	check(t, json.Unmarshal(raw, &parsed))
	ids := map[string]bool{}
	n := 0
	for _, r := range routes() {
		op, ok := parsed.Paths[r.path][strings.ToLower(r.method)]
		if !ok || op.OperationID == "" || ids[op.OperationID] {
			t.Errorf("%s %s: operation %+v", r.method, r.path, op)
		}
		ids[op.OperationID] = true
	}
	for _, p := range parsed.Paths {
		n += len(p)
	}
	if n != len(routes()) || parsed.OpenAPI != "3.1.0" {
		t.Errorf("%d operations of %d routes, version %s", n, len(routes()), parsed.OpenAPI)
	}
	for _, part := range strings.Split(string(raw), `"$ref":"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if parsed.Components.Schemas[name] == nil {
			t.Errorf("schema %s is named but not there", name)
		}
	}
}

// Every code of package api has a status; a new one cannot be forgotten.
func TestEveryCodeHasAStatus(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../../../api/error.go", nil, 0)
	check(t, err)
	n := 0
	ast.Inspect(file, func(node ast.Node) bool {
		spec, ok := node.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Code" {
			return true
		}
		lit, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			t.Errorf("%s is not a literal", spec.Names[0])
			return true
		}
		code, err := strconv.Unquote(lit.Value)
		check(t, err)
		n++
		if httpStatus(api.Code(code)) < 400 {
			t.Errorf("%s has no status", code)
		}
		return true
	})
	if n < 20 {
		t.Errorf("found only %d codes", n)
	}
	if httpStatus("Made up") != 0 {
		t.Error("a code that there is not has a status")
	}
}
