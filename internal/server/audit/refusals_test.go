// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := Refusals{PerMinute: 3}
		recorded := 0
		for range 1000 {
			if _, ok := r.Take(); ok {
				recorded++
			}
		}
		if recorded != 3 {
			t.Errorf("recorded %d of a flood, want 3", recorded)
		}
		time.Sleep(time.Minute)
		if skipped, ok := r.Take(); !ok || skipped != 997 {
			t.Errorf("Take after a minute = %d, %v, want 997, true", skipped, ok)
		}
		if skipped, ok := r.Take(); !ok || skipped != 0 {
			t.Errorf("Take = %d, %v, want 0, true", skipped, ok)
		}
	})
}
