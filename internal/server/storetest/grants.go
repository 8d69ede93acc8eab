// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/server/audit"
	"staunch/internal/server/auth"
	"staunch/internal/server/issuer"
)

func testAppChange(t *testing.T, _ *Harness, s Store) {
	a := issuer.App{ID: newGUID(), Name: "console", Created: start, Permissions: []auth.Permission{auth.MachineReadAll}, Public: true,
		Delegated: []auth.Permission{auth.MachineRead}, RedirectURIs: []string{"https://app.example/cb"}, Certificates: [][]byte{{1, 2, 255}}}
	must(t, s.CreateApp(t.Context(), a, Entry(audit.CreateApp, a.ID)))
	n := len(entries(t, s))
	got, err := s.ChangeApp(t.Context(), a.ID, func(kept *issuer.App) (audit.Entry, error) {
		if diff := cmp.Diff(a, *kept); diff != "" {
			t.Errorf("app (-want +got):\n%s", diff)
		}
		kept.Disabled, kept.Public, kept.RedirectURIs, kept.Certificates, kept.Delegated = true, false, nil, nil, nil
		kept.Secrets = []issuer.Secret{{ID: "s", Digest: [32]byte{9}, Expires: start}}
		return Entry(audit.ChangeApp, a.ID), nil
	})
	must(t, err)
	read, err := s.App(t.Context(), a.ID)
	must(t, err)
	if diff := cmp.Diff(got, read); diff != "" || !read.Disabled || read.Public || len(read.Secrets) != 1 {
		t.Errorf("what was returned and what is read differ (-returned +read):\n%s", diff)
	}
	_, err = s.ChangeApp(t.Context(), a.ID, func(kept *issuer.App) (audit.Entry, error) {
		kept.Disabled = false
		return audit.Entry{}, api.Errorf(api.BadRequest, "no")
	})
	wantCode(t, err, api.BadRequest, "no")
	if read, err := s.App(t.Context(), a.ID); err != nil || !read.Disabled {
		t.Errorf("something was kept: %v, %v", read, err)
	}
	_, err = s.ChangeApp(t.Context(), newGUID(), func(*issuer.App) (audit.Entry, error) { t.Error("called"); return audit.Entry{}, nil })
	wantCode(t, err, api.ResourceNotFound, "was not found")
	if got := len(entries(t, s)); got != n+1 {
		t.Errorf("%d new audit entries, want 1", got-n)
	}
}

func testGrants(t *testing.T, _ *Harness, s Store) {
	soon := time.Now().Add(time.Hour)
	g := issuer.Grant{Digest: newHex(32), Kind: "code", Family: "f1", Data: []byte(`{"a":1}`), Expires: audit.Instant(soon.UTC())}
	must(t, s.PutGrants(t.Context(), g))
	got, err := s.Grant(t.Context(), g.Digest)
	must(t, err)
	if diff := cmp.Diff(g, got); diff != "" {
		t.Errorf("grant (-want +got):\n%s", diff)
	}
	// All or none, each once.
	other := issuer.Grant{Digest: newHex(32), Kind: "refresh", Family: "f1", Data: []byte(`{}`), Expires: soon}
	wantCode(t, s.PutGrants(t.Context(), other, g), api.ActiveRequestAlreadyExists)
	_, err = s.Grant(t.Context(), other.Digest)
	wantCode(t, err, api.ResourceNotFound)

	// Of many at once one redeems it, and what it gives is there with it.
	var won atomic.Int64
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			err := s.ChangeGrant(t.Context(), g.Digest, func(g *issuer.Grant) (*issuer.Grant, error) {
				if !g.Used.IsZero() {
					return nil, api.Errorf(api.BadRequest, "used")
				}
				g.Used = soon
				return &issuer.Grant{Digest: newHex(32), Kind: "refresh", Family: "f1", Data: []byte(`{}`), Expires: soon}, nil
			})
			if err == nil {
				won.Add(1)
			} else if api.CodeOf(err) != api.BadRequest {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("redeemed %d times", won.Load())
	}
	wantCode(t, s.ChangeGrant(t.Context(), "nobody", func(*issuer.Grant) (*issuer.Grant, error) { t.Error("called"); return nil, nil }), api.ResourceNotFound)

	// What is past its date goes away by and by; a family goes as one.
	old := issuer.Grant{Digest: newHex(32), Kind: "code", Family: "f2", Data: []byte(`{}`), Expires: time.Now().Add(-time.Hour)}
	must(t, s.PutGrants(t.Context(), old))
	must(t, s.PutGrants(t.Context(), issuer.Grant{Digest: newHex(32), Kind: "code", Family: "f3", Data: []byte(`{}`), Expires: soon}))
	_, err = s.Grant(t.Context(), old.Digest)
	wantCode(t, err, api.ResourceNotFound)
	must(t, s.DropGrants(t.Context(), "f1"))
	_, err = s.Grant(t.Context(), g.Digest)
	wantCode(t, err, api.ResourceNotFound)
}
