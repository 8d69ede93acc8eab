// SPDX-License-Identifier: Apache-2.0

package store_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"staunch/internal/server/limit"
	"staunch/internal/server/storetest"
)

// Two replicas lease at once, and never more than there is.
func TestCountsPostgres(t *testing.T) {
	t.Parallel()
	config, _ := signed(t, postgres(t, storetest.StartPostgres(t)))
	one, two := open(t, config), open(t, config)
	conn, err := pgx.Connect(t.Context(), config.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the server ends
		for _, err := range []error{conn.Close(context.Background()), one.Close(), two.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
	})
	l := limit.Limit{PerMinute: 100_000, PerHour: 500} // by the hour: a slow machine must not see it end
	var all sync.WaitGroup
	var got atomic.Int64
	for i := range 8 {
		all.Go(func() {
			counts := []limit.Counts{one.Counts(), two.Counts()}[i%2]
			for {
				lease, err := counts.LeaseCalls(t.Context(), "app", l, 8, limit.Lease{})
				if err != nil {
					t.Error(err)
					return
				}
				if lease.Calls == 0 {
					if lease.Left <= 0 {
						t.Errorf("no room, for %s", lease.Left)
					}
					return
				}
				got.Add(int64(lease.Calls))
			}
		})
	}
	all.Wait()
	if n := got.Load(); n != 500 {
		t.Errorf("%d calls leased, want 500", n)
	}
	// What is given back is there for the other one.
	mine, err := one.Counts().LeaseCalls(t.Context(), "other", l, 10, limit.Lease{})
	if err != nil || mine.Calls != 10 {
		t.Fatal(mine, err)
	}
	for range 2 {
		if mine, err = one.Counts().LeaseCalls(t.Context(), "other", l, 10, mine); err != nil {
			t.Fatal(err)
		}
	}
	var used int
	if err := conn.QueryRow(t.Context(), "SELECT hour_used FROM call_counts WHERE name = 'other'").Scan(&used); err != nil || used != 10 {
		t.Errorf("%d used, %v", used, err)
	}
	// Rows that count nothing any more go as new ones come.
	if _, err := conn.Exec(t.Context(), "UPDATE call_counts SET hour = 1"); err != nil {
		t.Fatal(err)
	}
	if _, err := two.Counts().LeaseCalls(t.Context(), "new", l, 1, limit.Lease{}); err != nil {
		t.Fatal(err)
	}
	var rows int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM call_counts").Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows, %v", rows, err)
	}
}

func BenchmarkLeasePostgres(b *testing.B) {
	config, _ := signed(b, postgres(b, storetest.StartPostgres(b)))
	s := open(b, config)
	b.Cleanup(func() { _ = s.Close() })
	counts, l := s.Counts(), limit.Limit{PerMinute: 1 << 30, PerHour: 1 << 30}
	for _, callers := range []int{1, 8} {
		b.Run(fmt.Sprint(callers, " at once"), func(b *testing.B) {
			b.SetParallelism(callers)
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					if _, err := counts.LeaseCalls(b.Context(), "app", l, 1, limit.Lease{}); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
