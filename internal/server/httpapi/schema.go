// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"staunch/api"
)

// schemas collects the JSON Schemas of the types that the routes name.
type schemas struct {
	named object
}

// of is the schema of a type; of a struct, a reference to one.
func (s *schemas) of(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[api.Time]():
		return object{{"type", "string"}, {"format", "date-time"}}
	case reflect.TypeFor[json.RawMessage]():
		return object{}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return object{{"oneOf", []any{s.of(t.Elem()), object{{"type", "null"}}}}}
	case reflect.Slice:
		return object{{"type", "array"}, {"items", s.of(t.Elem())}}
	case reflect.Map:
		return object{{"type", "object"}}
	case reflect.String:
		return object{{"type", "string"}}
	case reflect.Bool:
		return object{{"type", "boolean"}}
	case reflect.Int32, reflect.Uint32, reflect.Int64, reflect.Int:
		return object{{"type", "integer"}}
	case reflect.Struct:
		return object{{"$ref", "#/components/schemas/" + s.add(t, nil)}}
	}
	return object{} // an interface: anything
}

// add describes a struct once and returns its name. Of an answer every property
// that is not left out when empty is there; of a request those in needs.
func (s *schemas) add(t reflect.Type, needs []string) string {
	name := schemaName(t)
	if slices.ContainsFunc(s.named, func(m member) bool { return m.name == name }) {
		return name
	}
	at := len(s.named)
	s.named = append(s.named, member{name: name}) // so that a type may hold itself
	shape := object{{"type", "object"}}
	props := object{}
	var required []any
	for f := range t.Fields() {
		prop := jsonName(f)
		if prop == "" {
			continue
		}
		props = append(props, member{prop, s.of(f.Type)})
		always := needs == nil && !strings.Contains(f.Tag.Get("json"), ",omit")
		if always || slices.Contains(needs, prop) {
			required = append(required, prop)
		}
	}
	shape = append(shape, member{"properties", props})
	if required != nil {
		shape = append(shape, member{"required", required})
	}
	s.named[at].value = shape
	return name
}

// schemaName makes "MachineActionList" of List[staunch/api.MachineAction].
func schemaName(t reflect.Type) string {
	name, of, generic := strings.Cut(t.Name(), "[")
	if !generic {
		return strings.ToUpper(name[:1]) + name[1:]
	}
	of = strings.TrimSuffix(of, "]")
	return of[strings.LastIndexByte(of, '.')+1:] + name
}
