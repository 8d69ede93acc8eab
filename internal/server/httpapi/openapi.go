// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/server/auth"
)

// What the examples name.
const (
	exampleMachine = "c3f1d0a98b7e6f5d4c3b2a190817263544536271"
	exampleSHA1    = "5d41aa90c6f27be813d0f4ce77a1b2389e06fd4b"
)

// openAPI describes the routes as an OpenAPI 3.1 document. docs/openapi.yaml is
// the same document, kept so that a change of the API shows in a review.
func openAPI(routes []route) object {
	s := &schemas{}
	paths := object{}
	for _, r := range routes {
		at := -1
		for i, p := range paths {
			if p.name == r.path {
				at = i
			}
		}
		if at < 0 {
			at = len(paths)
			paths = append(paths, member{r.path, object{}})
		}
		methods, _ := paths[at].value.(object) // made an object above
		paths[at].value = append(methods, member{strings.ToLower(r.method), operation(r, s)})
	}
	s.add(reflect.TypeFor[api.ErrorBody](), nil)
	return object{
		{"openapi", "3.1.0"},
		{"info", object{
			{"title", "Staunch"},
			{"version", "1.0"},
			{"description", "Everything under /api is also there under /api/v1.0. Words of a path match in any case."},
		}},
		{"paths", paths},
		{"components", object{
			{"securitySchemes", object{{"bearer", object{{"type", "http"}, {"scheme", "bearer"}, {"bearerFormat", "JWT"}}}}},
			{"schemas", s.named},
		}},
	}
}

func operation(r route, s *schemas) object {
	op := object{{"summary", r.summary}, {"operationId", operationID(r)}}
	switch r.access.kind {
	case byAdmin:
		op = append(op, member{"description", "For the administrator, on the server's admin socket."}, member{"security", []any{}})
	case byToken:
		op = append(op,
			member{"description", fmt.Sprintf("Needs one of: %s (application); %s (delegated).", permissionNames(r.access.app), permissionNames(r.access.delegated))},
			member{"security", []any{object{{"bearer", []any{}}}}})
	default:
		op = append(op, member{"security", []any{}})
	}
	if params := parameters(r); len(params) > 0 {
		op = append(op, member{"parameters", params})
	}
	if r.body != nil {
		ref := object{{"$ref", "#/components/schemas/" + s.add(reflect.TypeOf(r.body), append([]string{""}, r.needs...))}}
		content := object{{"schema", ref}}
		if !reflect.ValueOf(r.body).IsZero() {
			content = append(content, member{"example", json.RawMessage(mustJSON(r.body))})
		}
		op = append(op, member{"requestBody", object{{"required", r.needs != nil}, {"content", object{{"application/json", content}}}}})
	}
	return append(op, member{"responses", responses(r, s)})
}

func responses(r route, s *schemas) object {
	ok := object{{"description", "Done"}}
	switch r.answers.(type) {
	case nil:
	case string:
		ok = append(ok, member{"content", object{{"text/plain", object{{"schema", object{{"type", "string"}}}}}}})
	default:
		ok = append(ok, member{"content", jsonOf(s.of(reflect.TypeOf(r.answers)))})
	}
	refusal := object{{"$ref", "#/components/schemas/ErrorBody"}}
	return object{
		{strconv.Itoa(r.status), ok},
		{"default", object{{"description", "Refused"}, {"content", jsonOf(refusal)}}},
	}
}

func jsonOf(schema object) object {
	return object{{"application/json", object{{"schema", schema}}}}
}

func parameters(r route) []any {
	var params []any
	for part := range strings.SplitSeq(r.path, "/") {
		if strings.HasPrefix(part, "{") {
			params = append(params, object{{"name", strings.Trim(part, "{}")}, {"in", "path"}, {"required", true}, {"schema", object{{"type", "string"}}}})
		}
	}
	for _, name := range r.query {
		params = append(params, object{{"name", name}, {"in", "query"}, {"schema", object{{"type", "string"}}}})
	}
	return params
}

// operationID is the client's method, made unique by the last word of the path
// where one method serves several routes.
func operationID(r route) string {
	last := r.path[strings.LastIndexByte(r.path, '/')+1:]
	switch r.client {
	case "":
		return last
	case "OtherAction":
		return last
	}
	if r.counts {
		return "count" + strings.ToUpper(words(r.path)[:1]) + words(r.path)[1:]
	}
	if strings.HasSuffix(r.path, "({args})") {
		return words(r.path)
	}
	return strings.ToLower(r.client[:1]) + r.client[1:]
}

// words are the fixed words of a path, joined: machinesFindbytag.
func words(path string) string {
	name := ""
	for part := range strings.SplitSeq(strings.TrimPrefix(path, "/api"), "/") {
		part = strings.TrimSuffix(part, "({args})")
		switch {
		case part == "" || part[0] == '{' || part[0] == '$':
		case name == "":
			name = part
		default:
			name += strings.ToUpper(part[:1]) + part[1:]
		}
	}
	return name
}

func permissionNames(ps []auth.Permission) string {
	names := make([]string, len(ps))
	for i, p := range ps {
		names[i] = string(p)
	}
	return strings.Join(names, ", ")
}
