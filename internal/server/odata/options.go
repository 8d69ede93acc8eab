// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Options are what Parse has to know beside the fields.
type Options struct {
	Properties []string // what $select may name; nil: $select is refused
}

// Split decodes a raw query string. Unlike url.ParseQuery it lets a semicolon
// stand in a value, where a $filter may have one.
func Split(raw string) (url.Values, error) {
	values := url.Values{}
	for part := range strings.SplitSeq(raw, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		n, err := url.QueryUnescape(name)
		if err != nil {
			return nil, invalid("The query string has a broken escape in %q.", short(name))
		}
		v, err := url.QueryUnescape(value)
		if err != nil {
			return nil, invalid("The value of '%s' has a broken escape in %q.", short(n), short(value))
		}
		values.Add(n, v)
	}
	return values, nil
}

// Parse compiles the query options among values. Options without "$" are not
// its concern; unknown ones with "$" are refused, as the Defender API does.
func Parse(values url.Values, fields []Field, opts Options) (Query, error) {
	q := Query{Top: MaxTop, Paged: true}
	// In a fixed order, so that the same bad query always gets the same answer.
	names := make([]string, 0, len(values))
	for name := range values {
		if strings.HasPrefix(name, "$") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		option := strings.ToLower(name)
		if len(values[name]) > 1 || seen[option] {
			return Query{}, invalid("Query option '%s' was specified more than once, but it must be specified at most once.", short(option))
		}
		seen[option] = true
		if err := q.set(option, name, strings.TrimSpace(values[name][0]), fields, opts); err != nil {
			return Query{}, err
		}
	}
	return q, nil
}

func (q *Query) set(option, name, value string, fields []Field, opts Options) (err error) {
	switch option {
	case "$filter", "$orderby", "$top", "$skip", "$skiptoken", "$count", "$select", "$format":
		if value == "" {
			return invalid("The value for OData query '%s' cannot be empty.", option)
		}
		if len(value) > maxText {
			return invalid("The value for OData query '%s' has %d bytes, more than the %d allowed.", option, len(value), maxText)
		}
	}
	switch option {
	case "$filter":
		q.Where, q.Args, q.Spans, err = compile(value, fields)
	case "$orderby":
		q.Order, err = orderBy(value, fields)
	case "$top":
		q.Paged = false
		q.Top, err = wholeNumber(option, value)
		if err == nil && q.Top > MaxTop {
			err = invalid("The limit of '%d' for Top query has been exceeded. The value from the incoming request is '%d'.", MaxTop, q.Top)
		}
	case "$skip":
		q.Skip, err = wholeNumber(option, value)
	case "$skiptoken":
		if q.After, err = readToken(value); err != nil {
			err = badToken(err.Error())
		}
	case "$count":
		q.Count = strings.EqualFold(value, "true")
		if !q.Count && !strings.EqualFold(value, "false") {
			err = invalid("Invalid value '%s' for $count query option found. Valid values are 'true' and 'false'.", short(value))
		}
	case "$select":
		q.Select, err = selectList(value, opts.Properties)
	case "$format":
		if !strings.Contains(strings.ToLower(value), "json") {
			err = invalid("Invalid value '%s' for $format query option found. Answers are JSON.", short(value))
		}
	default:
		err = invalid("Custom query option '%s' that starts with '$' is not supported.", short(name))
	}
	return err
}

func wholeNumber(option, value string) (int, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("Invalid value '%s' for %s query option found. The %s query option requires a non-negative integer value.", short(value), option, option)
	}
	return int(n), nil
}

func selectList(value string, properties []string) ([]string, error) {
	var chosen []string
	for name := range strings.SplitSeq(value, ",") {
		name = strings.TrimSpace(name)
		if name == "*" {
			return nil, nil
		}
		at := slices.IndexFunc(properties, func(p string) bool { return strings.EqualFold(p, name) })
		if at < 0 {
			return nil, invalid("Could not find a property named '%s' in $select.", short(name))
		}
		if !slices.Contains(chosen, properties[at]) {
			chosen = append(chosen, properties[at])
		}
	}
	return chosen, nil
}

func orderBy(value string, fields []Field) ([]Order, error) {
	p := parser{option: "$orderby", text: value, fields: fields}
	if err := p.start(); err != nil {
		return nil, err
	}
	var terms []Order
	for {
		if len(terms) == maxOrder {
			return nil, p.fail(p.tok.pos, "There are more than %d terms", maxOrder)
		}
		o, err := p.orderTerm()
		if err != nil {
			return nil, err
		}
		terms = append(terms, o)
		if p.tok.kind == end {
			return terms, nil
		}
		if err := p.expect(","); err != nil {
			return nil, err
		}
	}
}

func (p *parser) orderTerm() (o Order, err error) {
	if p.tok.kind != word {
		return o, p.unexpected("the name of a property")
	}
	f, err := p.field(p.tok)
	if err != nil {
		return o, err
	}
	if f.Type == Strings {
		return o, p.fail(p.tok.pos, "Property '%s' is a collection and cannot be ordered by", f.Name)
	}
	o.Column, o.Type = f.side(), f.Type
	if err := p.advance(); err != nil {
		return o, err
	}
	if o.Desc = p.keyword("desc"); o.Desc || p.keyword("asc") {
		err = p.advance()
	}
	return o, err
}
