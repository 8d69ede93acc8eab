// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"staunch/api"
)

// encode writes compact JSON as the clients expect it: no blanks, and no
// escapes that only HTML needs.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// mustJSON encodes what always encodes.
func mustJSON(v any) []byte {
	b, err := encode(v)
	if err != nil {
		panic(err)
	}
	return b
}

// errorBody is the error envelope; of an OData error with the "details" that
// the Defender API sends along.
func errorBody(e *api.Error) any {
	if e.Code != api.ODataError {
		return api.ErrorBody{Error: e}
	}
	return object{{"error", object{{"code", e.Code}, {"message", e.Message}, {"target", e.Target}, {"details", []any{}}}}}
}

// object is a JSON object whose properties keep their order.
type object []member

type member struct {
	name  string
	value any
}

func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := encode(m.name)
		if err != nil {
			return nil, err
		}
		value, err := encode(m.value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, name...), ':'), value...)
	}
	return append(b, '}'), nil
}

// properties are the names of a struct's JSON properties, without annotations.
func properties(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if name := jsonName(f); name != "" && name[0] != '@' {
			names = append(names, name)
		}
	}
	return names
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}

// project keeps the named properties of a struct, in the struct's order.
func project(v any, names []string) object {
	rv := reflect.ValueOf(v)
	o := object{}
	for i := range rv.NumField() {
		if name := jsonName(rv.Type().Field(i)); slices.Contains(names, name) {
			o = append(o, member{name, rv.Field(i).Interface()})
		}
	}
	return o
}
