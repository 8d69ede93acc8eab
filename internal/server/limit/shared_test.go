// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// table is a Counts in memory, with the clock of the database.
type table struct {
	mu    sync.Mutex
	now   time.Time
	rows  map[string]*Windows
	asked int
	down  bool
}

func (c *table) LeaseCalls(_ context.Context, key string, l Limit, ask int, unused Lease) (Lease, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return Lease{}, errors.New("no database")
	}
	c.asked++
	if c.rows[key] == nil {
		c.rows[key] = &Windows{}
	}
	return c.rows[key].Lease(c.now.UnixMicro(), l, ask, unused), nil
}

func (c *table) clock() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *table) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// replicas share a table. Their own clocks are apart by hours, which must not matter.
func replicas(n int) (*table, []*Shared) {
	c := &table{now: time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC), rows: map[string]*Windows{}}
	all := make([]*Shared, n)
	for i := range all {
		all[i] = NewShared(c, slog.New(slog.DiscardHandler))
		all[i].now = func() time.Time { return c.clock().Add(time.Duration(i) * 5 * time.Hour) }
		all[i].alone.Now = all[i].now
	}
	return c, all
}

func take(t *testing.T, s *Shared, key string, l Limit) time.Duration {
	t.Helper()
	wait, err := s.Take(t.Context(), key, l, 1)
	if err != nil {
		t.Fatal(err)
	}
	return wait
}

// The contract's numbers, over two replicas: 100 calls pass, the 101st does not,
// whichever replica it comes to, until the minute is over; 1,500 an hour.
func TestTwoReplicas(t *testing.T) {
	c, all := replicas(2)
	l := Limit{PerMinute: 100, PerHour: 1500}
	for minute := range 15 {
		for i := range 100 {
			if wait := take(t, all[i%2], "app", l); wait != 0 {
				t.Fatalf("minute %d: call %d has to wait %s", minute, i, wait)
			}
		}
		for _, s := range all {
			wait := take(t, s, "app", l)
			want := time.Minute
			if minute == 14 {
				want = 46 * time.Minute
			}
			if wait != want {
				t.Errorf("minute %d: call 101 waits %s, want %s", minute, wait, want)
			}
			if wait := take(t, s, "another app", l); wait != 0 {
				t.Errorf("another app waits %s", wait)
			}
		}
		c.add(time.Minute)
	}
	c.add(45 * time.Minute)
	if wait := take(t, all[1], "app", l); wait != 0 {
		t.Errorf("after the hour a call waits %s", wait)
	}
	if c.asked > 15*100*2/3 {
		t.Errorf("%d changes of a row for 1,500 calls", c.asked)
	}
	asked := c.asked
	take(t, all[0], "blocked", Limit{PerMinute: 1})
	for range 100 {
		take(t, all[0], "blocked", Limit{PerMinute: 1})
	}
	if n := c.asked - asked; n > 2 {
		t.Errorf("%d changes of a row for calls that are refused", n)
	}
}

// Whatever comes in at whichever replica: no window ever holds more than its
// limit, and no caller is kept waiting by more than the leases that are out.
func TestNeverTooMany(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		n := 1 + r.IntN(4)
		c, all := replicas(n)
		l := Limit{PerMinute: 1 + r.IntN(200), PerHour: 1 + r.IntN(2000)}
		minute, hour := map[int64]int{}, map[int64]int{}
		for range 3000 {
			switch r.IntN(20) {
			case 0:
				c.add(time.Duration(r.IntN(20)) * time.Second)
			case 1:
				c.add(time.Duration(r.IntN(400)) * time.Millisecond)
			}
			if take(t, all[r.IntN(n)], "app", l) == 0 {
				w := c.rows["app"]
				minute[w.Minute]++
				hour[w.Hour]++
			}
		}
		for at, used := range minute {
			if used > l.PerMinute {
				t.Errorf("seed %d: %d calls in the minute of %d, limit %d", seed, used, at, l.PerMinute)
			}
		}
		for at, used := range hour {
			if used > l.PerHour {
				t.Errorf("seed %d: %d calls in the hour of %d, limit %d", seed, used, at, l.PerHour)
			}
		}
	}
}

// A caller who stays at one replica has all but what lies unused at the other.
func TestUnusedLeases(t *testing.T) {
	_, all := replicas(2)
	l := Limit{PerMinute: 1600}
	for range 500 {
		take(t, all[0], "app", l)
	}
	n := 500
	for take(t, all[1], "app", l) == 0 {
		n++
	}
	if n < 1600-1600/16 || n > 1600 {
		t.Errorf("%d of 1,600 calls passed", n)
	}
}

func TestCountsDown(t *testing.T) {
	c, all := replicas(1)
	c.down = true
	l := Limit{PerMinute: 3}
	for range 3 {
		if wait := take(t, all[0], "app", l); wait != 0 {
			t.Errorf("waits %s", wait)
		}
	}
	if wait := take(t, all[0], "app", l); wait != time.Minute {
		t.Errorf("alone, the fourth of three calls waits %s", wait)
	}
}

func TestChangedLimit(t *testing.T) {
	_, all := replicas(1)
	take(t, all[0], "app", Limit{PerMinute: 1})
	if wait := take(t, all[0], "app", Limit{PerMinute: 1}); wait == 0 {
		t.Error("the second of one call passed")
	}
	if wait := take(t, all[0], "app", Limit{PerMinute: 2}); wait != 0 {
		t.Errorf("with another limit it waits %s", wait)
	}
	if wait := take(t, all[0], "app", Limit{}); wait != 0 {
		t.Errorf("without a limit it waits %s", wait)
	}
}

func TestSharedIsBounded(t *testing.T) {
	_, all := replicas(1)
	for i := range maxKeys + 10 {
		take(t, all[0], fmt.Sprint(i), Limit{PerMinute: 1})
	}
	if n := len(all[0].keys); n > maxKeys {
		t.Errorf("%d keys", n)
	}
}

func TestClockSetBack(t *testing.T) {
	c, all := replicas(1)
	l := Limit{PerMinute: 1, PerHour: 2}
	take(t, all[0], "app", l)
	take(t, all[0], "app", l)
	c.add(-48 * time.Hour)
	if wait := take(t, all[0], "app", l); wait != 0 {
		t.Errorf("with the clock set back a call waits %s", wait)
	}
}
