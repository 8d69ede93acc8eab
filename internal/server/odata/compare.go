// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

type operandKind int

const (
	property operandKind = iota // or a function of one
	textLiteral
	bareLiteral // a number or a time: its use decides
	boolean     // text is TRUE or FALSE
	null
)

type operand struct {
	kind  operandKind
	field Field  // of a property
	text  string // as written, for errors; of a literal its value
	pos   int
}

type comparison struct{ word, sql, swapped string }

var comparisons = []comparison{
	{"eq", "=", "eq"}, {"ne", "IS DISTINCT FROM", "ne"},
	{"gt", ">", "lt"}, {"ge", ">=", "le"}, {"lt", "<", "gt"}, {"le", "<=", "ge"},
}

func (c comparison) orders() bool { return c.word != "eq" && c.word != "ne" }

// operand reads a property, a literal or a function.
func (p *parser) operand() (operand, error) {
	t := p.tok
	o := operand{text: t.text, pos: t.pos}
	switch t.kind {
	case text:
		o.kind = textLiteral
		return o, p.advance()
	case bare:
		o.kind = bareLiteral
		return o, p.advance()
	case word:
	default:
		return o, p.unexpected("a property, a value or a function")
	}
	if err := p.advance(); err != nil {
		return o, err
	}
	if p.at("(") {
		return p.function(t)
	}
	switch strings.ToLower(t.text) {
	case "null":
		o.kind = null
		return o, nil
	case "true", "false":
		o.kind, o.text = boolean, strings.ToUpper(t.text)
		return o, nil
	}
	var err error
	o.field, err = p.field(t)
	return o, err
}

// function reads name(…); the bracket is the token looked at.
func (p *parser) function(name token) (operand, error) {
	o := operand{text: name.text, pos: name.pos}
	f := strings.ToLower(name.text)
	switch f {
	case "startswith", "endswith", "contains", "tolower", "toupper":
	default:
		return o, p.fail(name.pos, "Function '%s' is not known; there are startswith, endswith, contains, tolower and toupper", short(name.text))
	}
	if err := p.advance(); err != nil {
		return o, err
	}
	of, err := p.operand()
	if err != nil {
		return o, err
	}
	if of.kind != property || of.field.Type != String && of.field.Type != Folded {
		return o, p.fail(of.pos, "%s wants a property that is a string", f)
	}
	if f == "tolower" || f == "toupper" {
		o.field = Field{Name: of.field.Name, Column: f[2:] + "(" + of.field.Column + ")", Type: String}
		return o, p.expect(")")
	}
	if err := p.expect(","); err != nil {
		return o, err
	}
	if p.tok.kind != text {
		return o, p.unexpected("a string in single quotes")
	}
	like := p.like(f, "lower("+of.field.Column+")", Fold(p.tok.text))
	o.field = Field{Name: f, Column: like, Type: Bool}
	if err := p.advance(); err != nil {
		return o, err
	}
	return o, p.expect(")")
}

// like compiles one of the three functions that look into a string. A beginning
// is a range, which an index serves; both databases compare byte by byte.
func (p *parser) like(function, column, s string) string {
	if end := behindAll(s); function == "startswith" && end != "" {
		return "(" + column + " >= " + p.arg(s) + " AND " + column + " < " + p.arg(end) + ")"
	}
	pattern := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s) + "%"
	switch function {
	case "endswith":
		pattern = "%" + strings.TrimSuffix(pattern, "%")
	case "contains":
		pattern = "%" + pattern
	}
	return "(" + column + " LIKE " + p.arg(pattern) + ` ESCAPE '\')`
}

// behindAll is the first string behind all that begin with s; "" where there is none.
func behindAll(s string) string {
	for s != "" {
		r, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
		switch r {
		case utf8.MaxRune:
		case 0xD7FF: // what follows are no characters
			return s + "\uE000"
		default:
			return s + string(r+1)
		}
	}
	return ""
}

