// SPDX-License-Identifier: Apache-2.0

package periodic

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		l := Start(t.Context(), time.Second, func(context.Context) { calls++ })
		time.Sleep(3*time.Second + time.Millisecond)
		l.Stop()
		if calls != 3 {
			t.Errorf("%d calls in three intervals", calls)
		}
		time.Sleep(time.Minute)
		if calls != 3 {
			t.Error("it goes on after Stop")
		}
		l.Stop()
		(*Loop)(nil).Stop()
	})
}
