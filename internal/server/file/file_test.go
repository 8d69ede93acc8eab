// SPDX-License-Identifier: Apache-2.0

package file

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"staunch/api"
	"staunch/internal/filehash"
	"staunch/internal/order"
)

var now = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

func good() order.Sighting {
	return order.Sighting{SHA1: filehash.SHA1{1}, SHA256: filehash.SHA256{1}, Size: 5, Path: "/tmp/x y", Seen: now.Add(-time.Minute), What: "executed"}
}

// What no sound agent says is refused, with the reason; a wrong clock is put right.
func TestCheck(t *testing.T) {
	k, err := check(good(), now)
	if err != nil || k.Name != "x y" || !k.Executed || !k.Seen.Equal(now.Add(-time.Minute)) {
		t.Errorf("%+v, %v", k, err)
	}
	for want, change := range map[string]func(*order.Sighting){
		"a digest is missing":           func(s *order.Sighting) { s.SHA256 = filehash.SHA256{} },
		"the size is negative":          func(s *order.Sighting) { s.Size = -1 },
		"what happened is not known":    func(s *order.Sighting) { s.What = "eaten" },
		"the path contains a bare NUL":  func(s *order.Sighting) { s.Path = "a\x00" },
		"the rule's id is too long":     func(s *order.Sighting) { s.Blocked = strings.Repeat("1", 20) },
		"a digest is missing (SHA-1 )":  func(s *order.Sighting) { s.SHA1 = filehash.SHA1{} },
		"what happened is not known ()": func(s *order.Sighting) { s.What = "" },
	} {
		s := good()
		change(&s)
		want, _, _ = strings.Cut(want, " (")
		if _, err := check(s, now); api.CodeOf(err) != api.InvalidInput || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	for _, seen := range []time.Time{{}, now.Add(2 * time.Hour), now.Add(-91 * 24 * time.Hour)} {
		s := good()
		s.Seen = seen
		if k, err := check(s, now); err != nil || !k.Seen.Equal(now) {
			t.Errorf("seen %v becomes %v, %v", seen, k.Seen, err)
		}
	}
	s := good()
	s.Path, s.What = order.Text("/"+strings.Repeat("é", 3000)), "found"
	if k, err := check(s, now); err != nil || len(k.Path) > maxPath || len(k.Name) > 255 || !utf8.ValidString(k.Path) || !utf8.ValidString(k.Name) || k.Executed {
		t.Errorf("%d bytes of path, %d of name, %v", len(k.Path), len(k.Name), err)
	}
	service, err := New(Config{Store: struct{ Store }{}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	if err := service.Met(t.Context(), "d", make([]order.Sighting, order.MaxSightings+1)); err == nil || !strings.Contains(err.Error(), "more than the 500 allowed") {
		t.Errorf("error %v", err)
	}
}