// Fold is lower() as both databases apply it to a column: A to Z alone. On a
// parameter PostgreSQL's lower() would know more letters, and never match.
func Fold(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// arg adds a parameter and returns its number.
func (p *parser) arg(v any) string {
	p.args = append(p.args, v)
	return "$" + strconv.Itoa(len(p.args))
}

// side is the field as it stands in a comparison or an ORDER BY.
func (f Field) side() string {
	if f.Type == Folded && f.Values == nil {
		return "lower(" + f.Column + ")"
	}
	return f.Column
}

func (p *parser) compare(left operand, op comparison, right operand) (string, error) {
	if left.kind != property && right.kind == property {
		at := slices.IndexFunc(comparisons, func(c comparison) bool { return c.word == op.swapped })
		left, right, op = right, left, comparisons[at]
	}
	if left.kind != property {
		return "", p.fail(left.pos, "A comparison needs a property")
	}
	f := left.field
	if f.Type == Strings {
		return p.member(left, op, right)
	}
	if op.orders() && (right.kind == null || f.Type == Bool) {
		return "", p.fail(right.pos, "This can be compared by eq and ne only")
	}
	switch right.kind {
	case null:
		if op.word == "ne" {
			return f.Column + " IS NOT NULL", nil
		}
		return f.Column + " IS NULL", nil
	case property:
		return p.compareFields(left, op, right)
	}
	if f.Cases != nil && !op.orders() && right.kind == textLiteral {
		cond := f.when(right.text, op.word == "eq")
		p.spans = append(p.spans, Span{Cond: cond})
		return cond, nil
	}
	value, err := p.value(f, op, right)
	if err != nil {
		return "", err
	}
	return f.side() + " " + op.sql + " " + value, nil
}

// when is the condition that a field of cases has the value, or another one.
func (f Field) when(value string, has bool) string {
	var any []string
	for _, v := range slices.Sorted(maps.Keys(f.Cases)) {
		if strings.EqualFold(v, value) == has {
			any = append(any, f.Cases[v])
		}
	}
	switch {
	case len(any) > 0:
		return "(" + strings.Join(any, " OR ") + ")"
	case has:
		return "(FALSE)"
	}
	return "(" + f.Column + " IS NULL)"
}

// member compiles a collection that is compared with a string as if it were one
// itself, which clients do: it has that member, or has it not.
func (p *parser) member(left operand, op comparison, right operand) (string, error) {
	f := left.field
	if op.orders() || right.kind != textLiteral {
		return "", p.fail(left.pos, "Property '%s' is a collection: use %s/any(t: t eq 'x')", f.Name, f.Name)
	}
	in := " IN "
	if op.word == "ne" {
		in = " NOT IN "
	}
	return f.with(in, "item.value = "+p.arg(right.text)), nil
}

func (p *parser) compareFields(left operand, op comparison, right operand) (string, error) {
	l, r := left.field, right.field
	isText := func(f Field) bool { return f.Type == String || f.Type == Folded }
	switch {
	case l.Type == r.Type, isText(l) && isText(r):
	default:
		return "", p.fail(right.pos, "Properties '%s' and '%s' are of different types", l.Name, r.Name)
	}
	if l.Type == Folded || r.Type == Folded {
		return "lower(" + l.Column + ") " + op.sql + " lower(" + r.Column + ")", nil
	}
	return l.Column + " " + op.sql + " " + r.Column, nil
}

func (p *parser) in(left operand) (string, error) {
	if left.kind != property || left.field.Type == Strings {
		return "", p.fail(left.pos, "'in' wants a single-valued property on its left")
	}
	if err := p.advance(); err != nil {
		return "", err
	}
	if err := p.expect("("); err != nil {
		return "", err
	}
	var values, sql []string
	orNull := false
	for {
		if err := p.count(); err != nil {
			return "", err
		}
		o, err := p.operand()
		if err != nil {
			return "", err
		}
		switch {
		case o.kind == null:
			orNull = true
		case left.field.Cases != nil && o.kind == textLiteral:
			sql = append(sql, left.field.when(o.text, true))
		default:
			v, err := p.value(left.field, comparisons[0], o)
			if err != nil {
				return "", err
			}
			values = append(values, v)
		}
		if !p.at(",") {
			break
		}
		if err := p.advance(); err != nil {
			return "", err
		}
	}
	if len(values) > 0 {
		sql = append(sql, left.field.side()+" IN ("+strings.Join(values, ", ")+")")
	}
	if orNull {
		sql = append(sql, left.field.Column+" IS NULL")
	}
	return "(" + strings.Join(sql, " OR ") + ")", p.expect(")")
}

// value compiles a literal that is compared with f.
func (p *parser) value(f Field, op comparison, o operand) (string, error) {
	switch f.Type {
	case String, Folded:
		if o.kind != textLiteral {
			return "", p.fail(o.pos, "Property '%s' is a string: write its value in single quotes", f.Name)
		}
		return p.textValue(f, o.text), nil
	case Bool:
		if o.kind != boolean {
			return "", p.fail(o.pos, "Property '%s' is true or false", f.Name)
		}
		return o.text, nil
	case Number:
		n, err := strconv.ParseInt(o.text, 10, 64)
		if err != nil || o.kind != bareLiteral && o.kind != textLiteral {
			return "", p.fail(o.pos, "Property '%s' is a whole number", f.Name)
		}
		return p.arg(n), nil
	case DateTime:
		t, err := parseTime(o.text)
		if err != nil || o.kind != bareLiteral && o.kind != textLiteral {
			return "", p.fail(o.pos, "Property '%s' is a time, as in 2026-02-10T00:00:00Z", f.Name)
		}
		us := micros(t, op)
		if op.orders() {
			p.spans = append(p.spans, Span{f.Column, f.Column + " " + op.sql + " " + strconv.FormatInt(us, 10)})
		}
		return p.arg(us), nil
	}
	return "", p.fail(o.pos, "Property '%s' cannot be compared with this", f.Name)
}

func (p *parser) textValue(f Field, s string) string {
	if f.Type == String {
		return p.arg(s)
	}
	if f.Values == nil {
		return p.arg(Fold(s))
	}
	if at := slices.IndexFunc(f.Values, func(v string) bool { return strings.EqualFold(v, s) }); at >= 0 {
		s = f.Values[at]
	}
	return p.arg(s)
}

// micros cuts t to the column's microseconds so that the comparison stays true
// for a literal finer than that: no column lies between the two.
func micros(t time.Time, op comparison) int64 {
	us := t.UnixMicro()
	if t.Nanosecond()%1000 != 0 && (op.word == "ge" || op.word == "lt") {
		us++
	}
	return us
}

// parseTime reads the forms of time that clients send: RFC 3339 with or without
// zone (then UTC), seconds and fraction; a date; a date with Z.
func parseTime(s string) (time.Time, error) {
	s = strings.ToUpper(s)
	for _, layout := range []string{
		"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", "2006-01-02", "2006-01-02Z07:00",
	} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("cannot read time %q", s)
}
