// SPDX-License-Identifier: Apache-2.0

package odata

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"math"
	"strconv"
)

// Place is a row's place in an order: where the next page goes on. Unlike a
// number of rows to skip it costs the same on every page, and rows that come or
// go meanwhile shift nothing.
type Place struct {
	Keys []any // the values of the terms of the order: string, int64, bool, or nil
	Seq  int64 // the tie-breaker
}

// Mark asks the store for the place of one row of the page that it reads.
type Mark struct {
	Row   int    // from 1
	Place *Place // set by the store; nil: the page has no such row
}

// Token is that of the place, "" where there is none.
func (m Mark) Token() string {
	if m.Place == nil {
		return ""
	}
	return m.Place.Token()
}

// maxToken bounds a $skiptoken in bytes: it is part of an address.
const maxToken = 2048

// Token writes p as the value of $skiptoken: a JSON array of the keys and the
// tie-breaker, in base64url. It is "" where that is too long for an address.
func (p Place) Token() string {
	b, err := json.Marshal(append(append(make([]any, 0, len(p.Keys)+1), p.Keys...), p.Seq))
	if err != nil || base64.RawURLEncoding.EncodedLen(len(b)) > maxToken {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// readToken reads what Token wrote. What is in it is a client's to change: who
// uses it asks Fits first.
func readToken(token string) (*Place, error) {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(token) > maxToken {
		return nil, errors.New("it is not in base64url, or too long")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var values []any
	if err := d.Decode(&values); err != nil {
		return nil, errors.New("it is no JSON array")
	}
	if _, err := d.Token(); err != io.EOF || len(values) == 0 || len(values) > maxOrder+1 {
		return nil, errors.New("it is no list of values")
	}
	for i, v := range values {
		n, ok := v.(json.Number)
		if !ok {
			continue
		}
		if values[i], err = strconv.ParseInt(n.String(), 10, 64); err != nil {
			return nil, errors.New("a number in it is not whole")
		}
	}
	last := len(values) - 1
	seq, ok := values[last].(int64)
	if !ok || seq < 0 || seq == math.MaxInt64 {
		return nil, errors.New("its row is no number")
	}
	return &Place{Keys: values[:last:last], Seq: seq}, nil
}

// Fits returns an api.Error where the keys cannot be compared with the terms of
// the order, without its tie-breaker.
func (p Place) Fits(order []Order) error {
	bad := badToken("it belongs to another $orderby")
	if len(p.Keys) != len(order) {
		return bad
	}
	for i, o := range order {
		ok := p.Keys[i] == nil
		switch p.Keys[i].(type) {
		case string:
			ok = o.Type == String || o.Type == Folded
		case int64:
			ok = o.Type == Number || o.Type == DateTime
		case bool:
			ok = o.Type == Bool
		}
		if !ok {
			return bad
		}
	}
	return nil
}

func badToken(why string) error {
	return invalid("Invalid value for $skiptoken query option found: %s. Take it from the nextLink of the page before, and leave the rest of that link as it is.", why)
}
