// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"staunch/api"
	"staunch/internal/server/auth"
)

// The entities of the Defender API that are served, for $metadata.
func entities() []entity {
	return []entity{
		{"MachineActions", "MachineAction", reflect.TypeFor[api.MachineAction]()},
		{"Machines", "Machine", reflect.TypeFor[api.Machine]()},
		{"Indicators", "Indicator", reflect.TypeFor[api.Indicator]()},
		{"Alerts", "Alert", reflect.TypeFor[api.Alert]()},
		{"Users", "User", reflect.TypeFor[api.LogonUser]()},
		{"Files", "File", reflect.TypeFor[api.File]()},
	}
}

type entity struct {
	set, name string
	shape     reflect.Type
}

const namespace = "microsoft.windowsDefenderATP.api"

func metadataRoutes() []route {
	anybody := holding(auth.Permissions(), auth.Permissions()).by(auth.ViewData)
	return []route{{
		method: "GET", path: "/api/$metadata", access: anybody, handle: (*Handler).metadata,
		summary: "The entities of this API as an OData CSDL document: XML, or JSON where that is asked for", client: "Metadata",
		status: 200, answers: "", query: []string{"$format"},
	}}
}

// metadata answers with the CSDL document, in XML unless JSON is asked for by
// $format or by an Accept header that does not take XML.
func (h *Handler) metadata(_ context.Context, q *request) (answer, error) {
	format, accept := strings.ToLower(q.URL.Query().Get("$format")), strings.ToLower(q.Header.Get("Accept"))
	asJSON := strings.Contains(format, "json") || format == "" && strings.Contains(accept, "json") && !strings.Contains(accept, "xml") && !strings.Contains(accept, "*/*")
	if asJSON {
		return answer{raw: mustJSON(csdlJSON()), kind: "application/json"}, nil
	}
	return answer{raw: []byte(csdlXML()), kind: "application/xml"}, nil
}

// csdlProperty is one property of an entity or a complex type.
type csdlProperty struct {
	name, kind string // kind: Edm.String, …, without Collection
	collection bool
	nullable   bool
}

// csdlTypes describes the entities and the complex types that they hold, each
// once, in the order in which they are met.
func csdlTypes() (names []string, types map[string][]csdlProperty) {
	types = map[string][]csdlProperty{}
	var add func(name string, t reflect.Type)
	add = func(name string, t reflect.Type) {
		if _, done := types[name]; done {
			return
		}
		types[name] = nil
		names = append(names, name)
		for f := range t.Fields() {
			prop := jsonName(f)
			if prop == "" || prop[0] == '@' {
				continue
			}
			p := csdlProperty{name: prop}
			ft := f.Type
			if ft.Kind() == reflect.Slice && ft != reflect.TypeFor[json.RawMessage]() {
				p.collection, ft = true, ft.Elem()
			}
			if ft.Kind() == reflect.Pointer {
				p.nullable, ft = true, ft.Elem()
			}
			if p.kind = edm(ft); p.kind == "" {
				p.kind = namespace + "." + ft.Name()
				add(ft.Name(), ft)
			}
			types[name] = append(types[name], p)
		}
	}
	for _, e := range entities() {
		add(e.name, e.shape)
	}
	return names, types
}

// edm is the primitive type of a Go type; "" for a struct of ours.
func edm(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[api.Time]():
		return "Edm.DateTimeOffset"
	case reflect.TypeFor[json.RawMessage]():
		return "Edm.Untyped"
	}
	switch t.Kind() {
	case reflect.String:
		return "Edm.String"
	case reflect.Bool:
		return "Edm.Boolean"
	case reflect.Int32:
		return "Edm.Int32"
	case reflect.Int64:
		return "Edm.Int64"
	case reflect.Struct:
		return ""
	}
	return "Edm.Untyped"
}

func isEntity(name string) bool {
	for _, e := range entities() {
		if e.name == name {
			return true
		}
	}
	return false
}

func csdlXML() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="utf-8"?><edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>`)
	fmt.Fprintf(&b, `<Schema Namespace="%s" xmlns="http://docs.oasis-open.org/odata/ns/edm">`, namespace)
	names, types := csdlTypes()
	for _, name := range names {
		kind := "ComplexType"
		if isEntity(name) {
			kind = "EntityType"
		}
		fmt.Fprintf(&b, `<%s Name="%s">`, kind, name)
		if kind == "EntityType" {
			fmt.Fprintf(&b, `<Key><PropertyRef Name="%s"/></Key>`, types[name][0].name)
		}
		for _, p := range types[name] {
			full := p.kind
			if p.collection {
				full = "Collection(" + full + ")"
			}
			nullable := ""
			if !p.nullable {
				nullable = ` Nullable="false"`
			}
			fmt.Fprintf(&b, `<Property Name="%s" Type="%s"%s/>`, p.name, full, nullable)
		}
		fmt.Fprintf(&b, `</%s>`, kind)
	}
	b.WriteString(`<EntityContainer Name="Container">`)
	for _, e := range entities() {
		fmt.Fprintf(&b, `<EntitySet Name="%s" EntityType="%s.%s"/>`, e.set, namespace, e.name)
	}
	b.WriteString(`</EntityContainer></Schema></edmx:DataServices></edmx:Edmx>`)
	return b.String()
}

// csdlJSON is the same as CSDL JSON 4.01.
func csdlJSON() object {
	names, types := csdlTypes()
	schema := object{}
	for _, name := range names {
		shape := object{{"$Kind", "ComplexType"}}
		if isEntity(name) {
			shape = object{{"$Kind", "EntityType"}, {"$Key", []any{types[name][0].name}}}
		}
		for _, p := range types[name] {
			about := object{}
			if p.kind != "Edm.String" { // which is the default
				about = append(about, member{"$Type", p.kind})
			}
			if p.collection {
				about = append(about, member{"$Collection", true})
			}
			if p.nullable {
				about = append(about, member{"$Nullable", true})
			}
			shape = append(shape, member{p.name, about})
		}
		schema = append(schema, member{name, shape})
	}
	container := object{{"$Kind", "EntityContainer"}}
	for _, e := range entities() {
		container = append(container, member{e.set, object{{"$Collection", true}, {"$Type", namespace + "." + e.name}}})
	}
	schema = append(schema, member{"Container", container})
	return object{{"$Version", "4.01"}, {"$EntityContainer", namespace + ".Container"}, {namespace, schema}}
}
