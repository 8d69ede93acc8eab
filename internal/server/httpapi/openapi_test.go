// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"staunch/api"
)

// spec is the served document as the tests read it.
type spec struct {
	Paths map[string]map[string]struct {
		RequestBody struct {
			Required bool
			Content  map[string]struct {
				Schema  map[string]any
				Example json.RawMessage
			}
		}
		Responses map[string]struct {
			Content map[string]struct{ Schema map[string]any }
		}
	}
	Components struct{ Schemas map[string]map[string]any }
}

func servedSpec(t *testing.T) spec {
	t.Helper()
	var s spec
	check(t, json.Unmarshal(mustJSON(openAPI(routes())), &s))
	return s
}

// faults says what of a value is not as the schema has it. A property that no
// schema names is a fault too.
func (s spec) faults(schema map[string]any, v any, at string) []string {
	if ref, ok := schema["$ref"].(string); ok {
		named, ok := s.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")]
		if !ok {
			return []string{at + ": no schema " + ref}
		}
		return s.faults(named, v, at)
	}
	if choices, ok := schema["oneOf"].([]any); ok {
		for _, one := range choices {
			if len(s.faults(one.(map[string]any), v, at)) == 0 {
				return nil
			}
		}
		return []string{fmt.Sprintf("%s: %v is none of %v", at, v, choices)}
	}
	kinds := map[string]func() bool{
		"object": func() bool { _, ok := v.(map[string]any); return ok }, "array": func() bool { _, ok := v.([]any); return ok }, "string": func() bool { _, ok := v.(string); return ok },
		"boolean": func() bool { _, ok := v.(bool); return ok }, "integer": func() bool { f, ok := v.(float64); return ok && f == float64(int64(f)) }, "null": func() bool { return v == nil },
	}
	if kind, ok := schema["type"].(string); ok && !kinds[kind]() {
		return []string{fmt.Sprintf("%s: %v is no %s", at, v, kind)}
	}
	var faults []string
	switch v := v.(type) {
	case []any:
		for i, item := range v {
			if items, ok := schema["items"].(map[string]any); ok {
				faults = append(faults, s.faults(items, item, at+"."+strconv.Itoa(i))...)
			}
		}
	case map[string]any:
		properties, typed := schema["properties"].(map[string]any)
		if !typed {
			break
		}
		required, _ := schema["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				faults = append(faults, fmt.Sprintf("%s: %s is missing", at, name))
			}
		}
		for name, value := range v {
			p, ok := properties[name].(map[string]any)
			if !ok {
				faults = append(faults, fmt.Sprintf("%s: %s is not in the schema", at, name))
				continue
			}
			faults = append(faults, s.faults(p, value, at+"."+name)...)
		}
	}
	return faults
}

