// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"regexp"
	"slices"
	"strconv"
)

var parameter = regexp.MustCompile(`\$(\d+)`)

// And narrows q to what also fulfils the condition of o. Order, paging and
// selection stay those of q.
func (q Query) And(o Query) Query {
	switch {
	case o.Where == "":
		return q
	case q.Where == "":
		q.Where, q.Args = o.Where, o.Args
		return q
	}
	// Values are never in the text, so every "$" begins a parameter.
	shifted := parameter.ReplaceAllStringFunc(o.Where, func(p string) string {
		n, err := strconv.Atoi(p[1:])
		if err != nil { // the expression lets digits through only
			return p
		}
		return "$" + strconv.Itoa(n+len(q.Args))
	})
	q.Where = "(" + q.Where + ") AND (" + shifted + ")"
	q.Args = slices.Concat(q.Args, o.Args)
	return q
}

// Only is the condition that the property has exactly this value, one of a list
// of fields. It panics on a field that there is not: that is a mistake in the program.
func Only(fields []Field, property, value string) Query {
	at := slices.IndexFunc(fields, func(f Field) bool { return f.Name == property })
	if at < 0 {
		panic("odata: no field " + property)
	}
	p := parser{fields: fields}
	sql := fields[at].side() + " = " + p.textValue(fields[at], value)
	return Query{Where: sql, Args: p.args}
}
