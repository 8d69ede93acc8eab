// SPDX-License-Identifier: Apache-2.0

package limit

import (
	"fmt"
	"testing"
	"time"
)

func TestMemoryIsBounded(t *testing.T) {
	now := time.Now()
	m := Memory{Now: func() time.Time { return now }}
	for i := range maxKeys + 10 {
		if _, err := m.Take(t.Context(), fmt.Sprint(i), Limit{PerMinute: 1}, 1); err != nil {
			t.Fatal(err)
		}
	}
	if len(m.keys) > maxKeys {
		t.Errorf("%d keys", len(m.keys))
	}
	now = now.Add(2 * time.Hour)
	if _, err := m.Take(t.Context(), "one more", Limit{PerMinute: 1}, 1); err != nil || len(m.keys) != 1 {
		t.Errorf("%d keys after their hour", len(m.keys))
	}
	if wait, _ := m.Take(t.Context(), "unknown", Limit{PerMinute: 1}, 0); wait != 0 || len(m.keys) != 1 {
		t.Error("a look was counted")
	}
}

func BenchmarkMemory(b *testing.B) {
	m := Memory{Now: time.Now}
	for b.Loop() {
		_, _ = m.Take(b.Context(), "tenant app route", Limit{PerMinute: 1 << 30, PerHour: 1 << 30}, 1)
	}
}
