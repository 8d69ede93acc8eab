// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"
)

// retentionTick is how often the vault is looked through for items past their time.
const retentionTick = time.Hour

// keepRetention purges items that have lain in the vault for longer than
// retention, until ctx ends. Each is purged as if by hand: with an account in
// the journal, a line in the log and a word to the server.
func (a *Agent) keepRetention(ctx context.Context, retention time.Duration) {
	for {
		a.purgeOlder(ctx, a.now().Add(-retention))
		t := time.NewTimer(retentionTick)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

func (a *Agent) purgeOlder(ctx context.Context, limit time.Time) {
	items, err := a.vault.List()
	if err != nil {
		a.log.Warn("some vault items cannot be read; run staunch-agent fsck", "error", err)
	}
	for _, i := range items {
		if ctx.Err() != nil || i.State == "purged" || !i.Sealed.Before(limit) {
			continue
		}
		if _, err := a.Purge(ctx, PurgeRequest{Item: i.ID}); err != nil {
			a.log.Error("cannot purge an item past its time", "item", i.ID, "error", err)
			continue
		}
		a.log.Info("purged an item past its time", "item", i.ID, "sealed", i.Sealed, "paths", i.Paths)
	}
}
