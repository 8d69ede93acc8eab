// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"staunch/api"
	"staunch/internal/server/odata"
)

// query compiles the list options of a request for lists of T.
func query[T any](q *request, fields []odata.Field) (odata.Query, error) {
	values, err := odata.Split(q.URL.RawQuery)
	if err != nil {
		return odata.Query{}, err
	}
	return odata.Parse(values, fields, odata.Options{Properties: propertiesOf[T]()})
}

func propertiesOf[T any]() []string { return properties(reflect.TypeFor[T]()) }

// list answers a list request by what fetch finds. fetch is asked for one row
// more than a page holds, which tells whether there is a next one.
func list[T, R any](q *request, oq odata.Query, set string, fetch func(odata.Query) ([]R, int64, error), show func(R) T) (answer, error) {
	if q.route.counts {
		oq.Count, oq.Top, oq.Skip, oq.After, oq.Order = true, 0, 0, nil, nil
		_, count, err := fetch(oq)
		return answer{raw: strconv.AppendInt(nil, count, 10), kind: "application/json"}, err
	}
	page := oq.Top
	if oq.Paged || oq.Top == 0 { // nothing is wanted, yet the count may be
		oq.Top++
	}
	if oq.Paged {
		oq.Mark = &odata.Mark{Row: page}
	}
	rows, count, err := fetch(oq)
	if err != nil {
		return answer{}, err
	}
	more := oq.Paged && len(rows) > page
	rows = rows[:min(page, len(rows))]

	l := api.List[any]{Context: q.base + "/api/$metadata#" + set, Value: make([]any, len(rows))}
	for i, r := range rows {
		v := show(r)
		l.Value[i] = v
		if oq.Select != nil {
			l.Value[i] = project(v, oq.Select)
		}
	}
	if oq.Count {
		l.Count = &count
	}
	if more {
		// $skip is for clients that count; $skiptoken is where it really goes on.
		l.NextLink = q.nextLink("$skip", strconv.Itoa(oq.Skip+page), "$skiptoken", oq.Mark.Token())
	}
	return answer{body: l}, nil
}

// nextLink is the address of this request with some options, given as names and
// values, set anew and all others as the client wrote them. An empty value
// leaves its option out.
func (q *request) nextLink(set ...string) string {
	var kept []string
	for part := range strings.SplitSeq(q.URL.RawQuery, "&") {
		name, _, _ := strings.Cut(part, "=")
		n, err := url.QueryUnescape(name)
		replaced := slices.ContainsFunc(set, func(s string) bool { return strings.EqualFold(s, n) })
		if part == "" || err != nil || replaced {
			continue
		}
		kept = append(kept, strings.ReplaceAll(part, " ", "%20"))
	}
	for pair := range slices.Chunk(set, 2) {
		if pair[1] != "" {
			kept = append(kept, pair[0]+"="+url.QueryEscape(pair[1]))
		}
	}
	return q.base + q.URL.EscapedPath() + "?" + strings.Join(kept, "&")
}

// limit reads the page size of a /v1 list.
func (q *request) limit(values url.Values, fallback, most int) (int, error) {
	s := values.Get("limit")
	if s == "" {
		return fallback, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		return 0, api.Errorf(api.InvalidInput, "limit must be a number from 1 to %d", most)
	}
	return n, nil
}

// options reads the query of a /v1 request.
func (q *request) options() (url.Values, error) {
	values, err := url.ParseQuery(q.URL.RawQuery)
	if err != nil {
		return nil, api.Errorf(api.InvalidInput, "The query string has a broken escape or a semicolon")
	}
	return values, nil
}
