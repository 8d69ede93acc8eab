// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"net/url"
	"strings"
	"unicode/utf8"
)

// segments cuts an escaped path into its parts, decoded. Empty parts are
// dropped: clients join a base that ends in "/" with a path that begins with
// one. "/api/v1.0" is "/api". ok is false when a part is not text.
func segments(escaped string) (parts []string, ok bool) {
	for part := range strings.SplitSeq(escaped, "/") {
		if part == "" {
			continue
		}
		s, err := url.PathUnescape(part)
		if err != nil || !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return nil, false
		}
		parts = append(parts, s)
	}
	if len(parts) > 1 && strings.EqualFold(parts[0], "api") && strings.EqualFold(parts[1], "v1.0") {
		parts = append(parts[:1], parts[2:]...)
	}
	return parts, true
}

// match compares a path with a pattern such as
//
//	/api/machines/{id}/stopAndQuarantineFile
//	/api/machines/findbyip({args})
//
// Words match without regard to case. {id} is any one part without a bracket;
// name({args}) is an OData function with whatever its brackets hold. fixed counts
// the words, which decide between patterns that both match.
func match(pattern string, parts []string) (args map[string]string, fixed int, ok bool) {
	args = map[string]string{}
	want := strings.Split(strings.Trim(pattern, "/"), "/")
	if len(want) != len(parts) {
		return nil, 0, false
	}
	for i, w := range want {
		function, isFunction := strings.CutSuffix(w, "({args})")
		switch {
		case isFunction:
			name, inner, found := strings.Cut(parts[i], "(")
			inner, closed := strings.CutSuffix(inner, ")")
			if !found || !closed || !strings.EqualFold(name, function) {
				return nil, 0, false
			}
			args["args"] = inner
			fixed++
		case w[0] == '{':
			if strings.ContainsAny(parts[i], "()") {
				return nil, 0, false
			}
			args[w[1:len(w)-1]] = parts[i]
		case strings.EqualFold(w, parts[i]):
			fixed++
		default:
			return nil, 0, false
		}
	}
	return args, fixed, true
}

// find returns the route of a request. When only the method is wrong, it
// returns the methods that there are.
func find(routes []route, method string, parts []string) (found *route, args map[string]string, methods []string) {
	if method == "HEAD" {
		method = "GET"
	}
	best := -1
	for i := range routes {
		r := &routes[i]
		a, fixed, ok := match(r.path, parts)
		switch {
		case !ok:
		case r.method != method:
			methods = append(methods, r.method)
		case fixed > best:
			best, found, args = fixed, r, a
		}
	}
	return found, args, methods
}

// isIssuerPath reports whether the path belongs to the token service: its paths
// begin with a tenant, which may be any name, so the words behind it decide.
func isIssuerPath(parts []string) bool {
	if len(parts) > 0 && (strings.EqualFold(parts[0], "api") || strings.EqualFold(parts[0], "v1")) {
		return false
	}
	for _, p := range parts {
		switch strings.ToLower(p) {
		case "oauth2", ".well-known", "discovery":
			return true
		}
	}
	return false
}
