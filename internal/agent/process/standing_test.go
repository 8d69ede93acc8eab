// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"testing"
	"time"
)

// TestStandingHoldMops: copies nobody knew, which fork as soon as they run, are
// executed while a hold stands and nobody stops anything. None of them, and
// nothing born of them, lives on.
func TestStandingHoldMops(t *testing.T) {
	bin := runner(t)
	for _, old := range []bool{false, true} {
		t.Run(fmt.Sprintf("old kernel %v", old), func(t *testing.T) {
			k := newKit(t, bin)
			h, err := New(Config{Rung: RungBPF, oldKernel: old})
			if err != nil {
				t.Skipf("SKIPPED, NOT PROVEN: %v", err)
			}
			defer h.Close() //nolint:errcheck // checked by others
			evil := k.program("evil", bin, k.mark+"!")
			n := size(t, evil)
			target := k.target(evil, true)
			target.Seen = func(m Match) {
				if m.File != nil {
					closeFile(m.File)
				}
			}
			d, err := h.Arm(target)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			twin := k.innocent(k.program("twin", bin, k.mark+"~"))
			sum := sumOf(t, evil)
			for i := range 6 {
				copied := k.program(fmt.Sprint("copy", i), bin, k.mark+"!")
				k.mode(copied, []string{"bomb", "hop", "memhop"}[i%3], []int{40, 0, 0}[i%3])
			}
			// One look may miss who hops; signs of life show him all the same.
			waitFor(t, "all that was started to be dead", func() bool { return len(k.survivors(sum, n, 200*time.Millisecond)) == 0 })
			if err := alive(twin); err != nil {
				t.Errorf("an innocent was harmed: %v", err)
			}
		})
	}
}
