// SPDX-License-Identifier: Apache-2.0

package storetest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"staunch/api"
	"staunch/internal/server/audit"
)

func testAuditGapless(t *testing.T, _ *Harness, s Store) { gapless(t, s) }

func testAuditReplicas(t *testing.T, h *Harness, s Store) {
	if !h.Replicas {
		t.Skip("one process at a time opens this database")
	}
	others := []Store{s, h.Open(t), h.Open(t)}
	gapless(t, others...)
	for _, other := range others[1:] {
		must(t, other.Close())
	}
}

// gapless has many callers write, some of whom fail, and looks at the log.
func gapless(t *testing.T, stores ...Store) {
	var group sync.WaitGroup
	const callers, each = 16, 20
	for c := range callers {
		s := stores[c%len(stores)]
		group.Go(func() {
			for i := range each {
				target := fmt.Sprint(c, " ", i)
				e := Entry(audit.StopAndQuarantineFile, target)
				e.Detail = raw(`{"b": 1.50, "a": "<&é"}`)
				if i%3 == 2 {
					e.Target = "\x00" // refused
				}
				if err := s.Record(t.Context(), e); err != nil && i%3 != 2 {
					t.Errorf("Record: %v", err)
				}
			}
		})
	}
	group.Wait()
	log := entries(t, stores[0])
	seen := map[string]bool{}
	for i, e := range log {
		if e.Index != int64(i) {
			t.Fatalf("entry %d has index %d", i, e.Index)
		}
		if string(e.Detail) != `{"a":"<&é","b":1.50}` {
			t.Fatalf("detail is %s", e.Detail)
		}
		if e.Time.IsZero() {
			t.Fatal("Time was not set")
		}
		seen[e.Target] = true
	}
	if want := callers * (each - each/3); len(log) != want || len(seen) != want {
		t.Errorf("%d entries, %d different, want %d", len(log), len(seen), want)
	}
}

func testAuditProofs(t *testing.T, h *Harness, s Store) {
	checkpoint := func() audit.Checkpoint {
		t.Helper()
		signed, err := s.Checkpoint(t.Context())
		must(t, err)
		c, err := audit.OpenCheckpoint(signed, h.Verifier)
		must(t, err)
		return c
	}
	older := []audit.Checkpoint{checkpoint()}
	if older[0].Size != 0 {
		t.Errorf("checkpoint of an empty log says %d lines", older[0].Size)
	}
	for i := range 40 {
		must(t, s.Record(t.Context(), Entry(audit.IssueToken, fmt.Sprint(i))))
		c := checkpoint() // covers what was answered
		if c.Size != int64(i)+1 {
			t.Fatalf("checkpoint says %d lines after %d", c.Size, i+1)
		}
		older = append(older, c)
	}
	newest := older[40]
	for i, e := range entries(t, s) {
		leaf, err := audit.Leaf(e)
		must(t, err)
		proof, err := s.InclusionProof(t.Context(), int64(i), newest.Size)
		must(t, err)
		must(t, audit.CheckInclusion(newest, int64(i), leaf, proof))
		wantText(t, audit.CheckInclusion(newest, int64(i), append(leaf, ' '), proof), "is not in the log")
		if i > 0 {
			wantText(t, audit.CheckInclusion(newest, int64(i-1), leaf, proof), "is not in the log")
		}
	}
	for _, c := range older {
		proof, err := s.ConsistencyProof(t.Context(), c.Size, newest.Size)
		must(t, err)
		must(t, audit.CheckConsistency(c, newest, proof))
		if c.Size > 0 {
			c.Root[0] ^= 1
			wantText(t, audit.CheckConsistency(c, newest, proof), "does not begin with")
		}
	}
	for _, bad := range [][2]int64{{0, 0}, {0, 41}, {-1, 40}, {40, 40}, {0, -1}} {
		_, err := s.InclusionProof(t.Context(), bad[0], bad[1])
		wantCode(t, err, api.InvalidInput, "lines")
	}
	for _, bad := range [][2]int64{{1, 0}, {1, 41}, {41, 40}, {-1, 40}} {
		_, err := s.ConsistencyProof(t.Context(), bad[0], bad[1])
		wantCode(t, err, api.InvalidInput, "log")
	}
	page, err := s.AuditEntries(t.Context(), 37, 10)
	must(t, err)
	if len(page) != 2 || page[0].Target != "38" {
		t.Errorf("entries after 37: %v", page)
	}
	if page, err = s.AuditEntries(t.Context(), 39, 10); err != nil || len(page) != 0 {
		t.Errorf("entries after the last: %v, %v", page, err)
	}
	if page, err = s.AuditEntries(t.Context(), -1, 3); err != nil || len(page) != 3 {
		t.Errorf("first three entries: %v, %v", page, err)
	}
	// The same checkpoint as long as nothing changes.
	a, err := s.Checkpoint(t.Context())
	must(t, err)
	b, err := s.Checkpoint(t.Context())
	must(t, err)
	if diff := cmp.Diff(string(a), string(b)); diff != "" {
		t.Errorf("two checkpoints of one log (-first +second):\n%s", diff)
	}
}
