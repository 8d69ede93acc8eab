// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"slices"
	"strings"
)

// compile turns a $filter into SQL:
//
//	or      = and { "or" and }
//	and     = unary { "and" unary }
//	unary   = "not" unary | "(" or ")" | term
//	term    = function | path "/" ("any"|"all") "(" [ name ":" or ] ")"
//	        | operand [ ("eq"|"ne"|"gt"|"ge"|"lt"|"le") operand ] | operand "in" "(" literal {"," literal} ")"
//	operand = property | literal | ("tolower"|"toupper") "(" property ")"
//
// In OData a comparison with null is false and its negation true; in SQL both
// are null. So a negated expression goes through coalesce, and "ne" is IS
// DISTINCT FROM; all else may stay null, which a WHERE takes for false.
func compile(filter string, fields []Field) (string, []any, []Span, error) {
	p := parser{option: "$filter", text: filter, fields: fields}
	if err := p.start(); err != nil {
		return "", nil, nil, err
	}
	sql, err := p.or()
	if err != nil {
		return "", nil, nil, err
	}
	if p.tok.kind != end {
		return "", nil, nil, p.unexpected("'and', 'or' or the end")
	}
	return sql, p.args, p.spans, nil
}

func (p *parser) or() (string, error)  { return p.chain("or", " OR ", p.and) }
func (p *parser) and() (string, error) { return p.chain("and", " AND ", p.unary) }

func (p *parser) chain(operator, sql string, operand func() (string, error)) (string, error) {
	var parts []string
	before := len(p.spans)
	for {
		part, err := operand()
		if err != nil {
			return "", err
		}
		parts = append(parts, part)
		if !p.keyword(operator) {
			break
		}
		if err := p.advance(); err != nil {
			return "", err
		}
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	if operator == "or" { // no row need be in any one of them
		p.spans = p.spans[:before]
	}
	return "(" + strings.Join(parts, sql) + ")", nil
}

func (p *parser) unary() (string, error) {
	switch {
	case p.keyword("not"):
		return p.nested(func() (string, error) {
			before := len(p.spans)
			if err := p.advance(); err != nil {
				return "", err
			}
			sql, err := p.unary()
			p.spans = p.spans[:before]
			return "(NOT coalesce(" + sql + ", FALSE))", err
		})
	case p.at("("):
		return p.nested(func() (string, error) {
			if err := p.advance(); err != nil {
				return "", err
			}
			sql, err := p.or()
			if err != nil {
				return "", err
			}
			return sql, p.expect(")")
		})
	}
	return p.term()
}

// nested runs read one level deeper.
func (p *parser) nested(read func() (string, error)) (string, error) {
	if p.depth++; p.depth > maxDepth {
		return "", p.fail(p.tok.pos, "The expression is nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	return read()
}

// count bounds the work that one expression makes for the database.
func (p *parser) count() error {
	if p.terms++; p.terms > maxTerms {
		return p.fail(p.tok.pos, "The expression has more than %d terms", maxTerms)
	}
	return nil
}

func (p *parser) term() (string, error) {
	if err := p.count(); err != nil {
		return "", err
	}
	left, err := p.operand()
	if err != nil {
		return "", err
	}
	switch {
	case p.at("/"):
		return p.lambda(left)
	case p.keyword("in"):
		return p.in(left)
	}
	for _, op := range comparisons {
		if !p.keyword(op.word) {
			continue
		}
		if err := p.advance(); err != nil {
			return "", err
		}
		right, err := p.operand()
		if err != nil {
			return "", err
		}
		return p.compare(left, op, right)
	}
	switch {
	case left.kind == boolean:
		return left.text, nil
	case left.kind == property && left.field.Type == Bool:
		return left.field.Column, nil
	}
	return "", p.unexpected("an operator (eq, ne, gt, ge, lt, le, in)")
}

// lambda compiles any() and all() over a collection of strings.
func (p *parser) lambda(over operand) (string, error) {
	if over.kind != property || over.field.Type != Strings {
		return "", p.fail(over.pos, "'%s' is not a collection", short(over.text))
	}
	if err := p.advance(); err != nil {
		return "", err
	}
	all := p.keyword("all")
	if !all && !p.keyword("any") {
		return "", p.unexpected("'any' or 'all'")
	}
	return p.nested(func() (string, error) {
		if err := p.advance(); err != nil {
			return "", err
		}
		if err := p.expect("("); err != nil {
			return "", err
		}
		if p.at(")") && !all {
			return over.field.with(" IN ", "TRUE"), p.advance()
		}
		if p.tok.kind != word {
			return "", p.unexpected("a name for each member, as in any(t: t eq 'x')")
		}
		p.variable = p.tok.text
		defer func() { p.variable = "" }()
		if err := p.advance(); err != nil {
			return "", err
		}
		if err := p.expect(":"); err != nil {
			return "", err
		}
		sql, err := p.or()
		if err != nil {
			return "", err
		}
		if all {
			return over.field.with(" NOT IN ", "NOT coalesce("+sql+", FALSE)"), p.expect(")")
		}
		return over.field.with(" IN ", sql), p.expect(")")
	})
}

// with is the condition that the row is among the owners of members for which
// sql is true: asked from the members' side, an index on them serves.
func (f Field) with(in, sql string) string {
	return "(" + f.Owner + in + "(SELECT item.owner FROM " + f.Column + " AS item WHERE " + sql + "))"
}

// field finds the property that the word names.
func (p *parser) field(t token) (Field, error) {
	if p.variable != "" {
		// Only the member itself: what else stands in the row could be hidden by
		// a column of the collection.
		if strings.EqualFold(t.text, p.variable) {
			return Field{Name: t.text, Column: "item.value", Type: String}, nil
		}
		return Field{}, p.fail(t.pos, "Only '%s' may be used in here, not '%s'", short(p.variable), short(t.text))
	}
	at := slices.IndexFunc(p.fields, func(f Field) bool { return strings.EqualFold(f.Name, t.text) })
	if at < 0 {
		return Field{}, p.fail(t.pos, "Could not find a property named '%s'", short(t.text))
	}
	return p.fields[at], nil
}