// Every call is made with its example; what comes back, a success or a refusal,
// is what the document says, with no property too many or too few.
func TestAnswersAreAsDocumented(t *testing.T) {
	s := servedSpec(t)
	w := newWorld(t)
	sha1, alert := w.alerted(t)
	a := w.order(t)
	w.finish(a.ID, nil)
	id := w.indicator(t, map[string]any{})
	_, root := w.root()
	outside := w.url
	said := 0
	for _, r := range routes() {
		if r.pass != nil || r.path == "/v1/backup" || r.path == "/v1/keys/rotate" {
			continue
		}
		t.Run(r.method+" "+r.path, func(t *testing.T) {
			w.kit.t = t
			of := map[string]string{"/api/machines": w.fin, "/api/machineactions": a.ID, "/v1/machineactions": a.ID, "/api/files": sha1, "/api/alerts": alert.ID, "/api/indicators": id, "/v1/settings": "actions.expiry"}
			path := r.path
			for prefix, name := range of {
				if strings.HasPrefix(path, prefix+"/{") {
					path = regexp.MustCompile(`\{(id|key)\}`).ReplaceAllString(path, name)
				}
			}
			path = strings.Replace(strings.Replace(path, "findbyip({args})", "findbyip(ip='10.20.30.14',timestamp=2026-11-24T00:00:00Z)", 1), "findbytag({args})", "findbytag(tag='finance')", 1)
			path = fill(strings.Replace(path, "({args})", "(index=0)", 1), "nothing-of-that-name")
			body := ""
			if r.body != nil {
				body = string(mustJSON(r.body))
			}
			token := w.token
			if r.access.kind == byAdmin {
				w.url, token = root, ""
				defer func() { w.url = outside }()
			}
			resp, got := w.raw(r.method, path, token, body)
			responses := s.Paths[r.path][strings.ToLower(r.method)].Responses
			documented, ok := responses[strconv.Itoa(resp.StatusCode)]
			if !ok {
				if resp.StatusCode < 400 {
					t.Fatalf("status %d is not in the document", resp.StatusCode)
				}
				documented = responses["default"]
			} else {
				said++
			}
			kind := resp.Header.Get("Content-Type")
			content, ok := documented.Content["application/json"]
			if !ok || !strings.HasPrefix(kind, "application/json") {
				return // no body, or text
			}
			var v any
			check(t, json.Unmarshal([]byte(got), &v))
			if o, ok := v.(map[string]any); ok {
				if e, ok := o["error"].(map[string]any); ok {
					delete(e, "details") // of an ODataError alone
				}
			}
			if faults := s.faults(content.Schema, v, "$"); len(faults) > 0 {
				slices.Sort(faults)
				t.Errorf("%d:\n%s\n%.600s", resp.StatusCode, strings.Join(faults, "\n"), got)
			}
		})
	}
	w.kit.t = t
	if said < 40 {
		t.Errorf("only %d calls had the answer of a success", said)
	}
}

// The examples in the document and in docs/api.md are what their schemas say.
func TestExamples(t *testing.T) {
	s := servedSpec(t)
	n := 0
	for path, methods := range s.Paths {
		for method, op := range methods {
			content, ok := op.RequestBody.Content["application/json"]
			if !ok || content.Example == nil {
				continue
			}
			n++
			var v any
			check(t, json.Unmarshal(content.Example, &v))
			if faults := s.faults(content.Schema, v, "$"); len(faults) > 0 {
				t.Errorf("%s %s: %v", method, path, faults)
			}
		}
	}
	if n < 15 {
		t.Errorf("only %d calls have an example", n)
	}
	text, err := os.ReadFile(docs + "api.md")
	check(t, err)
	found := regexp.MustCompile("(?s)```(http|json)\n(?:(\\w+) (/\\S+)\n)?(\\{.*?\\})\n```").FindAllStringSubmatch(string(text), -1)
	if len(found) < 3 {
		t.Errorf("docs/api.md has %d examples", len(found))
	}
	for _, m := range found {
		schema := map[string]any{"$ref": "#/components/schemas/ErrorBody"}
		if m[1] == "http" {
			parts, _ := segments(m[3])
			r, _, _ := find(routes(), m[2], parts)
			if r == nil {
				t.Fatalf("docs/api.md has an example of %s %s, which there is not", m[2], m[3])
			}
			schema = s.Paths[r.path][strings.ToLower(r.method)].RequestBody.Content["application/json"].Schema
		}
		var v any
		check(t, json.Unmarshal([]byte(m[4]), &v))
		if faults := s.faults(schema, v, "$"); len(faults) > 0 {
			t.Errorf("%s: %v", m[4], faults)
		}
	}
}

// The document's schemas and the types of package api name the same properties.
func TestSchemasAreTheTypes(t *testing.T) {
	s := servedSpec(t)
	for name, v := range map[string]any{
		"MachineAction": api.MachineAction{Commands: []any{}}, "Machine": api.Machine{MachineTags: []string{}, IPAddresses: []api.IPAddress{}}, "Indicator": api.Indicator{RbacGroupNames: []string{}, RbacGroupIDs: []string{}, MitreTechniques: []string{}},
		"Alert": api.Alert{MitreTechniques: []string{}, Comments: []api.AlertComment{}, Evidence: []api.AlertFileEntity{}}, "File": api.File{}, "FileStats": api.FileStats{TopFileNames: []string{}},
	} {
		var o any
		check(t, json.Unmarshal(mustJSON(v), &o))
		if faults := s.faults(map[string]any{"$ref": "#/components/schemas/" + name}, o, name); len(faults) > 0 {
			t.Errorf("%v", faults)
		}
	}
}
