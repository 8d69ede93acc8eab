// SPDX-License-Identifier: Apache-2.0

// Package odata reads the query options of a list request ($filter, $orderby,
// $top, $skip, $skiptoken, $count, $select) and compiles them, typed by a table of fields,
// to SQL with numbered parameters. What it accepts, both databases accept; what
// it refuses is an api.Error ODataError that shows the place.
package odata

// Query is a compiled list request. The store adds the SELECT, the caller's
// device groups, and the tie-breaker.
type Query struct {
	Where  string   // a boolean SQL expression with $1…$n that may be ANDed as it stands, or ""
	Args   []any    // for Where: string or int64
	Order  []Order  // as asked; the store appends its tie-breaker
	Top    int      // how many rows at most; 0 only for $top=0
	Paged  bool     // $top was not asked for: Top is MaxTop and a next page may follow
	Skip   int      // rows; not looked at where After is set
	After  *Place   // $skiptoken: only what follows it in the order
	Mark   *Mark    // a row whose place the caller wants to know; nil: none
	Count  bool     // $count=true
	Select []string // API property names as Properties spells them, nil: all

	// Spans are ranges that every row of the answer lies in, for a store to choose
	// between reading one and walking in the order of the list.
	Spans []Span

	// Groups, if not nil, are the only device groups whose devices the list may
	// be about: auth.Caller.Groups, for the store to add.
	Groups []int64
}

// Span is a range of one column's values.
type Span struct {
	Column string // "": not a column's alone
	Cond   string // SQL without parameters
}

// Order is one $orderby term, or one of a list's default order.
type Order struct {
	Column string // SQL
	Type   Type
	Desc   bool
}

// Type is the type of a field, which decides the literals it compares with.
type Type int

// The types of field.
const (
	String   Type = iota
	Folded        // a string compared without regard to case: enumerations, names
	Number        // a 64-bit integer
	Bool          //
	DateTime      // kept as microseconds since 1970, a 64-bit integer
	Strings       // a collection of strings, for any(): Column is the SQL of a table expression with columns "owner" and "value"
)

// Field is a property that may be filtered or ordered by. API names match
// without regard to case.
type Field struct {
	Name   string // API property
	Column string // SQL expression
	Type   Type

	// Values, of a Folded field, are all its values as the column spells them.
	// The field is then compared by = alone, so that a plain index serves.
	Values []string

	// Cases, of a Folded field that is worked out and not kept, say in SQL when
	// it has which value: there are no others.
	Cases map[string]string

	// Owner, of Strings, is the column of the row that "owner" of its members refers to.
	Owner string
}

// MaxTop is the largest $top, and the size of a page when $top is not given.
const MaxTop = 10_000

// Bounds of what a client may ask for in one expression.
const (
	maxText  = 8 << 10 // bytes of one option
	maxDepth = 32      // brackets, not, any
	maxTerms = 256     // comparisons and members of in (…)
	maxOrder = 16      // terms of $orderby
)
