// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"time"
)

// tuneEvery is how often SQLite looks at its tables, and how long a reader goes
// on with what it knew of them. PostgreSQL does so by itself.
const tuneEvery = time.Hour

// tune lets SQLite count how many rows share a value, from a few hundred of each
// index: without it a list by machine and status might be read by the status.
func (s *Store) tune(life context.Context) {
	defer close(s.tuned)
	if s.engine.config != nil {
		return
	}
	tick := time.NewTicker(tuneEvery)
	defer tick.Stop()
	for {
		err := s.change(life, func(t *tx) error {
			if err := t.exec("PRAGMA analysis_limit = 400"); err != nil {
				return err
			}
			return t.exec("ANALYZE")
		})
		if err != nil && life.Err() == nil {
			s.log.Warn("cannot look at the database's tables", "error", err)
		}
		select {
		case <-life.Done():
			return
		case <-tick.C:
		}
	}
}
