// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"path/filepath"
	"testing"

	"staunch/internal/order"
)

// TestUngateBefore: the agent was killed when an order had gated its content and
// changed nothing, and the order is cancelled or fails when it is taken up again:
// nothing stays refused. Where a file was sealed before, it does.
func TestUngateBefore(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, test := range map[string]struct {
		sealed bool
		want   int
	}{"nothing was changed": {false, 0}, "a file was sealed": {true, 1}} {
		t.Run(name, func(t *testing.T) {
			a, disk := kit(t, Config{})
			r := Request{ID: "7f3b0c52-9d7e-4a6b-8c11-2e5f60a4d913", File: put(t, filepath.Join(disk, "evil"), name)}
			if test.sealed {
				if got, err := a.Contain(t.Context(), r); err != nil || len(got.Copies) != 1 || got.Copies[0].State != order.Sealed {
					t.Fatalf("%+v, %v", got, err)
				}
			}
			if err := a.gates.write([]Gated{{File: r.File, Size: -1, Order: r.ID}}); err != nil {
				t.Fatal(err)
			}
			if got := a.contain(gone, r); got.Outcome != order.Cancelled {
				t.Errorf("%s %s: %s, want cancelled", got.Outcome, got.Code, got.Reason)
			}
			if left := a.gates.list(); len(left) != test.want {
				t.Errorf("refused still: %+v, want %d", left, test.want)
			}
		})
	}
}
